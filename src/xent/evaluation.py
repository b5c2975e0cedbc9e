"""How good a classifier's logits are: loss, accuracy, perplexity and entropy, in one pass or batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xent import _arguments as check
from xent._dispatch import kernels
from xent._parallel import cut
from xent.losses import label_range, weigh


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns: weighted means over the rows; all nan if there are none with weight.

    Attributes
    ----------
    loss : float
        The cross-entropy, in nats.
    accuracy : float
        The share of the rows in which no logit is larger than that of the label (a tie counts for the label; NaN in a
        row against it).
    topk : dict of int to float
        For each k, the share of the rows in which fewer than k logits are larger than that of the label.
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
        For which k to count the rows whose label is among the k largest logits.
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
        For which k to count the rows whose label is among the k largest logits.
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
            If an argument has a wrong type, shape or value; nothing has been added then.
        """
        batch = check.targets("logits", logits, target, self.axis, sample_weight=sample_weight)
        check.are_labels(batch)
        options = check.Options(check.ignored_label(self.ignore_index, batch.target))
        classes = batch.logits.shape[-1]
        blocks = cut(batch.target.size, classes, self.n_threads)
        weigh(batch, options, blocks, label_range(classes, self.ignore_index))
        topk = np.array([1, *(min(k, classes) for k in self.topk)], np.int64)
        sums = np.empty((blocks.number, len(self._sums), 3))
        blocks.run(kernels.evaluate, batch, options, topk, sums)
        self._add([sums[:, i].ravel().tolist() for i in range(len(self._sums))])
        return self

    def merge(self, other: StreamingLoss) -> StreamingLoss:
        """Add what another object has seen.

        Parameters
        ----------
        other : StreamingLoss
            With the same `topk`; it stays as it is.

        Returns
        -------
        StreamingLoss
            This object.

        Raises
        ------
        TypeError, ValueError
            If `other` is something else, or its `topk` differs.
        """
        if not isinstance(other, StreamingLoss):
            raise TypeError(f"other is a {type(other).__name__}; it must be a StreamingLoss")
        if other.topk != self.topk:
            raise ValueError(f"other has topk {other.topk}; it must be {self.topk}, as here")
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
