"""The cases to measure: operations, inputs, reference answers, and the tolerance for answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

OPERATIONS = ("loss", "loss+gradient", "logsumexp", "softmax", "log_softmax")
ARRAYS = ("loss+gradient", "softmax", "log_softmax")  # they return an array as large as the logits
DTYPES = ("float32", "float64")
SHAPES = ((1, 10), (32, 10), (65536, 10), (256, 1000), (4096, 1000), (512, 32000), (64, 128256))


@dataclass(frozen=True)
class Case:
    """One cell of the table. The loss is the mean over the rows, the gradient that of the mean. If `given`, every call
    writes to the same array; else it allocates the array that it returns."""

    operation: str
    shape: tuple[int, int]
    dtype: str
    threads: int
    given: bool = False

    @property
    def output(self) -> str:
        """"given" or "fresh"; empty for operations that return no large array."""
        return "" if self.operation not in ARRAYS else "given" if self.given else "fresh"

    def __str__(self) -> str:
        text = f"{self.operation} {self.shape} {self.dtype} {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{text} {self.output}".rstrip()


def make_cases(
    operations: Iterable[str],
    shapes: Iterable[tuple[int, int]],
    dtypes: Iterable[str],
    threads: Iterable[int],
    given: Iterable[bool] = (False, True),
) -> list[Case]:
    """Every combination. Threads vary slowest, because JAX needs a new client for each number of them."""
    combinations = product(threads, dtypes, shapes, operations, given)
    return [Case(o, s, d, t, g) for t, d, s, o, g in combinations if o in ARRAYS or not g]


@lru_cache(maxsize=1)  # up to 130 MB
def make_inputs(shape: tuple[int, int], dtype: str) -> tuple[Floats, Labels]:
    """Labels, and logits from N(0, 3²): probabilities span several orders of magnitude, as in a trained model."""
    rng = np.random.default_rng(0)
    rows, classes = shape
    return 3 * rng.standard_normal(shape, dtype=np.dtype(dtype)), rng.integers(0, classes, rows)


def as_arrays(answer: Any) -> tuple[Any, ...]:
    """What a library returned, as NumPy arrays."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return tuple(np.asarray(part.detach() if hasattr(part, "detach") else part) for part in parts)


def compute_answer(operation: str, logits: Floats, labels: Labels) -> tuple[Floats, ...]:
    """The right answer, by plain NumPy in float64."""
    x = logits.astype(np.float64)
    rows = np.arange(len(labels))
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
    loss = np.mean(log_sums[:, 0] - x[rows, labels])
    if operation == "loss":
        return (loss,)
    gradient = exps / sums
    gradient[rows, labels] -= 1
    return loss, gradient / len(labels)


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
        elif want.ndim == 2 and case.operation == "loss+gradient":
            scale = 1 / case.shape[0]
        else:
            scale = 16.0  # about the largest logit
        error = np.abs(got - want) / (1000 * eps * np.abs(want) + 4 * eps * scale)
        worst = float(error.max())
        if not worst <= 1:
            place = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
            return f"{got[place]!s} at {place}, should be {want[place]!s}: {worst:.1f} times the tolerance"
    return None
