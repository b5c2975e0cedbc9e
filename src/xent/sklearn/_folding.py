"""The folds of `LogisticRegressionCV`, fitted together.

scikit-learn makes a task of each fold, which fits all values of C and scores them. `FoldsTogether`, which gets these
tasks, fits all folds first and passes the coefficients on in the place of the values of C; so the tasks only score.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import _logistic

from xent._estimator.weights import check_total_weight
from xent._fit.path import Problem, fit_paths
from xent._fit.row_sums import RowSums
from xent._fit.solver import Settings
from xent.sklearn import _fitting
from xent.sklearn._fitting import Arguments, NotOffered, Solved

logger = logging.getLogger("xent.sklearn")

Task = tuple[Any, tuple[Any, ...], dict[str, Any]]      # a function, its arguments and its options


class FoldsTogether(_logistic.Parallel):        # type: ignore[misc]
    """Stands in for `Parallel` in ``sklearn.linear_model._logistic``."""

    def __call__(self, iterable: Iterable[Task]) -> Any:
        tasks = list(iterable)
        try:
            tasks = _solve(tasks)
            self.n_jobs = 1     # what is left to do is not worth a process
        except (NotOffered, TypeError, ValueError):
            pass                # each task fits its fold, and says why if scikit-learn has to
        return super().__call__(tasks)


def _solve(tasks: list[Task]) -> list[Task]:
    """The tasks with coefficients in the place of the values of C."""
    for function, _, options in tasks:
        if function.function is not _logistic._log_reg_scoring_path or "classes" not in options:
            raise NotOffered("other tasks")
    solved = list(tasks)
    for ratio in {options["l1_ratio"] for _, _, options in tasks}:
        places = [i for i, (_, _, options) in enumerate(tasks) if options["l1_ratio"] == ratio]
        _, (X, y, _, _), options = tasks[places[0]]
        paths = _fit_folds({**options, "X": X, "y": y}, [tasks[place][1][2] for place in places])
        for place, path in zip(places, paths, strict=True):
            function, arguments, options = tasks[place]
            solved[place] = function, arguments, {**options, "Cs": path}
    return solved


def _fit_folds(arguments: Arguments, folds: Sequence[NDArray[Any]]) -> list[Solved]:
    """Fit the rows of each fold with each C."""
    if arguments["solver"] == "liblinear":
        raise NotOffered("liblinear")
    X = _fitting.check_matrix(arguments["X"])
    rows = _fitting.read_rows(arguments, X, np.asarray(arguments["classes"]))
    Cs = _fitting.read_Cs(arguments["Cs"])
    model = _fitting.make_model(arguments)
    every = np.arange(len(rows.weight))

    def count(fold: NDArray[Any]) -> NDArray[np.float64]:
        """How often each row is in a fold, given by indices or a mask."""
        return np.bincount(every[fold], minlength=len(every)).astype(np.float64)

    for fold in folds:
        check_total_weight(float(rows.weight @ count(fold)))

    def make_sums(weight: NDArray[np.float64]) -> RowSums:
        return RowSums(X, rows.target, rows.n_classes, weight)

    problem = Problem(
        make_sums, rows.weight, tuple((1 / Cs).tolist()), float(model.l1_ratio or 0), model.fit_intercept, "auto"
    )
    settings = Settings(model.tol, model.max_iter, float(np.finfo(X.dtype).eps))
    with np.errstate(all="ignore"):     # overflow leads to a result that has not converged
        paths = fit_paths(problem, [partial(count, fold) for fold in folds], settings)
    logger.debug("%d folds are fitted by xent for %d values of C", len(folds), len(Cs))
    solved = []
    for path in paths:
        coefs = path.coefficients if model.fit_intercept else path.coefficients[..., :-1]
        coefs = (coefs[:, 0] if rows.n_classes == 2 else coefs).astype(X.dtype, copy=False)
        n_iter = np.array([result.iterations for result in path.results], np.int32)
        short = [_fitting.shortfall(result) for result in path.results]
        solved.append(Solved(coefs, Cs, n_iter, short))
    return solved
