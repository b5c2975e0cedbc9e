"""The minimum of scikit-learn's objective, found by xent where that is the same minimum.

The two functions here stand in for functions of ``sklearn.linear_model._logistic``, which `LogisticRegression.fit` and
`LogisticRegressionCV.fit` call with arguments that they have checked. The arguments are read by name: each version of
scikit-learn has others.
"""

from __future__ import annotations

import inspect
import logging
import numbers
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import _logistic

from xent._estimator.features import check_features
from xent._estimator.partitions import FitData
from xent._estimator.weights import check_total_weight, to_row_weights
from xent._fit.row_sums import RowSums
from xent._fit.solver import NO_DESCENT, Result
from xent.logistic import LogisticRegression

Array = NDArray[Any]
Arguments = Mapping[str, Any]

logger = logging.getLogger("xent.sklearn")

scikit_learn_path = _logistic._logistic_regression_path
scikit_learn_liblinear = _logistic._fit_liblinear
_PATH, _LIBLINEAR = inspect.signature(scikit_learn_path), inspect.signature(scikit_learn_liblinear)
_KNOWS_SAMPLE_WEIGHT = "sample_weight" in inspect.signature(_logistic.compute_class_weight).parameters     # since 1.7

# What scikit-learn says if max_iter is reached: scripts look for these words.
_NOT_CONVERGED = {
    "lbfgs": "lbfgs failed to converge after {} iteration(s)",
    "liblinear": "Liblinear failed to converge, increase the number of iterations.",
    "newton-cg": "newton-cg failed to converge after {} iteration(s)",
    "newton-cholesky": "Newton solver did not converge after {} iterations",
    "sag": "The max_iter was reached which means the coef_ did not converge",
    "saga": "The max_iter was reached which means the coef_ did not converge",
}
_ADVICE = (
    "Increase the number of iterations (max_iter) or tol, or scale the data: see "
    "https://scikit-learn.org/stable/modules/linear_model.html#logistic-regression"
)
# The bound on the gradient, as a multiple of tol, of solvers whose tol is for the change of the coefficients.
_STRICTER = {"liblinear": 0.01, "sag": 0.01, "saga": 0.01}


class NotOffered(Exception):
    """Why scikit-learn has to do it."""


class Rows(NamedTuple):
    """The rows of a fit."""

    X: Any
    target: NDArray[np.int64]       # the index of each row's class
    weight: NDArray[np.float64]
    n_classes: int


class Solved(NamedTuple):
    """What `fit_path` returns; in the place of `Cs`, what it shall return."""

    coefs: Array
    Cs: Array
    n_iter: NDArray[np.int32]
    short: list[float]              # see `shortfall`


class _Model(LogisticRegression):
    """xent's estimator, which leaves the warnings to its caller."""

    short = 0.0     # of the last fit

    def _warn_not_converged(self, result: Result, dtype: np.dtype[Any]) -> None:
        self.short = shortfall(result)


def shortfall(result: Result) -> float:
    """The norm of the gradient where a solver of scikit-learn's would warn, else 0: not where rounding errors hide any
    further descent."""
    return 0.0 if result.converged or result.reason == NO_DESCENT else result.grad_norm


def fit_path(*args: Any, **options: Any) -> Any:
    """Stands in for `_logistic_regression_path`: coefficients for each C, from those of the C before."""
    arguments = _bind(_PATH, args, options)
    if arguments["solver"] == "liblinear":
        return scikit_learn_path(*args, **options)      # which calls `fit_liblinear`
    try:
        return _fit_path(arguments)
    except (NotOffered, TypeError, ValueError) as reason:
        name = type(arguments.get("estimator") or _logistic.LogisticRegression()).__name__
        logger.info("%s is fitted by scikit-learn: %s", name, reason)
    return scikit_learn_path(*args, **options)


def fit_liblinear(*args: Any, **options: Any) -> Any:
    """Stands in for `_fit_liblinear`."""
    arguments = _bind(_LIBLINEAR, args, options)
    try:
        return _fit_liblinear(arguments)
    except (NotOffered, TypeError, ValueError) as reason:
        logger.info("LogisticRegression is fitted by scikit-learn: %s", reason)
    return scikit_learn_liblinear(*args, **options)


def _bind(signature: inspect.Signature, args: tuple[Any, ...], options: Arguments) -> Arguments:
    bound = signature.bind(*args, **options)
    bound.apply_defaults()
    return bound.arguments


def _fit_path(arguments: Arguments) -> tuple[Array, Array, NDArray[np.int32]]:
    solved = arguments["Cs"]
    if not isinstance(solved, Solved):
        solved = _solve_path(arguments)
    for n_iter, grad_norm in zip(solved.n_iter.tolist(), solved.short, strict=True):
        _warn_if_short(arguments, n_iter, grad_norm)
    return solved.coefs, solved.Cs, solved.n_iter


def _solve_path(arguments: Arguments) -> Solved:
    if hasattr(arguments.get("estimator"), "_skl_callbacks"):
        raise NotOffered("it has callbacks, which scikit-learn's solver calls")
    X = check_matrix(arguments["X"])
    rows = read_rows(arguments, X, np.asarray(arguments.get("classes", np.unique(arguments["y"]))))
    Cs = read_Cs(arguments["Cs"])
    model = make_model(arguments)
    _set_start(model, arguments["coef"], rows)
    coefs, n_iter, short = [], np.zeros(len(Cs), np.int32), []
    for i, C in enumerate(Cs):
        model.C = float(C)
        short.append(_fit(model, rows))
        n_iter[i] = model.n_iter_[0]
        coef = np.column_stack([model.coef_, model.intercept_]) if model.fit_intercept else model.coef_
        coefs.append(coef[0] if rows.n_classes == 2 else coef)
    return Solved(np.array(coefs), Cs, n_iter, short)


