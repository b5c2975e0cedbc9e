"""Logistic regression: how fast each solver approaches the least objective.

Each solver is run from scratch with 1, 2, 3, ... 8, 10, 12, 14, 16, 20, ... iterations and a tolerance that never stops
it. At each number of iterations the solvers take turns, until one is close enough (GAPS) or has used up its time. A run
is a point: seconds and (f - f*) / f*, where f is the objective in float64 by plain NumPy (see fit_data.py), and f* the
least of all runs, among them a long one of xent in float64. The time to a gap is interpolated between two points, on
logarithmic axes.

Usage:

    python bench/fit.py [--quick] [--sets digits letters ...] [--dtypes float64 float32] [--threads N] [--json PATH]
    python bench/fit.py --l1-ratio 1 [--C 0.1] [--no-intercept] [...]       L1 or elastic net, with other peers
"""

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from time import perf_counter, process_time
from typing import Any

import fit_data
import numpy as np
from fit_data import DataSet
from harness import report
from harness.cases import Floats, Labels
from harness.peers import use_threads
from harness.timing import settle, warm_up, without_garbage_collection
from l1_solvers import Problem, list_fits

import xent

GAPS = {"float64": (1e-3, 1e-6), "float32": (1e-3, 1e-5)}     # relative: near and far in the table
MAX_HESSIAN_BYTES = 2e9     # of newton-cholesky
LONG = 10_000
L2 = Problem()

Model = tuple[Floats, Floats]       # coefficients, one row per class, and intercepts
Fit = Callable[[Any, Labels, int], Model]


@dataclass
class Solver:
    """`fit` runs a given number of iterations; `suits` says for which data sets."""

    name: str
    fit: Fit
    suits: Callable[[DataSet], bool] = lambda data: True


@dataclass
class Curve:
    """The runs of one solver on one data set."""

    solver: str
    iterations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    fault: str | None = None

    def gaps(self, least: float) -> list[float]:
        return [max((value - least) / least, 1e-16) for value in self.objectives]

    def time_to(self, gap: float, least: float) -> float:
        """Seconds until the gap, interpolated between the runs before and after it; infinite if no run reached it."""
        gaps = self.gaps(least)
        for i, value in enumerate(gaps):
            if value <= gap:
                if i == 0 or gaps[i - 1] <= value or self.seconds[i - 1] >= self.seconds[i]:
                    return self.seconds[i]
                reached = max(value, gap / 4)       # else a last step far below the gap would make it look closer
                share = math.log(gaps[i - 1] / gap) / math.log(gaps[i - 1] / reached)
                return math.exp((1 - share) * math.log(self.seconds[i - 1]) + share * math.log(self.seconds[i]))
        return math.inf


def make_fit(estimator: Any, **arguments: Any) -> Fit:
    def fit(X: Any, y: Labels, iterations: int) -> Model:
        model = estimator(max_iter=iterations, **arguments).fit(X, y)
        return model.coef_, model.intercept_

    return fit


def fit_cyanure(X: Any, y: Labels, iterations: int) -> Model:
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


def list_solvers() -> list[Solver]:
    """xent, then the peers that are installed."""
    found = [Solver("xent", make_fit(xent.LogisticRegression, tol=1e-13))]
    if importlib.util.find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression

        for name in ("lbfgs", "newton-cg", "newton-cholesky", "saga"):
            fit = make_fit(LogisticRegression, tol=1e-13, solver=name)
            suits = has_small_hessian if name == "newton-cholesky" else Solver.suits
            found.append(Solver(f"sklearn {name}", fit, suits))
    if importlib.util.find_spec("sklearnex"):
        from sklearnex.linear_model import LogisticRegression as Patched

        found.append(Solver("sklearnex lbfgs", make_fit(Patched, tol=1e-13), is_dense))
    if importlib.util.find_spec("cyanure"):
        found.append(Solver("cyanure", fit_cyanure))
    return found


