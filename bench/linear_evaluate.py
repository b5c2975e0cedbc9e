"""linear_evaluate with a reference against the matrix products alone, and the memory that it allocates.

Usage:

    python bench/linear_evaluate.py [--quick] [--shapes 4096x128256x1024 ...] [--threads 1 2 ...] [--json PATH]

The output layers are bfloat16; the products alone are float32, of both layers, into a given array, 1024 classes at a
time.
"""

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from harness import report
from harness.cases import Floats, Labels
from harness.timing import Candidate, Result, check_and_time
from linear import Shape, make_table, record, use_threads_everywhere

import xent

SHAPES: tuple[Shape, ...] = ((4096, 128256, 1024),)
QUICK_SHAPES: tuple[Shape, ...] = ((1024, 16000, 256),)
PRODUCTS, WITHOUT = "products alone", "xent, no reference"
CHUNK = 1024


@dataclass(frozen=True)
class Models:
    """Hidden states and output layer of a model, and of another one that is near it."""

    X: Floats
    weight: Floats
    ref_X: Floats
    ref_weight: Floats
    half: tuple[Any, Any]       # both layers as bfloat16
    labels: Labels


def make_models(shape: Shape) -> Models:
    rows, classes, features = shape
    rng = np.random.default_rng(0)

    def normal(scale: float, *size: int) -> Floats:
        return rng.standard_normal(size, dtype=np.float32) * np.float32(scale)

    X, weight = normal(1, rows, features), normal(3 / features**0.5, classes, features)
    half = weight.astype(ml_dtypes.bfloat16), (weight * np.float32(1.002)).astype(ml_dtypes.bfloat16)
    wide = [layer.astype(np.float32) for layer in half]
    return Models(X, wide[0], X + normal(0.01, rows, features), wide[1], half, rng.integers(0, classes, rows))


def multiply(models: Models, out: Floats) -> None:
    for X, weight in ((models.X, models.weight), (models.ref_X, models.ref_weight)):
        for start in range(0, len(weight), CHUNK):
            chunk = weight[start : start + CHUNK]
            np.matmul(X, chunk.T, out=out[:, : len(chunk)])


def call(models: Models, compares: bool) -> xent.Evaluation:
    reference = (models.ref_X, models.half[1]) if compares else None
    return xent.linear_evaluate(models.X, models.half[0], models.labels, reference=reference)


def compute_answer(models: Models, rows_at_once: int = 256) -> xent.Evaluation:
    """From all logits, some rows at a time."""
    stream = xent.StreamingLoss()
    for start in range(0, len(models.X), rows_at_once):
        rows = slice(start, start + rows_at_once)
        logits, reference = models.X[rows] @ models.weight.T, models.ref_X[rows] @ models.ref_weight.T
        stream.update(logits, models.labels[rows], reference=reference)
    return stream.result()


def check(expected: xent.Evaluation, answer: Any) -> str | None:
    """What is wrong; the tolerance is that of float32 products."""
    if answer is None:
        return None     # of the products alone
    for name in ("loss", "entropy", "brier", "accuracy", "kl", "agreement"):
        got, want = getattr(answer, name), getattr(expected, name)
        if not (abs(got - want) <= 1e-3 * abs(want) or np.isnan(got)):
            return f"{name} is {got}, should be {want}"
    return None


def measure_scratch(models: Models) -> float:
    """Peak MiB that xent allocates."""
    tracemalloc.start()
    try:
        call(models, True)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def measure(shape: Shape, thread_counts: Sequence[int], **timing: Any) -> tuple[float, dict[int, list[Result]]]:
    models = make_models(shape)
    expected = compute_answer(models)
    out = np.empty((shape[0], CHUNK), np.float32)
    calls: dict[str, Callable[[], Any]] = {
        PRODUCTS: partial(multiply, models, out),
        "xent": partial(call, models, True),
        WITHOUT: partial(call, models, False),
    }
    results = {}
    for threads in thread_counts:
        candidates = [Candidate(name, one, partial(use_threads_everywhere, threads)) for name, one in calls.items()]
        results[threads] = check_and_time(candidates, partial(check, expected), **timing)
    return measure_scratch(models), results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time linear_evaluate.", quick="small layers on one thread, in seconds", grid=False)
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxCLASSESxFEATURES")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all; 1 if quick")
    options = parser.parse_args(arguments)
    threads = options.threads or ([1] if options.quick else sorted({1, xent.get_num_threads()}))
    timing = {"budget": 1.0 if options.quick else 60.0, "least": 3}

    this = report.Report()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    measured = {shape: measure(shape, threads, **timing) for shape in report.show_progress(shapes, "linear")}

    this.print_head(
        "Measures of a linear layer, bfloat16 weights, with a reference",
        """Time / time of the float32 products of both layers alone: median of the rounds (quartiles). Scratch: the peak
        of what xent allocates.""",
    )
    print(make_table(measured))
    cells, found = record(measured)
    return int(bool(this.finish(options.json, found, cells=cells)))


if __name__ == "__main__":
    sys.exit(main())
