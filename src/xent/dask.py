"""Multinomial logistic regression on Dask arrays, frames and delayed partitions, and evaluation of logits.

The solvers run where the estimator is; only sums over rows are left to the cluster. One evaluation is one round: the
coefficients are sent to every worker once, one task for each thread takes them through the rows that are there, and
what these return is added up so exactly that the result does not depend on the number of workers or on who was first.
Partitions stay where they are. Without a client, partitions are loaded by Dask's present scheduler and summed in this
process.

Needs the extra ``dask``; nothing else in xent imports Dask.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import dask
import dask.array
import numpy as np
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray

import xent.logistic
from xent import _estimator_arguments as check
from xent import parts
from xent._arguments import integer, positive_integer
from xent._checkpoint import Checkpoint
from xent._dask_rounds import FAN_IN, Cluster, Timing, present_client
from xent._dask_sums import cluster_rows, local_rows
from xent._dask_tasks import load
from xent._progress import Callback
from xent.evaluation import Evaluation, StreamingLoss

Array = NDArray[Any]

__all__ = ["LogisticRegression", "Timing", "evaluate"]


class LogisticRegression(xent.logistic.LogisticRegression):
    """Multinomial logistic regression on the cluster that has the data.

    The parameters, the attributes and the answer are those of :class:`xent.LogisticRegression`, and so is the solver.
    `n_jobs` is the number of threads in each task, 1 if it is None, since workers run tasks side by side.

    Attributes
    ----------
    timing_ : Timing
        What the evaluations of the last fit on a cluster took, and the share of the scheduler.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> X, y = xent.datasets.load_digits()
    >>> X, y = da.from_array(X, chunks=(500, 64)), da.from_array(y, chunks=500)
    >>> model = xent.dask.LogisticRegression().fit(X, y)
    >>> model.predict_proba(X).shape, model.score(X, y) > 0.9
    ((1797, 10), True)
    """

    timing_: Timing

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        classes: ArrayLike | None = None,
        persist: bool = True,
        retries: int = 2,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        callback: Callback | None = None,
    ) -> LogisticRegression:
        """Fit the coefficients.

        Parameters
        ----------
        X : dask array or dataframe of shape (n_samples, n_features), or sequence of Delayed
            Features, in partitions of rows, of any sizes, known or not; blocks of arrays may be sparse. Delayed
            partitions are of X, or of tuples (X, y) or (X, y, sample_weight), with `y` None. Other types are fitted
            as :class:`xent.LogisticRegression` does it.
        y : dask array, series or sequence of Delayed
            Labels, or distributions in an array of shape (n_samples, n_classes), in as many partitions.
        sample_weight : dask array, series or sequence of Delayed, optional
        classes : array_like, optional
            All labels that may come; if not given, those that are found.
        persist : bool, default True
            Keep the partitions in the memory of the workers (which puts on disk what is too much for it). If False,
            every evaluation reads them again, and each is forgotten as soon as it has been read.
        retries : int, default 2
            How often a partition that cannot be read is tried again.
        checkpoint : path-like, optional
            A file in which to save the coefficients every `checkpoint_every` iterations and at the end, whole or not
            at all. If the file is there when a fit begins, the fit goes on from it; iterations since are lost, and what
            the solver had learned from its last steps is learned again.
        checkpoint_every : int, default 10
        callback : callable, optional
            As in :meth:`xent.LogisticRegression.fit`.

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value; the message names the partition.
        RuntimeError
            If a partition cannot be read or computed; the message names it, and the cause is the error.
        """
        check.parameters(self, xent.logistic.SOLVERS)
        if integer("retries", retries) < 0:
            raise ValueError(f"retries is {retries}; it must be at least 0")
        positive_integer("checkpoint_every", checkpoint_every)
        state = None
        if checkpoint is not None:
            problem = {"C": float(self.C), "penalty": self.penalty, "fit_intercept": bool(self.fit_intercept)}
            state = Checkpoint(checkpoint, checkpoint_every, problem)
        if not _is_partitioned(X):
            if classes is not None:
                raise ValueError("classes is for partitions; it must be None if X is an array")
            return self._fit(self._rows(X, y, sample_weight), callback, state)
        known = None if classes is None else check.given_classes(classes)
        loads = [load(i, *p) for i, p in enumerate(_partitions(X, y, sample_weight))]
        client = present_client()
        if client is None:
            return self._fit(local_rows(loads, known, self.class_weight, persist, self._n_threads()), callback, state)
        cluster = Cluster(client, retries)
        rows = cluster_rows(cluster, loads, known, self.class_weight, persist, self._n_threads() or 1)
        self._fit(rows, callback, state)
        self.timing_ = cluster.timing()
        if self.verbose:
            print(f"{self.timing_.rounds} rounds, {self.timing_.scheduling:.0%} of their time not computing")
        return self

    def decision_function(self, X: Any) -> Any:
        """Logits: a dask array, of an unknown number of rows if that of `X` is not known.

        Parameters
        ----------
        X : dask array or dataframe of shape (n_samples, n_features), or sequence of Delayed
            Anything else is computed with at once, as by :class:`xent.LogisticRegression`.

        Returns
        -------
        dask array of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        return self._mapped("decision_function", X)

    def predict(self, X: Any) -> Any:
        """The most probable label of each row: a dask array; see `decision_function`."""
        return self._mapped("predict", X)

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class: a dask array; see `decision_function`."""
        return self._mapped("predict_proba", X)

    def predict_log_proba(self, X: Any) -> Any:
        """The exact logarithms of the probabilities: a dask array; see `decision_function`."""
        return self._mapped("predict_log_proba", X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The share of rows whose label is predicted, by weight: computed at once.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        float
        """
        if not _is_partitioned(X):
            return super().score(X, y, sample_weight)
        model = dask.delayed(self._local(), traverse=False)
        task = dask.delayed(_right, pure=False)
        sums = dask.compute(*(task(model, load(i, *p)) for i, p in enumerate(_partitions(X, y, sample_weight))))
        right, weight = (math.fsum(column) for column in zip(*sums, strict=True))
        if not weight > 0:
            raise ValueError("sample_weight is 0 for every sample; their mean would be 0 / 0")
        return right / weight

    def _local(self) -> xent.logistic.LogisticRegression:
        """The estimator for one machine, as tasks take it."""
        self._check_fitted()
        model = xent.logistic.LogisticRegression()
        model.__dict__.update(self.__dict__, n_jobs=self._n_threads() or 1, _curvature=None)
        return model

    def _mapped(self, method: str, X: Any) -> Any:
        if not _is_partitioned(X):
            return getattr(super(), method)(X)
        model = self._local()
        wide = method != "predict" and not (method == "decision_function" and len(self.classes_) == 2)
        columns = (len(self.classes_),) if wide else ()
        dtype = self.classes_.dtype if method == "predict" else self.coef_.dtype
        given = dask.delayed(model, traverse=False)
        if isinstance(X, dask.array.Array):
            X = _whole_rows(X)
            dtype = dtype if method == "predict" else np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
            shape = {"chunks": (X.chunks[0], columns)} if wide else {"drop_axis": 1}
            meta = np.empty((0, *columns), dtype)
            return X.map_blocks(_call, given, method, columns, dtype, dtype=dtype, meta=meta, **shape)
        task = dask.delayed(_call, pure=False)
        return dask.array.concatenate(
            [
                dask.array.from_delayed(task(x, given, method, columns, dtype), (math.nan, *columns), dtype)
                for x in _delayed("X", X)
            ]
        )