def set_conditions(threads: int) -> ExitStack:
    """Set the number of threads, of BLAS too if threadpoolctl is installed (scikit-learn requires it), and ignore
    warnings: runs are stopped before they converge, and judged by their objective."""
    stack = ExitStack()
    stack.enter_context(use_threads(xent.get_num_threads, xent.set_num_threads, threads))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def count_iterations() -> Iterator[int]:
    return (n for k in range(LONG.bit_length()) for n in sorted({(q << k) // 4 for q in (4, 5, 6, 7)}))


def compare(
    data: DataSet,
    dtype: str,
    candidates: Sequence[Solver],
    threads: int,
    budget: float,
    least: float,
    clock: Callable[[], float] = perf_counter,
    problem: Problem = L2,
) -> tuple[list[Curve], float]:
    """The curve of each solver, and the least objective known so far. A solver is done when it is close enough, or when
    its runs have taken `budget` seconds."""
    given = data.astype(dtype)
    curves = [Curve(solver.name) for solver in candidates]
    aim = min(GAPS[dtype])
    going = [solver.suits(data) for solver in candidates]
    with set_conditions(threads), without_garbage_collection():
        for iterations in count_iterations():
            for solver, curve, i in zip(candidates, curves, range(len(going)), strict=True):
                if not going[i]:
                    continue
                settle(0.004)
                warm_up(clock)
                start = clock()
                try:
                    model = solver.fit(given.X, given.y, iterations)
                except Exception as error:  # if a peer fails, the report says so
                    curve.fault, going[i] = f"{type(error).__name__}: {error}"[:200], False
                    continue
                curve.seconds.append(clock() - start)
                curve.iterations.append(iterations)
                curve.objectives.append(problem.compute_objective(data.X, data.y, *model))
                least = min(least, curve.objectives[-1])
                gap = curve.gaps(least)[-1]
                going[i] = gap > aim / 4 and sum(curve.seconds) < budget
            if not any(going):
                break
    return curves, least


def find_least_objective(data: DataSet, threads: int, problem: Problem = L2) -> float:
    """The objective of a long run in float64."""
    with set_conditions(threads):
        model = xent.LogisticRegression(**asdict(problem), tol=1e-9, max_iter=300).fit(data.X, data.y)
    return problem.compute_objective(data.X, data.y, model.coef_, model.intercept_)


def make_rows(cell: dict[str, Any]) -> list[list[str]]:
    """A row per solver: its times to the gaps, and their ratios to xent's."""
    lines = []
    ours = cell["curves"][0]
    for curve in cell["curves"]:
        line = [cell["set"], cell["dtype"], curve.solver]
        for gap in GAPS[cell["dtype"]]:
            seconds, own = (c.time_to(gap, cell["least"]) for c in (curve, ours))
            if seconds < math.inf:
                line += [report.format_seconds(seconds), report.format_number(seconds / own)]
            else:
                is_known = curve.seconds and own < math.inf
                spent = f"> {report.format_number(max(curve.seconds) / own)}" if is_known else ""
                line += ["-", curve.fault or spent]
        lines.append([*line, f"{min(curve.gaps(cell['least'])):.0e}" if curve.seconds else ""])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Logistic regression: distance from the least objective against time."
    parser = report.make_parser(description, quick="the digits only, for less long", grid=False)
    parser.add_argument("--sets", nargs="+", choices=fit_data.SETS, help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=GAPS, help="default: both; float64 if quick")
    parser.add_argument("--solvers", nargs="+", metavar="WORD", help="only solvers with one of these in their name")
    parser.add_argument("--threads", type=int, default=xent.get_num_threads())
    parser.add_argument("--budget", type=float, help="seconds for each solver on a set; a run is not interrupted")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for one thread beside busy neighbours")
    parser.add_argument("--l1-ratio", type=float, default=0.0, help="the share of L1 in the penalty")
    parser.add_argument("--C", type=float, default=1.0, help="inverse of the penalty's strength, with L1")
    parser.add_argument("--no-intercept", action="store_true", help="with L1: celer takes part")
    options = parser.parse_args(arguments)
    problem = Problem(options.C, options.l1_ratio, not options.no_intercept) if options.l1_ratio else L2
    budget = options.budget or (3.0 if options.quick else 60.0)
    dtypes = options.dtypes or list(GAPS)[: 1 if options.quick else None]
    candidates = [Solver(*solver) for solver in list_fits(problem)] if options.l1_ratio else list_solvers()
    if options.solvers:
        candidates = [s for s in candidates if s.name == "xent" or any(word in s.name for word in options.solvers)]

    clock = process_time if options.cpu else perf_counter
    this = report.Report()
    cells = []
    for name in report.show_progress(options.sets or list(fit_data.SETS)[: 1 if options.quick else None], "sets"):
        try:
            data = fit_data.SETS[name]()
        except fit_data.Unavailable as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        least = find_least_objective(data, options.threads, problem)
        compared = {}
        for dtype in dtypes:
            compared[dtype], least = compare(data, dtype, candidates, options.threads, budget, least, clock, problem)
        cells += [{"set": data.name, "dtype": d, "least": least, "curves": curves} for d, curves in compared.items()]

    unit = "CPU seconds" if options.cpu else "Seconds"
    this.print_head(
        f"Logistic regression, C = {problem.C:g}, l1_ratio = {problem.l1_ratio:g}, "
        f"{report.format_threads(options.threads)}",
        f"""{unit} until (f - f*) / f* is within a gap, and their ratio to xent's; -: not within the time given. Near:
        1e-3. Far: 1e-6 for float64, 1e-5 for float32. Least: the smallest gap reached.""",
    )
    header = ["set", "dtype", "solver", "near", "ratio", "far", "ratio", "least"]
    print(report.format_table(header, [row for cell in cells for row in make_rows(cell)]))
    saved = [{**cell, "curves": [asdict(curve) for curve in cell["curves"]]} for cell in cells]
    this.finish(options.json, [], **{"fit threads": options.threads, "clock": unit}, cells=saved)
    return 0


if __name__ == "__main__":
    sys.exit(main())
