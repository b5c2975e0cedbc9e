"""Loss, gradient and the whole Hessian of a linear classifier in one pass, against one matrix product for each pair.

Usage:

    python bench/expansion.py [--quick] [--shapes 58000x9x7 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from covariance import use_threads_everywhere
from harness import report
from harness.cases import Floats, Labels
from harness.timing import Candidate, Result, check_and_time

from xent._fit.row_sums import RowSums

Shape = tuple[int, ...]     # rows, features, classes

SHAPES: tuple[Shape, ...] = (
    (58_000, 9, 7), (20_000, 16, 26), (10_000, 64, 10), (100_000, 20, 2), (100_000, 20, 5), (5000, 300, 2),
)   # fmt: skip
QUICK_SHAPES: tuple[Shape, ...] = ((5000, 10, 3),)


def make_problem(shape: Shape, dtype: str) -> tuple[Floats, Labels, Floats]:
    """Rows, labels, and coefficients with the intercepts last."""
    n, n_features, n_classes = shape
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, n_features)).astype(dtype)
    return X, rng.integers(0, n_classes, n), 0.3 * rng.normal(size=(1 if n_classes == 2 else n_classes, n_features + 1))


def expand_in_numpy(X: Floats, y: Labels, n_classes: int, matrix: Floats) -> Floats:
    """Loss, gradient and Hessian, one after the other; the product of a pair of classes serves both of them."""
    design = np.c_[X, np.ones(len(X))].astype(np.float64)
    size, n_coef_rows = design.shape[1], len(matrix)
    logits = np.zeros((len(X), n_classes))
    np.matmul(design, matrix.T, out=logits[:, -n_coef_rows:])
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(X)), y]
    p = np.exp(logits, out=logits)
    total = p.sum(axis=1)
    loss = np.sum(np.log(total) - own)
    p /= total[:, None]
    hessian = np.zeros((n_classes, size, n_classes, size))
    for k in range(n_classes):
        for other in range(k):
            root = design * np.sqrt(p[:, k] * p[:, other])[:, None]
            pair = root.T @ root
            hessian[k, :, other] = hessian[other, :, k] = -pair
            hessian[k, :, k] += pair
            hessian[other, :, other] += pair
    p[np.arange(len(X)), y] -= 1
    gradient = p[:, -n_coef_rows:].T @ design
    return np.concatenate([[loss], gradient.ravel(), hessian[-n_coef_rows:, :, -n_coef_rows:].ravel()])


def expand_by_xent(sums: RowSums, matrix: Floats) -> Floats:
    loss, gradient, hessian = sums.expand(matrix)
    return np.concatenate([[loss], gradient.ravel(), hessian.ravel()])


def check(right: Floats, answer: Floats) -> str | None:
    distance = np.max(abs(answer - right)) / np.max(abs(right))
    return f"{distance:.1e} off" if not distance < 1e-10 else None


def measure(shape: Shape, dtype: str, threads: int, **timing: Any) -> list[Result]:
    X, y, matrix = make_problem(shape, dtype)
    sums = RowSums(X, y, shape[2], np.ones(len(X)), threads)
    calls: dict[str, Callable[[], Floats]] = {
        "xent": partial(expand_by_xent, sums, matrix),
        "NumPy": partial(expand_in_numpy, X, y, shape[2], matrix),
    }
    scope = partial(use_threads_everywhere, threads)
    return check_and_time(
        [Candidate(*pair, scope) for pair in calls.items()], partial(check, calls["NumPy"]()), **timing
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time loss, gradient and Hessian of a linear classifier.", quick="a small problem")
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxFEATURESxCLASSES")
    options = report.parse(parser, arguments)
    timing = {"budget": 1.0 if options.quick else 5.0, "least": 3}

    this = report.Report()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    cells = [(shape, dtype, threads) for shape in shapes for dtype in options.dtypes for threads in options.threads]
    measured = [measure(*cell, **timing) for cell in report.show_progress(cells, "expansion")]

    this.print_head("Loss, gradient and Hessian", "Time / time of xent: median of the rounds (quartiles).")
    rows, found, records = [], [], []
    for (shape, dtype, threads), results in zip(cells, measured, strict=True):
        for result in results:
            seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
            rows.append(
                [str(shape), dtype, str(threads), result.name, seconds, report.format_spread(result.ratio)]
            )
            found.append(((shape, dtype, threads), result))
        records.append({"shape": shape, "dtype": dtype, "threads": threads, "results": report.record(results)})
    print(report.format_table(["rows, features, classes", "dtype", "threads", "what", "time", "ratio"], rows))
    return int(bool(this.finish(options.json, found, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
