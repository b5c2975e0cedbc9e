"""Prediction by a linear classifier: logits, probabilities, labels and scores.

Rows are processed in blocks, so that memory beyond the result is needed for one block only. Where rows come in
partitions, each of these is read once, and the results are concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import to_floats
from xent._calls.scalars import check_n_jobs
from xent._estimator.features import Columns, MatrixLike, check_features, check_same_columns
from xent._estimator.labels import encode_labels, to_distribution, to_target
from xent._estimator.partitions import NO_ROWS, Partition, PartitionSource, prefix_errors
from xent._estimator.sklearn_protocol import Estimator, shared
from xent._estimator.weights import to_row_weights
from xent._fit.logits import compute_probabilities, logit_blocks

Array = NDArray[Any]


class NotFittedError(ValueError, AttributeError):
    """An estimator was used before it was fitted. Where scikit-learn has been imported, this also is its error."""


class LinearClassifier(Estimator):
    """A fitted linear classifier: base class with the methods for prediction."""

    n_jobs: int | None

    classes_: Array
    coef_: Array
    intercept_: Array
    n_features_in_: int
    feature_names_in_: Array

    def decision_function(self, X: MatrixLike | PartitionSource) -> Array:
        """Logits: ``X @ coef_.T + intercept_``.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the logit of the second, that of the first being 0.
        """
        result = self._map_rows(compute_all_logits, X)
        return result[:, 0] if len(self.classes_) == 2 else result

    def predict(self, X: MatrixLike | PartitionSource) -> Array:
        """The most probable label of each row.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        indices = self._map_rows(predict_indices, X)
        labels: Array = np.asarray(self.classes_)[indices]
        return labels

    def predict_proba(self, X: MatrixLike | PartitionSource) -> Array:
        """The probability of each class, in the order of `classes_`.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._map_rows(partial(compute_probabilities, log=False, n_threads=self._n_threads()), X)

    def predict_log_proba(self, X: MatrixLike | PartitionSource) -> Array:
        """The logarithm of the probability of each class, exact where the probability itself rounds to 0 or 1.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._map_rows(partial(compute_probabilities, log=True, n_threads=self._n_threads()), X)

    def score(
        self, X: MatrixLike | PartitionSource, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """The share of rows whose label is predicted, by weight.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features), or Blocks
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels; or distributions, where a row scores its probability of the predicted label. A label that is not
            one of the classes counts as wrong. None for Blocks, which include labels and weights.
        sample_weight : array_like of shape (n_samples,), optional

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `y` cannot be labels (missing or fractional values), or has strings where the classes are numbers.
        """
        self._check_fitted()
        if isinstance(X, PartitionSource):
            check_no_labels(X, y, sample_weight)
            tallies = []
            for partition in X._read_partitions():
                tallies.append(self._tally_partition(partition, stacklevel=2))
                del partition
            return share_right(tallies)
        return share_right([self._tally(self._matrix(X, stacklevel=2), y, sample_weight, stacklevel=2)])

    def _keep_names(self, features: int, names: Array | None) -> None:
        self.n_features_in_ = features
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _n_threads(self) -> int | None:
        return check_n_jobs(self.n_jobs)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise shared(NotFittedError)(f"this {type(self).__name__} is not fitted yet; call fit first")

    def _linear(self) -> tuple[Array, Array, Array]:
        """classes_, coef_ and intercept_ with the shapes that `fit` gives them.

        Where they are set by hand, the intercept may be one number, and the coefficients of two classes one row.
        """
        classes = np.asarray(self.classes_)
        coef, intercept = to_floats("coef_", self.coef_), to_floats("intercept_", self.intercept_)
        n_rows = 1 if len(classes) == 2 else len(classes)
        if coef.ndim == 1 and n_rows == 1:
            coef = coef[None, :]
        if intercept.ndim == 0:
            intercept = np.broadcast_to(intercept, (n_rows,))
        if coef.ndim != 2 or len(coef) != n_rows:
            allowed = "(1, n_features) or (n_features,)" if n_rows == 1 else f"({n_rows}, n_features)"
            raise ValueError(f"coef_ has shape {coef.shape}; for {len(classes)} classes it must have shape {allowed}")
        if intercept.shape != (n_rows,):
            raise ValueError(
                f"intercept_ has shape {intercept.shape}; for {len(classes)} classes it must have shape ({n_rows},) or "
                "be a number"
            )
        return classes, coef, intercept

    def _check_columns(self, given: Columns, stacklevel: int) -> None:
        fitted = Columns(self._linear()[1].shape[1], getattr(self, "feature_names_in_", None))
        check_same_columns(given, fitted, type(self).__name__, stacklevel + 1)

    def _matrix(self, X: MatrixLike, stacklevel: int) -> Any:
        features = check_features("X", X)
        self._check_columns(features.columns, stacklevel + 1)
        return features.matrix

    def _map_rows(self, function: Callable[[Any, Array, Array], Array], X: Any) -> Array:
        """function(matrix, coef, intercept) of all rows, in the order of the rows."""
        self._check_fitted()
        if not isinstance(X, PartitionSource):
            return function(self._matrix(X, stacklevel=3), *self._linear()[1:])
        results = []
        for place, features in X._read_features():
            with prefix_errors(place):
                self._check_columns(features.columns, stacklevel=3)
            results.append(function(features.matrix, *self._linear()[1:]))
            del features
        if not results:
            raise ValueError(NO_ROWS)
        return np.concatenate(results)

    def _tally_partition(self, partition: Partition | None, stacklevel: int) -> Tally | None:
        if partition is None:
            return None
        with prefix_errors(partition.place):
            self._check_columns(Columns(partition.X.shape[1], partition.names), stacklevel + 1)
            return self._tally(partition.X, partition.y, partition.weight, stacklevel + 1)

    def _tally(self, matrix: Any, y: Any, sample_weight: Any, stacklevel: int) -> Tally:
        classes, coef, intercept = self._linear()
        target = to_target("y", y)
        soft = to_distribution("y", target, matrix.shape[0])
        if soft is None:
            places = encode_labels("y", target, matrix.shape[0], classes, stacklevel + 1)
        elif soft.shape[1] != len(classes):
            raise ValueError(f"y has {soft.shape[1]} columns; it must have one for each class, {len(classes)}")
        indices = predict_indices(matrix, coef, intercept)
        right = places == indices if soft is None else soft[np.arange(len(indices)), indices]
        weight = to_row_weights(sample_weight, len(indices))
        exponent = int(np.frexp(weight.max())[1])
        weight = np.ldexp(weight, -exponent)      # a sum of any weights fits then
        return Tally(float((right * weight).sum()), float(weight.sum()), exponent)


class Tally(NamedTuple):
    """The weight of the rows whose label is predicted, and that of all rows, in units of 2**exponent."""

    right: float
    total: float
    exponent: int


def share_right(tallies: Iterable[Tally | None]) -> float:
    """The share of all rows whose label is predicted; None is the tally of a partition without rows."""
    present = [tally for tally in tallies if tally is not None]
    if not present:
        raise ValueError(NO_ROWS)
    filled = [tally for tally in present if tally.total > 0]
    if not filled:
        raise ValueError("sample_weight is 0 for every sample; at least one must be greater than 0")
    largest = max(tally.exponent for tally in filled)
    right = math.fsum(math.ldexp(tally.right, tally.exponent - largest) for tally in filled)
    return right / math.fsum(math.ldexp(tally.total, tally.exponent - largest) for tally in filled)


def check_no_labels(X: object, y: object, sample_weight: object) -> None:
    if y is not None or sample_weight is not None:
        raise ValueError(f"X is a {type(X).__name__}, which includes y and sample_weight; both must be None")


def compute_all_logits(X: Any, coef: Array, intercept: Array) -> Array:
    """The logits of each row, of shape (n, n_coef_rows)."""
    result = np.empty((X.shape[0], len(coef)), X.dtype)
    for block, logits in logit_blocks(X, coef, intercept):
        result[block] = logits
    return result


def predict_indices(X: Any, coef: Array, intercept: Array) -> NDArray[np.intp]:
    """The index of the most probable class of each row."""
    result = np.empty(X.shape[0], np.intp)
    for block, logits in logit_blocks(X, coef, intercept):
        result[block] = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return result