def evaluate(
    logits: Any,
    target: Any,
    *,
    topk: int | Sequence[int] = (1, 5),
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int = -100,
) -> Evaluation:
    """Loss, accuracy, top-k accuracy, perplexity and entropy of logits in a dask array, in one pass.

    Parameters
    ----------
    logits : dask array
    target : dask array
        Labels, of the shape of `logits` without `axis`.
    topk, axis, ignore_index
        As in :func:`xent.evaluate`.
    sample_weight : dask array, optional
        Of the shape of `target`.

    Returns
    -------
    Evaluation
        That of :func:`xent.evaluate` on all of it, to the last bit.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> logits = da.from_array([[2.0, 4.0, 0.5], [1.0, 0.0, 3.0]], chunks=(1, 3))
    >>> xent.dask.evaluate(logits, da.from_array([1, 0], chunks=1)).accuracy
    0.5
    """
    axis = integer("axis", axis)
    if not isinstance(logits, dask.array.Array) or not -logits.ndim <= axis < logits.ndim:
        raise TypeError(f"logits is a {type(logits).__name__}; it must be a dask array that has an axis {axis}")
    empty = StreamingLoss(topk=topk, axis=axis, ignore_index=ignore_index, n_threads=1)
    logits = logits.rechunk({axis % logits.ndim: -1})
    chunks = tuple(c for i, c in enumerate(logits.chunks) if i != axis % logits.ndim)
    columns = [logits.to_delayed().ravel()]
    for name, value in (("target", target), ("sample_weight", sample_weight)):
        if value is not None:
            columns.append(_like(name, value, "logits", chunks).to_delayed().ravel())
    task, merge = dask.delayed(_evaluated, pure=False), dask.delayed(_merged, pure=False)
    level = [task(empty, *block) for block in zip(*columns, strict=True)]
    while len(level) > 1:
        level = [merge(level[i : i + FAN_IN]) for i in range(0, len(level), FAN_IN)]
    stream: StreamingLoss = level[0].compute()
    return stream.result()


