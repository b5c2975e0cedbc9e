"""Multinomial logistic regression with scikit-learn's parameters, attributes and objective."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._estimator import persistence
from xent._estimator.checkpoint import Checkpoint
from xent._estimator.features import MatrixLike, check_features, check_no_stored_index
from xent._estimator.labels import encode_target, find_classes, find_stream_classes
from xent._estimator.parameters import check_parameters
from xent._estimator.prediction import LinearClassifier, NotFittedError, separates
from xent._estimator.progress import Callback, run, shown
from xent._estimator.sklearn_protocol import shared
from xent._estimator.weights import apply_class_weight, to_row_weights
from xent._fit import online
from xent._fit.linear import Objective, RowSums, memory_for, minimise
from xent._fit.partitioned import Rows
from xent._fit.solvers import MAX_ITER, NO_DESCENT, Result, lbfgs
from xent.blocks import Blocks

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[Any]

__all__ = ["ConvergenceWarning", "LogisticRegression", "NotFittedError"]

SOLVERS = ("auto", "lbfgs", "newton-cg")
STREAM_MEMORY = 30          # steps
STREAM_ITERATIONS = 20      # for a batch: the next one corrects what is missing


class ConvergenceWarning(UserWarning):
    """A fit ended before its gradient was within tol, or there is no minimum to converge to.

    Where scikit-learn has been imported, what is raised also is its warning of this name.
    """


def _advice(result: Result, dtype: np.dtype[Any]) -> str:
    """What a user can do about a fit that has not converged."""
    if result.reason == MAX_ITER:
        return "Raise max_iter or tol, or scale the features"
    if result.reason == NO_DESCENT:
        return "Raise tol, or scale the features" + (", or let X be float64" if dtype == np.float32 else "")
    return "Scale the features"


class LogisticRegression(LinearClassifier):
    """Multinomial logistic regression, binary for two classes.

    Minimises the mean cross-entropy plus abs(coef)^2 / (2 C n), which is scikit-learn's objective divided by C n, with
    n the sum of the sample weights; the intercept is not penalised.

    Parameters
    ----------
    C : float, default 1.0
        Inverse of the strength of the penalty; greater than 0. inf: no penalty.
    penalty : {"l2", None}, default "l2"
        None: no penalty.
    fit_intercept : bool, default True
        Whether to add an intercept.
    class_weight : dict, "balanced" or None, default None
        Weights of the classes, 1 for those that are not named; ``"balanced"`` weighs each class by
        n / (n_classes * its number of samples). A distribution counts by its share of each class.
    tol : float, default 1e-4
        The fit ends when no element of the gradient of the objective above is larger in absolute value.
    max_iter : int, default 100
        The fit ends after so many iterations, with a `ConvergenceWarning`.
    solver : {"auto", "lbfgs", "newton-cg"}, default "auto"
        ``"lbfgs"``: L-BFGS. ``"newton-cg"``: Newton's method in a trust region, its steps by conjugate gradients. Both
        are preconditioned by what the number of features allows; ``"auto"`` chooses by that number, and begins fits of
        many to sparse rows with a few sweeps of dual ascent, each of which counts as an iteration.
    warm_start : bool, default False
        Start the next fit from the present coefficients, if they are for the same classes and number of features.
    random_state : int or None, default None
        Accepted for compatibility: nothing here is random.
    n_jobs : int or None, default None
        The largest number of threads; None is :func:`get_num_threads`, -1 every CPU that the process may use, -2 all
        but one, and so on (at least one).
    verbose : int, default 0
        If greater than 0, show the loss (the objective) and the gradient norm of each iteration: in a progress bar if
        tqdm is installed and there is a terminal or notebook to draw it in, else in lines.

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
        Names of the features, if `X` was a frame whose columns are all named by strings.
    n_iter_ : ndarray of shape (1,)
        Number of iterations.
    objective_ : float
        The objective at the coefficients.
    grad_norm_ : float
        The largest absolute element of its gradient.
    converged_ : bool
        Whether that is at most `tol`.

    Notes
    -----
    `X` may be an array of any layout, read-only or a memory map, or a matrix or array of scipy.sparse; float32 and
    float64 are computed with as they are, and never copied, nor a sparse matrix ever made dense (CSC and other formats
    are converted to CSR once). Frames of pandas and polars and tables of Arrow become arrays; later ones must have the
    same column names. Their columns are numbers or bools (strings and dates are refused), or lists of numbers of a
    fixed size, whose elements are features named ``name[0]``, ``name[1]`` and so on. The index of a pandas frame is no
    feature, in an Arrow table neither.

    Beside the data, of which distributions and weights are a part, `fit` needs at most 24 times the memory of the
    coefficients in float64, and 64 MB, whatever the solver and the number of classes: 0.5 GB for 20,000 classes and 100
    features. (Distributions under class weights are copied once.)

    Ctrl-C during `fit` or `partial_fit` leaves the best coefficients so far in the estimator, with `converged_` False,
    before the `KeyboardInterrupt` goes on its way; a `fit` with `warm_start` continues from them. Any other error
    leaves the estimator as it was.

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

    # The weight and the penalty that coef_ was fitted to, and the curvature there once a stream goes on from it: see
    # `stream`.
    _seen: float = 0.0
    _fitted_l2: float = 0.0
    _curvature: NDArray[np.float64] | None = None

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
            Features; finite. float32 and float64 are used as they are, integers and bools become float64. A
            :class:`Blocks` gives labels and weights as well, and is read once for each evaluation.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels: integers, bools, strings, bytes or dates; at least two different ones. Objects must be strings.
            Floats or bools with two columns or more are distributions (soft targets): at least 0, each row with the sum
            1 (to 1e-3), and the classes are the numbers of the columns.
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
        check_parameters(self, SOLVERS)
        return self._fit(self._rows(X, y, sample_weight), callback)

    def _rows(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        """Check the data and bundle it."""
        if isinstance(X, Blocks):
            if y is not None or sample_weight is not None:
                raise ValueError("X is a Blocks, which gives y and sample_weight itself; both must be None")
            return X._rows(self.class_weight, self._n_threads())
        features = check_features("X", X)
        check_no_stored_index(features)
        matrix = features.matrix
        classes, target = find_classes("y", y, matrix.shape[0], stacklevel=3)
        weight = to_row_weights(sample_weight, matrix.shape[0])
        target, weight = apply_class_weight(self.class_weight, classes, target, weight)
        sums = RowSums(matrix, target, len(classes), weight, self._n_threads())

        def separated(coef: Array, intercept: Array) -> bool:
            return target.ndim == 1 and separates(matrix, target, coef, intercept, weight)

        return Rows(sums, classes, float(weight.sum()), matrix.dtype, features.names, separated)

    def _fit(self, rows: Rows, callback: Callback | None, checkpoint: Checkpoint | None = None) -> Self:
        l2 = self._l2() / rows.weight
        objective = Objective.of(rows.sums, l2, self.fit_intercept)
        start = self._coefficients() if self._is_warm(rows.classes, objective.shape) else np.zeros(objective.shape)
        done = 0
        if checkpoint is not None:
            start, done = checkpoint.resume(start, rows.classes)
        with shown(self.verbose, self.max_iter, callback) as watch:
            result, interrupt = run(
                minimise,
                objective,
                objective.vector(start),
                solver=self.solver,
                tol=self.tol,
                max_iter=max(0, self.max_iter - done),
                noise=float(np.finfo(rows.dtype).eps),
                callback=watch and (lambda progress: watch(progress._replace(iteration=progress.iteration + done))),
                keep=None
                if checkpoint is None
                else lambda progress, x: checkpoint.keep(progress, objective.matrix(x)),
            )
        result = result._replace(iterations=result.iterations + done)
        matrix = objective.matrix(result.x)
        self._keep(matrix, rows.dtype, result)
        self._keep_names(rows.sums.features, rows.names)
        self.classes_ = rows.classes
        self._seen = rows.weight
        self._fitted_l2 = self._l2()
        self._curvature = None
        if checkpoint is not None:
            checkpoint.write(result.iterations, matrix)
        if interrupt is not None:
            raise interrupt
        if l2 == 0 and rows.separated(self.coef_, self.intercept_):
            warnings.warn(
                "the classes are linearly separable: without a penalty the objective has no minimum, and how large the "
                "coefficients are depends on tol and max_iter only. Set C to a finite number, with penalty='l2'",
                shared(ConvergenceWarning),
                stacklevel=3,
            )
        elif not result.converged:
            solver = "the fit" if self.solver == "auto" else self.solver
            warnings.warn(
                f"{solver} failed to converge: it stopped after {result.iterations} iterations with gradient norm "
                f"{result.grad_norm:.2g}, over tol={self.tol:g}: {result.message}. {_advice(result, rows.dtype)}",
                shared(ConvergenceWarning),
                stacklevel=3,
            )
        return self

    def partial_fit(
        self,
        X: MatrixLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> LogisticRegression:
        """Fit to one more batch of a stream, with what came before remembered as a quadratic.

        The first batch is fitted as `fit` does it; each later one together with the curvature of all before it, in at
        most 20 iterations. `objective_` and `grad_norm_` are of the batch and that quadratic. After `fit`, the stream
        goes on from its coefficients as if the rows that they were fitted to had been like those of the first batch.

        Parameters may be changed between calls. `C` and `penalty` then count for all that came before as well, as far
        as the quadratic remembers it; `class_weight`, `tol` and the others for the batches to come.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)
            Features, as in `fit`.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels, all of them among the classes, or distributions.
        classes : array_like of shape (n_classes,), optional
            All labels that may come. Needed in the first call, unless `y` is a distribution.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, at least 0. `class_weight`, if any, is a dict.

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or argument has a wrong type, shape or value, if a label is none of the classes, or if these
            are not those of the last call. The estimator keeps its coefficients then.

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
        features = check_features("X", X)
        matrix = features.matrix
        fitted = self.__sklearn_is_fitted__()
        if fitted:
            self._check_features(features, stacklevel=2)
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
                "fit_intercept is False, but the calls before have fitted intercept_; it must stay True, or call fit "
                "to start anew"
            )
        target, weight = apply_class_weight(self.class_weight, known, target, weight)
        batch = online.Batch(
            matrix,
            target,
            len(known),
            weight,
            self.fit_intercept,
            self._n_threads(),
            centre=self._coefficients() if fitted else None,
            curvature=self._curvature,
            l2=self._l2(),
            l2_before=self._fitted_l2 if fitted else self._l2(),
            seen=self._seen,
        )
        result, interrupt = run(
            lbfgs,
            batch,
            batch.mean.vector(batch.centre),
            metric_at=batch.metric_at,
            tol=self.tol,
            max_iter=min(self.max_iter, STREAM_ITERATIONS) if fitted else self.max_iter,
            memory=memory_for(batch.centre.size, STREAM_MEMORY),
            noise=float(np.finfo(matrix.dtype).eps),
        )
        curvature = batch.past if interrupt is not None else batch.past_with_batch(result.x)
        dtype = np.result_type(self._linear()[1].dtype, matrix.dtype) if fitted else matrix.dtype
        self._keep(batch.mean.matrix(result.x), dtype, result)
        if not fitted:
            self._keep_names(matrix.shape[1], features.names)
            self.classes_ = known
        self._seen += float(weight.sum())
        self._fitted_l2 = self._l2()
        self._curvature = curvature
        if interrupt is not None:
            raise interrupt
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the parameters and what was fitted to a file, which :meth:`load` reads.

        The file is an .npz archive of arrays and JSON, without pickle. It is written whole or not at all: a file that
        was there before is replaced once the new one is on the disk.

        Parameters
        ----------
        path : path-like
            The file, under just this name: no ending is added.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a label or a parameter is of a type that a file does not take: labels may be numbers, bools, strings,
            bytes or dates.
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
        """Load an estimator that :meth:`save` has saved.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        LogisticRegression
            As it was: parameters, coefficients, and the memory of a stream.

        Raises
        ------
        ValueError
            If the file is damaged, cut short, or not of this kind.
        OSError
            If the file cannot be read.
        """
        return persistence.load(cls, path)

    def _l2(self) -> float:
        """The strength of the penalty on the sum over the samples."""
        return 0.0 if self.penalty is None else 1 / float(self.C)

    def _coefficients(self) -> NDArray[np.float64]:
        """As the objectives have them: the intercept in the last column."""
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

    def _keep_names(self, features: int, names: Array | None) -> None:
        self.n_features_in_ = features
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
