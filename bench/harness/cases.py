"""The cases to measure: operations, inputs, reference answers, and the tolerance for answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

OPERATIONS = ("loss", "loss+gradient", "logsumexp", "softmax", "log_softmax")
ARRAYS = ("loss+gradient", "softmax", "log_softmax")  # they return an array as large as the logits
DTYPES = ("float32", "float64")


class Layout(NamedTuple):
    """How logits lie in memory: as an array of this shape in C order, of which every `step`-th column is used. The
    classes are on axis 1. A row of logits is what differs in that index alone; each has a label."""

    shape: tuple[int, ...]
    step: int = 1

    def __str__(self) -> str:
        return f"{self.shape}[:, ::{self.step}]" if self.step > 1 else str(self.shape)


LAYOUTS = (
    Layout((1, 10)),
    Layout((32, 10)),
    Layout((65536, 10)),
    Layout((20000, 26)),
    Layout((2048, 100)),
    Layout((256, 1000)),
    Layout((256, 1024)),
    Layout((4096, 1000)),
    Layout((4096, 1000), step=2),
    Layout((512, 32000)),
    Layout((64, 128256)),
    Layout((16, 19, 256, 256)),     # segmentation: the label of a pixel is one of 19
)


@dataclass(frozen=True)
class Case:
    """One cell of the table. The loss is the mean over the rows, the gradient that of the mean. If `given`, every call
    writes to the same array; else it allocates the array that it returns. `shape` and `step` are the layout's."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    given: bool = False
    step: int = 1

    @property
    def layout(self) -> Layout:
        return Layout(self.shape, self.step)

    @property
    def rows(self) -> int:
        return prod(self.shape) // self.shape[1]

    @property
    def output(self) -> str:
        """"given" or "fresh"; empty for operations that return no large array."""
        return "" if self.operation not in ARRAYS else "given" if self.given else "fresh"

    def __str__(self) -> str:
        text = f"{self.operation} {self.layout} {self.dtype} {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{text} {self.output}".rstrip()


def make_cases(
    operations: Iterable[str],
    layouts: Iterable[Layout],
    dtypes: Iterable[str],
    threads: Iterable[int],
    given: Iterable[bool] = (False, True),
) -> list[Case]:
    """Every combination. Threads vary slowest, because JAX needs a new client for each number of them."""
    combinations = product(threads, dtypes, layouts, operations, given)
    return [Case(o, x.shape, d, t, g, x.step) for t, d, x, o, g in combinations if o in ARRAYS or not g]


@lru_cache(maxsize=1)  # up to 170 MB
def make_inputs(shape: tuple[int, ...], dtype: str, step: int = 1) -> tuple[Floats, Labels]:
    """Labels, and logits from N(0, 3²): probabilities span several orders of magnitude, as in a trained model."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal(shape, dtype=np.dtype(dtype)))[:, ::step]
    rows, classes, *others = logits.shape
    return logits, rng.integers(0, classes, (rows, *others))


def as_arrays(answer: Any) -> tuple[Any, ...]:
    """What a library returned, as NumPy arrays."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return tuple(np.asarray(part.detach() if hasattr(part, "detach") else part) for part in parts)


def compute_answer(operation: str, logits: Floats, labels: Labels) -> tuple[Floats, ...]:
    """The right answer, by plain NumPy in float64."""
    x = logits.astype(np.float64)
    places = np.expand_dims(labels, 1)
    maximum = x.max(axis=1, keepdims=True)
    exps = np.exp(x - maximum)
    sums = exps.sum(axis=1, keepdims=True)
    log_sums = maximum + np.log(sums)
    match operation:
        case "logsumexp":
            return (log_sums[:, 0],)
        case "softmax":
            return (exps / sums,)
        case "log_softmax":
            return (x - log_sums,)
    loss = np.mean(log_sums - np.take_along_axis(x, places, axis=1))
    if operation == "loss":
        return (loss,)
    gradient = exps / sums
    np.put_along_axis(gradient, places, np.take_along_axis(gradient, places, axis=1) - 1, axis=1)
    return loss, gradient / labels.size


def find_fault(case: Case, answer: tuple[Floats, ...], expected: tuple[Floats, ...]) -> str | None:
    """What is wrong with `answer`, or None.

    The tolerance is one that ordinary single-pass code meets (the tests hold xent to a much stricter one): 1000 eps of
    the value, plus 4 eps of the operands' size where p - 1 or x - logsumexp cancel.
    """
    if len(answer) != len(expected):
        return f"{len(answer)} results, not {len(expected)}"
    eps = float(np.finfo(case.dtype).eps)
    for got, want in zip(answer, expected, strict=True):
        if got.shape != want.shape:
            return f"shape {got.shape}, not {want.shape}"
        if case.operation == "softmax":
            scale = 0.0
        elif want.ndim and case.operation == "loss+gradient":
            scale = 1 / case.rows
        else:
            scale = 16.0  # about the largest logit
        error = np.abs(got - want) / (1000 * eps * np.abs(want) + 4 * eps * scale)
        worst = float(error.max())
        if not worst <= 1:
            place = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
            return f"{got[place]!s} at {place}, should be {want[place]!s}: {worst:.1f} times the tolerance"
    return None
