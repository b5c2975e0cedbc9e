"""How good a classifier's logits are: loss, accuracy, perplexity and entropy, in one pass or batch by batch; and
scikit-learn's log loss of its probabilities.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import arguments as check
from xent._calls.dispatch import kernels
from xent._calls.threads import cut
from xent.losses import label_range, of_elements, of_probabilities, weigh

Array = NDArray[Any]


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns: weighted means over the rows; all nan if there are none with weight.

    Attributes
    ----------
    loss : float
        The cross-entropy, in nats.
    accuracy : float
        The share of the rows whose label is the first of the largest logits. A row with NaN, or with nothing but -inf,
        counts as wrong.
    topk : dict of int to float
        For each k, the share of the rows in which fewer than k logits are larger than that of the label, or equal to it
        and of an earlier class.
    perplexity : float
        exp(loss); inf if that overflows.
    entropy : float
        The entropy of the predicted probabilities, in nats.
    weight : float
        The sum of the sample weights of the rows that are not ignored; without weights, their number.
    """

    loss: float
    accuracy: float
    topk: dict[int, float]
    perplexity: float
    entropy: float
    weight: float


def evaluate(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    topk: int | Sequence[int] = (1, 5),
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    n_threads: int | None = None,
) -> Evaluation:
    """Loss, accuracy, top-k accuracy, perplexity and entropy of logits, in one pass over them.

    Parameters
    ----------
    logits : array_like
        Real numbers, C of them along `axis`, as in :func:`cross_entropy`.
    target : array_like
        Labels: integers in [0, C) or `ignore_index`, of the shape of `logits` without `axis`.
    topk : int or sequence of int, default (1, 5)
        For which k to count the rows whose label is among the k largest logits; of equal ones, those of earlier classes
        come first.
    axis : int, default -1
        The class axis of `logits`.
    sample_weight : array_like, optional
        Weights of the rows; at least 0, broadcast to the shape of `target`. A row of weight 0 is left out. Weights are
        summed as they are: below 1e-290 they lose digits, and their sum should fit a float64 many times.
    ignore_index : int, default -100
        A label whose row is left out.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    Evaluation
        A named tuple ``(loss, accuracy, topk, perplexity, entropy, weight)`` of floats; `topk` is a dict.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, a label out of range among them.

    See Also
    --------
    StreamingLoss : The same over many batches.

    Notes
    -----
    The entropy of a row is sum(p (m - x)) + log1p(r), in the terms of :func:`cross_entropy`: no term is below 0.

    Examples
    --------
    >>> import xent
    >>> result = xent.evaluate([[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]], [1, 0], topk=(1, 2))
    >>> result.accuracy, result.topk
    (0.5, {1: 0.5, 2: 1.0})
    >>> round(result.loss, 4), round(result.perplexity, 4), round(result.entropy, 4)
    (1.1615, 3.1948, 0.5002)
    """
    stream = StreamingLoss(topk=topk, axis=axis, ignore_index=ignore_index, n_threads=n_threads)
    return stream.update(logits, target, sample_weight=sample_weight).result()


