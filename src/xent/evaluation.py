"""Measures of a classifier from its logits, in one pass or batch by batch: loss, accuracy, calibration, distance from
another classifier. Scikit-learn's log loss from probabilities. And the temperature that calibrates a classifier.
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
    brier : float
        The Brier score: the mean of sum((p - y)^2) over the classes, where y is 1 for the label and 0 for the others;
        from 0 to 2.
    ece : float
        The expected calibration error. Rows are put into 15 bins of equal width, closed on the right, by their largest
        probability; it is the mean over the bins, by weight, of the distance between the accuracy of a bin and the mean
        of its largest probabilities.
    kl : float
        The mean divergence KL(q || p) of the predictions p from those of the reference, q, in nats (see
        :func:`kl_divergence`); nan without a reference.
    agreement : float
        The share of the rows in which the class of the largest logit is that of the reference, the first one if several
        are equal. A row with NaN, or with nothing but -inf, agrees with none. nan without a reference.
    """

    loss: float
    accuracy: float
    topk: dict[int, float]
    perplexity: float
    entropy: float
    weight: float
    brier: float
    ece: float
    kl: float
    agreement: float


def evaluate(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    topk: int | Sequence[int] = (1, 5),
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reference: ArrayLike | None = None,
    n_threads: int | None = None,
) -> Evaluation:
    """Loss, accuracy, calibration and divergence from a reference, of logits, in one pass over them.

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
    reference : array_like, optional
        The logits of another model for the same rows, of the shape of `logits`: how far its predictions are from those
        of `logits` is in `kl` and `agreement` of the result.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    Evaluation
        A named tuple ``(loss, accuracy, topk, perplexity, entropy, weight, brier, ece, kl, agreement)``; `topk` is a
        dict, the others are floats.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range.

    See Also
    --------
    StreamingLoss : The same over many batches.
    linear_evaluate : The same from hidden states and an output layer, without the logits in memory.

    Notes
    -----
    The entropy of a row is sum(p (m - x)) + log1p(r), in the terms of :func:`cross_entropy`: no term is below 0. The
    Brier score is that of [1]_, for several classes; the calibration error, with 15 bins, that of [2]_.

    References
    ----------
    .. [1] G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    .. [2] C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.

    Examples
    --------
    >>> import xent
    >>> result = xent.evaluate([[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]], [1, 0], topk=(1, 2))
    >>> result.accuracy, result.topk
    (0.5, {1: 0.5, 2: 1.0})
    >>> round(result.loss, 4), round(result.perplexity, 4), round(result.entropy, 4)
    (1.1615, 3.1948, 0.5002)

    How far a model with rounded logits is from the original:

    >>> original = [[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]]
    >>> result = xent.evaluate([[2.0, 4.0, 0.0], [1.0, 0.0, 3.0]], [1, 0], reference=original)
    >>> round(result.kl, 6), result.agreement
    (0.001354, 1.0)
    """
    stream = StreamingLoss(topk=topk, axis=axis, ignore_index=ignore_index, n_threads=n_threads)
    return stream.update(logits, target, sample_weight=sample_weight, reference=reference).result()


def make_evaluation(measures: evaluation.Measures, topk: Sequence[int]) -> Evaluation:
    """The means of the sums over rows."""
    totals = [kernels.total(values) for values in measures.sums]
    sums = dict(zip(evaluation.MEANS, totals, strict=False))
    gaps = totals[len(evaluation.MEANS) :][: evaluation.ECE_BINS]
    right, *within = totals[len(evaluation.MEANS) + evaluation.ECE_BINS :]
    weight = sums["weight"]

    def mean(total: float) -> float:
        return total / weight if weight else math.nan

    try:
        perplexity = math.exp(mean(sums["loss"]))
    except OverflowError:
        perplexity = math.inf
    return Evaluation(
        loss=mean(sums["loss"]),
        accuracy=mean(right),
        topk={k: mean(total) for k, total in zip(topk, within, strict=True)},
        perplexity=perplexity,
        entropy=mean(sums["entropy"]),
        weight=weight,
        brier=mean(sums["brier"]),
        ece=mean(kernels.total([abs(gap) for gap in gaps])),
        kl=mean(sums["kl"]) if measures.compares else math.nan,
        agreement=mean(sums["agreement"]) if measures.compares else math.nan,
    )


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
        # Of the batches so far: classes, whether they had a reference, and lists of floats that add up to each sum.
        self._measures = evaluation.no_measures(self.topk)

    def update(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        reference: ArrayLike | None = None,
    ) -> StreamingLoss:
        """Add a batch.

        Parameters
        ----------
        logits, target, sample_weight, reference : array_like
            As in :func:`evaluate`. All batches have a reference, or none.

        Returns
        -------
        StreamingLoss
            This object.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value, if the number of classes differs from earlier batches, or
            if some batches have a reference and others do not. The object is unchanged then.
        """
        options = evaluation.MeasureOptions(self.topk, self.axis, self.ignore_index, self.n_threads)
        measures = evaluation.sum_measures(logits, target, sample_weight, reference, options, self._measures)
        self._measures = self._measures.add(measures)
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
            If `other` is not a StreamingLoss, one of these differs, or one of the two had a reference and the other did
            not. This object is unchanged then.
        """
        if not isinstance(other, StreamingLoss):
            raise TypeError(f"other is a {type(other).__name__}; it must be a StreamingLoss")
        for name in ("topk", "axis", "ignore_index"):
            theirs, ours = getattr(other, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"other has {name} {theirs}; it must be {ours}, as in this object")
        ours, theirs = self._measures, other._measures
        if None not in (ours.classes, theirs.classes) and ours.classes != theirs.classes:
            raise ValueError(f"other has seen logits of {theirs.classes} classes; this object has seen {ours.classes}")
        if None not in (ours.compares, theirs.compares) and ours.compares != theirs.compares:
            with_one, without = ("other", "this object") if theirs.compares else ("this object", "other")
            raise ValueError(f"{with_one} has seen a reference, and {without} none; both must, or neither")
        self._measures = ours.add(theirs)
        return self

    def result(self) -> Evaluation:
        """Return the means over everything so far.

        Returns
        -------
        Evaluation
            As from :func:`evaluate`.
        """
        return make_evaluation(self._measures, self.topk)

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
