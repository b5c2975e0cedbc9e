"""Measures of a classifier: loss, accuracy, perplexity and entropy from logits, in one pass or batch by batch;
scikit-learn's log loss from probabilities; and the temperature that calibrates a classifier.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from xent._calls import evaluation, temperature
from xent._calls.dispatch import kernels
from xent._calls.scalars import check_integer, check_n_threads, check_positive_integers

__all__ = ["Evaluation", "StreamingLoss", "evaluate", "fit_temperature", "log_loss"]


class Evaluation(NamedTuple):
    """The result of :func:`evaluate`: weighted means over the rows, all nan if the total weight is 0.

    Attributes
    ----------
    loss : float
        The cross-entropy, in nats.
    accuracy : float
        The share of the rows whose label is the class of the largest logit, the first one if several are equal. A row
        with NaN, or with nothing but -inf, counts as wrong.
    topk : dict of int to float
        For each k, the share of the rows whose label is among the k largest logits; ties are ranked by class index.
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
        The k of the top-k accuracies: the share of the rows whose label is among the k largest logits, with ties ranked
        by class index.
    axis : int, default -1
        The class axis of `logits`.
    sample_weight : array_like, optional
        Weights of the rows; at least 0, broadcast to the shape of `target`. A row of weight 0 is left out. Weights
        below 1e-290 lose digits, and their sum must stay well below the largest float64.
    ignore_index : int, default -100
        A label whose row is left out.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    Evaluation
        A named tuple ``(loss, accuracy, topk, perplexity, entropy, weight)``; `topk` is a dict, the others are floats.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range.

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
    """The measures of :func:`evaluate` over data that comes in batches, on one machine or several.

    The result equals that of one pass over all the data to the last bit, for any batches and any order of merging: sums
    are kept to three times the precision of float64 and added without rounding. Objects can be pickled.

    Parameters
    ----------
    topk : int or sequence of int, default (1, 5)
        The k of the top-k accuracies: the share of the rows whose label is among the k largest logits, with ties ranked
        by class index.
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
        self.topk = check_positive_integers("topk", topk)
        self.axis = check_integer("axis", axis)
        self.ignore_index = check_integer("ignore_index", ignore_index)
        self.n_threads = check_n_threads(n_threads)
        self._classes: int | None = None        # of the batches so far
        # Sums of loss, entropy, weight, weight of correct rows, and one per k: lists of floats that add up to them.
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
            If an argument has a wrong type, shape or value, or the number of classes differs from earlier
            batches. The object is unchanged then.
        """
        options = evaluation.MeasureOptions(self.topk, self.axis, self.ignore_index, self.n_threads, self._classes)
        self._classes, sums = evaluation.sum_measures(logits, target, sample_weight, options)
        self._add(sums)
        return self

    def merge(self, other: StreamingLoss) -> StreamingLoss:
        """Add the batches of another object.

        Parameters
        ----------
        other : StreamingLoss
            With the same `topk`, `axis`, `ignore_index` and number of classes; it is not changed.

        Returns
        -------
        StreamingLoss
            This object.

        Raises
        ------
        TypeError, ValueError
            If `other` is not a StreamingLoss, or one of these differs. This object is unchanged then.
        """
        if not isinstance(other, StreamingLoss):
            raise TypeError(f"other is a {type(other).__name__}; it must be a StreamingLoss")
        for name in ("topk", "axis", "ignore_index"):
            theirs, ours = getattr(other, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"other has {name} {theirs}; it must be {ours}, as in this object")
        if None not in (self._classes, other._classes) and self._classes != other._classes:
            raise ValueError(f"other has seen logits of {other._classes} classes; this object has seen {self._classes}")
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
        self._sums = [evaluation.expand_sum(sums + new) for sums, new in zip(self._sums, more, strict=True)]

    def __repr__(self) -> str:
        return f"StreamingLoss(topk={self.topk}, axis={self.axis}, ignore_index={self.ignore_index})"


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
        The label of each row: integers, strings, booleans or anything else that can be sorted. Or one
        distribution over the classes per row, of shape (n, C).
    y_proba : array_like of shape (n, C) or (n,)
        Predicted probabilities in [0, 1], a column for each label, in sorted order. A single column, or a 1-D array, is
        the probability of the greater of two labels.
    normalize : bool, default True
        Return the (weighted) mean; otherwise the sum.
    sample_weight : array_like of shape (n,), optional
        Weights of the rows; at least 0.
    labels : array_like of shape (C,), optional
        All labels, if `y_true` may lack some; by default those in `y_true`.

    Returns
    -------
    float
        In nats; nan if the mean is over rows of total weight 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label that is not in `labels`, more or fewer labels
        than columns, or a probability that is NaN or outside [0, 1].

    Warns
    -----
    UserWarning
        If a row of `y_proba` does not sum to 1, or `labels` are not sorted.

    See Also
    --------
    categorical_cross_entropy, binary_cross_entropy : Losses for training; `proba` comes first.

    Notes
    -----
    The loss of a row is -log of the probability of its label; for two classes -y log(p) - (1 - y) log1p(-p) [1]_.

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
    from xent._estimator import log_loss  # here, so that importing xent does not pay for it

    return log_loss.log_loss(y_true, y_proba, normalize, sample_weight, labels)