# --- what is given, as partitions ------------------------------------------------------------------------------------


def _is_partitioned(X: Any) -> bool:
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(x, Delayed) for x in X)
    return bool(dask.is_dask_collection(X))


def _whole_rows(X: Any) -> Any:
    return X.rechunk({1: -1}) if isinstance(X, dask.array.Array) and X.numblocks[1:] > (1,) else X


def _delayed(name: str, value: Any) -> list[Delayed]:
    if isinstance(value, Delayed):
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    if not hasattr(value, "to_delayed"):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a dask array, frame or series, or be Delayed")
    return list(np.asarray(_whole_rows(value).to_delayed(), object).ravel())


def _like(name: str, value: Any, other: str, chunks: tuple[Any, ...]) -> Any:
    """An array in the blocks of another one."""
    known = not any(math.isnan(length) for axis in chunks for length in axis)
    if isinstance(value, dask.array.Array):
        if value.chunks[: len(chunks)] == chunks:
            return value
        if known and not any(math.isnan(length) for axis in value.chunks for length in axis):
            lengths = [sum(axis) for axis in chunks]
            if [sum(axis) for axis in value.chunks[: len(chunks)]] != lengths:
                raise ValueError(f"{name} has shape {value.shape}; it must have {lengths} rows, as {other}")
            return value.rechunk((*chunks, *((-1,) * (value.ndim - len(chunks)))))
        if value.numblocks[: len(chunks)] != tuple(len(axis) for axis in chunks):
            raise ValueError(
                f"{name} has {value.numblocks} blocks, but {other} has {tuple(len(axis) for axis in chunks)}, of "
                "unknown sizes; compute_chunk_sizes() of both finds them"
            )
        return value
    if known and not dask.is_dask_collection(value) and np.ndim(value) >= len(chunks):
        array = dask.array.from_array(np.asarray(value), chunks=-1)
        return _like(name, array, other, chunks)
    raise TypeError(f"{name} is a {type(value).__name__}; it must be a dask array, in the blocks of {other}")


def _partitions(X: Any, y: Any, sample_weight: Any) -> list[tuple[Delayed, ...]]:
    """Of each partition: X, y and, if given, sample_weight; or one Delayed that has them all."""
    columns = [_delayed("X", X)]
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is None:
            continue
        if isinstance(X, dask.array.Array) and not isinstance(value, list | tuple) and not hasattr(value, "divisions"):
            value = _like(name, value, "X", (X.chunks[0],))
        columns.append(_delayed(name, value))
        if len(columns[-1]) != len(columns[0]):
            raise ValueError(f"{name} has {len(columns[-1])} partitions, but X has {len(columns[0])}; they must match")
    if y is None and (sample_weight is not None or not isinstance(X, list | tuple)):
        raise ValueError("requires y to be passed, but the target y is None: it must be labels, one a row of X")
    return list(zip(*columns, strict=True))


# --- what tasks do ---------------------------------------------------------------------------------------------------


def _call(X: Any, model: Any, method: str, columns: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if X.shape[0] == 0:
        return np.empty((0, *columns), dtype)
    result: Array = getattr(model, method)(X)
    return result.astype(dtype, copy=False)


def _right(model: Any, part: parts.Part | None) -> tuple[float, float]:
    """The weight of the rows whose label is predicted, and of all rows."""
    if part is None or not part.weight.any():
        return 0.0, 0.0
    weight = float(part.weight.sum())
    with parts.named(part.place):
        X = part.X
        if part.names is not None:
            X = parts.Named(X, list(part.names))
        return model.score(X, part.y, part.weight) * weight, weight


def _evaluated(empty: StreamingLoss, logits: Any, target: Any, sample_weight: Any = None) -> StreamingLoss:
    stream = StreamingLoss(topk=empty.topk, axis=empty.axis, ignore_index=empty.ignore_index, n_threads=1)
    return stream.update(logits, target, sample_weight=sample_weight)


def _merged(streams: Sequence[StreamingLoss]) -> StreamingLoss:
    first = streams[0]
    total = StreamingLoss(topk=first.topk, axis=first.axis, ignore_index=first.ignore_index, n_threads=1)
    for stream in streams:
        total.merge(stream)
    return total
