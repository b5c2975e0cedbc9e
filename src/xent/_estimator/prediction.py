"""Prediction by a linear classifier: logits, probabilities, labels and scores.

Rows are processed in blocks, so that memory beyond the result is needed for one block only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import to_floats
from xent._calls.scalars import check_n_jobs
from xent._estimator.features import Features, MatrixLike, check_features, check_same_features
from xent._estimator.labels import encode_labels, to_distribution, to_target
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

    def decision_function(self, X: MatrixLike) -> Array:
        """Logits: X @ coef_.T + intercept_.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the logit of the second, that of the first being 0.
        """
        matrix = self._matrix(X)
        classes, coef, intercept = self._linear()
        result = np.empty((matrix.shape[0], len(coef)), matrix.dtype)
        for block, logits in logit_blocks(matrix, coef, intercept):
            result[block] = logits
        return result[:, 0] if len(classes) == 2 else result

    def predict(self, X: MatrixLike) -> Array:
        """The most probable label of each row.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        matrix = self._matrix(X)
        classes, coef, intercept = self._linear()
        labels: Array = classes[predict_indices(matrix, coef, intercept)]
        return labels

    def predict_proba(self, X: MatrixLike) -> Array:
        """The probability of each class, in the order of `classes_`.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._probabilities(self._matrix(X), log=False)

    def predict_log_proba(self, X: MatrixLike) -> Array:
        """The logarithm of the probability of each class, exact where the probability itself rounds to 0 or 1.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._probabilities(self._matrix(X), log=True)

    def score(self, X: MatrixLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The share of rows whose label is predicted, by weight.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Labels; or distributions, where a row scores its probability of the predicted label. A label that is not
            one of the classes counts as wrong.
        sample_weight : array_like of shape (n_samples,), optional

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `y` cannot be labels (missing or fractional values), or has strings where the classes are numbers.
        """
        matrix = self._matrix(X)
        classes, coef, intercept = self._linear()
        target = to_target("y", y)
        soft = to_distribution("y", target, matrix.shape[0])
        if soft is None:
            places = encode_labels("y", target, matrix.shape[0], classes, stacklevel=2)
        elif soft.shape[1] != len(classes):
            raise ValueError(f"y has {soft.shape[1]} columns; it must have one for each class, {len(classes)}")
        indices = predict_indices(matrix, coef, intercept)
        right = places == indices if soft is None else soft[np.arange(len(indices)), indices]
        weight = to_row_weights(sample_weight, len(indices))
        if not weight.any():
            raise ValueError("sample_weight is 0 for every sample; at least one must be greater than 0")
        weight = np.ldexp(weight, -np.frexp(weight.max())[1])      # a sum of any weights fits then
        return float(np.average(right, weights=weight))

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

    def _check_features(self, features: Features, stacklevel: int) -> None:
        names = getattr(self, "feature_names_in_", None)
        number = self._linear()[1].shape[1]
        check_same_features(features, number, names, type(self).__name__, stacklevel + 1)

    def _matrix(self, X: MatrixLike) -> Any:
        self._check_fitted()
        features = check_features("X", X)
        self._check_features(features, stacklevel=3)
        return features.matrix

    def _probabilities(self, matrix: Any, log: bool) -> Array:
        _, coef, intercept = self._linear()
        return compute_probabilities(matrix, coef, intercept, log=log, n_threads=self._n_threads())


def predict_indices(X: Any, coef: Array, intercept: Array) -> NDArray[np.intp]:
    """The index of the most probable class of each row."""
    result = np.empty(X.shape[0], np.intp)
    for block, logits in logit_blocks(X, coef, intercept):
        result[block] = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return result