def fit_temperature(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    where: ArrayLike | None = None,
    n_threads: int | None = None,
) -> float:
    """The temperature T > 0 that minimises the cross-entropy of ``logits / T``.

    Dividing the logits of a trained classifier by T makes its probabilities as sure as its labels turn out to be, and
    leaves its predictions as they are. Fit T on rows that the classifier was not trained on.

    Parameters
    ----------
    logits : array_like
        Real numbers, C of them along `axis`, as in :func:`cross_entropy`. Whatever their type, T is computed in
        float64.
    target : array_like
        Labels: integers in [0, C) or `ignore_index`, of the shape of `logits` without `axis`.
    axis : int, default -1
        The class axis of `logits`.
    sample_weight : array_like, optional
        Weights of the rows; at least 0, broadcast to the shape of `target`. A row of weight 0 is left out. Weights
        below 1e-290 lose digits, and their sum must stay well below the largest float64.
    ignore_index : int, default -100
        A label whose row is left out.
    where : array_like of bool, optional
        The classes that can happen, broadcast to the shape of `logits`; elsewhere a logit counts as -inf, whatever it
        is.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    float
        T, to 1e-8 of its size. It is in the units of the logits: those of a model times 1e30 have 1e30 times its T.
        2^-20 where the loss falls as T goes to 0, 2^20 where it falls as T goes to infinity. 1 where it is the same for
        all T, as with one class. nan if the total weight is 0, or if the loss is nan or infinite whatever T is, as with
        a NaN, or a label whose logit is -inf.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range or a distribution.

    Warns
    -----
    ConvergenceWarning
        If the loss has no minimum: every label has the largest logit of its row (T goes to 0), or the labels are no
        likelier than by chance, to 1e-8 (T goes to infinity).

    See Also
    --------
    cross_entropy : With ``logit_scale=1 / T``, the loss at a temperature.

    Notes
    -----
    Temperature scaling is the calibration method of [1]_. With b = 1 / T, m the maximum of a row, p = softmax(b x) and
    y its label, the slope of the loss with respect to log b is b times the difference of m - x_y and
    sum(p (m - x)), both summed over the rows. It has one root, since the loss is convex in b. Newton's method finds it
    in 3 to 8 passes over the logits, which are not copied.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> import xent
    >>> logits = [[2.0, 4.0, 0.5], [1.0, 0.0, 3.0], [5.0, 1.0, 0.0], [3.0, 0.0, 1.0]]
    >>> T = xent.fit_temperature(logits, [1, 0, 0, 0])
    >>> round(T, 6)
    1.340182
    >>> labels = [1, 0, 0, 0]
    >>> round(xent.cross_entropy(logits, labels), 4), round(xent.cross_entropy(logits, labels, logit_scale=1 / T), 4)
    (0.6294, 0.5995)
    """
    fit = temperature.fit_temperature(logits, target, axis, sample_weight, ignore_index, where, n_threads)
    if fit.falls_towards:
        from xent._estimator.sklearn_protocol import shared  # here, so that importing xent does not pay for it
        from xent.logistic import ConvergenceWarning

        why = {
            "0": "every label has the largest logit of its row. Fit on rows that the model was not trained on",
            "infinity": "the labels are no likelier than by chance. Compare their order with that of the classes",
        }[fit.falls_towards]
        warnings.warn(
            f"the loss has no minimum, but falls as the temperature goes to {fit.falls_towards}; "
            f"{fit.temperature:g} is returned: {why}",
            shared(ConvergenceWarning),
            stacklevel=2,
        )
    return fit.temperature
