"""Logistic regression: how near the least objective each solver is after how long.

Every solver is run anew with 1, 2, 3, ... 8, 10, 12, 14, 16, 20, ... iterations and the tightest tolerance, all in turn
at each number, until it is within GAP of the least objective known or has spent its time. A run is a point: seconds and
(f - f*) / f*, with f the objective in plain float64 (see fit_data.py) and f* the least of all runs, one of which is a
long one of xent in float64. The time to a gap is read between two points, on logarithmic axes.

Usage:

    python bench/fit.py [--quick] [--sets digits letters ...] [--dtypes float64 float32] [--threads N] [--json PATH]
"""

import argparse
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import fit_data
import numpy as np
import report
from cases import Floats, Labels
from fit_data import DataSet
from harness import no_collection, settle, warm_up
from peers import thread_count

import xent

GAPS = {"float64": (1e-3, 1e-6), "float32": (1e-3, 1e-5)}     # relative: what a table says
MAX_HESSIAN_BYTES = 2e9     # what newton-cholesky may ask for
LONG = 10_000

Model = tuple[Floats, Floats]       # coefficients, a row for each class, and intercepts
Fit = Callable[[Any, Labels, int], Model]


@dataclass
class Solver:
    """A fit with so many iterations; for sets where `suits` says so."""

    name: str
    fit: Fit
    suits: Callable[[DataSet], bool] = lambda data: True


@dataclass
class Curve:
    """The points of a solver on a set."""

    solver: str
    iterations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    fault: str | None = None

    def gaps(self, least: float) -> list[float]:
        return [max((value - least) / least, 1e-16) for value in self.objectives]

    def time_to(self, gap: float, least: float) -> float:
        """Seconds, between the last point above the gap and the first within it; infinite if there is none."""
        gaps = self.gaps(least)
        for i, value in enumerate(gaps):
            if value <= gap:
                if i == 0 or gaps[i - 1] <= value or self.seconds[i - 1] >= self.seconds[i]:
                    return self.seconds[i]
                reached = max(value, gap / 4)       # a last step far below the gap must not shorten the way to it
                share = math.log(gaps[i - 1] / gap) / math.log(gaps[i - 1] / reached)
                return math.exp((1 - share) * math.log(self.seconds[i - 1]) + share * math.log(self.seconds[i]))
        return math.inf


def of_scikit_learn(estimator: Any, **arguments: Any) -> Fit:
    def fit(X: Any, y: Labels, iterations: int) -> Model:
        model = estimator(max_iter=iterations, **arguments).fit(X, y)
        return model.coef_, model.intercept_

    return fit


def of_cyanure(X: Any, y: Labels, iterations: int) -> Model:
    from cyanure.estimators import Classifier

    model = Classifier(
        loss="multiclass-logistic", penalty="l2", lambda_1=1 / len(y), fit_intercept=True, max_iter=iterations,
        tol=1e-14, verbose=False, n_threads=xent.get_num_threads(),
    )  # fmt: skip
    model.fit(X, y)
    return np.asarray(model.coef_).T, np.asarray(model.intercept_).ravel()


def has_small_hessian(data: DataSet) -> bool:
    return 8 * ((data.X.shape[1] + 1) * (int(data.y.max()) + 1)) ** 2 <= MAX_HESSIAN_BYTES


def is_dense(data: DataSet) -> bool:
    return isinstance(data.X, np.ndarray)


def solvers() -> list[Solver]:
    """xent first, then whatever is installed."""
    found = [Solver("xent", of_scikit_learn(xent.LogisticRegression, tol=1e-13))]
    if importlib.util.find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression

        for name in ("lbfgs", "newton-cg", "newton-cholesky", "saga"):
            fit = of_scikit_learn(LogisticRegression, tol=1e-13, solver=name)
            suits = has_small_hessian if name == "newton-cholesky" else Solver.suits
            found.append(Solver(f"sklearn {name}", fit, suits))
    if importlib.util.find_spec("sklearnex"):
        from sklearnex.linear_model import LogisticRegression as Patched

        found.append(Solver("sklearnex lbfgs", of_scikit_learn(Patched, tol=1e-13), is_dense))
    if importlib.util.find_spec("cyanure"):
        found.append(Solver("cyanure", of_cyanure))
    return found


