"""Multinomial logistic regression with scikit-learn's parameters, attributes and objective."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.scalars import check_choice
from xent._estimator import persistence
from xent._estimator.checkpoint import Checkpoint
from xent._estimator.covariance import check_memory, check_no_penalty, estimate_covariance
from xent._estimator.features import Columns, MatrixLike, check_features, check_no_stored_index
from xent._estimator.labels import encode_target, find_classes, find_stream_classes
from xent._estimator.parameters import UNSET, check_parameters, penalty_strength
from xent._estimator.parameters import Penalty as PenaltyName
from xent._estimator.partitions import FitData
from xent._estimator.prediction import LinearClassifier, NotFittedError, check_no_labels
from xent._estimator.progress import Callback, Recorder, show_progress
from xent._estimator.sklearn_protocol import shared
from xent._estimator.weights import apply_class_weight, to_row_weights
from xent._fit.covariance import KINDS
from xent._fit.lbfgs import choose_memory, lbfgs
from xent._fit.objective import Objective
from xent._fit.online import BatchObjective, remember_past
from xent._fit.penalties import L2, NO_PENALTY, Penalty, make_penalty
from xent._fit.row_sums import RowSums
from xent._fit.solver import MAX_ITER, NO_DESCENT, Result, Settings
from xent._fit.strategy import SOLVERS, minimise, uses_newton
from xent.blocks import Blocks

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[Any]

__all__ = ["ConvergenceWarning", "LogisticRegression", "NotFittedError"]

BATCH_MEMORY = 30           # steps that L-BFGS remembers in a stream
FEW_COEFFICIENTS = 3000     # up to which a whole Hessian takes little memory and time
BATCH_ITERATIONS = 20       # for a batch of a stream: the next one corrects what is missing


class ConvergenceWarning(UserWarning):
    """A fit stopped before its gradient was within tol, or its objective has no minimum.

    If scikit-learn has been imported, the warning is also an instance of scikit-learn's ConvergenceWarning.
    """


def advise(result: Result, dtype: np.dtype[Any], solver: str, has_kink: bool = False) -> str:
    """What a user can do about a fit that has not converged."""
    if result.reason not in (MAX_ITER, NO_DESCENT):
        return "Scale the features"
    advice = "Raise max_iter or tol, " if result.reason == MAX_ITER else "Raise tol, "
    if has_kink:
        return advice + "or subtract the means of the features, which changes nothing but intercept_"
    if not uses_newton(solver, result.x.size) and result.x.size <= FEW_COEFFICIENTS:
        return advice + "use solver='newton-cholesky', or scale the features"
    more = ", or pass X as float64" if result.reason == NO_DESCENT and dtype == np.float32 else ""
    return advice + "or scale the features" + more


def _noise(dtype: np.dtype[Any]) -> float:
    """The relative rounding error of sums in this type."""
    return float(np.finfo(dtype).eps)


class LogisticRegression(LinearClassifier):
    """Multinomial logistic regression, binary for two classes.

    Minimises the mean cross-entropy plus (l1_ratio sum(abs(coef)) + (1 - l1_ratio) / 2 sum(coef^2)) / (C n), which is
    scikit-learn's objective divided by C n, with n the sum of the sample weights; the intercept is not penalised.

    Parameters
    ----------
    penalty : {"unset", "l1", "l2", "elasticnet", None}, default "unset"
        An older way to choose the penalty: ``"l1"`` and ``"l2"`` stand for `l1_ratio` 1 and 0, ``"elasticnet"`` for the
        given `l1_ratio`, None for ``C=inf``. ``"unset"`` leaves it to `C` and `l1_ratio`.
    C : float, default 1.0
        Inverse of the strength of the penalty; greater than 0. inf: no penalty.
    l1_ratio : float, default 0.0
        The share of L1 in the penalty, in [0, 1]: 0 is L2, 1 is L1, and what is between them is the elastic net.
    dual : bool, default False
        Accepted for compatibility, without effect.
    tol : float, default 1e-4
        The fit has converged when no element of the gradient of the objective is larger in absolute value; with L1,
        no element of the smallest subgradient.
    fit_intercept : bool, default True
        Whether to add an intercept.
    intercept_scaling : float, default 1
        Accepted for compatibility, without effect: the intercept is not penalised.
    class_weight : dict, "balanced" or None, default None
        Weights of the classes, 1 for those that are not named; ``"balanced"`` weighs each class by
        n / (n_classes * its number of samples). A distribution counts toward each class by its probability.
    random_state : int, RandomState or None, default None
        Accepted for compatibility, without effect: nothing here is random.
    solver : str, default "auto"
        ``"lbfgs"``: L-BFGS. ``"newton-cg"``: trust-region Newton with conjugate gradients. Both are preconditioned,
        depending on the number of features. ``"newton-cholesky"``: trust-region Newton with the whole Hessian, which is
        computed in float64; for up to some 3000 coefficients, however badly scaled, collinear or nearly separable the
        data are. ``"auto"`` chooses by the number of features and classes: L-BFGS, and where it is slow or stopped by
        rounding errors, a Newton method after it; for sparse rows with many features it starts with a few sweeps of
        dual ascent, each of which counts as an iteration. scikit-learn's other names, ``"liblinear"``, ``"sag"`` and
        ``"saga"``, mean ``"auto"``: every solver minimises the same objective, with any penalty and any number of
        classes. With L1 all names mean a proximal Newton method, on some of the features at a time if there are many.
    max_iter : int, default 100
        Maximum number of iterations; a fit that needs more ends with a `ConvergenceWarning`.
    verbose : int, default 0
        If greater than 0, show the loss (the objective) and the gradient norm of each iteration: in a progress bar if
        tqdm is installed and there is a terminal or notebook to draw it in, else as text.
    warm_start : bool, default False
        Start the next fit from the present coefficients, if they are for the same classes and number of features.
    n_jobs : int or None, default None
        The largest number of threads; None is :func:`get_num_threads`, -1 every CPU that the process may use, -2 all
        but one, and so on (at least one).

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; 0 to n_classes - 1 for distributions.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, in the type of `X`.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercepts; 0 without `fit_intercept`.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features; set if `X` was a frame whose column names are all strings.
    n_iter_ : ndarray of shape (1,)
        Number of iterations.
    objective_ : float
        The objective at the coefficients.
    grad_norm_ : float
        The largest absolute element of its gradient; with L1, of the smallest subgradient.
    converged_ : bool
        Whether `grad_norm_` is at most `tol`.

    Notes
    -----
    `X` may be an array of any layout, read-only or a memory map, or a matrix or array of scipy.sparse. float32 and
    float64 are never copied, and sparse matrices never made dense (formats other than CSR are converted to it once).
    float16 and bfloat16 are copied to float32, in which they are computed: all of `X`, or block by block in `Blocks`.
    pandas and polars frames and Arrow tables become arrays; later ones must have the same column names. Their columns
    must hold numbers, bools or fixed-size lists of numbers, whose elements become features named ``name[0]``,
    ``name[1]`` and so on; strings and dates are refused. The index of a pandas frame is not a feature, even if an Arrow
    table stores it as a column.

    Beside the data (targets and weights included), `fit` needs at most 24 times the memory of the coefficients in
    float64, plus 64 MB, for any number of classes: 0.5 GB for 20,000 classes and 100 features. Only the solver
    ``"newton-cholesky"``, with more than 1000 coefficients, needs up to six square matrices of that size instead: 0.4
    GB for 3000. (Distributions under class weights are copied once.) With L1 it also holds a copy of the columns
    that it works on, and up to 40 bytes for each row and class (2.7 GB at most).

    Ctrl-C during `fit` or `partial_fit` raises `KeyboardInterrupt` and leaves the best coefficients so far in the
    estimator, with `converged_` False; a `fit` with `warm_start` continues from them. Any other error leaves the
    estimator unchanged.

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

    n_iter_: NDArray[np.int32]
    objective_: float
    grad_norm_: float
    converged_: bool

    # The state of partial_fit (see xent._fit.online): the weight of all rows, the curvature of the penalty that coef_
    # was fitted with, and A (None before the first batch).
    _seen: float = 0.0
    _fitted_l2: float = 0.0
    _curvature: NDArray[np.float64] | None = None

    def __init__(
        self,
        penalty: PenaltyName = UNSET,
        *,
        C: float = 1.0,
        l1_ratio: float | None = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    def fit(
        self,
        X: MatrixLike | Blocks,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        callback: Callback | None = None,
    ) -> LogisticRegression:
        """Fit the coefficients.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks
            Features; finite. float32 and float64 are used as they are; float16 and bfloat16 are copied to float32,
            integers and bools to float64.
            :class:`Blocks` include labels and weights, and are read again for each evaluation.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels: integers, bools, strings, bytes or dates; at least two different ones. Objects must be strings.
            Floats or bools with at least two columns are distributions (soft targets): at least 0, each row summing to
            1 within 1e-3; the classes are the column numbers.
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
            If a parameter or argument has a wrong type, shape or value. The estimator is unchanged then.
        """
        check_parameters(self, SOLVERS)
        return self._fit(self._validate(X, y, sample_weight), callback)

    def covariance(
        self,
        X: MatrixLike | Blocks,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        kind: Literal["hessian", "sandwich"] = "hessian",
    ) -> NDArray[np.float64]:
        """The covariance matrix of the coefficients of a fit without a penalty; its diagonal has the squared errors.

        For two classes it is that of ``[*coef_[0], intercept_[0]]``. For more classes, whose coefficients may all be
        shifted by one vector without a change of any probability, it is that of the differences from the first class:
        ``coef_[k] - coef_[0]``, then ``intercept_[k] - intercept_[0]``, for k = 1, 2, ... one after the other. Without
        `fit_intercept` there are no intercepts.

        Parameters
        ----------
        X, y, sample_weight
            The data of the fit. `X` may be :class:`Blocks`, without `y`.
        kind : {"hessian", "sandwich"}, default "hessian"
            ``"hessian"``: H^-1, with H the Hessian of the negative log-likelihood (the weighted sum of the losses).
            ``"sandwich"``: H^-1 (sum g_i g_i') H^-1, with g_i the gradient of the loss of row i times its weight. It is
            right for independent rows also where the model is not (HC0).

        Returns
        -------
        ndarray of shape (p, p), float64
            p = max(1, n_classes - 1) * (n_features + 1).

        Raises
        ------
        ValueError
            If the model has a penalty, if the classes are linearly separable, or if the Hessian is singular; the
            message names the columns that are linearly dependent. And for the errors of `fit`.
        MemoryError
            If there are so many coefficients that their covariance does not fit into the memory of this machine.

        Warns
        -----
        ConvergenceWarning
            If the coefficients are more than a tenth of a standard error from the minimum for these data; or if one
            more step of Newton's method would change logits by more than 1/2, as where a column separates some rows.

        Notes
        -----
        For ``"hessian"`` a weight of 2 is two equal rows. For ``"sandwich"`` it is one row that counts twice, as if
        drawn with half the probability. `class_weight` multiplies the weights, as in `fit`; where the classes of a row
        are not drawn with the inverse of these probabilities, ``"hessian"`` says nothing of the errors then.
        Weights, ``"balanced"`` ones as well, are taken as fixed numbers.

        The Hessian is computed in float64, whatever the type of `X`, by blocks of rows; it needs memory for a few
        matrices of (n_classes * (n_features + 1))^2 numbers. Columns may have any scale. Subtract the mean of a
        column if it is more than 1e4 times its standard deviation: digits are lost there, and from about 1e6 on the
        column counts as linearly dependent on the intercept.

        References
        ----------
        .. [1] W. H. Greene, "Econometric Analysis", 7th edition, Prentice Hall 2011, chapter 14.
        .. [2] H. White, "Maximum Likelihood Estimation of Misspecified Models", Econometrica 50(1), 1982.

        Examples
        --------
        >>> import numpy as np, xent
        >>> X, y = xent.datasets.load_digits()
        >>> X, y = X[y < 3][:, [20, 27, 36]], y[y < 3]
        >>> model = xent.LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
        >>> covariance = model.covariance(X, y)
        >>> errors = np.sqrt(np.diag(covariance)).reshape(2, 4)     # a row for each class but the first
        >>> coefficients = np.c_[model.coef_, model.intercept_]
        >>> ((coefficients[1:] - coefficients[0]) / errors).shape   # z statistics
        (2, 4)
        """
        check_parameters(self, SOLVERS)
        self._check_covariance(kind)
        return self._covariance(self._validate(X, y, sample_weight, self._linear()[0]), kind)

    def _check_covariance(self, kind: str) -> None:
        self._check_fitted()
        check_choice("kind", kind, KINDS)
        check_no_penalty(self)
        check_memory(self._coefficients().size)

    def _covariance(self, data: FitData, kind: str) -> NDArray[np.float64]:
        self._check_columns(Columns(data.sums.n_features, data.names), stacklevel=3)
        return estimate_covariance(data, self._coefficients(), self.fit_intercept, kind, shared(ConvergenceWarning))

    def _validate(self, X: Any, y: Any, sample_weight: Any, known: Array | None = None) -> FitData:
        """Validate the data and bundle it; with the known classes, if labels must be among them."""
        if isinstance(X, Blocks):
            check_no_labels(X, y, sample_weight)
            return X._fit_data(self.class_weight, self._n_threads(), known)
        features = check_features("X", X)
        check_no_stored_index(features)
        matrix = features.matrix
        if known is None:
            classes, target = find_classes("y", y, matrix.shape[0], stacklevel=3)
        else:
            classes, target = known, encode_target("y", y, matrix.shape[0], known, stacklevel=3)
        weight = to_row_weights(sample_weight, matrix.shape[0])
        target, weight = apply_class_weight(self.class_weight, classes, target, weight)
        sums = RowSums(matrix, target, len(classes), weight, self._n_threads())
        return FitData(sums, classes, float(weight.sum()), matrix.dtype, features.names, sums.are_separated)

    def _fit(self, data: FitData, callback: Callback | None, checkpoint: Checkpoint | None = None) -> Self:
        penalty = self._penalty(data.weight)
        objective = Objective(data.sums, penalty, self.fit_intercept)
        start = self._coefficients() if self._is_warm(data.classes, objective.shape) else np.zeros(objective.shape)
        done = 0
        if checkpoint is not None:
            start, done = checkpoint.resume(start, data.classes)
        with show_progress(self.verbose, self.max_iter, callback) as watch:
            recorder = Recorder(
                watch and (lambda progress: watch(progress._replace(iteration=progress.iteration + done))),
                None
                if checkpoint is None
                else lambda progress, x: checkpoint.keep(progress, objective.to_matrix(x)),
            )
            settings = Settings(self.tol, max(0, self.max_iter - done), _noise(data.dtype), recorder.record)
            result, interrupt = recorder.run(
                lambda: minimise(objective, objective.to_vector(start), settings, self.solver)
            )
        result = result._replace(iterations=result.iterations + done)
        matrix = objective.to_matrix(result.x)
        self._keep(matrix, data.dtype, result)
        self._keep_names(data.sums.n_features, data.names)
        self.classes_ = data.classes
        self._seen = data.weight
        self._fitted_l2 = self._penalty().curvature
        self._curvature = None
        if checkpoint is not None:
            checkpoint.write(result.iterations, matrix)
        if interrupt is not None:
            raise interrupt
        if penalty == NO_PENALTY and data.are_separated(self.coef_, self.intercept_):
            warnings.warn(
                "the classes are linearly separable: without a penalty the objective has no minimum, and the size of "
                "the coefficients depends only on tol and max_iter. Set C to a finite number",
                shared(ConvergenceWarning),
                stacklevel=3,
            )
        elif not result.converged:
            self._warn_not_converged(result, data.dtype)
        return self

    def _warn_not_converged(self, result: Result, dtype: np.dtype[Any]) -> None:
        has_kink = self._penalty().kink > 0         # then there is one solver for all names
        solver = "the fit" if self.solver == "auto" or has_kink else self.solver
        advice = advise(result, dtype, self.solver, has_kink)
        warnings.warn(
            f"{solver} failed to converge: it stopped after {result.iterations} iterations with gradient norm "
            f"{result.grad_norm:.2g}, over tol={self.tol:g}: {result.message}. {advice}",
            shared(ConvergenceWarning),
            stacklevel=4,
        )

    def partial_fit(
        self,
        X: MatrixLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> LogisticRegression:
        """Fit to one more batch of a stream; earlier batches are approximated by a quadratic.

        The first batch has the objective of `fit`; the solver is L-BFGS for all batches. Each later batch is fitted
        together with the quadratic, in at most 20 iterations; `objective_` and `grad_norm_` are those of their sum.
        After `fit`, the stream continues from its coefficients, as if the rows of that fit had been like those of the
        first batch.

        Parameters may be changed between calls. A new `C` applies to earlier batches as well, as far as
        the quadratic represents them; the other parameters apply to later batches only.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)
            Features, as in `fit`.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels, all of them among the classes, or distributions.
        classes : array_like of shape (n_classes,), optional
            All labels that may occur. Required in the first call, unless `y` is a distribution.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, at least 0. (`class_weight` must be a dict or None.)

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or argument has a wrong type, shape or value, if a label is not one of the classes, or if
            the classes differ from those of earlier calls. The estimator is unchanged then.

        Examples
        --------
        >>> import xent
        >>> X, y = xent.datasets.load_digits()
        >>> model = xent.LogisticRegression()
        >>> for start in range(0, 1000, 100):
        ...     rows = slice(start, start + 100)
        ...     model = model.partial_fit(X[rows], y[rows], classes=range(10))
        >>> model.score(X[1000:], y[1000:]) > 0.9
        True
        """
        check_parameters(self, SOLVERS)
        if self._penalty().kink > 0:
            raise ValueError(
                "l1_ratio or penalty asks for L1, which is not supported for partial_fit, whose quadratics have no "
                "kinks; l1_ratio must be 0"
            )
        if isinstance(X, Blocks):
            raise TypeError("X is a Blocks; partial_fit takes one batch at a time: call it with each block")
        features = check_features("X", X)
        matrix = features.matrix
        fitted = self.__sklearn_is_fitted__()
        if fitted:
            self._check_columns(features.columns, stacklevel=2)
        else:
            check_no_stored_index(features)
        known = find_stream_classes(y, classes, self._linear()[0] if fitted else None, matrix.shape[0])
        target = encode_target("y", y, matrix.shape[0], known, stacklevel=2)
        weight = to_row_weights(sample_weight, matrix.shape[0])
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight {self.class_weight!r} is not supported for partial_fit, which does not see all labels; "
                "it must be a dict"
            )
        if fitted and not self.fit_intercept and self.intercept_.any():
            raise ValueError(
                "fit_intercept is False, but earlier calls have fitted intercept_; it must stay True, or call fit to "
                "start over"
            )
        target, weight = apply_class_weight(self.class_weight, known, target, weight)
        interrupt = self._fit_batch(RowSums(matrix, target, len(known), weight, self._n_threads()), fitted)
        if not fitted:
            self._keep_names(matrix.shape[1], features.names)
            self.classes_ = known
        self._seen += float(weight.sum())
        if interrupt is not None:
            raise interrupt
        return self

    def _fit_batch(self, sums: RowSums, fitted: bool) -> KeyboardInterrupt | None:
        """Fit to a batch and the quadratic; store the coefficients and the new quadratic."""
        penalty = self._penalty()
        past = remember_past(
            sums,
            self.fit_intercept,
            coefficients=self._coefficients() if fitted else None,
            curvature=self._curvature,
            penalty=penalty,
            penalty_before=L2(self._fitted_l2) if fitted else penalty,
            weight_before=self._seen,
        )
        objective = BatchObjective(sums, self.fit_intercept, past)
        start = objective.to_vector(past.centre)
        recorder = Recorder()
        max_iter = min(self.max_iter, BATCH_ITERATIONS) if fitted else self.max_iter
        dtype = sums.rows.X.dtype
        settings = Settings(self.tol, max_iter, _noise(dtype), recorder.record)
        memory = choose_memory(start.size, BATCH_MEMORY)
        result, interrupt = recorder.run(
            lambda: lbfgs(
                objective, start, settings, preconditioner_at=objective.preconditioner_at, memory=memory
            )
        )
        curvature = past.curvature if interrupt is not None else objective.curvature_with_batch(result.x)
        dtype = np.result_type(self._linear()[1].dtype, dtype) if fitted else dtype
        self._keep(objective.to_matrix(result.x), dtype, result)
        self._fitted_l2 = penalty.curvature
        self._curvature = curvature
        return interrupt

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the parameters and the fitted state to a file that :meth:`load` reads.

        The file is an .npz archive of arrays and JSON, without pickle. It is written atomically: an existing file is
        replaced only once the new one is on disk.

        Parameters
        ----------
        path : path-like
            The file name; no extension is added.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a label or a parameter has a type that cannot be saved; labels may be numbers, bools, strings, bytes or
            dates.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile, xent
        >>> X, y = xent.datasets.load_digits()
        >>> model = xent.LogisticRegression(C=0.1).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "digits.npz")
        ...     model.save(path)
        ...     twin = xent.LogisticRegression.load(path)
        >>> twin, bool((twin.predict(X) == model.predict(X)).all())
        (LogisticRegression(C=0.1), True)
        """
        self._check_fitted()
        persistence.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LogisticRegression:
        """Load an estimator that was saved by :meth:`save`.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        LogisticRegression
            With its parameters, coefficients and the state of `partial_fit`.

        Raises
        ------
        ValueError
            If the file is damaged, truncated or not a saved estimator.
        OSError
            If the file cannot be read.
        """
        return persistence.load(cls, path)

    def _penalty(self, weight: float = 1.0) -> Penalty:
        """The penalty on a mean over rows of this weight, or on the sum over rows."""
        strength, l1_ratio = penalty_strength(self)
        return make_penalty(strength / weight, l1_ratio)

    def _coefficients(self) -> NDArray[np.float64]:
        """The coefficient matrix of the objective: the intercepts are its last column."""
        _, coef, intercept = self._linear()
        return np.column_stack([coef, intercept]).astype(np.float64)

    def _is_warm(self, classes: Array, shape: tuple[int, int]) -> bool:
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return False
        known, coef, _ = self._linear()
        return coef.shape == (shape[0], shape[1] - 1) and np.array_equal(known, classes)

    def _keep(self, matrix: NDArray[np.float64], dtype: np.dtype[Any], result: Result) -> None:
        self.coef_ = matrix[:, :-1].astype(dtype, order="C")
        self.intercept_ = matrix[:, -1].astype(dtype)
        self.n_iter_ = np.array([result.iterations], np.int32)
        self.objective_ = result.loss
        self.grad_norm_ = result.grad_norm
        self.converged_ = result.converged
