"""One pass of a fit over dense rows of few classes, in units of one read of X.

Usage:

    python bench/fit_pass.py [--quick] [--shapes 10000x784x10 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from harness import report
from harness.cases import Floats
from harness.numpy_ops import loss_gradient
from harness.peers import use_threads
from harness.timing import Candidate, Result, time_in_turn

import xent
from xent._fit.row_sums import RowSums

Shape = tuple[int, int, int]    # rows, features, classes

SHAPES: tuple[Shape, ...] = ((10_000, 784, 10), (20_000, 968, 26), (20_000, 16, 26), (50_000, 100, 2))
READ = "one read of X"
PASS = "loss and gradient"


def find_fault(sums: RowSums, X: Floats, labels: Any, matrix: Floats) -> str | None:
    """Whether loss and gradient are not those of plain NumPy in float64."""
    loss, gradient = sums.loss_gradient(matrix)
    logits = np.zeros((len(X), sums.rows.n_classes))
    logits[:, -len(matrix) :] = X.astype(np.float64) @ matrix[:, :-1].T + matrix[:, -1]
    mean, slopes = loss_gradient(logits, labels)
    expected = len(X) * slopes[:, -len(matrix) :].T @ X
    if not abs(loss / len(X) - mean) < 1e-5:
        return f"the loss is {loss / len(X)}, not {mean}"
    error = np.abs(gradient[:, :-1] - expected).max() / np.abs(expected).max()
    return None if error < 1e-4 else f"the gradient is {error:.1e} off"


def measure(shape: Shape, dtype: str, threads: int, **timing: Any) -> list[Result]:
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    X, labels = rng.random((rows, features)).astype(dtype), rng.integers(0, classes, rows)
    sums = RowSums(X, labels, classes, np.ones(rows))
    matrix = 0.01 * rng.normal(size=(sums.n_coef_rows, features + 1))
    fault = find_fault(sums, X, labels, matrix)
    if fault:
        return [Result(PASS, fault=fault)]
    scope = partial(use_threads, xent.get_num_threads, xent.set_num_threads, threads)
    calls = {
        READ: X.view(f"int{8 * X.itemsize}").max,     # on one thread; NumPy reads integers at the speed of memory
        PASS: partial(sums.loss_gradient, matrix),
        "Hessian product": partial(sums.hessian_product_at(matrix), matrix),
    }
    return time_in_turn([Candidate(name, call, scope) for name, call in calls.items()], **timing)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time one pass of a fit.", quick="the first shape, for less long")
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxFEATURESxCLASSES")
    options = report.parse(parser, arguments)
    timing = {"budget": 1.0 if options.quick else 5.0}
    shapes = options.shapes or SHAPES[: 1 if options.quick else None]
    cells = [(shape, dtype, threads) for shape in shapes for dtype in options.dtypes for threads in options.threads]

    this = report.Report()
    measured = [measure(*cell, **timing) for cell in report.show_progress(cells, "passes")]
    this.print_head("One pass of a fit", "Time / time of one read of X by NumPy: median of the rounds (quartiles).")
    rows, found, records = [], [], []
    for (shape, dtype, threads), results in zip(cells, measured, strict=True):
        for result in results:
            seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
            size = "x".join(map(str, shape))
            rows.append([size, dtype, str(threads), result.name, seconds, report.format_spread(result.ratio)])
            found.append(((shape, dtype, threads), result))
        records.append({"shape": shape, "dtype": dtype, "threads": threads, "results": report.record(results)})
    print(report.format_table(["shape", "dtype", "threads", "what", "time", "reads"], rows))
    return int(bool(this.finish(options.json, found, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
