"""scikit-learn under xent.sklearn.patch against itself: what a script gains that changes nothing.

Fits and searches with scikit-learn's classes, their default tolerance and up to 1000 iterations; and log losses. Before
times, answers are compared: the objective of a fit must be within 1e-3 of the least one (relative), the best score of a
search within 2 % of scikit-learn's, a log loss within 1e-9.

Usage:

    python bench/patch.py [--quick] [--cases digits ...] [--threads 1 2 ...] [--json PATH]
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from harness import report
from harness.peers import use_threads
from harness.timing import Candidate, Result, check_and_time
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

import xent
import xent.sklearn

Call = Callable[[], float]
MAX_ITER = 1000


def compute_objective(model: Any, X: Any, y: Any) -> float:
    """Mean loss and penalty."""
    logits = model.decision_function(X)
    if logits.ndim == 1:
        logits = np.column_stack([np.zeros_like(logits), logits])
    loss = xent.cross_entropy(logits, np.searchsorted(model.classes_, y))
    ratio, coef = model.l1_ratio, model.coef_
    return float(loss + (ratio * np.abs(coef).sum() + (1 - ratio) / 2 * (coef**2).sum()) / (model.C * len(y)))


def fit(X: Any, y: Any, **options: Any) -> float:
    return compute_objective(LogisticRegression(max_iter=MAX_ITER, **options).fit(X, y), X, y)


def search_grid(X: Any, y: Any) -> float:
    grid = {"C": [0.01, 0.1, 1.0, 10.0]}
    search = GridSearchCV(LogisticRegression(max_iter=MAX_ITER), grid, cv=5, scoring="neg_log_loss").fit(X, y)
    return float(search.best_score_)


def cross_validate(X: Any, y: Any) -> float:
    model = LogisticRegressionCV(Cs=10, cv=5, scoring="neg_log_loss", max_iter=MAX_ITER, use_legacy_attributes=False)
    return float(model.fit(X, y).scores_.mean(axis=0).max())


class Case(NamedTuple):
    call: Call
    right: float
    gap: float              # by which an answer may differ, relative

    def check(self, answer: float) -> str | None:
        distance = abs(answer / self.right - 1)
        return None if distance <= self.gap else f"{answer:.6g}, not {self.right:.6g}"


def make_cases() -> dict[str, Case]:
    digits = datasets.load_digits(return_X_y=True)
    digits = digits[0] / 16, digits[1]
    cancer = datasets.load_breast_cancer(return_X_y=True)
    fits = {
        "iris": datasets.load_iris(return_X_y=True),
        "cancer": cancer,
        "cancer, scaled": (scale(cancer[0]), cancer[1]),
        "digits": digits,
        "100,000 x 20": datasets.make_classification(100_000, 20, random_state=0),
    }
    cases = {f"fit, {name}": Case(partial(fit, *data), find_least(*data), 1e-3) for name, data in fits.items()}
    l1 = {"solver": "saga", "l1_ratio": 1.0}
    cases["fit L1, digits"] = Case(partial(fit, *digits, **l1), find_least(*digits, **l1), 1e-3)
    for name, search in ("grid search, digits", search_grid), ("LogisticRegressionCV, digits", cross_validate):
        cases[name] = Case(partial(search, *digits), search(*digits), 2e-2)
    rng = np.random.default_rng(0)
    for n, n_classes in (1000, 10), (100_000, 10), (20_000, 1000):
        y, proba = rng.integers(0, n_classes, n), xent.softmax(rng.normal(size=(n, n_classes)))
        call = partial(log_loss, y, proba)
        cases[f"log_loss, {n:,} x {n_classes}"] = Case(call, call(), 1e-9)
    return cases


def find_least(X: Any, y: Any, **options: Any) -> float:
    """The least objective, with a tolerance that leaves nothing to gain."""
    with under_the_patch(1):
        return fit(X, y, tol=1e-8, **options)


@contextmanager
def under_the_patch(threads: int) -> Iterator[None]:
    xent.sklearn.patch()
    try:
        with without_patch(threads):
            yield
    finally:
        xent.sklearn.unpatch()


@contextmanager
def without_patch(threads: int) -> Iterator[None]:
    with use_threads(xent.get_num_threads, xent.set_num_threads, threads), threadpool_limits(threads):
        yield


def measure(case: Case, threads: int, **timing: Any) -> list[Result]:
    candidates = [
        Candidate("patched", case.call, partial(under_the_patch, threads)),
        Candidate("scikit-learn", case.call, partial(without_patch, threads)),
    ]
    return check_and_time(candidates, case.check, **timing)


def main(arguments: Sequence[str] | None = None) -> int:
    warnings.simplefilter("ignore")
    parser = report.make_parser("Time scikit-learn under the patch.", quick="a few rounds", grid=False)
    parser.add_argument("--cases", nargs="+", metavar="WORD", help="those whose names contain one of these")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    options = parser.parse_args(arguments)
    timing = {"budget": 0.5 if options.quick else 10.0, "least": 3}

    this = report.Report()
    cases = make_cases()
    names = [name for name in cases if not options.cases or any(word in name for word in options.cases)]
    cells = [(name, threads) for name in names for threads in options.threads]
    measured = [measure(cases[name], threads, **timing) for name, threads in report.show_progress(cells, "patch")]

    this.print_head("scikit-learn under the patch", "Time / time under the patch: median of the rounds (quartiles).")
    rows, found, records = [], [], []
    for (name, threads), results in zip(cells, measured, strict=True):
        for result in results:
            seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
            rows.append([name, str(threads), result.name, seconds, report.format_spread(result.ratio)])
            found.append(((name, threads), result))
        records.append({"case": name, "threads": threads, "results": report.record(results)})
    print(report.format_table(["what", "threads", "by", "time", "ratio"], rows))
    return int(bool(this.finish(options.json, found, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