class StreamingLoss:
    """The same as :func:`evaluate` over data that comes in batches, on one machine or several.

    Sums are kept with what their roundings lose (of each batch, to three times the digits of a float64; between batches
    all of it), so that the result is that of one pass over all the data, to the last bit, whatever the batches and the
    order in which they are merged. An object can be pickled.

    Parameters
    ----------
    topk : int or sequence of int, default (1, 5)
        For which k to count the rows whose label is among the k largest logits; of equal ones, those of earlier classes
        come first.
    axis : int, default -1
        The class axis of the logits.
    ignore_index : int, default -100
        A label whose row is left out.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    Examples
    --------
    >>> import xent
    >>> first = xent.StreamingLoss().update([[2.0, 4.0, 0.5]], [1])
    >>> second = xent.StreamingLoss().update([[1.0, 0.0, 3.0]], [0])
    >>> result = first.merge(second).result()
    >>> result == xent.evaluate([[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]], [1, 0])
    True
    """

    def __init__(
        self,
        *,
        topk: int | Sequence[int] = (1, 5),
        axis: int = -1,
        ignore_index: int = -100,
        n_threads: int | None = None,
    ) -> None:
        self.topk = check.positive_integers("topk", topk)
        self.axis = check.integer("axis", axis)
        self.ignore_index = check.integer("ignore_index", ignore_index)
        self.n_threads = check.thread_count(n_threads)
        self._classes: int | None = None        # of the batches so far
        # Of loss, entropy, weight, weight of the right rows, and for each k: numbers that add up to the sum, exactly.
        self._sums: list[list[float]] = [[] for _ in range(4 + len(self.topk))]

    def update(self, logits: ArrayLike, target: ArrayLike, *, sample_weight: ArrayLike | None = None) -> StreamingLoss:
        """Add a batch.

        Parameters
        ----------
        logits, target, sample_weight : array_like
            As in :func:`evaluate`.

        Returns
        -------
        StreamingLoss
            This object.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value, or other batches had another number of classes; nothing has
            been added then.
        """
        batch = check.targets("logits", logits, target, self.axis, sample_weight=sample_weight)
        check.are_labels(batch)
        options = check.Options(check.ignored_label(self.ignore_index, batch.target))
        classes = batch.logits.shape[-1]
        if self._classes not in (None, classes):
            raise ValueError(f"logits have {classes} classes; it must be {self._classes}, as in the batches before")
        blocks = cut(batch.target.size, classes, self.n_threads)
        weigh(batch, options, blocks, label_range(classes, self.ignore_index))
        topk = np.array([1, *(min(k, classes) for k in self.topk)], np.int64)
        sums = np.empty((blocks.number, len(self._sums), 3))
        blocks.run(kernels.evaluate, batch, options, topk, sums)
        self._classes = classes
        self._add([sums[:, i].ravel().tolist() for i in range(len(self._sums))])
        return self

    def merge(self, other: StreamingLoss) -> StreamingLoss:
        """Add what another object has seen.

        Parameters
        ----------
        other : StreamingLoss
            With the same `topk`, `axis`, `ignore_index` and number of classes; it stays as it is.

        Returns
        -------
        StreamingLoss
            This object.

        Raises
        ------
        TypeError, ValueError
            If `other` is something else, or one of these differs; nothing has been added then.
        """
        if not isinstance(other, StreamingLoss):
            raise TypeError(f"other is a {type(other).__name__}; it must be a StreamingLoss")
        for name in ("topk", "axis", "ignore_index"):
            theirs, ours = getattr(other, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"other has {name} {theirs}; it must be {ours}, as here")
        if None not in (self._classes, other._classes) and self._classes != other._classes:
            raise ValueError(f"other has seen logits of {other._classes} classes; it must be {self._classes}, as here")
        self._classes = other._classes if self._classes is None else self._classes
        self._add(other._sums)
        return self

    def result(self) -> Evaluation:
        """Return the means over everything so far.

        Returns
        -------
        Evaluation
            As from :func:`evaluate`.
        """
        loss, entropy, weight, right, *within = (kernels.total(sums) for sums in self._sums)
        loss, entropy, right, *within = (x / weight if weight else math.nan for x in (loss, entropy, right, *within))
        try:
            perplexity = math.exp(loss)
        except OverflowError:
            perplexity = math.inf
        return Evaluation(loss, right, dict(zip(self.topk, within, strict=True)), perplexity, entropy, weight)

    def _add(self, more: Sequence[list[float]]) -> None:
        self._sums = [expansion(sums + new) for sums, new in zip(self._sums, more, strict=True)]

    def __repr__(self) -> str:
        return f"StreamingLoss(topk={self.topk}, axis={self.axis}, ignore_index={self.ignore_index})"


def expansion(values: list[float]) -> list[float]:
    """A few numbers with exactly the sum of all these: the rounded sum, what it lost, and so on."""
    parts: list[float] = []
    while part := kernels.total(values + [-part for part in parts]):
        if not math.isfinite(part):
            return [part]
        parts.append(part)
    return parts


def log_loss(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    """Log loss of predicted probabilities: ``sklearn.metrics.log_loss``, but exact.

    Nothing is clipped or normalised: a label of probability 0 makes the result inf, and one of probability 1 adds 0.

    Parameters
    ----------
    y_true : array_like of shape (n,)
        The label of each row: integers, strings, booleans or anything else that can be sorted. Also of the shape
        (n, C) of `y_proba`, a distribution over the classes for each row.
    y_proba : array_like of shape (n, C) or (n,)
        Predicted probabilities in [0, 1], a column for each label, in sorted order. With one column or axis they are
        those of the greater of two labels.
    normalize : bool, default True
        Return the (weighted) mean; otherwise the sum.
    sample_weight : array_like of shape (n,), optional
        Weights of the rows; at least 0.
    labels : array_like of shape (C,), optional
        All labels, where `y_true` may lack some; otherwise they are those in `y_true`.

    Returns
    -------
    float
        In nats; nan for the mean of rows without weight.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value: a label that is none of `labels`, another number of labels than
        of columns, probabilities outside [0, 1] and NaN among them.

    Warns
    -----
    UserWarning
        If a row of `y_proba` does not sum to 1, or `labels` are not sorted.

    See Also
    --------
    categorical_cross_entropy, binary_cross_entropy : The losses of training, with `proba` first.

    Notes
    -----
    -log of the probability of the label, for two classes -y log(p) - (1 - y) log1p(-p) [1]_.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import xent
    >>> round(xent.log_loss(["spam", "ham", "ham"], [[0.25, 0.75], [0.5, 0.5], [1, 0]]), 6)
    0.326943
    >>> round(xent.log_loss([True, False, False], [0.75, 0.5, 0]), 6)
    0.326943
    """
    if not isinstance(normalize, bool | np.bool_):
        raise TypeError(f"normalize is {normalize!r}; it must be True or False")
    reduction = "mean" if normalize else "sum"
    proba = _predicted(y_proba)
    target = _true_classes(y_true, proba, labels)
    weight = None if sample_weight is None else check.numeric("sample_weight", sample_weight)
    if weight is not None and weight.shape != proba.shape[:1]:
        raise ValueError(f"sample_weight has shape {weight.shape}; it must have shape {proba.shape[:1]}, as y_true")
    if proba.ndim == 1:
        batch = check.elements("y_proba", proba, target, None, weight)
        return float(of_elements(batch, 0.0, False, reduction, None, None))
    batch = check.targets("y_proba", proba, target, -1, sample_weight=weight)
    return float(of_probabilities(batch, reduction, None, by_mass=False))


def _predicted(y_proba: ArrayLike) -> Array:
    """Probabilities, a column for each label or, of two labels, those of the greater one."""
    array = check.to_array("y_proba", y_proba)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"y_proba has dtype object and an element that is no number: {error}") from None
    array = check.floating("y_proba", check.numeric("y_proba", array))
    if array.ndim not in (1, 2):
        raise ValueError(f"y_proba has {array.ndim} dimensions; it must have 2, (n_samples, n_classes), or 1")
    check.in_unit_interval("y_proba", array)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 2:
        total = array.sum(axis=1, dtype=np.float64)
        epsilon = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 2.0**-7      # of bfloat16
        good = np.abs(total - 1) <= math.sqrt(epsilon)
        if not good.all():
            row = int(np.argmin(good))
            message = f"y_proba[{row}] sums to {total[row]}, not 1 (The y_prob values do not sum to one.)"
            warnings.warn(message, UserWarning, stacklevel=3)
    return array