def conditions(threads: int) -> ExitStack:
    """So many threads, in BLAS too where threadpoolctl (scikit-learn brings it) is there to say so.

    No warnings of fits that do not converge: runs are stopped on purpose here and judged by their objective.
    """
    stack = ExitStack()
    stack.enter_context(thread_count(xent.get_num_threads, xent.set_num_threads, threads))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def numbers_of_iterations() -> Iterator[int]:
    return (n for k in range(LONG.bit_length()) for n in sorted({(q << k) // 4 for q in (4, 5, 6, 7)}))


def compare(
    data: DataSet,
    dtype: str,
    candidates: Sequence[Solver],
    threads: int,
    budget: float,
    least: float,
    clock: Callable[[], float] = perf_counter,
) -> tuple[list[Curve], float]:
    """The curve of each solver, and the least objective known by then. A run stops being repeated with more iterations
    when it is near enough, or when a solver's runs have taken `budget` seconds."""
    given = data.astype(dtype)
    curves = [Curve(solver.name) for solver in candidates]
    aim = min(GAPS[dtype])
    going = [solver.suits(data) for solver in candidates]
    with conditions(threads), no_collection():
        for iterations in numbers_of_iterations():
            for solver, curve, i in zip(candidates, curves, range(len(going)), strict=True):
                if not going[i]:
                    continue
                settle(0.004)
                warm_up(clock)
                start = clock()
                try:
                    model = solver.fit(given.X, given.y, iterations)
                except Exception as error:  # a peer's own failure is a finding
                    curve.fault, going[i] = f"{type(error).__name__}: {error}"[:200], False
                    continue
                curve.seconds.append(clock() - start)
                curve.iterations.append(iterations)
                curve.objectives.append(fit_data.objective(data.X, data.y, *model))
                least = min(least, curve.objectives[-1])
                gap = curve.gaps(least)[-1]
                going[i] = gap > aim / 4 and sum(curve.seconds) < budget
            if not any(going):
                break
    return curves, least


def least_objective(data: DataSet, threads: int) -> float:
    """Of a long run in float64."""
    with conditions(threads):
        model = xent.LogisticRegression(tol=1e-9, max_iter=300).fit(data.X, data.y)
    return fit_data.objective(data.X, data.y, model.coef_, model.intercept_)


def rows(cell: dict[str, Any]) -> list[list[str]]:
    """A row a solver: times to the gaps, and how many times xent's they are."""
    lines = []
    ours = cell["curves"][0]
    for curve in cell["curves"]:
        line = [cell["set"], cell["dtype"], curve.solver]
        for gap in GAPS[cell["dtype"]]:
            seconds, own = (c.time_to(gap, cell["least"]) for c in (curve, ours))
            if seconds < math.inf:
                line += [report.duration(seconds), report.number(seconds / own)]
            else:
                spent = f"> {report.number(max(curve.seconds) / own)}" if curve.seconds and own < math.inf else ""
                line += ["-", curve.fault or spent]
        lines.append([*line, f"{min(curve.gaps(cell['least'])):.0e}" if curve.seconds else ""])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Logistic regression: nearness to the least objective against time.")
    parser.add_argument("--quick", action="store_true", help="the digits only, for less long")
    parser.add_argument("--sets", nargs="+", choices=fit_data.SETS, help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=GAPS, help="default: float64 and, but for --quick, float32")
    parser.add_argument("--solvers", nargs="+", metavar="WORD", help="only solvers with one of these in their name")
    parser.add_argument("--threads", type=int, default=xent.get_num_threads())
    parser.add_argument("--budget", type=float, help="seconds for each solver on a set, but for the run under way")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for one thread beside busy neighbours")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    budget = options.budget or (3.0 if options.quick else 60.0)
    dtypes = options.dtypes or list(GAPS)[: 1 if options.quick else None]
    candidates = solvers()
    if options.solvers:
        candidates = [s for s in candidates if s.name == "xent" or any(word in s.name for word in options.solvers)]

    clock = process_time if options.cpu else perf_counter
    neighbours = report.Neighbours()
    cells = []
    for name in report.progress(options.sets or list(fit_data.SETS)[: 1 if options.quick else None], "sets"):
        try:
            data = fit_data.SETS[name]()
        except fit_data.Unavailable as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        least = least_objective(data, options.threads)
        compared = {}
        for dtype in dtypes:
            compared[dtype], least = compare(data, dtype, candidates, options.threads, budget, least, clock)
        cells += [{"set": data.name, "dtype": d, "least": least, "curves": curves} for d, curves in compared.items()]

    environment = report.environment(neighbours)
    print(f"# Logistic regression, C = 1, {options.threads} threads\n\n{report.describe(environment)}\n")
    unit = "CPU seconds" if options.cpu else "Seconds"
    print(f"{unit} until (f - f*) / f* is within a gap, and how many times xent's they are; -: not in the time given.")
    print("Near: 1e-3. Far: 1e-6 for float64, 1e-5 for float32. Least: the smallest gap reached.\n")
    header = ["set", "dtype", "solver", "near", "ratio", "far", "ratio", "least"]
    print(report.table(header, [row for cell in cells for row in rows(cell)]))
    saved = [{**cell, "curves": [asdict(curve) for curve in cell["curves"]]} for cell in cells]
    settings = {"fit threads": options.threads, "clock": unit}
    report.write_json(options.json, {"environment": environment, **settings, "cells": saved})
    return 0


if __name__ == "__main__":
    sys.exit(main())
