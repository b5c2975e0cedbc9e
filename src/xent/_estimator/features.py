"""X of the estimator: checks of arrays, sparse matrices and frames, and of the names of their columns.

Messages contain the words that scikit-learn's users, tools and tests look for.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import frames
from xent._calls.arrays import describe_first_bad, is_half, to_array, to_floats, widen

Array = NDArray[Any]


class _Sparse(Protocol):
    def tocsr(self) -> Any: ...


MatrixLike = ArrayLike | _Sparse
Matrix = Any    # an ndarray, or a matrix or array of scipy.sparse in CSR format


class Columns(NamedTuple):
    number: int
    names: Array | None         # dtype object; None if the columns have no names


class Features(NamedTuple):
    matrix: Matrix              # (n_samples, n_features), float32 (half precision, too) or float64, finite
    names: Array | None         # of the columns

    @property
    def columns(self) -> Columns:
        return Columns(self.matrix.shape[1], self.names)


def check_features(name: str, value: Any) -> Features:
    """Check X, (n_samples, n_features): dense in any layout, or sparse, which becomes CSR without duplicates."""
    if hasattr(value, "tocsr"):
        return Features(_check_sparse(name, value), None)
    if frames.is_lazy(value):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be in memory: use {name}.collect()")
    if frames.is_frame(value):
        return _check_frame(name, frames.without_index(value))
    return Features(_check_dense(name, _to_dense(name, value), None), None)


def _check_frame(name: str, value: Any) -> Features:
    labels = frames.labels_of(value)
    names = _column_names(labels)
    if labels and hasattr(value, "sparse") and all(getattr(dtype, "fill_value", 1) == 0 for dtype in value.dtypes):
        return Features(_check_sparse(name, value.sparse.to_coo(), labels), names)
    matrix, labels = frames.to_matrix(name, value)
    matrix = _check_dense(name, _to_dense(name, matrix), labels)
    return Features(matrix, names if names is None or len(names) == len(labels) else np.array(labels, object))


def check_no_stored_index(given: Features) -> None:
    """Raise if a feature is a stored row number: from data sorted by label, a fit would learn the labels by it."""
    index = frames.stored_index(() if given.names is None else given.names)
    if index is not None:
        raise ValueError(
            f"X has a column {index!r}, which is the index of a saved pandas frame, not a feature: drop it, or rename "
            "it if it is a feature"
        )


def _column_names(labels: list[Any]) -> Array | None:
    """The names of a frame's columns, if they are all strings."""
    strings = sum(isinstance(label, str) for label in labels)
    if 0 < strings < len(labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types. Convert them all to strings with "
            "X.columns = X.columns.astype(str), or remove them"
        )
    return np.array(labels, object) if strings else None


def _to_dense(name: str, value: Any) -> Array:
    array = to_array(name, frames.series(name, value))
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"{name} has dtype {array.dtype}; it must be real numbers (Complex data not supported)")
    if kind == "O":
        return frames.numbers_of_objects(name, array)
    if kind == "b":
        return array.astype(np.float64)
    floats = to_floats(name, array, given=value)
    return floats.astype(widen(floats.dtype), copy=False)


def _check_dense(name: str, matrix: Array, labels: list[Any] | None) -> Array:
    if matrix.ndim != 2:
        raise ValueError(
            f"{name} has {matrix.ndim} dimensions; it must have 2, (n_samples, n_features). Reshape your data: "
            f"{name}.reshape(-1, 1) if it is one feature, {name}.reshape(1, -1) if it is one sample"
        )
    _check_not_empty(name, matrix.shape)
    if not _is_finite(matrix):
        row, column = (int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(matrix))), matrix.shape))
        _raise_not_finite(name, row, column, matrix[row, column], labels)
    return matrix


