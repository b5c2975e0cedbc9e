"""Multinomial logistic regression on Dask arrays, frames and delayed partitions, and evaluation of logits.

The solvers run where the estimator is; only sums over rows are left to Dask. What is given to one call is planned
together, so that what X, y and the weights have in common is computed once, and rows stay together.

On a cluster, one evaluation is one round: the coefficients are sent to every worker once, one task for each thread
takes them through the rows that are there, and what these return is added up so exactly that the result does not depend
on the number of workers or on who was first. Partitions stay where they are. Without a client, Dask's present scheduler
computes the partitions, all in one call, and they are summed in this process.

Needs the extra ``dask``; nothing else in xent imports Dask.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
from collections.abc import Sequence
from typing import Any

import dask
import dask.array
import numpy as np
from dask._task_spec import DataNode, List, Task, TaskRef
from numpy.typing import ArrayLike, NDArray

import xent.logistic
from xent._calls.scalars import check_integer, check_positive_integer
from xent._estimator import parameters as check
from xent._estimator.checkpoint import Checkpoint
from xent._estimator.partitions import FitData
from xent._estimator.progress import Callback
from xent._fit.strategy import SOLVERS
from xent.dask import partitions, tasks
from xent.dask.partitions import Partitions, is_partitioned
from xent.dask.rounds import FAN_IN, Cluster, Engine, Timing, present_client
from xent.dask.sums import cluster_rows, local_rows, reread_rows
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
        y : dask array, series or sequence of Delayed, or array_like
            Labels, or distributions in an array or dataframe of shape (n_samples, n_classes). Rows are matched by
            position: where pandas indexes are there, they must be equal. Partitions may be others than those of `X`;
            their lengths are computed then, if they are not known.
        sample_weight : dask array, series or sequence of Delayed, or array_like, optional
        classes : array_like, optional
            All labels that may come; if not given, those that are found.
        persist : bool, default True
            Keep the partitions in the memory of the workers (which puts on disk what is too much for it). If False,
            every evaluation computes them again, each source once, and forgets them as it goes. The data must then
            come out the same each time: random rows do not, and the fit would be to none of them. Other numbers of
            rows, labels or weights in a partition are an error; other features are not noticed.
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

        Notes
        -----
        What X, y and the weights have in common is computed once, so that columns of one dataframe stay together
        whatever made it: random numbers, or a merge or `sort_values`, after which rows have no fixed order. Arrays
        (`values`, `to_dask_array`) and Delayed that were made of such columns one by one have lost that; give the
        columns themselves, or persist the dataframe first.
        """
        check.parameters(self, SOLVERS)
        if check_integer("retries", retries) < 0:
            raise ValueError(f"retries is {retries}; it must be at least 0")
        check_positive_integer("checkpoint_every", checkpoint_every)
        state = None
        if checkpoint is not None:
            problem = {"C": float(self.C), "penalty": self.penalty, "fit_intercept": bool(self.fit_intercept)}
            state = Checkpoint(checkpoint, checkpoint_every, problem)
        if not is_partitioned(X):
            if classes is not None:
                raise ValueError("classes is for partitions; it must be None if X is an array")
            return self._fit(self._validate(X, *_computed(X, y, sample_weight)), callback, state)
        known = None if classes is None else check.given_classes(classes)
        engine = _engine(retries)

        def rows_of(data: Partitions) -> FitData:
            if not persist:
                return reread_rows(engine, data, known, self.class_weight, self._n_threads() or 1)
            if isinstance(engine, Cluster):
                return cluster_rows(engine, data, known, self.class_weight, self._n_threads() or 1)
            return local_rows(engine, data, known, self.class_weight, self._n_threads())

        rows = partitions.matched(_given(X, y, sample_weight), engine, persist, rows_of)
        self._fit(rows, callback, state)
        if isinstance(engine, Cluster):
            self.timing_ = engine.timing()
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
            As in `fit`. Labels that are none of the classes count as wrong.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value: labels that `fit` would refuse, such as NaN or fractions,
            and labels of another kind than the classes, among them. The message names the partition.
        """
        if not is_partitioned(X):
            return super().score(X, *_computed(X, y, sample_weight))
        model, engine = self._local(), _engine()
        key = f"xent-model-{secrets.token_hex(6)}"

        def sums_of(data: Partitions) -> list[tuple[float, float]]:
            graph, keys = data.tasks("score", tasks.right, [TaskRef(key)] * len(data), data.places())
            graph[key] = DataNode(key, model)
            return engine.compute(graph, keys)

        sums = partitions.matched(_given(X, y, sample_weight), engine, False, sums_of)
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
        if not is_partitioned(X):
            return getattr(super(), method)(X)
        model = self._local()
        wide = method != "predict" and not (method == "decision_function" and len(self.classes_) == 2)
        columns = (len(self.classes_),) if wide else ()
        dtype = self.classes_.dtype if method == "predict" else self.coef_.dtype
        if isinstance(X, dask.array.Array):
            (X,) = partitions.collections_of("X", X)
            dtype = dtype if method == "predict" else np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
            shape = {"chunks": (X.chunks[0], columns)} if wide else {"drop_axis": 1}
            meta = np.empty((0, *columns), dtype)
            given = dask.delayed(model, traverse=False)
            return X.map_blocks(_call, given, method, columns, dtype, dtype=dtype, meta=meta, **shape)
        meta = np.empty((0,) * (1 + len(columns)), dtype)
        return partitions.mapped(X, _call, model, method, columns, dtype, columns=columns, meta=meta)


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
    logits : dask array or dataframe
    target : dask array or series, or array_like
        Labels, of the shape of `logits` without `axis`. Rows are matched as in `LogisticRegression.fit`.
    topk, axis, ignore_index
        As in :func:`xent.evaluate`.
    sample_weight : dask array or series, or array_like, optional
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
    axis = check_integer("axis", axis)
    ndim = getattr(logits, "ndim", 0)
    if not (isinstance(logits, dask.array.Array) or partitions.is_frame(logits)) or not -ndim <= axis < ndim:
        raise TypeError(
            f"logits is a {type(logits).__name__}; it must be a dask array or dataframe that has an axis {axis}"
        )
    empty = StreamingLoss(topk=topk, axis=-1, ignore_index=ignore_index, n_threads=1)
    engine, total = _engine(), f"xent-evaluation-{secrets.token_hex(6)}"

    def stream_of(data: Partitions) -> StreamingLoss:
        graph, keys = data.tasks("evaluate", tasks.evaluated, [empty] * len(data), data.places())
        level = keys
        while len(level) > 1:
            several = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            added = [
                Task(f"{total}-{len(level)}-{i}", tasks.merged, List(*map(TaskRef, some)))
                for i, some in enumerate(several)
            ]
            graph.update((task.key, task) for task in added)
            level = [task.key for task in added]
        (stream,) = engine.compute(graph, keys, level)
        return stream   # type: ignore[no-any-return]

    data = _classes_last(logits, axis, {"target": target, "sample_weight": sample_weight})
    return partitions.matched(data, engine, False, stream_of).result()


# --- what is given ---------------------------------------------------------------------------------------------------


def _engine(retries: int = 0) -> Engine:
    client = present_client()
    return Engine() if client is None else Cluster(client, retries)


def _given(X: Any, y: Any, sample_weight: Any) -> Partitions:
    if y is None and (sample_weight is not None or partitions.is_frame(X) or isinstance(X, dask.array.Array)):
        raise ValueError("requires y to be passed, but the target y is None: it must hold one label per row of X")
    if isinstance(sample_weight, int | float) or getattr(sample_weight, "ndim", 1) == 0:
        raise ValueError(f"sample_weight is {sample_weight!r}; it must have a value for each row of X")
    return partitions.plan({"X": X, "y": partitions.labels(y), "sample_weight": sample_weight})


def _computed(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Labels and weights for an X in memory, computed together."""
    if not any(map(is_partitioned, (y, sample_weight))):
        return y, sample_weight
    y, sample_weight = dask.compute(y, sample_weight)
    tasks.same_index("", ("X", "y", "sample_weight"), (X, y, sample_weight))
    return y, sample_weight


