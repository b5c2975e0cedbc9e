"""Standard errors: covariance of the coefficients, from the Hessian and the sandwich, against statsmodels and NumPy.

Usage:

    python bench/covariance.py [--quick] [--shapes 100000x20x5 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from harness import report
from harness.cases import Floats, Labels
from harness.peers import use_threads
from harness.timing import Candidate, Result, check_and_time

import xent

Shape = tuple[int, ...]     # rows, features, classes
Call = Callable[[], Floats]

SHAPES: tuple[Shape, ...] = ((100_000, 20, 2), (100_000, 20, 5), (20_000, 100, 2), (20_000, 50, 10))
QUICK_SHAPES: tuple[Shape, ...] = ((5000, 10, 3),)
KINDS = ("hessian", "sandwich")


def make_problem(shape: Shape, dtype: str) -> tuple[Floats, Labels, xent.LogisticRegression]:
    """Rows, labels, and a model with its maximum-likelihood estimate."""
    n, n_features, n_classes = shape
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, n_features))
    coef = rng.normal(size=(n_features, n_classes)) / np.sqrt(n_features)
    y = np.argmax(X @ coef + rng.gumbel(size=(n, n_classes)), axis=1)
    model = xent.LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(X, y)
    model.coef_, model.intercept_ = model.coef_.astype(dtype), model.intercept_.astype(dtype)
    return X.astype(dtype), y, model


def to_parameters(model: xent.LogisticRegression) -> Floats:
    """A row for each class but the first, the intercepts last."""
    matrix = np.c_[model.coef_, model.intercept_].astype(np.float64)
    return matrix if len(matrix) == 1 else matrix[1:] - matrix[0]


def compute_covariance(X: Floats, y: Labels, parameters: Floats, kind: str) -> Floats:
    """By plain NumPy in float64: one matrix product for each pair of classes."""
    design = np.c_[X, np.ones(len(X))].astype(np.float64)
    logits = np.c_[np.zeros(len(X)), design @ parameters.T]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    size, free = design.shape[1], len(parameters)
    hessian = np.empty((free, size, free, size))
    for k in range(free):
        for m in range(k + 1):
            curvature = p[:, k + 1] * ((k == m) - p[:, m + 1])
            hessian[k, :, m] = design.T @ (curvature[:, None] * design)
            hessian[m, :, k] = hessian[k, :, m].T
    inverse = np.linalg.inv(hessian.reshape(free * size, -1))
    if kind == "hessian":
        return inverse
    p[np.arange(len(y)), y] -= 1
    scores = (p[:, 1:, None] * design[:, None]).reshape(len(y), -1)
    return inverse @ (scores.T @ scores) @ inverse


def make_statsmodels(X: Floats, y: Labels, parameters: Floats, kind: str) -> Call | None:
    """What its results compute `cov_params` from, without the fit."""
    if not importlib.util.find_spec("statsmodels"):
        return None
    from statsmodels.discrete import discrete_model

    design = np.c_[X, np.ones(len(X))].astype(np.float64)
    theirs = discrete_model.Logit if len(parameters) == 1 else discrete_model.MNLogit
    model = theirs(y, design)
    given = parameters[0] if len(parameters) == 1 else parameters.T

    def call() -> Floats:
        inverse = np.linalg.inv(-model.hessian(given if len(parameters) == 1 else given.ravel(order="F")))
        if kind == "hessian":
            return inverse
        scores = model.score_obs(given if len(parameters) == 1 else given.ravel(order="F"))
        return inverse @ (scores.T @ scores) @ inverse

    return call


def make_calls(X: Floats, y: Labels, model: xent.LogisticRegression, kind: str) -> dict[str, Call]:
    parameters = to_parameters(model)
    calls: dict[str, Call | None] = {
        "xent": partial(model.covariance, X, y, kind=kind),
        "NumPy": partial(compute_covariance, X, y, parameters, kind),
        "statsmodels": make_statsmodels(X, y, parameters, kind),
    }
    return {name: call for name, call in calls.items() if call is not None}


def check(right: Floats, answer: Floats) -> str | None:
    errors = np.sqrt(right.diagonal())
    distance = np.max(abs(answer - right) / errors / errors[:, None])
    return f"{distance:.1e} off, in squared standard errors" if not distance < 1e-6 else None


def use_threads_everywhere(threads: int) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(use_threads(xent.get_num_threads, xent.set_num_threads, threads))
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def measure(shape: Shape, dtype: str, kind: str, threads: int, **timing: Any) -> list[Result]:
    X, y, model = make_problem(shape, dtype)
    right = compute_covariance(X, y, to_parameters(model), kind)
    scope = partial(use_threads_everywhere, threads)
    calls = make_calls(X, y, model, kind)
    return check_and_time([Candidate(*pair, scope) for pair in calls.items()], partial(check, right), **timing)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time the covariance of the coefficients.", quick="a small problem, in seconds")
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxFEATURESxCLASSES")
    options = report.parse(parser, arguments)
    timing = {"budget": 1.0 if options.quick else 10.0, "least": 3}

    this = report.Report()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    cells = [
        (shape, dtype, kind, threads)
        for shape in shapes for dtype in options.dtypes for kind in KINDS for threads in options.threads
    ]   # fmt: skip
    measured = [measure(*cell, **timing) for cell in report.show_progress(cells, "covariance")]

    this.print_head("Standard errors", "Time / time of xent: median of the rounds (quartiles).")
    rows, found, records = [], [], []
    for (shape, dtype, kind, threads), results in zip(cells, measured, strict=True):
        for result in results:
            seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
            ratio = report.format_spread(result.ratio)
            rows.append([str(shape), dtype, kind, str(threads), result.name, seconds, ratio])
            found.append(((shape, dtype, kind, threads), result))
        records.append(
            {"shape": shape, "dtype": dtype, "kind": kind, "threads": threads, "results": report.record(results)}
        )
    head = ["rows, features, classes", "dtype", "kind", "threads", "what", "time", "ratio"]
    print(report.format_table(head, rows))
    return int(bool(this.finish(options.json, found, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