def _check_sparse(name: str, value: Any, labels: list[Any] | None = None) -> Matrix:
    """CSR without duplicates, float32 or float64. The given matrix is not changed, and copied only where necessary."""
    if value.ndim != 2:
        raise ValueError(f"{name} has {value.ndim} dimensions; it must have 2, (n_samples, n_features)")
    _check_not_empty(name, value.shape)
    if value.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {value.dtype}; it must be real numbers (Complex data not supported)")
    if value.dtype.kind not in "biuf" or (value.dtype.kind == "f" and value.dtype.itemsize > 8):
        raise TypeError(f"{name} has dtype {value.dtype}; it must be real numbers, float32 or float64")
    matrix = to_csr(name, value)
    if matrix.dtype not in (np.float32, np.float64) or not matrix.dtype.isnative:
        single = is_half(matrix.dtype) or (matrix.dtype.itemsize == 4 and matrix.dtype.kind == "f")
        matrix = matrix.astype(np.float32 if single else np.float64)
    if not matrix.has_canonical_format:
        if matrix is value:
            matrix = matrix.copy()
        matrix.sum_duplicates()
    if not _is_finite(matrix.data):
        place = int(np.argmin(np.isfinite(matrix.data)))
        row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
        _raise_not_finite(name, row, int(matrix.indices[place]), matrix.data[place], labels)
    return matrix


def to_csr(name: str, value: Any) -> Matrix:
    """The matrix in CSR format: the same object if it is CSR already."""
    _check_indices(name, value)
    matrix = value.tocsr()
    if matrix is not value:
        _check_indices(name, matrix)
    return matrix


def _check_indices(name: str, matrix: Matrix) -> None:
    """Raise for indices that are out of range: the kernels address memory by them, and SciPy does not check them."""
    rows, columns = matrix.shape
    if matrix.format == "coo":
        for attribute, length, what in (("row", rows, "rows"), ("col", columns, "columns")):
            _check_range(f"{name}.{attribute}", getattr(matrix, attribute), length, what)
    if matrix.format not in ("csr", "csc", "bsr"):
        return
    indptr, indices = matrix.indptr, matrix.indices
    if indptr[0] != 0 or indptr[-1] > min(len(indices), len(matrix.data)) or (np.diff(indptr) < 0).any():
        raise ValueError(f"{name}.indptr must rise from 0 to at most the number of elements, {len(matrix.data)}")
    height, width = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    length, what = (rows // height, "rows") if matrix.format == "csc" else (columns // width, "columns")
    _check_range(f"{name}.indices", indices[: indptr[-1]], length, what)


def _check_range(name: str, indices: Array, length: int, what: str) -> None:
    if indices.size and not 0 <= indices.min() <= indices.max() < length:
        good = (indices >= 0) & (indices < length)
        raise ValueError(f"{name}{describe_first_bad(indices, good)}; it must be in [0, {length}), the {what}")


def _check_not_empty(name: str, shape: tuple[int, ...]) -> None:
    for length, what in zip(shape, ("sample", "feature"), strict=True):
        if length == 0:
            raise ValueError(
                f"{name} has shape {shape}; it must have at least one sample and one feature (0 {what}(s) "
                f"(shape={shape}) while a minimum of 1 is required)"
            )


def _is_finite(array: Array) -> bool:
    # A finite sum has finite terms only, and needs no memory. An infinite one may be an overflow: look at each term.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _raise_not_finite(name: str, row: int, column: int, value: Any, labels: list[Any] | None) -> NoReturn:
    what = "NaN" if np.isnan(value) else "infinity"
    where = "" if labels is None else f" in column {labels[column]!r}"
    raise ValueError(
        f"{name}[{row}, {column}] is {value}{where}; it must be finite (no NaN, no inf). Input {name} contains {what}."
    )


def check_same_columns(given: Columns, fitted: Columns, estimator: str, stacklevel: int) -> None:
    """Raise unless the number and the names of the features are those of the fit."""
    number, names = fitted
    if names is None and given.names is not None:
        message = f"X has feature names, but {estimator} was fitted without feature names"
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)
    elif names is not None and given.names is None:
        message = f"X does not have valid feature names, but {estimator} was fitted with feature names"
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)
    elif names is not None and given.names is not None and not np.array_equal(names, given.names):
        unseen, missing = sorted(set(given.names) - set(names)), sorted(set(names) - set(given.names))
        message = "The feature names should match those that were passed during fit.\n"
        if unseen:
            message += "Feature names unseen at fit time:\n" + _list_names(unseen)
        if missing:
            message += "Feature names seen at fit time, yet now missing:\n" + _list_names(missing)
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)
    if given.number != number:
        raise ValueError(f"X has {given.number} features, but {estimator} is expecting {number} features as input")


def _list_names(names: list[str], most: int = 5) -> str:
    return "".join(f"- {name}\n" for name in names[:most]) + ("- ...\n" if len(names) > most else "")