def _classes_last(logits: Any, axis: int, columns: dict[str, Any]) -> Partitions:
    """Logits in blocks with all classes, these in the last axis, and of the other columns the same blocks.

    Of more axes than one for the rows only the first may have blocks that are not known, or are others: the blocks
    along it are taken one after the other for each place in the others.
    """
    columns = {name: value for name, value in columns.items() if value is not None}
    if logits.ndim < 3:
        if isinstance(logits, dask.array.Array):
            logits = dask.array.moveaxis(logits, axis, -1).rechunk({logits.ndim - 1: -1})
        elif axis % logits.ndim == 0:
            raise ValueError("axis is 0; it must be -1 or 1, the columns, of a dask dataframe")
        return partitions.plan({"logits": logits, **columns})
    logits = dask.array.moveaxis(logits, axis, -1)
    inner = logits.chunks[1:-1]
    logits = logits.rechunk({logits.ndim - 1: -1})
    given = {"logits": _slabs(logits)}
    for name, value in columns.items():
        array = value if isinstance(value, dask.array.Array) else dask.array.from_array(np.asarray(value), chunks=-1)
        if array.ndim != logits.ndim - 1 or array.shape[1:] != logits.shape[1:-1]:
            raise ValueError(f"{name} has shape {array.shape}; it must have shape {logits.shape[:-1]}")
        given[name] = _slabs(array.rechunk({i + 1: chunks for i, chunks in enumerate(inner)}))
    return partitions.plan_collections(given)


def _slabs(array: Any) -> list[Any]:
    """Arrays that are cut along the first axis only, one for each place of blocks along the others."""
    return [array.blocks[(slice(None), *place)] for place in itertools.product(*map(range, array.numblocks[1:]))]


def _call(X: Any, model: Any, method: str, columns: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if tasks.length("X", X) == 0:
        return np.empty((0, *columns), dtype)
    result: Array = getattr(model, method)(X)
    return result.astype(dtype, copy=False)