def _fit_liblinear(arguments: Arguments) -> tuple[Array, float, NDArray[np.int32]]:
    if arguments["fit_intercept"]:
        raise NotOffered("liblinear penalises the intercept")
    classes = np.unique(arguments["y"])
    if len(classes) != 2:
        raise NotOffered(f"liblinear is for 2 classes, not {len(classes)}")
    rows = read_rows(arguments, check_matrix(arguments["X"]), classes)
    arguments = {**arguments, "solver": "liblinear"}
    model = make_model(arguments)
    model.C = float(arguments["C"])
    short = _fit(model, rows)
    _warn_if_short(arguments, int(model.n_iter_[0]), short)
    return model.coef_.astype(np.float64, copy=False), 0.0, model.n_iter_


def check_matrix(X: Any) -> Any:
    if not (isinstance(X, np.ndarray) or sparse.issparse(X)):
        raise NotOffered(f"X is a {type(X).__name__}, not an array of NumPy or a sparse matrix of SciPy")
    return check_features("X", X).matrix


def read_Cs(Cs: Any) -> Array:
    values: Array = np.logspace(-4, 4, Cs) if isinstance(Cs, numbers.Integral) else np.asarray(Cs)
    if not (values > 0).all():
        raise NotOffered("C must be greater than 0")
    return values


def read_rows(arguments: Arguments, X: Any, classes: Array) -> Rows:
    """Classes become indices, and class weights factors of the weights."""
    y, sample_weight, class_weight = arguments["y"], arguments["sample_weight"], arguments["class_weight"]
    rest = arguments.get("multi_class") == "ovr" and arguments.get("pos_class") is not None
    if rest and len(classes) > 2 and class_weight is not None:
        raise NotOffered("class_weight of one class against the rest")
    if arguments.get("multi_class") == "multinomial" and len(classes) == 2:
        raise NotOffered("multi_class='multinomial' with two classes penalises the coefficients of both")
    weight = to_row_weights(sample_weight, X.shape[0])
    target = _find_indices(y, classes)
    if class_weight is not None:
        weighted = {"sample_weight": sample_weight} if _KNOWS_SAMPLE_WEIGHT else {}
        weight *= _logistic.compute_class_weight(class_weight, classes=classes, y=y, **weighted)[target]
    check_total_weight(float(weight.sum()))
    if rest:
        return Rows(X, (y == arguments["pos_class"]).astype(np.int64), weight, 2)
    return Rows(X, target, weight, len(classes))


def _find_indices(y: Array, classes: Array) -> NDArray[np.int64]:
    """The index of each label among the classes, which are sorted."""
    places: NDArray[np.int64]
    if len(classes) == 2:
        places = (y == classes[1]).astype(np.int64)
        return places
    places = np.searchsorted(classes, y).astype(np.int64, copy=False)
    if (classes[np.minimum(places, len(classes) - 1)] != y).any():
        raise NotOffered("y has a label that is not one of the classes")
    return places


def make_model(arguments: Arguments) -> _Model:
    l1_ratio = {"l1": 1.0, "elasticnet": arguments.get("l1_ratio")}.get(arguments["penalty"], 0.0)
    return _Model(
        l1_ratio=l1_ratio,
        tol=arguments["tol"] * _STRICTER.get(arguments["solver"], 1.0),
        fit_intercept=arguments["fit_intercept"],
        max_iter=arguments["max_iter"],
        verbose=max(0, arguments["verbose"]),
        warm_start=True,
    )


def _set_start(model: _Model, coef: Array | None, rows: Rows) -> None:
    """The coefficients to start from; scikit-learn's have the intercepts as the last column."""
    if coef is None:
        return
    n_coef_rows, n_features = (1 if rows.n_classes == 2 else rows.n_classes), rows.X.shape[1]
    coef = np.atleast_2d(coef)
    if coef.shape != (n_coef_rows, n_features + bool(model.fit_intercept)):
        raise NotOffered(f"coefficients to start from of shape {coef.shape}")
    model.classes_ = np.arange(rows.n_classes)
    model.coef_ = coef[:, :n_features]
    model.intercept_ = coef[:, -1] if model.fit_intercept else np.zeros(n_coef_rows)


def _fit(model: _Model, rows: Rows) -> float:
    """Fit, and return the `shortfall`."""
    sums = RowSums(rows.X, rows.target, rows.n_classes, rows.weight)
    weight, dtype = float(rows.weight.sum()), rows.X.dtype
    start = (model.coef_, model.intercept_) if hasattr(model, "coef_") else None
    model.short = 0.0
    model._fit(FitData(sums, np.arange(rows.n_classes), weight, dtype, None, lambda coef, intercept: False), None)
    n_iter = int(model.n_iter_[0])
    if n_iter == 0 and start is not None:
        model.coef_, model.intercept_ = start       # the same bits: not even rounded by centring
    logger.debug("LogisticRegression is fitted by xent: %d iterations, gradient %g", n_iter, model.grad_norm_)
    return model.short


def _warn_if_short(arguments: Arguments, n_iter: int, grad_norm: float) -> None:
    """Warn as scikit-learn's solver would, and as from its module, by whose name warnings are filtered."""
    if grad_norm != 0:      # or NaN
        message = _NOT_CONVERGED[arguments["solver"]].format(n_iter)
        stopped = f"xent stopped with gradient norm {grad_norm:.2g}, tol={arguments['tol']:g}"
        warnings.warn(f"{message} ({stopped}). {_ADVICE}", ConvergenceWarning, stacklevel=4)
