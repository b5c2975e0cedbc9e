"""Logistic regression on the 1,797 digits: xent against scikit-learn's default solver (lbfgs), to the same objective.

Usage:

    python bench/fit.py [--quick] [--threads 1 2 ...] [--json PATH]
"""

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
from cases import Floats, Labels
from harness import Candidate, check_and_time
from peers import thread_count

import xent

GAP = 1e-6  # of the objective, relative: the two solvers' coefficients then agree to about three digits
LONG = 100_000  # iterations: never what stops a run

Fit = Callable[..., Any]


@dataclass(frozen=True)
class Settings:
    """How a solver is run and what it reaches: its relative distance from the least objective known."""

    arguments: dict[str, Any]
    iterations: int
    gap: float


def objective(model: Any, X: Floats, y: Labels) -> float:
    """Mean loss + |coef|² / (2 C N), in plain float64: what both minimise, up to a factor C N."""
    z = X @ model.coef_.astype(np.float64).T + model.intercept_
    z -= z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return float(losses.mean() + (model.coef_**2).sum() / (2 * model.C * len(y)))


def conditions(threads: int) -> ExitStack:
    """So many threads, in BLAS too where threadpoolctl (scikit-learn brings it) is there to say so.

    No warnings of fits that do not converge: runs are stopped on purpose here and judged by their objective.
    """
    stack = ExitStack()
    stack.enter_context(thread_count(xent.get_num_threads, xent.set_num_threads, threads))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", xent.ConvergenceWarning)
    if importlib.util.find_spec("sklearn"):
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        warnings.simplefilter("ignore", ConvergenceWarning)
        stack.enter_context(threadpool_limits(threads))
    return stack


def solvers() -> dict[str, Fit]:
    """Estimators by name, xent first."""
    found: dict[str, Fit] = {"xent": xent.LogisticRegression}
    if importlib.util.find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression

        found["sklearn"] = LogisticRegression
    return found


def exact() -> list[Any]:
    """Solvers run far beyond the timed ones; scikit-learn's Newton is independent of both, and the cheapest there."""
    models = [xent.LogisticRegression(tol=1e-10, max_iter=LONG)]
    if importlib.util.find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression

        models.append(LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=LONG))
    return models


def run(estimator: Fit, X: Floats, y: Labels, least: float, **arguments: Any) -> Settings:
    """One fit, judged."""
    model = estimator(**arguments).fit(X, y)
    gap = (objective(model, X, y) - least) / least
    return Settings(arguments, int(np.max(model.n_iter_)), gap)


def loosest(estimator: Fit, X: Floats, y: Labels, least: float) -> Settings:
    """The loosest tolerance, in half decades, that comes within GAP of the least objective."""
    for half_decades in range(25):
        settings = run(estimator, X, y, least, tol=float(f"{10 ** (-half_decades / 2):.1e}"), max_iter=LONG)
        if settings.gap <= GAP:
            return settings
    raise RuntimeError(f"{estimator} stayed {settings.gap} above the least objective")


def too_far(model: Any, X: Floats, y: Labels, least: float, within: float) -> str | None:
    """What is wrong with a model, or None."""
    gap = (objective(model, X, y) - least) / least
    return None if gap <= within else f"objective {gap:.1e} above the least one"


def compare(X: Floats, y: Labels, thread_counts: Sequence[int], **timing: Any) -> list[dict[str, Any]]:
    """Default settings and equal objectives, timed in turn."""
    estimators = solvers()
    with conditions(1):  # products as small as these can take BLAS ten times longer on two threads than on one
        least = min(objective(model.fit(X, y), X, y) for model in exact())
        default = {name: run(make, X, y, least) for name, make in estimators.items()}
        equal = {name: loosest(make, X, y, least) for name, make in estimators.items()}
    runs = []
    # The rounding of BLAS, and the path with it, depends on its threads: hence the factor.
    for label, settings, within in (("default", default, np.inf), ("equal objective", equal, 3 * GAP)):
        for threads in thread_counts:
            scope = partial(conditions, threads)
            candidates = [
                Candidate(name, partial(make(**settings[name].arguments).fit, X, y), scope)
                for name, make in estimators.items()
            ]
            check = partial(too_far, X=X, y=y, least=least, within=within)
            results = check_and_time(candidates, check, **timing)
            runs.append({"run": label, "threads": threads, "settings": settings, "results": results})
    return runs


def rows(features: str, runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row a solver."""
    lines = []
    for run in runs:
        for result in run["results"]:
            settings = run["settings"][result.name]
            lines.append(
                [
                    features,
                    run["run"],
                    str(run["threads"]),
                    result.name,
                    f"{settings.arguments['tol']:g}" if settings.arguments else "default",
                    str(settings.iterations),
                    f"{settings.gap:.0e}",
                    report.duration(result.seconds.median) if result.seconds else f"WRONG: {result.fault}",
                    report.spread(result.ratio) if result.ratio else "",
                ]
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time logistic regression on the digits, in turn with scikit-learn.")
    parser.add_argument("--quick", action="store_true", help="few rounds, 1 thread")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    timing = {"budget": 1.0, "least": 3} if options.quick else {"budget": 10.0, "least": 7}
    threads = options.threads or ([1] if options.quick else sorted({1, xent.get_num_threads()}))

    X, y = xent.datasets.load_digits()
    neighbours = report.Neighbours()
    features = [("raw (0..16)", X), ("scaled (X/16)", X / 16)]
    compared = {name: compare(data, y, threads, **timing) for name, data in report.progress(features, "fits")}

    environment = report.environment(neighbours)
    print(f"# Logistic regression, digits (1797, 64), 10 classes, C = 1\n\n{report.describe(environment)}\n")
    print("Ratio: solver's time / xent's, median of the rounds (quartiles). Gap: relative distance of mean loss +")
    print(
        "|coef|² / (2 C N), which both minimise, from the least value known, in plain float64 NumPy. Equal objective:"
    )
    print(f"the loosest tol, in half decades, with a gap of at most {GAP:g}.\n")
    header = ["features", "run", "threads", "solver", "tol", "iterations", "gap", "time", "ratio"]
    print(report.table(header, [row for name, runs in compared.items() for row in rows(name, runs)]))
    cells = [
        {
            "features": name,
            "run": run["run"],
            "threads": run["threads"],
            "settings": {solver: asdict(settings) for solver, settings in run["settings"].items()},
            "results": report.record(run["results"]),
        }
        for name, runs in compared.items()
        for run in runs
    ]
    report.write_json(options.json, {"environment": environment, "cells": cells})
    return int(any(result.fault for runs in compared.values() for run in runs for result in run["results"]))


if __name__ == "__main__":
    sys.exit(main())