def _true_classes(y_true: ArrayLike, proba: Array, labels: ArrayLike | None) -> Array:
    """The index of each row's label, or a distribution for each row."""
    from xent._estimator.labels import check_labels, find_unique, to_target

    columns = 2 if proba.ndim == 1 else proba.shape[1]
    array = to_target("y_true", y_true)
    soft = array.ndim == 2 and array.shape[1] > 1
    if array.ndim == 2 and not soft:
        array = array.reshape(-1)       # a column
    if array.ndim != 1 and array.shape != proba.shape:
        raise ValueError(
            f"y_true has shape {array.shape} and y_proba {proba.shape}; y_true, which comes first, must be labels of "
            f"shape {proba.shape[:1]}, or a distribution of the shape of y_proba"
        )
    if len(array) != len(proba):
        raise ValueError(
            f"y_true has {len(array)} rows and y_proba {len(proba)}; they must have as many (Found input variables "
            f"with inconsistent numbers of samples: {[len(proba), len(array)]})"
        )
    known = None if labels is None else _given_labels(labels)
    if known is not None and len(known) != columns:
        raise ValueError(
            f"y_proba has {columns} classes and labels {len(known)} (The number of classes in labels is different from "
            f"that in y_prob. Classes found in labels: {known.tolist()})"
        )
    if soft:
        target = check.numeric("y_true", array)
        if target.dtype.kind in "iu":
            check.between("y_true", target, 0, 1, "an indicator of classes must be 0 or 1")
        return target
    found, indices = find_unique(check_labels("y_true", array))
    if known is not None:
        return _places(found, indices, known)
    if len(found) < 2:
        raise ValueError(
            f"y_true contains only one label ({found[0]}). Please provide the list of all expected class labels "
            "explicitly through the labels argument." if len(found) else "y_true is empty; name all labels with labels="
        )
    if len(found) != columns:
        raise ValueError(
            f"y_true has {len(found)} labels, {found.tolist()}, and y_proba {columns} classes; name all with labels= "
            "(y_true and y_prob contain different number of classes)"
        )
    return indices


def _given_labels(labels: ArrayLike) -> Array:
    """Sorted."""
    from xent._estimator.labels import check_labels, find_unique, to_target

    array = to_target("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels has shape {array.shape}; it must have one axis")
    known, _ = find_unique(check_labels("labels", array))
    if len(known) < 2:
        raise ValueError(f"The labels array needs to contain at least two labels, got {known.tolist()}.")
    if len(known) == len(array) and (known != array).any():
        message = (
            f"Labels passed were {array.tolist()}. But this function assumes labels are ordered lexicographically. "
            f"Pass the ordered labels={known.tolist()} and ensure that the columns of y_prob correspond to this "
            "ordering."
        )
        warnings.warn(message, UserWarning, stacklevel=4)
    return known


def _places(found: Array, indices: Array, known: Array) -> Array:
    """The index of each row's label among known ones."""
    from xent._estimator.labels import find_indices

    places = find_indices(found, known)
    if (places < 0).any():
        row = int(np.argmax(places[indices] < 0))
        unknown = {label for label, place in zip(found.tolist(), places.tolist(), strict=True) if place < 0}
        raise ValueError(
            f"y_true[{row}] is {found.tolist()[indices[row]]!r}, which is not one of labels (y_true contains values "
            f"{unknown} not belonging to the passed labels {known.tolist()}.)"
        )
    return places[indices]
