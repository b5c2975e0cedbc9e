"""Multinomial logistic regression with scikit-learn's parameters, attributes and objective."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent import _arguments as check
from xent.linear import Objective, logits, minimise
from xent.primitives import log_softmax, softmax
from xent.solvers import Progress

Array = NDArray[Any]


class ConvergenceWarning(UserWarning):
    """A fit ended before its gradient was within tol."""


class NotFittedError(ValueError, AttributeError):
    """An estimator was used before it was fitted."""


class LogisticRegression:
    """Multinomial logistic regression, binary for two classes.

    Minimises the mean cross-entropy plus abs(coef)^2 / (2 C n), which is scikit-learn's objective divided by C n, with
    n the sum of the sample weights; the intercept is not penalised.

    Parameters
    ----------
    C : float, default 1.0
        Inverse of the strength of the penalty; greater than 0.
    penalty : {"l2", None}, default "l2"
        None: no penalty.
    fit_intercept : bool, default True
        Whether to add an intercept.
    class_weight : dict, "balanced" or None, default None
        Weights of the classes, 1 for those that are not named; ``"balanced"`` weighs each class by
        n / (n_classes * its number of samples).
    tol : float, default 1e-4
        The fit ends when no element of the gradient of the objective above is larger in absolute value.
    max_iter : int, default 100
        The fit ends after so many iterations, with a `ConvergenceWarning`.
    solver : {"auto", "lbfgs", "newton-cg"}, default "auto"
        ``"lbfgs"``: L-BFGS. ``"newton-cg"``: Newton's method in a trust region, its steps by conjugate gradients. Both
        are preconditioned by what the number of features allows; ``"auto"`` chooses by that number.
    warm_start : bool, default False
        Start the next fit from the present coefficients, if they have the right shape.
    random_state : int or None, default None
        Accepted for compatibility: nothing here is random.
    n_jobs : int or None, default None
        The largest number of threads; None is :func:`get_num_threads`, -1 all CPUs.
    verbose : int, default 0
        If greater than 0, print the objective and the gradient norm of each iteration.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, in the type of `X`.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercepts; 0 without `fit_intercept`.
    n_features_in_ : int
        Number of features.
    n_iter_ : ndarray of shape (1,)
        Number of iterations.
    objective_ : float
        The objective at the coefficients.
    grad_norm_ : float
        The largest absolute element of its gradient.
    converged_ : bool
        Whether that is at most `tol`.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import xent
    >>> X, y = xent.datasets.load_digits()
    >>> model = xent.LogisticRegression().fit(X[:1000], y[:1000])
    >>> model.score(X[1000:], y[1000:]) > 0.9
    True
    """

    _estimator_type = "classifier"      # for scikit-learn before 1.6

    classes_: Array
    coef_: Array
    intercept_: Array
    n_features_in_: int
    n_iter_: NDArray[np.int32]
    objective_: float
    grad_norm_: float
    converged_: bool

    def __init__(
        self,
        C: float = 1.0,
        *,
        penalty: Literal["l2"] | None = "l2",
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-4,
        max_iter: int = 100,
        solver: Literal["auto", "lbfgs", "newton-cg"] = "auto",
        warm_start: bool = False,
        random_state: int | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.penalty = penalty
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        callback: Callable[[Progress], object] | None = None,
    ) -> LogisticRegression:
        """Fit the coefficients.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Features; finite. float32 and float64 are used as they are, integers become float64.
        y : array_like of shape (n_samples,)
            Labels of any type that can be sorted; at least two different ones.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, at least 0.
        callback : callable, optional
            Called with `Progress(iteration, loss, grad_norm)` before the first iteration and after each.

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or argument has a wrong type, shape or value. The estimator keeps its coefficients then.
        """
        l2_of = self._check_parameters()
        features = check.features("X", X)
        classes, target = check.classes("y", y, features.shape[0])
        weight = check.row_weights(sample_weight, features.shape[0])
        weight = weight * check.class_weights(self.class_weight, classes, target, weight)[target]
        if not weight.sum() > 0:
            raise ValueError("sample_weight times class_weight is 0 for every sample; the objective would be 0 / 0")
        objective = Objective(
            features, target, len(classes), weight, l2_of(float(weight.sum())), self.fit_intercept, self._n_threads()
        )
        with np.errstate(all="ignore"):     # numbers that are too large end in the warning below
            result = minimise(
                objective,
                self._start(objective.shape),
                solver=self.solver,
                tol=self.tol,
                max_iter=self.max_iter,
                noise=float(np.finfo(features.dtype).eps),
                callback=self._watch(callback),
            )
        matrix = result.x.reshape(objective.shape).astype(features.dtype)
        self.classes_ = classes
        self.coef_ = np.ascontiguousarray(matrix[:, :-1])
        self.intercept_ = np.ascontiguousarray(matrix[:, -1])
        self.n_features_in_ = features.shape[1]
        self.n_iter_ = np.array([result.iterations], np.int32)
        self.objective_ = result.loss
        self.grad_norm_ = result.grad_norm
        self.converged_ = result.converged
        if not result.converged:
            warnings.warn(
                f"the fit stopped after {result.iterations} iterations with gradient norm {result.grad_norm:.2g}, over "
                f"tol={self.tol:g}: {result.message}. Raise max_iter or tol, or scale the features",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: ArrayLike) -> Array:
        """Logits: X @ coef_.T + intercept_.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the logit of the second, that of the first being 0.
        """
        if not hasattr(self, "coef_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")
        features = check.features("X", X)
        if features.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {features.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        result = logits(features, self.coef_, self.intercept_)
        return result[:, 0] if len(self.classes_) == 2 else result

    def predict(self, X: ArrayLike) -> Array:
        """The most probable label of each row.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        scores = self.decision_function(X)
        labels: Array = self.classes_[(scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: ArrayLike) -> Array:
        """The probability of each class, in the order of `classes_`.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        scores = self._all_logits(X)
        return softmax(scores, out=scores, n_threads=self._n_threads())

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """The logarithm of the probability of each class, exact where the probability itself rounds to 0 or 1.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        scores = self._all_logits(X)
        return log_softmax(scores, out=scores, n_threads=self._n_threads())

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The share of rows whose label is predicted, by weight.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        y : array_like of shape (n_samples,)
        sample_weight : array_like of shape (n_samples,), optional

        Returns
        -------
        float
        """
        predicted = self.predict(X)
        truth = check.column("y", y, len(predicted))
        weight = check.row_weights(sample_weight, len(predicted))
        if not weight.any():
            raise ValueError("sample_weight is 0 for every sample; their mean would be 0 / 0")
        weight = np.ldexp(weight, -np.frexp(weight.max())[1])      # a sum of any weights fits then
        return float(np.average(predicted == truth, weights=weight))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor, by name.

        Parameters
        ----------
        deep : bool
            Accepted for compatibility.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> LogisticRegression:
        """Change parameters of the constructor.

        Returns
        -------
        LogisticRegression
            The estimator itself.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{name!r} is not a parameter of {type(self).__name__}; those are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")

    def __sklearn_tags__(self) -> Any:
        # Asked for by scikit-learn alone, which is there then.
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            input_tags=InputTags(),
        )

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = (f"{k}={v!r}" for k, v in self.get_params().items() if v is not defaults[k].default)
        return f"{type(self).__name__}({', '.join(changed)})"

    def _check_parameters(self) -> Callable[[float], float]:
        """Check the constructor's parameters; returns the strength of the penalty as a function of the total weight."""
        strength = check.real("C", self.C)
        if not strength > 0:
            raise ValueError(f"C is {self.C!r}; it must be greater than 0")
        if self.penalty not in ("l2", None):
            raise ValueError(f"penalty is {self.penalty!r}; it must be 'l2' or None")
        check.choice("solver", self.solver, ("auto", "lbfgs", "newton-cg"))
        if not 0 < check.real("tol", self.tol) < math.inf:
            raise ValueError(f"tol is {self.tol!r}; it must be greater than 0 and finite")
        if check.integer("max_iter", self.max_iter) < 0:
            raise ValueError(f"max_iter is {self.max_iter}; it must be at least 0")
        if self.penalty is None:
            return lambda total: 0.0
        return lambda total: 1 / (strength * total)

    def _n_threads(self) -> int | None:
        return check.job_count(self.n_jobs)

    def _start(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        start = np.zeros(shape)
        if self.warm_start and hasattr(self, "coef_") and self.coef_.shape == (shape[0], shape[1] - 1):
            start[:, :-1] = self.coef_
            start[:, -1] = self.intercept_
        return start.ravel()

    def _watch(self, callback: Callable[[Progress], object] | None) -> Callable[[Progress], object] | None:
        if not self.verbose:
            return callback

        def watch(progress: Progress) -> None:
            print(f"iteration {progress.iteration}: objective {progress.loss:.8f}, gradient {progress.grad_norm:.2e}")
            if callback is not None:
                callback(progress)

        return watch

    def _all_logits(self, X: ArrayLike) -> Array:
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return scores
        return np.stack([np.zeros_like(scores), scores], axis=1)
