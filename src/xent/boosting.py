"""Softmax cross-entropy as an objective of XGBoost and LightGBM, with soft labels, class weights and label smoothing.

The objective is called with the scores of all training rows in each round, and returns the gradient and the diagonal of
the Hessian. Neither library is imported here: theirs are the arrays and the objects with labels and weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import FLOAT32, check_weights, to_array, to_floats, to_numbers
from xent._calls.options import check_option
from xent._calls.scalars import check_integer, check_n_threads
from xent._core import memory
from xent.losses import cross_entropy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Multiclass"]

Array = NDArray[Any]
Derivatives = tuple[NDArray[np.float32], NDArray[np.float32]]

BLOCK_ELEMENTS = 1 << 20        # of scores at a time: what is computed in float64 is soon rounded to float32
XGBOOST_FLOOR = 1e-16           # of the Hessian


class TrainingSet(Protocol):
    """What an objective needs of ``xgboost.DMatrix`` and ``lightgbm.Dataset``."""

    def get_label(self) -> object: ...

    def get_weight(self) -> object: ...


def _scale_for_xgboost(hess: Array, out: Array) -> None:
    """2 hess, and at least the floor, as `multi:softprob` has it."""
    np.multiply(hess, 2, out=out, casting="same_kind")
    if out.min(initial=1) < XGBOOST_FLOOR:      # the minimum costs a tenth of np.maximum, and seldom finds anything
        np.maximum(out, XGBOOST_FLOOR, out=out)


def _scale_for_lightgbm(hess: Array, out: Array) -> None:
    """K / (K - 1) hess, as `multiclass` has it."""
    classes = hess.shape[1]
    np.multiply(hess, classes / (classes - 1), out=out, casting="same_kind")


class _Interface(NamedTuple):
    """What a library calls its arguments, and how it scales the Hessian."""

    scores: str
    label: str
    weight: str
    scale: Callable[[Array, Array], None]


_XGBOOST = _Interface("predt", "label", "weight", _scale_for_xgboost)
_XGBOOST_SKLEARN = _Interface("y_pred", "y_true", "sample_weight", _scale_for_xgboost)
_LIGHTGBM = _Interface("preds", "label", "weight", _scale_for_lightgbm)
_LIGHTGBM_SKLEARN = _Interface("y_pred", "y_true", "weight", _scale_for_lightgbm)


class Multiclass:
    """Softmax cross-entropy, an objective of XGBoost (2.1 or later) and LightGBM (4.0 or later).

    The four methods are what the libraries take as a custom objective: `xgboost` is `obj` of ``xgboost.train``,
    `lightgbm` the parameter ``"objective"`` of ``lightgbm.train``, the others the `objective` of the estimators.
    With hard labels and no options, the trees are those of the built-in ``multi:softprob`` and ``multiclass``.

    Parameters
    ----------
    n_classes : int, optional
        At least 2. If not given, the number of columns of `target`, or else of the scores. If given, scores of another
        number of classes are an error.
    target : array_like of shape (n, n_classes), optional
        A distribution over the classes for each of the n rows of the training set, in its order, instead of labels. It
        is kept without a copy and, as in :func:`xent.cross_entropy`, neither checked nor normalised.
    class_weight : array_like of shape (n_classes,), optional
        Multiplies the target mass of each class, after smoothing; at least 0.
    label_smoothing : float, default 0.0
        In [0, 1]: a target t becomes (1 - label_smoothing) t + label_smoothing / n_classes.
    n_threads : int, optional
        The largest number of threads; :func:`xent.get_num_threads` if not given. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        If a parameter has a wrong type, shape or value.

    See Also
    --------
    xent.cross_entropy : The loss itself, to evaluate scores.
    xent.softmax : Turns scores into probabilities, which LightGBM does not do for a custom objective.

    Notes
    -----
    With scores x, p = softmax(x), target t and its sum T, the gradient is T p - t, and the diagonal of the Hessian
    T p (1 - p), both times the weight of the row. A library divides the one by the other. LightGBM multiplies the
    Hessian by K / (K - 1), as in [1]_, since one of K scores is redundant; XGBoost multiplies it by 2, for any K, and
    sets it to 1e-16 at least. So do the methods for them.

    References
    ----------
    .. [1] J. H. Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 29 (2001),
       section 4.6.

    Examples
    --------
    >>> import numpy as np
    >>> from xent.boosting import Multiclass
    >>> objective = Multiclass(label_smoothing=0.1)
    >>> grad, hess = objective.lightgbm_sklearn(y_true=np.array([2.0]), y_pred=np.array([[2.0, 4.0, 0.5]]))
    >>> grad.round(4)
    array([[ 0.0828,  0.8246, -0.9074]], dtype=float32)
    >>> hess.round(4)
    array([[0.1539, 0.1828, 0.0379]], dtype=float32)
    """

    def __init__(
        self,
        n_classes: int | None = None,
        *,
        target: ArrayLike | None = None,
        class_weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        n_threads: int | None = None,
    ) -> None:
        self.n_classes = None if n_classes is None else _check_n_classes(n_classes)
        self.target = None if target is None else _check_target(target, self.n_classes)
        if self.target is not None:
            self.n_classes = self.target.shape[1]
        self.class_weight = None if class_weight is None else _check_class_weight(class_weight, self.n_classes)
        self.label_smoothing = check_option("label_smoothing", label_smoothing)
        self.n_threads = check_n_threads(n_threads)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """The object itself, which never changes: LightGBM and scikit-learn copy parameters, and a target is large."""
        return self

    def xgboost(self, predt: ArrayLike, dtrain: TrainingSet) -> Derivatives:
        """Gradient and Hessian for ``xgboost.train(params, dtrain, obj=objective.xgboost)``.

        Parameters
        ----------
        predt : ndarray of shape (n, n_classes)
            The scores.
        dtrain : xgboost.DMatrix
            Its labels are whole numbers in [0, n_classes), or a distribution of shape (n, n_classes). They are not read
            if there is a `target`.

        Returns
        -------
        grad, hess : ndarray of shape (n, n_classes), float32
            In the memory order of `predt`.

        Raises
        ------
        TypeError, ValueError
            If the scores are not (n, n_classes) or are on a GPU, if a label or the length of `target` is wrong, or if
            a gradient would be NaN.

        Examples
        --------
        >>> import numpy as np
        >>> from xent.boosting import Multiclass
        >>> class Rows:     # or an xgboost.DMatrix
        ...     def get_label(self): return np.array([2.0, 0.0])
        ...     def get_weight(self): return np.array([])
        >>> grad, hess = Multiclass().xgboost(np.zeros((2, 3), np.float32), Rows())
        >>> grad.round(4)
        array([[ 0.3333,  0.3333, -0.6667],
               [-0.6667,  0.3333,  0.3333]], dtype=float32)
        """
        return self._differentiate(_XGBOOST, predt, dtrain.get_label(), dtrain.get_weight())

    def xgboost_sklearn(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Derivatives:
        """Gradient and Hessian for ``xgboost.XGBClassifier(objective=objective.xgboost_sklearn)``.

        Parameters
        ----------
        y_true : ndarray of shape (n,) or (n, n_classes)
            Labels or a distribution (with ``xgboost.XGBRegressor``), as those of `dtrain` in :meth:`xgboost`.
        y_pred : ndarray of shape (n, n_classes)
            The scores.
        sample_weight : ndarray of shape (n,), optional
            Multiplies each row.

        Returns
        -------
        grad, hess : ndarray of shape (n, n_classes), float32
            In the memory order of `y_pred`.

        Raises
        ------
        TypeError, ValueError
            As :meth:`xgboost`.
        """
        return self._differentiate(_XGBOOST_SKLEARN, y_pred, y_true, sample_weight)

    def lightgbm(self, preds: ArrayLike, train_data: TrainingSet) -> Derivatives:
        """Gradient and Hessian for ``lightgbm.train({"objective": objective.lightgbm, ...}, train_data)``.

        Parameters
        ----------
        preds : ndarray of shape (n, n_classes)
            The scores.
        train_data : lightgbm.Dataset
            Its labels are whole numbers in [0, n_classes). They are not read if there is a `target`.

        Returns
        -------
        grad, hess : ndarray of shape (n, n_classes), float32
            In the memory order of `preds`. LightGBM reads them without a copy.

        Raises
        ------
        TypeError, ValueError
            As :meth:`xgboost`.
        """
        return self._differentiate(_LIGHTGBM, preds, train_data.get_label(), train_data.get_weight())

    def lightgbm_sklearn(self, y_true: ArrayLike, y_pred: ArrayLike, weight: ArrayLike | None = None) -> Derivatives:
        """Gradient and Hessian for ``lightgbm.LGBMClassifier(objective=objective.lightgbm_sklearn)``.

        Parameters
        ----------
        y_true : ndarray of shape (n,)
            Labels, as those of `train_data` in :meth:`lightgbm`.
        y_pred : ndarray of shape (n, n_classes)
            The scores.
        weight : ndarray of shape (n,), optional
            Multiplies each row.

        Returns
        -------
        grad, hess : ndarray of shape (n, n_classes), float32
            In the memory order of `y_pred`.

        Raises
        ------
        TypeError, ValueError
            As :meth:`xgboost`.
        """
        return self._differentiate(_LIGHTGBM_SKLEARN, y_pred, y_true, weight)

    def _differentiate(self, names: _Interface, scores: ArrayLike, label: Any, weight: Any) -> Derivatives:
        x = self._check_scores(names.scores, scores)
        t = self._choose_target(names, x, label)
        w = _check_weight(names.weight, weight, len(x))
        grad, hess = _empty_like(x), _empty_like(x)
        step = max(1, BLOCK_ELEMENTS // x.shape[1])
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            # float32 results are written to where they belong; others are rounded.
            grad_out, hess_out = (grad[rows], hess[rows]) if x.dtype == FLOAT32 else (None, None)
            loss, block_grad, block_hess = cross_entropy(
                x[rows], t[rows], class_weight=self.class_weight, sample_weight=None if w is None else w[rows],
                label_smoothing=self.label_smoothing, reduction="sum", return_grad=True, return_hess=True,
                grad_out=grad_out, hess_out=hess_out, n_threads=self.n_threads,
            )
            if math.isnan(loss):
                target_name = names.label if self.target is None else "target"
                _check_gradient(block_grad, start, {names.scores: x, target_name: t})
            with np.errstate(over="ignore"):
                if grad_out is None:
                    grad[rows] = block_grad
                names.scale(block_hess, hess[rows])
            del block_grad, block_hess      # the next block will have their memory
        return grad, hess

    def _check_scores(self, name: str, scores: ArrayLike) -> Array:
        if hasattr(scores, "__cuda_array_interface__"):
            raise TypeError(
                f"{name} is on a GPU, and xent computes on the CPU: train with device='cpu', or use the library's own "
                "objective"
            )
        x = to_floats(name, scores, halves=False)
        if x.ndim != 2 or x.shape[1] < 2:
            raise ValueError(
                f"{name} has shape {x.shape}; it must have shape (rows, classes), one score per class: set num_class, "
                "also to 2, and use XGBoost 2.1, LightGBM 4.0 or later"
            )
        if self.n_classes not in (None, x.shape[1]):
            raise ValueError(f"{name} has shape {x.shape}; it must have shape ({len(x)}, {self.n_classes})")
        return x

    def _choose_target(self, names: _Interface, x: Array, label: Any) -> Array:
        """The distribution that the objective holds, or what the library has: one, or labels, here as integers."""
        if self.target is not None:
            if len(self.target) != len(x):
                raise ValueError(
                    f"target has {len(self.target)} rows and {names.scores} has {len(x)}; they must be those of one "
                    "training set, not of a fold or subset of it"
                )
            return self.target
        array = to_array(names.label, label)
        if array.shape in (x.shape, (x.size,)):     # XGBoost 2.1 has a matrix of labels as one row after the other
            return to_numbers(names.label, array).reshape(x.shape)
        if array.shape != (len(x),):
            raise ValueError(
                f"{names.label} has shape {array.shape}; for {names.scores} of shape {x.shape} it must have shape "
                f"({len(x)},) (labels) or {x.shape} (a distribution)"
            )
        return _check_labels(names.label, array, x.shape[1])


def _check_n_classes(value: object) -> int:
    number = check_integer("n_classes", value)
    if number < 2:
        raise ValueError(f"n_classes is {number}; it must be at least 2")
    return number


def _check_target(value: ArrayLike, n_classes: int | None) -> Array:
    target = to_numbers("target", value)
    if target.ndim != 2 or target.shape[1] < 2 or n_classes not in (None, target.shape[1]):
        raise ValueError(
            f"target has shape {target.shape}; it must have shape (rows, {n_classes or 'classes'}), a distribution for "
            "each row"
        )
    return target


def _check_class_weight(value: ArrayLike, n_classes: int | None) -> Array:
    weight = to_numbers("class_weight", value)
    if weight.ndim != 1 or n_classes not in (None, weight.size):
        raise ValueError(f"class_weight has shape {weight.shape}; it must have shape ({n_classes or 'classes'},)")
    return check_weights("class_weight", weight, weight.shape, "a row")


def _check_weight(name: str, value: Any, n: int) -> Array | None:
    """The weights of n rows; None without weights, of which XGBoost makes an empty array."""
    if value is None:
        return None
    array = to_array(name, value)
    if array.size == 0:
        return None
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}; it must have shape ({n},), one weight per row")
    return check_weights(name, array, array.shape, "the rows")


def _check_labels(name: str, array: Array, n_classes: int) -> Array:
    """Labels as integers. The libraries store them as floats."""
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {array.dtype}; labels must be whole numbers")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int32)
    if array.size and not (labels.min() >= 0 and labels.max() < n_classes and np.array_equal(labels, array)):
        row = int(np.argmin((labels >= 0) & (labels < n_classes) & (labels == array)))
        found = labels[row] if labels[row] == array[row] else array[row]
        raise ValueError(f"{name}[{row}] is {found}; labels must be whole numbers in [0, {n_classes})")
    return labels


def _empty_like(x: Array) -> NDArray[np.float32]:
    """An array of the shape and memory order of the scores."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return memory.empty_of(x.shape[::-1], FLOAT32).T
    return memory.empty_of(x.shape, FLOAT32)


def _check_gradient(grad: Array, start: int, operands: dict[str, Array]) -> None:
    """Raise if the gradient of a row is NaN, and say which element of the scores or of the target is to blame. `start`
    is the number of the first row."""
    bad = np.isnan(grad).any(axis=1)
    if not bad.any():
        return      # losses of inf and -inf make a sum NaN, too
    row = start + int(np.argmax(bad))
    for name, array in operands.items():
        finite = np.isfinite(array[row])
        if not finite.all():
            column = int(np.argmin(finite))
            raise ValueError(f"{name}[{row}, {column}] is {array[row, column]}; it must be finite")
    raise ValueError(f"the gradient of row {row} is nan: its target or weights are too large")
