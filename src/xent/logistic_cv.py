"""Logistic regression whose penalty is chosen by cross-validation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._estimator.features import Columns, MatrixLike, check_features, check_no_stored_index
from xent._estimator.folds import Fold, make_folds
from xent._estimator.grid import Grid, check_Cs, find_best, resolve_l1_ratios, show_scores
from xent._estimator.labels import encode_target, find_classes
from xent._estimator.parameters import UNSET, check_solver_parameters
from xent._estimator.partitions import Partition, PartitionSource, prefix_errors
from xent._estimator.prediction import LinearClassifier, check_no_labels
from xent._estimator.scoring import HeldOut, Scorer, find_scorer, score_path
from xent._estimator.sklearn_protocol import shared
from xent._estimator.weights import apply_class_weight, to_row_weights
from xent._fit.path import Path, Problem, fit_all, fit_paths
from xent._fit.row_sums import RowSums
from xent._fit.solver import Result, Settings
from xent._fit.strategy import SOLVERS
from xent._fit.types import Matrix, Vector
from xent.logistic import ConvergenceWarning, LogisticRegression, advise

Array = NDArray[Any]

__all__ = ["LogisticRegressionCV"]


class _Data(NamedTuple):
    """Checked data, and how they are cut into folds."""

    X: Any
    names: Array | None         # of the features
    classes: Array
    target: Array               # class indices, or distributions
    sample_weight: Vector       # as given, for scores
    fit_target: Array           # under the class weights, for fits
    fit_weight: Vector
    folds: list[Fold]
    labels: Array               # what a scorer sees as y


class LogisticRegressionCV(LinearClassifier):
    """Logistic regression that chooses its penalty by cross-validation.

    For each fold and each value of the grid, a fit as by :class:`LogisticRegression` on the rows outside the fold, and
    a score on the rows in it. Then a fit on all rows with the values whose mean score is best.

    Parameters
    ----------
    Cs : int or array_like of float, default 10
        The values of C, or how many, spaced evenly in the logarithm from 1e-4 to 1e4.
    l1_ratios : array_like of float, default (0.0,)
        The values of l1_ratio, in [0, 1].
    fit_intercept : bool, default True
        Whether to add an intercept.
    cv : int, splitter or iterable, default None
        The number of folds (None: 5), in which classes are in proportion and rows in order; an object with a method
        ``split(X, y)``; or pairs of indices (train, test). Distributions are split by their most probable class.
    scoring : str, callable or None, default "neg_log_loss"
        ``"neg_log_loss"``, ``"accuracy"`` (or None), the name of another scorer of scikit-learn's, or a callable
        ``scorer(estimator, X, y)``; the larger, the better. Class weights are not in the scores. A scorer is passed
        `sample_weight` only if there are sample weights.
    solver : str, default "auto"
        As in :class:`LogisticRegression`. With ``"auto"``, folds of dense rows with up to 1600 columns take their steps
        together, by L-BFGS.
    tol, max_iter : float and int, default 1e-4 and 100
        As in :class:`LogisticRegression`, for each fit.
    class_weight : dict, "balanced" or None, default None
        Weights of the classes; ``"balanced"`` counts the samples of all folds.
    n_jobs : int or None, default None
        The largest number of threads, as in :class:`LogisticRegression`.
    verbose : int, default 0
        If greater than 0, print the mean score of each value of the grid.
    refit : bool, default True
        If False, there is no fit on all rows: `coef_`, `C_` and `l1_ratio_` are the means over the folds of what was
        best in each.
    penalty : {"unset", "l1", "l2", "elasticnet"}, default "unset"
        An older way to choose the penalty: ``"l1"`` and ``"l2"`` stand for `l1_ratios` (1.0,) and (0.0,).
    dual, intercept_scaling, random_state
        Accepted for compatibility, without effect.
    use_legacy_attributes : bool, default False
        Accepted for compatibility; it must be False. (``"warn"``, scikit-learn's default of this parameter, of
        `scoring` and of `l1_ratios`, is accepted too: False, accuracy and (0.0,).)

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; 0 to n_classes - 1 for distributions.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, in the type of `X`.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercepts; 0 without `fit_intercept`.
    C_, l1_ratio_ : float
        The best values.
    Cs_, l1_ratios_ : ndarray of shape (n_cs,) and (n_l1_ratios,)
        The grid.
    scores_ : ndarray of shape (n_folds, n_l1_ratios, n_cs)
        The score of each fit on the rows of its fold.
    coefs_paths_ : ndarray of shape (n_folds, n_l1_ratios, n_cs, n_classes or 1, n_features + 1)
        The coefficients of each fit, the intercepts last; without `fit_intercept` there are n_features.
    n_iter_ : ndarray of shape (n_folds, n_l1_ratios, n_cs)
        The iterations of each fit; 1 for one that is within `tol` where it starts.
    objective_, grad_norm_, converged_ : float, float and bool
        Of the fit on all rows, as in :class:`LogisticRegression`; set if `refit` is True.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features; set if `X` was a frame whose column names are all strings.

    Notes
    -----
    Parameters, attributes and scores are those of scikit-learn's class of this name with
    ``use_legacy_attributes=False``, but for the defaults of `scoring` and `solver`.

    A fold whose rows to fit lack a class is fitted as scikit-learn does: the class stays among the classes, and its
    probability becomes small.

    An error or Ctrl-C leaves the estimator as it was. There is no `save`: a file of :class:`LogisticRegression` holds
    one fit; use `pickle` for all of them.

    Examples
    --------
    >>> import xent
    >>> X, y = xent.datasets.load_digits()
    >>> model = xent.LogisticRegressionCV(Cs=[1e-4, 1e-3, 1e-2], cv=3).fit(X[:1000], y[:1000])
    >>> model.C_, model.scores_.shape
    (0.01, (3, 1, 3))
    >>> model.predict(X[1000:]).shape
    (797,)
    """

    C_: float
    l1_ratio_: float
    Cs_: Vector
    l1_ratios_: Vector
    scores_: Vector
    coefs_paths_: Array
    n_iter_: NDArray[np.int32]
    objective_: float
    grad_norm_: float
    converged_: bool

    def __init__(
        self,
        *,
        Cs: int | ArrayLike = 10,
        l1_ratios: ArrayLike = (0.0,),
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: Any = UNSET,
        scoring: str | Scorer | None = "neg_log_loss",
        solver: str = "auto",
        tol: float = 1e-4,
        max_iter: int = 100,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1,
        random_state: Any = None,
        use_legacy_attributes: bool = False,
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    def fit(self, X: MatrixLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LogisticRegressionCV:
        """Score the grid on all folds, choose the best, and fit all rows with it.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)
            Features, as in :meth:`LogisticRegression.fit`.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels or distributions, as in :meth:`LogisticRegression.fit`.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, at least 0, in fits and in scores.

        Returns
        -------
        LogisticRegressionCV
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or argument has a wrong type, shape or value. The estimator is unchanged then.
        """
        check_solver_parameters(self, SOLVERS)
        if self.use_legacy_attributes not in (False, "warn"):
            raise ValueError(f"use_legacy_attributes is {self.use_legacy_attributes!r}; it must be False")
        grid = Grid(check_Cs(self.Cs), resolve_l1_ratios(self.penalty, self.l1_ratios))
        data = self._validate(X, y, sample_weight)
        scorer = find_scorer(self.scoring, data.classes)
        weights = None if sample_weight is None else data.sample_weight
        settings = Settings(self.tol, self.max_iter, float(np.finfo(data.X.dtype).eps))
        counts = [partial(fold.count_train, data.X.shape[0]) for fold in data.folds]
        problems = [self._problem(data, grid.Cs, ratio) for ratio in grid.l1_ratios.tolist()]
        with np.errstate(all="ignore"):     # overflow leads to a result that has not converged
            paths = [fit_paths(problem, counts, settings) for problem in problems]
            scores = np.array([
                [self._score_fold(scorer, data, fold, of_ratio[i].coefficients, weights) for of_ratio in paths]
                for i, fold in enumerate(data.folds)
            ])  # fmt: skip
            if self.verbose:
                show_scores(grid, scores)
            refitted = self._refit(problems, paths, scores, settings) if self.refit else None
        self._keep(data, grid, paths, scores, refitted)
        fits = [path for of_ratio in paths for path in of_ratio] + ([] if refitted is None else [refitted])
        self._warn_not_converged([result for path in fits for result in path.results], data.X.dtype)
        return self

    def score(
        self, X: MatrixLike | PartitionSource, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """The score of the chosen coefficients, by `scoring`.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks
            Blocks if `scoring` is ``"neg_log_loss"``, ``"accuracy"`` or None.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels or distributions; None for Blocks, which include labels and weights.
        sample_weight : array_like of shape (n_samples,), optional

        Returns
        -------
        float
        """
        self._check_fitted()
        scorer = find_scorer(self.scoring, np.asarray(self.classes_))
        if scorer == "accuracy":
            return super().score(X, y, sample_weight)
        if not isinstance(X, PartitionSource):
            if callable(scorer):
                keywords = {} if sample_weight is None else {"sample_weight": sample_weight}
                return float(scorer(self, X, y, **keywords))
            return self._log_likelihood([(self._matrix(X, stacklevel=2), y, sample_weight)])
        if callable(scorer):
            raise TypeError(f"X is a {type(X).__name__}, but scoring is {self.scoring!r}, which takes arrays only")
        check_no_labels(X, y, sample_weight)
        partitions = (partition for partition in X._read_partitions() if partition is not None)
        return self._log_likelihood((self._check_partition(each), each.y, each.weight) for each in partitions)

    def _check_partition(self, partition: Partition) -> Any:
        with prefix_errors(partition.place):
            self._check_columns(Columns(partition.X.shape[1], partition.names), stacklevel=3)
        return partition.X

    def _log_likelihood(self, partitions: Iterable[tuple[Any, Any, Any]]) -> float:
        """The mean log-likelihood of the rows of partitions (matrix, y, sample weight)."""
        classes, coef, intercept = self._linear()
        path = np.column_stack([coef, intercept])[None]
        sums, weights = [], []
        for matrix, y, sample_weight in partitions:
            n = matrix.shape[0]
            target, weight = encode_target("y", y, n, classes, stacklevel=3), to_row_weights(sample_weight, n)
            held_out = HeldOut(matrix, target, weight, np.arange(n), len(classes), self._n_threads())
            weights.append(float(weight.sum()))
            sums.append(weights[-1] * float(score_path("neg_log_loss", held_out, path)[0]) if weights[-1] else 0.0)
        if not math.fsum(weights) > 0:
            raise ValueError("sample_weight is 0 for every sample; at least one must be greater than 0")
        return math.fsum(sums) / math.fsum(weights)

    def _validate(self, X: Any, y: Any, sample_weight: Any) -> _Data:
        """Check the data and cut them into folds."""
        if isinstance(X, PartitionSource):
            raise TypeError(f"X is a {type(X).__name__}; fit takes arrays, sparse matrices and frames in memory only")
        features = check_features("X", X)
        check_no_stored_index(features)
        n = features.matrix.shape[0]
        classes, target = find_classes("y", y, n, stacklevel=3)
        weight = to_row_weights(sample_weight, n)
        fit_target, fit_weight = apply_class_weight(self.class_weight, classes, target, weight)
        labels = classes[target] if target.ndim == 1 else target
        folds = make_folds(self.cv, features.matrix, labels, target)
        for i, fold in enumerate(folds):
            for rows, given, what in ((fold.train, fit_weight, "to fit"), (fold.test, weight, "to score")):
                if not given[rows].any():
                    raise ValueError(f"cv: fold {i}: all rows {what} have weight 0; at least one must have more")
        return _Data(features.matrix, features.names, classes, target, weight, fit_target, fit_weight, folds, labels)

    def _problem(self, data: _Data, Cs: Vector, l1_ratio: float) -> Problem:
        def make_sums(weight: Vector) -> RowSums:
            return RowSums(data.X, data.fit_target, len(data.classes), weight, self._n_threads())

        return Problem(make_sums, data.fit_weight, tuple((1 / Cs).tolist()), l1_ratio, self.fit_intercept, self.solver)

    def _score_fold(
        self, scorer: str | Scorer, data: _Data, fold: Fold, path: Matrix, sample_weight: Vector | None
    ) -> Vector:
        """The score of each matrix of coefficients on the held-out rows of a fold."""
        if isinstance(scorer, str):
            held_out = HeldOut(
                data.X, data.target, data.sample_weight, fold.test, len(data.classes), self._n_threads()
            )
            return score_path(scorer, held_out, path)
        X, y = data.X[fold.test], data.labels[fold.test]
        keywords = {} if sample_weight is None else {"sample_weight": sample_weight[fold.test]}
        model = LogisticRegression(n_jobs=self.n_jobs)
        model.classes_, model.n_features_in_ = data.classes, data.X.shape[1]
        scores = np.empty(len(path))
        for i, matrix in enumerate(path.astype(data.X.dtype)):
            model.coef_, model.intercept_ = matrix[:, :-1], matrix[:, -1]
            scores[i] = scorer(model, X, y, **keywords)
        return scores

    def _refit(
        self, problems: Sequence[Problem], paths: Sequence[Sequence[Path]], scores: Vector, settings: Settings
    ) -> Path:
        """The fit of all rows with the best of the grid."""
        ratio, c = find_best(scores)
        start = np.mean([path.coefficients[c] for path in paths[ratio]], axis=0)
        return fit_all(problems[ratio], problems[ratio].strengths[c], start, settings)

    def _keep(
        self, data: _Data, grid: Grid, paths: Sequence[Sequence[Path]], scores: Vector, refitted: Path | None
    ) -> None:
        """Store the results."""
        dtype = data.X.dtype
        coefficients = np.stack([[path.coefficients for path in of_ratio] for of_ratio in paths], axis=1)
        iterations = [[[r.iterations for r in path.results] for path in of_ratio] for of_ratio in paths]
        if refitted is None:
            best = [find_best(of_fold[None]) for of_fold in scores]
            matrix = np.mean([coefficients[i, ratio, c] for i, (ratio, c) in enumerate(best)], axis=0)
            for name in ("objective_", "grad_norm_", "converged_"):
                vars(self).pop(name, None)
        else:
            best, matrix = [find_best(scores)], refitted.coefficients[0]
            (result,) = refitted.results
            self.objective_, self.grad_norm_, self.converged_ = result.loss, result.grad_norm, result.converged
        self.Cs_, self.l1_ratios_ = grid
        self.C_ = float(np.mean([grid.Cs[c] for _, c in best]))
        self.l1_ratio_ = float(np.mean([grid.l1_ratios[ratio] for ratio, _ in best]))
        self.scores_ = scores
        self.coefs_paths_ = (coefficients if self.fit_intercept else coefficients[..., :-1]).astype(dtype, copy=False)
        self.n_iter_ = np.maximum(1, np.swapaxes(np.array(iterations, np.int32), 0, 1))
        self.coef_ = matrix[:, :-1].astype(dtype, order="C")
        self.intercept_ = matrix[:, -1].astype(dtype)
        self.classes_ = data.classes
        self._keep_names(data.X.shape[1], data.names)

    def _warn_not_converged(self, results: Sequence[Result], dtype: np.dtype[Any]) -> None:
        """One warning for all fits."""
        missed = [result for result in results if not result.converged]
        if not missed:
            return
        worst = max(missed, key=lambda result: result.grad_norm)
        warnings.warn(
            f"{len(missed)} of {len(results)} fits failed to converge. The largest gradient "
            f"norm is {worst.grad_norm:.2g}, over tol={self.tol:g}, after {worst.iterations} iterations: "
            f"{worst.message}. {advise(worst, dtype, self.solver, bool(self.l1_ratio_ > 0))}",
            shared(ConvergenceWarning),
            stacklevel=3,
        )
