"""Logistic regression on Dask collections: the solver runs here, the sums over rows on the cluster.

The docstring of `xent.dask` follows a fit through the files of this package.
"""

from __future__ import annotations

import math
import os
import secrets
import warnings
from collections.abc import Sequence
from typing import Any

import dask
import dask.array
import numpy as np
from dask._task_spec import DataNode, TaskRef
from numpy.typing import ArrayLike, NDArray

import xent.logistic
from xent._calls.scalars import check_integer, check_positive_integer
from xent._estimator.checkpoint import Checkpoint
from xent._estimator.labels import check_classes
from xent._estimator.parameters import check_parameters, penalty_strength
from xent._estimator.partitions import FitData
from xent._estimator.progress import Callback
from xent._estimator.sklearn_protocol import DataConversionWarning, shared
from xent._fit.strategy import SOLVERS
from xent.dask import tasks
from xent.dask.partitions import (
    Partitions,
    build_partitions,
    is_frame,
    is_partitioned,
    map_partitions,
    to_collections,
    use_aligned,
)
from xent.dask.rounds import Cluster, Timing, present_engine
from xent.dask.sums import cluster_rows, local_rows, reread_rows

Array = NDArray[Any]


class LogisticRegression(xent.logistic.LogisticRegression):
    """Multinomial logistic regression on the cluster that holds the data.

    Parameters, attributes, solvers and results are those of :class:`xent.LogisticRegression`. `n_jobs` is the number of
    threads in each task; None means 1, because workers run several tasks at a time.

    Attributes
    ----------
    timing_ : Timing
        The time of the evaluations of the last fit on a cluster, and the share spent on scheduling.

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
            Features, partitioned by rows; partition lengths may be unknown, and blocks of arrays may be sparse. A
            Delayed partition is X or, if `y` is None, a tuple (X, y) or (X, y, sample_weight). Other types are fitted
            as by :class:`xent.LogisticRegression`.
        y : dask array, series or sequence of Delayed, or array_like
            Labels; or distributions, in an array or dataframe of shape (n_samples, n_classes). Rows are matched by
            position; if both have pandas indexes, these must be equal. If the partitions differ from those of `X`,
            unknown lengths are computed.
        sample_weight : dask array, series or sequence of Delayed, or array_like, optional
        classes : array_like, optional
            All labels that may occur; if not given, those found in the data.
        persist : bool, default True
            Keep the partitions in the memory of the workers (which spill to disk what does not fit). If False, every
            evaluation computes them again and keeps none. They must then be the same each time; unseeded random rows
            are not. A change in the number of rows, the labels or the weights of a partition raises an error; a change
            in the features is not noticed.
        retries : int, default 2
            How often a failed read of a partition is retried.
        checkpoint : path-like, optional
            A file for the coefficients, replaced atomically every `checkpoint_every` iterations and at the end. If it
            exists when a fit begins, the fit continues from it. Iterations after the last write, and the solver's
            memory of its last steps, are lost.
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
        X, y and the weights are computed together, so what they share is computed once. Columns of one dataframe thus
        stay aligned even if it is random, or comes from a merge or `sort_values`, which leave rows in no fixed order.
        Arrays (`values`, `to_dask_array`) or Delayed made from such columns one by one do not: pass the columns
        themselves, or persist the dataframe first.
        """
        check_parameters(self, SOLVERS)
        if check_integer("retries", retries) < 0:
            raise ValueError(f"retries is {retries}; it must be at least 0")
        check_positive_integer("checkpoint_every", checkpoint_every)
        state = None
        if checkpoint is not None:
            strength, l1_ratio = penalty_strength(self)
            problem = {"1 / C": strength, "l1_ratio": l1_ratio, "fit_intercept": bool(self.fit_intercept)}
            state = Checkpoint(checkpoint, checkpoint_every, problem)
        if not is_partitioned(X):
            if classes is not None:
                raise ValueError("classes must be None if X is in memory; it is only for X in partitions")
            return self._fit(self._validate(X, *_compute_labels(X, y, sample_weight)), callback, state)
        known = None if classes is None else check_classes(classes)
        engine = present_engine(retries)

        def make_fit_data(partitions: Partitions) -> FitData:
            if not persist:
                return reread_rows(engine, partitions, known, self.class_weight, self._n_threads() or 1)
            if isinstance(engine, Cluster):
                return cluster_rows(engine, partitions, known, self.class_weight, self._n_threads() or 1)
            return local_rows(engine, partitions, known, self.class_weight, self._n_threads())

        data = use_aligned(_build_partitions(X, y, sample_weight), engine, persist, make_fit_data)
        self._fit(data, callback, state)
        if isinstance(engine, Cluster):
            self.timing_ = engine.timing()
            if self.verbose:
                computing = 1 - self.timing_.scheduling
                print(f"{self.timing_.rounds} rounds; threads computed for {computing:.0%} of the time")
        return self

    def decision_function(self, X: Any) -> Any:
        """Logits, as a dask array; its number of rows is unknown if that of `X` is.

        Parameters
        ----------
        X : dask array or dataframe of shape (n_samples, n_features), or sequence of Delayed
            Other types are computed at once, as by :class:`xent.LogisticRegression`.

        Returns
        -------
        dask array of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        return self._map("decision_function", X)

    def predict(self, X: Any) -> Any:
        """The most probable label of each row, as a dask array; see `decision_function`."""
        return self._map("predict", X)

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, as a dask array; see `decision_function`."""
        return self._map("predict_proba", X)

    def predict_log_proba(self, X: Any) -> Any:
        """The exact logarithms of the probabilities, as a dask array; see `decision_function`."""
        return self._map("predict_log_proba", X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The share of rows whose label is predicted, by weight; computed at once.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. Labels that are not among the classes count as wrong.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, shape or value, or if labels are NaN, fractions or of another kind than the
            classes. The message names the partition.
        """
        if not is_partitioned(X):
            return super().score(X, *_compute_labels(X, y, sample_weight))
        model, engine = self._to_local(), present_engine()
        key = f"xent-model-{secrets.token_hex(6)}"

        def count_right(partitions: Partitions) -> list[tuple[float, float]]:
            models = [TaskRef(key)] * len(partitions)
            graph, keys = partitions.add_tasks("score", tasks.count_right, models, partitions.places())
            graph[key] = DataNode(key, model)
            return engine.compute(graph, keys)

        counts = use_aligned(_build_partitions(X, y, sample_weight), engine, False, count_right)
        right, weight = (math.fsum(column) for column in zip(*counts, strict=True))
        if not weight > 0:
            raise ValueError("sample_weight is 0 for every sample; at least one must be greater than 0")
        return right / weight

    def _to_local(self) -> xent.logistic.LogisticRegression:
        """The same model as an estimator for one machine, for tasks."""
        self._check_fitted()
        model = xent.logistic.LogisticRegression()
        model.__dict__.update(self.__dict__, n_jobs=self._n_threads() or 1, _curvature=None)
        return model

    def _map(self, method: str, X: Any) -> Any:
        if not is_partitioned(X):
            return getattr(super(), method)(X)
        model = self._to_local()
        wide = method != "predict" and not (method == "decision_function" and len(self.classes_) == 2)
        columns = (len(self.classes_),) if wide else ()
        dtype = self.classes_.dtype if method == "predict" else self.coef_.dtype
        if isinstance(X, dask.array.Array):
            (X,) = to_collections("X", X)
            dtype = dtype if method == "predict" else np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
            shape = {"chunks": (X.chunks[0], columns)} if wide else {"drop_axis": 1}
            meta = np.empty((0, *columns), dtype)
            given = dask.delayed(model, traverse=False)
            return X.map_blocks(_predict_block, given, method, columns, dtype, dtype=dtype, meta=meta, **shape)
        meta = np.empty((0,) * (1 + len(columns)), dtype)
        return map_partitions(X, _predict_block, model, method, columns, dtype, columns=columns, meta=meta)


def _predict_block(X: Any, model: Any, method: str, columns: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if tasks.count_rows("X", X) == 0:
        return np.empty((0, *columns), dtype)
    result: Array = getattr(model, method)(X)
    return result.astype(dtype, copy=False)


# --- X, y and weights ------------------------------------------------------------------------------------------------


def _build_partitions(X: Any, y: Any, sample_weight: Any) -> Partitions:
    if y is None and (sample_weight is not None or is_frame(X) or isinstance(X, dask.array.Array)):
        raise ValueError("requires y to be passed, but the target y is None: it must hold one label per row of X")
    if isinstance(sample_weight, int | float) or getattr(sample_weight, "ndim", 1) == 0:
        raise ValueError(f"sample_weight is {sample_weight!r}; it must have a value for each row of X")
    return build_partitions({"X": X, "y": _to_column(y), "sample_weight": sample_weight})


def _to_column(y: Any) -> Any:
    """A table of one column as that column, with scikit-learn's warning."""
    if is_partitioned(y) and not (is_frame(y) or isinstance(y, dask.array.Array)):
        return y    # Delayed
    shape: Sequence[Any] = getattr(y, "shape", ())
    if len(shape) != 2 or shape[1] != 1:
        return y
    message = "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,)"
    warnings.warn(message, shared(DataConversionWarning), stacklevel=4)
    return y.iloc[:, 0] if hasattr(y, "iloc") else y[:, 0]


def _compute_labels(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Labels and weights in memory, as an X in memory needs them; computed together."""
    if not any(map(is_partitioned, (y, sample_weight))):
        return y, sample_weight
    y, sample_weight = dask.compute(y, sample_weight)
    tasks.check_indexes("", tasks.COLUMNS, (X, y, sample_weight))
    return y, sample_weight
