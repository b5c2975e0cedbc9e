"""LogisticRegressionCV against scikit-learn's, and against a single fit.

Each class searches 10 values of C on the same 5 folds, with its default tolerance and up to --max-iter iterations. The
answers are compared before times: the mean held-out log loss at the best C must be no more than 1e-4 above that of the
minima, which a run of xent with tol=1e-7 finds. (A fit that stops before its minimum may have a lower one by chance.)
Then they are timed in turn. `cold` is one fit of xent.LogisticRegression on all rows at the best C, from zeros.

Usage:

    python bench/cross_validation.py [--quick] [--sets digits images ...] [--solvers lbfgs ...] [--threads N] [--cpu]
        [--rounds N] [--json PATH]
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any

import fit_data
import numpy as np
from fit import has_small_hessian, set_conditions
from fit_data import DataSet
from harness import report
from harness.timing import without_garbage_collection

import xent

SCORE_GAP = 1e-4        # of the mean held-out log loss
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")     # of scikit-learn


def make_embeddings(n: int = 50_000, n_features: int = 512, n_classes: int = 100) -> DataSet:
    """Unit vectors in float32, around a mean for each class."""
    rng = np.random.default_rng(0)
    means = 0.12 * rng.normal(size=(n_classes, n_features))
    y = rng.integers(0, n_classes, n)
    X = means[y] + rng.normal(size=(n, n_features))
    return DataSet("embeddings", (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y)


SETS: dict[str, Callable[[], DataSet]] = {
    "digits": fit_data.load_digits,
    "images": partial(fit_data.make_images, 10_000),
    "embeddings": make_embeddings,
    "reuters": fit_data.load_reuters,
}


@dataclass
class Search:
    """The runs of one class on one data set."""

    name: str
    make: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)       # mean held-out log loss for each C
    best_C: float = math.nan
    fault: str | None = None

    def run(self, data: DataSet, clock: Callable[[], float]) -> None:
        try:
            start = clock()
            model = self.make().fit(data.X, data.y)
            self.seconds.append(clock() - start)
        except Exception as error:      # if a peer fails, the report says so
            self.fault = f"{type(error).__name__}: {error}"[:200]
            return
        if hasattr(model, "scores_"):
            self.losses = (-model.scores_.mean(axis=(0, 1))).tolist()
            self.best_C = model.C_


def list_searches(data: DataSet, solvers: Sequence[str], threads: int, max_iter: int) -> list[Search]:
    """xent's, and scikit-learn's with processes for the folds or with threads of BLAS."""
    searches = [Search("xent", partial(xent.LogisticRegressionCV, max_iter=max_iter))]
    if importlib.util.find_spec("sklearn") is None:
        return searches
    from sklearn.linear_model import LogisticRegressionCV

    for solver in solvers:
        if solver == "newton-cholesky" and not has_small_hessian(data):
            continue
        for jobs in sorted({1, threads}):
            options = {"solver": solver, "n_jobs": jobs, "max_iter": max_iter, "scoring": "neg_log_loss"}
            make = partial(LogisticRegressionCV, l1_ratios=(0.0,), use_legacy_attributes=False, **options)
            searches.append(Search(f"sklearn {solver}, n_jobs={jobs}", make))
    return searches


def compare(data: DataSet, searches: list[Search], threads: int, rounds: int, clock: Callable[[], float]) -> Search:
    """Run all searches; returns the single fits at the best C."""
    with set_conditions(threads), without_garbage_collection():
        exact = Search("exact", partial(xent.LogisticRegressionCV, tol=1e-7, max_iter=10_000))
        for search in (exact, *searches):
            search.run(data, clock)
        for search in searches:
            excess = min(search.losses) - min(exact.losses) if search.losses else 0.0
            if excess > SCORE_GAP:
                search.fault = f"the held-out loss is {excess:.1e} above that of the minima"
        cold = Search("cold", partial(xent.LogisticRegression, C=searches[0].best_C))
        for _ in range(max(1, rounds)):
            for search in (*searches, cold) if rounds else (cold,):
                if search.fault is None:
                    search.run(data, clock)
    return cold


def make_rows(data: DataSet, searches: list[Search], cold: Search) -> list[list[str]]:
    """A row for each class: its time, the ratio to xent's, and what it found."""
    rows = []
    ours = median(searches[0].seconds)
    for search in (*searches, cold):
        taken = median(search.seconds) if search.seconds else math.nan
        loss = f"{min(search.losses):.5f}" if search.losses else ""
        best = f"{search.best_C:.3g}" if search.losses else ""
        note = search.fault or (f"xent's search is {ours / taken:.1f} of these" if search is cold else "")
        rows.append(
            [data.name, search.name, report.format_seconds(taken), report.format_number(taken / ours), loss, best, note]
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Cross-validation of the penalty: time for 10 values of C on 5 folds."
    parser = report.make_parser(description, quick="the digits only, without peers", grid=False)
    parser.add_argument("--sets", nargs="+", choices=SETS, help="default: all")
    parser.add_argument("--solvers", nargs="*", choices=SOLVERS, help="of scikit-learn; default: all")
    parser.add_argument("--threads", type=int, default=xent.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-iter", type=int, default=2000)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for one thread beside busy neighbours")
    options = parser.parse_args(arguments)
    solvers = options.solvers if options.solvers is not None else () if options.quick else SOLVERS
    clock = process_time if options.cpu else perf_counter
    this = report.Report()
    rows, cells = [], []
    for name in report.show_progress(options.sets or list(SETS)[: 1 if options.quick else None], "sets"):
        try:
            data = SETS[name]()
        except fit_data.Unavailable as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        searches = list_searches(data, solvers, options.threads, options.max_iter)
        cold = compare(data, searches, options.threads, options.rounds, clock)
        rows += make_rows(data, searches, cold)
        cells += [
            {"set": name, "search": s.name, "seconds": s.seconds, "losses": s.losses, "C": s.best_C, "fault": s.fault}
            for s in (*searches, cold)
        ]
    unit = "CPU seconds" if options.cpu else "Seconds"
    this.print_head(
        f"Cross-validation of C: 10 values, 5 folds, {report.format_threads(options.threads)}",
        f"""{unit}, their ratio to xent's, the mean held-out log loss at the best C, and that C. Cold: one fit of all
        rows at the best C.""",
    )
    print(report.format_table(["set", "search", "time", "ratio", "loss", "C", ""], rows))
    this.finish(options.json, [], **{"threads": options.threads, "clock": unit}, cells=cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
