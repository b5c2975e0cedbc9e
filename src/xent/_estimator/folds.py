"""The folds of a cross-validation: which rows a fit sees, and on which it is scored.

scikit-learn's splitters are taken as they are, by their method `split`; an integer needs no scikit-learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._calls.scalars import check_integer

Array = NDArray[Any]

DEFAULT_FOLDS = 5


class Fold(NamedTuple):
    """The indices of the rows to fit and of those to score; an index may be repeated."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]

    def count_train(self, n_rows: int) -> NDArray[np.float64]:
        """How often each row is among those to fit: its weight in the fit."""
        return np.bincount(self.train, minlength=n_rows).astype(np.float64)


def make_folds(cv: Any, X: Any, labels: Array, target: Array) -> list[Fold]:
    """The folds that `cv` asks for: a number of them (None: 5), a splitter, or pairs of indices or masks.

    Parameters
    ----------
    cv : int, None, splitter or iterable
    X : ndarray or CSR matrix of shape (n, n_features)
    labels : ndarray of shape (n,), or (n, n_classes) for distributions
        What a splitter sees as y.
    target : ndarray
        Class indices, or distributions.
    """
    n_rows = X.shape[0]
    if hasattr(cv, "split") and not isinstance(cv, str):
        pairs = cv.split(X, labels)
    elif isinstance(cv, Iterable) and not isinstance(cv, str | bytes):
        pairs = cv
    elif cv is None or hasattr(cv, "__index__"):
        return split_stratified(target, DEFAULT_FOLDS if cv is None else check_integer("cv", cv))
    else:
        raise ValueError(
            f"cv is {cv!r}; it must be an integer, a splitter with a method split, or an iterable of (train, test) "
            "pairs of indices (Expected `cv` as an integer)"
        )
    folds = [_check_fold(f"cv: fold {i}", pair, n_rows) for i, pair in enumerate(pairs)]
    if not folds:
        raise ValueError("cv has no folds; it must have at least one")
    return folds


def split_stratified(target: Array, n_folds: int) -> list[Fold]:
    """Folds in which each class has the same share as in all rows, within one row: those of scikit-learn's
    StratifiedKFold. Distributions count by their most probable class.

    Of a class with m rows, each fold tests about m / n_folds adjacent ones. How many exactly is read off the sorted
    classes, dealt out to the folds like cards, which also makes the folds equally large.
    """
    if n_folds < 2:
        raise ValueError(f"cv is {n_folds}; it must be at least 2 folds (k-fold cross-validation requires n_splits=2)")
    classes = target.argmax(axis=1) if target.ndim == 2 else target
    n_rows = len(classes)
    if n_folds > n_rows:
        raise ValueError(f"cv is {n_folds}; it must be at most the number of samples, {n_rows}")
    # Classes are numbered by their first row.
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]
    counts = np.bincount(number)
    if n_folds > counts.max():
        raise ValueError(f"cv is {n_folds}; it must be at most the number of rows of the largest class, {counts.max()}")
    if n_folds > counts.min():
        warnings.warn(
            f"the least populated class in y has only {counts.min()} members, which is less than the {n_folds} folds: "
            "some folds lack it",
            UserWarning,
            stacklevel=5,
        )
    dealt = np.sort(number)
    fold_of_row = np.empty(n_rows, np.intp)
    shares = np.stack([np.bincount(dealt[i::n_folds], minlength=len(counts)) for i in range(n_folds)])
    for k in range(len(counts)):
        fold_of_row[number == k] = np.arange(n_folds).repeat(shares[:, k])
    return [Fold(np.flatnonzero(fold_of_row != i), np.flatnonzero(fold_of_row == i)) for i in range(n_folds)]


def _check_fold(name: str, pair: Any, n_rows: int) -> Fold:
    try:
        train, test = pair
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {pair!r}; it must be a pair (train, test) of indices") from None
    return Fold(_check_rows(f"{name}: train", train, n_rows), _check_rows(f"{name}: test", test, n_rows))


def _check_rows(name: str, rows: Any, n_rows: int) -> NDArray[np.intp]:
    indices = np.asarray(rows)
    if indices.ndim != 1:
        raise ValueError(f"{name} has shape {indices.shape}; it must be a 1d array of indices or bools")
    if not len(indices):
        raise ValueError(f"{name} has no rows; it must have at least one")
    if indices.dtype.kind == "b":
        if len(indices) != n_rows:
            raise ValueError(f"{name} has {len(indices)} bools; it must have one for each row, {n_rows}")
        if not indices.any():
            raise ValueError(f"{name} has no rows; it must have at least one")
        return np.flatnonzero(indices)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {indices.dtype}; it must be integers or bools")
    good = (indices >= -n_rows) & (indices < n_rows)
    if not good.all():
        place = int(np.argmin(good))
        raise ValueError(f"{name}[{place}] is {indices[place]}; indices must be in [0, {n_rows})")
    result: NDArray[np.intp] = indices.astype(np.intp) % n_rows
    return result
