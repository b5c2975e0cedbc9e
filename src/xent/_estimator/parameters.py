"""The checks of the estimator's parameters and arguments: what `_arguments` is to the losses.

Where scikit-learn's users, its tools and its tests look for words of its messages, those words are used.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import frames
from xent._calls.arguments import (
    between,
    choice,
    floating,
    integer,
    is_half,
    job_count,
    numeric,
    position,
    real,
    to_array,
)
from xent._estimator.sklearn_protocol import DataConversionWarning, shared

Array = NDArray[Any]


class _Sparse(Protocol):
    def tocsr(self) -> Any: ...


MatrixLike = ArrayLike | _Sparse
Matrix = Any    # an ndarray, or a matrix or array of scipy.sparse in CSR format

MASS_ERROR = 1e-3       # of a row of a distribution: float16 probabilities add up to this


# --- parameters ------------------------------------------------------------------------------------------------------


class Parameters(Protocol):
    C: float
    penalty: Any
    class_weight: Any
    tol: float
    max_iter: int
    solver: Any
    n_jobs: int | None


def parameters(model: Parameters, solvers: tuple[str, ...]) -> None:
    strength = real("C", model.C)
    if not strength > 0:
        raise ValueError(f"C is {model.C!r}; it must be greater than 0")
    if model.penalty not in ("l2", None):
        raise ValueError(f"penalty is {model.penalty!r}; it must be 'l2' or None")
    choice("solver", model.solver, solvers)
    if not 0 < real("tol", model.tol) < math.inf:
        raise ValueError(f"tol is {model.tol!r}; it must be greater than 0 and finite")
    if integer("max_iter", model.max_iter) < 0:
        raise ValueError(f"max_iter is {model.max_iter}; it must be at least 0")
    job_count(model.n_jobs)


# --- features --------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    matrix: Matrix              # float32 or float64, finite, with a row for each sample
    names: Array | None         # of the columns, objects; None if the columns have no names


def features(name: str, value: Any) -> Features:
    """A finite matrix with a row for each sample: dense in any layout, or sparse in CSR format without duplicates."""
    if hasattr(value, "tocsr"):
        return Features(_sparse(name, value), None)
    if frames.is_lazy(value):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be in memory: use {name}.collect()")
    if frames.is_frame(value):
        return _frame(name, frames.without_index(value))
    return Features(_finite(name, _dense(name, value), None), None)


def _frame(name: str, value: Any) -> Features:
    labels = frames.labels_of(value)
    names = _column_names(labels)
    if labels and hasattr(value, "sparse") and all(getattr(dtype, "fill_value", 1) == 0 for dtype in value.dtypes):
        return Features(_sparse(name, value.sparse.to_coo(), labels), names)
    matrix, labels = frames.to_matrix(name, value)
    matrix = _finite(name, _dense(name, matrix), labels)
    return Features(matrix, names if names is None or len(names) == len(labels) else np.array(labels, object))


def no_stored_index(given: Features) -> None:
    """Raise for a feature that numbers the rows: a fit would learn the labels of a sorted set from it."""
    index = frames.stored_index(() if given.names is None else given.names)
    if index is not None:
        raise ValueError(
            f"X has a column {index!r}, which is the index of a pandas frame that was saved; it must not be a feature: "
            "drop it, or rename it if it is one"
        )


def _column_names(labels: list[Any]) -> Array | None:
    """The names of a frame's columns, if they are all strings."""
    strings = sum(isinstance(label, str) for label in labels)
    if 0 < strings < len(labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types. Convert them all to strings, with "
            "X.columns = X.columns.astype(str), or remove them"
        )
    return np.array(labels, object) if strings else None


def _dense(name: str, value: Any) -> Array:
    array = to_array(name, frames.series(name, value))
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"{name} has dtype {array.dtype}; it must be real numbers (Complex data not supported)")
    if kind == "O":
        return frames.numbers_of_objects(name, array)
    if kind == "b":
        return array.astype(np.float64)
    return floating(name, array, halves=False)


def _finite(name: str, matrix: Array, labels: list[Any] | None) -> Array:
    if matrix.ndim != 2:
        raise ValueError(
            f"{name} has {matrix.ndim} dimensions; it must have 2, (n_samples, n_features). Reshape your data: "
            f"{name}.reshape(-1, 1) if it is one feature, {name}.reshape(1, -1) if it is one sample"
        )
    _not_empty(name, matrix.shape)
    if not _all_finite(matrix):
        row, column = (int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(matrix))), matrix.shape))
        _not_finite(name, row, column, matrix[row, column], labels)
    return matrix


def _sparse(name: str, value: Any, labels: list[Any] | None = None) -> Matrix:
    """CSR without duplicates, float32 or float64. The given matrix is neither changed nor, where it fits, copied."""
    if value.ndim != 2:
        raise ValueError(f"{name} has {value.ndim} dimensions; it must have 2, (n_samples, n_features)")
    _not_empty(name, value.shape)
    if value.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {value.dtype}; it must be real numbers (Complex data not supported)")
    if value.dtype.kind not in "biuf" or (value.dtype.kind == "f" and value.dtype.itemsize > 8):
        raise TypeError(f"{name} has dtype {value.dtype}; it must be real numbers, float32 or float64")
    matrix = to_csr(name, value)
    if matrix.dtype not in (np.float32, np.float64) or not matrix.dtype.isnative:
        matrix = matrix.astype(np.float32 if matrix.dtype.itemsize == 4 and matrix.dtype.kind == "f" else np.float64)
    if not matrix.has_canonical_format:
        if matrix is value:
            matrix = matrix.copy()
        matrix.sum_duplicates()
    if not _all_finite(matrix.data):
        place = int(np.argmin(np.isfinite(matrix.data)))
        row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
        _not_finite(name, row, int(matrix.indices[place]), matrix.data[place], labels)
    return matrix


def to_csr(name: str, value: Any) -> Matrix:
    """A sparse matrix in CSR format: itself if it is."""
    _check_indices(name, value)
    matrix = value.tocsr()
    if matrix is not value:
        _check_indices(name, matrix)
    return matrix


def _check_indices(name: str, matrix: Matrix) -> None:
    """Indices are used to address memory, and SciPy takes them as they come."""
    rows, columns = matrix.shape
    if matrix.format == "coo":
        for attribute, length, what in (("row", rows, "rows"), ("col", columns, "columns")):
            _in_range(f"{name}.{attribute}", getattr(matrix, attribute), length, what)
    if matrix.format not in ("csr", "csc", "bsr"):
        return
    indptr, indices = matrix.indptr, matrix.indices
    if indptr[0] != 0 or indptr[-1] > min(len(indices), len(matrix.data)) or (np.diff(indptr) < 0).any():
        raise ValueError(f"{name}.indptr must rise from 0 to at most the number of elements, {len(matrix.data)}")
    height, width = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    length, what = (rows // height, "rows") if matrix.format == "csc" else (columns // width, "columns")
    _in_range(f"{name}.indices", indices[: indptr[-1]], length, what)


def _in_range(name: str, indices: Array, length: int, what: str) -> None:
    if indices.size and not 0 <= indices.min() <= indices.max() < length:
        good = (indices >= 0) & (indices < length)
        raise ValueError(f"{name}{position(indices, good)}; it must be in [0, {length}), the {what}")


def _not_empty(name: str, shape: tuple[int, ...]) -> None:
    for length, what in zip(shape, ("sample", "feature"), strict=True):
        if length == 0:
            raise ValueError(
                f"{name} has shape {shape}; it must have at least one sample and one feature (0 {what}(s) "
                f"(shape={shape}) while a minimum of 1 is required)"
            )


def _all_finite(array: Array) -> bool:
    # A sum is finite only if all its terms are, and takes no memory; it can overflow, so look closer then.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _not_finite(name: str, row: int, column: int, value: Any, labels: list[Any] | None) -> NoReturn:
    what = "NaN" if np.isnan(value) else "infinity"
    where = "" if labels is None else f" in column {labels[column]!r}"
    raise ValueError(
        f"{name}[{row}, {column}] is {value}{where}; it must be finite (no NaN, no inf). Input {name} contains {what}."
    )


def same_features(given: Features, number: int, names: Array | None, estimator: str, stacklevel: int) -> None:
    """Raise unless features are as many as, and have the names of, those of the fit."""
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
            message += "Feature names unseen at fit time:\n" + _first_names(unseen)
        if missing:
            message += "Feature names seen at fit time, yet now missing:\n" + _first_names(missing)
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)
    if given.matrix.shape[1] != number:
        raise ValueError(
            f"X has {given.matrix.shape[1]} features, but {estimator} is expecting {number} features as input"
        )


def _first_names(names: list[str], most: int = 5) -> str:
    return "".join(f"- {name}\n" for name in names[:most]) + ("- ...\n" if len(names) > most else "")


# --- labels ----------------------------------------------------------------------------------------------------------


def target_array(name: str, value: Any) -> Array:
    """Labels, or distributions, as they come, in an array; those in frames and series as NumPy has them."""
    if value is None:
        raise ValueError(f"requires y to be passed, but the target y is None: {name} must hold one label per row of X")
    if isinstance(value, np.ndarray):
        return to_array(name, value)
    if frames.is_frame(value):
        value = frames.without_index(value)
        columns = frames.columns_of(value)
        if columns is None or value.shape[1] != 1:
            return to_array(name, frames.to_matrix(name, value)[0])
        return to_array(name, frames.series(name, columns[0]))[:, None]
    array = to_array(name, frames.series(name, value))
    written = {"U": str, "S": bytes}.get(array.dtype.kind)
    if written is not None and isinstance(value, list | tuple) and not all(isinstance(v, written) for v in value):
        return frames.objects(value)       # NumPy has made strings of numbers
    return array


def column(name: str, value: Any, length: int, stacklevel: int) -> Array:
    """One label for each row of X."""
    array = target_array(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        message = (
            f"A column-vector {name} was passed when a 1d array was expected. Please change the shape of {name} to "
            "(n_samples,), for example using ravel()"
        )
        warnings.warn(message, shared(DataConversionWarning), stacklevel=stacklevel + 1)
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} should be a 1d array of shape ({length},); got an array of shape {array.shape}")
    if len(array) != length:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have shape ({length},), a value for each row of X (Found input "
            f"variables with inconsistent numbers of samples: {[length, len(array)]})"
        )
    return array


_LABELS = "labels must be integers, bools, strings, bytes or dates"


def discrete(name: str, array: Array) -> Array:
    """Labels that can be classes: no fractions, no missing ones, and nothing that a file cannot hold."""
    if is_half(array.dtype):
        array = array.astype(np.float32)
    kind = array.dtype.kind
    if kind in "OT":
        return _strings(name, array.astype(object, copy=False))
    if kind == "c":
        raise ValueError(f"{name} is complex; {_LABELS} (Unknown label type: complex)")
    if kind not in "biufSUmM":
        raise ValueError(f"{name} has dtype {array.dtype}; {_LABELS} (Unknown label type: unknown)")
    good = np.ones(array.shape, bool)
    if kind == "f":
        good = np.isfinite(array) & (array == np.floor(array))
    elif kind in "mM":
        good = ~np.isnat(array)
    if not good.all():
        unknown = "continuous" if kind == "f" else "unknown"
        raise ValueError(f"{name}{position(array, good)}; {_LABELS} (Unknown label type: {unknown})")
    return array


def _strings(name: str, array: Array) -> Array:
    """Objects that are labels: strings. NumPy has types of its own for all others, which it and files can compare."""
    good = np.array([isinstance(label, str) for label in array.flat], bool).reshape(array.shape)
    if good.all():
        return array
    present = np.array([_is_present(label) for label in array.flat], bool).reshape(array.shape)
    if not present.all():
        raise ValueError(f"{name}{position(array, present)}; {_LABELS} (Unknown label type: unknown)")
    types = {type(label) for label in array.flat}
    names = ", ".join(sorted(kind.__name__ for kind in types))
    if good.any():
        raise TypeError(
            f"{name} has labels that cannot be sorted: they are of types {names}. Convert them to one type, with "
            f"{name}.astype(str)"
        )
    raise ValueError(
        f"{name} has dtype object with labels of type {names}, such as {name}{position(array, good)}; {_LABELS}, or "
        f"objects that are all strings: convert them, with {name}.astype({_type_for(types)}) (Unknown label type: "
        "unknown)"
    )


def _is_present(value: object) -> bool:
    """Not None, nor NaN in any of its guises, which is not itself."""
    try:
        return value is not None and bool(value == value)
    except (TypeError, ValueError):     # pandas.NA; an array
        return isinstance(value, np.ndarray | list)


def _type_for(types: set[type]) -> str:
    """The type to convert objects to, as one writes it."""
    for written, kinds in (
        ("bool", (bool, np.bool_)),
        ("int", (bool, np.bool_, int, np.integer)),
        ("float", (bool, np.bool_, int, float, np.integer, np.floating)),
        ("bytes", (bytes,)),
        ("'datetime64[us]'", (datetime.date, np.datetime64)),
        ("'timedelta64[us]'", (datetime.timedelta, np.timedelta64)),
    ):
        if all(issubclass(kind, kinds) for kind in types):
            return written
    return "str"


def classes(name: str, value: Any, length: int, stacklevel: int) -> tuple[Array, Array]:
    """The different labels, sorted, and the index of each row's label among them (int64).

    A distribution for each row is returned instead of the indices; the classes are the numbers of its columns then.
    """
    labels, target = classes_of_part(name, value, length, stacklevel + 1)
    if len(labels) < 2:
        raise ValueError(f"{name} has one class only, {labels[0]!s}; it must have at least 2")
    return labels, target


def classes_of_part(name: str, value: Any, length: int, stacklevel: int) -> tuple[Array, Array]:
    """The same of a part of the rows, in which there may be one class only."""
    array = target_array(name, value)
    soft = distribution(name, array, length)
    if soft is not None:
        return np.arange(soft.shape[1]), soft
    return unique(discrete(name, column(name, array, length, stacklevel + 1)))


def unique(array: Array) -> tuple[Array, Array]:
    labels, indices = np.unique(array, return_inverse=True)
    return labels, indices.astype(np.int64, copy=False)


def distribution(name: str, array: Array, length: int) -> Array | None:
    """A probability of each class for each row; None if the array is something else."""
    if array.ndim != 2 or array.shape[1] < 2:
        return None
    if array.dtype.kind not in "bf" and not is_half(array.dtype):
        raise ValueError(
            f"{name} should be a 1d array of labels, or floats or bools of shape (n_samples, n_classes), a "
            f"distribution of each row; got an array of shape {array.shape} and dtype {array.dtype}"
        )
    if len(array) != length:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have {length} rows, as X (Found input variables with "
            f"inconsistent numbers of samples: {[length, len(array)]})"
        )
    if array.dtype.kind == "b":
        array = array.astype(np.float64)
    array = array.astype(np.float32) if is_half(array.dtype) else numeric(name, array)
    between(name, array, 0, math.inf, "probabilities must be at least 0")
    mass = array.sum(axis=1, dtype=np.float64)
    good = np.abs(mass - 1) <= MASS_ERROR
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"{name}[{row}] sums to {mass[row]:g}; each row must sum to 1 (use sample_weight to weight rows) (Unknown "
            "label type: continuous-multioutput)"
        )
    return array


def given_classes(value: Any) -> Array:
    """Classes that a caller names, sorted."""
    array = target_array("classes", value)
    if array.ndim != 1:
        raise ValueError(f"classes has shape {array.shape}; it must be a 1d array of labels")
    labels, _ = unique(discrete("classes", array))
    if len(labels) < 2:
        raise ValueError(f"classes has {len(labels)} class(es); it must have at least 2")
    return labels


def stream_classes(y: Any, value: Any, known: Array | None, length: int) -> Array:
    """All the classes of a stream: the known ones, or in the first call those given or those that y has columns for."""
    labels = None if value is None else given_classes(value)
    if known is not None:
        if labels is not None and not np.array_equal(labels, known):
            raise ValueError(f"classes={value!r} is not the same as on last call to partial_fit, was: {known.tolist()}")
        return known
    if labels is not None:
        return labels
    soft = distribution("y", target_array("y", y), length)
    if soft is None:
        raise ValueError("classes must be passed on the first call to partial_fit: all labels that may come")
    return np.arange(soft.shape[1])


def indices_of(name: str, value: Any, length: int, known: Array, stacklevel: int) -> Array:
    """The index of each row's label among known classes (int64), or a distribution over them."""
    array = target_array(name, value)
    soft = distribution(name, array, length)
    if soft is not None:
        if not np.array_equal(known, np.arange(soft.shape[1])):
            raise ValueError(
                f"{name} is a distribution over {soft.shape[1]} classes, which are the numbers of its columns; the "
                f"classes must be these, but are {known.tolist()}"
            )
        return soft
    indices = places(name, array, length, known, stacklevel + 1)
    if (indices < 0).any():
        row = int(np.argmax(indices < 0))
        found = array.reshape(-1)[row : row + 1].tolist()[0]
        raise ValueError(f"{name}[{row}] is {found!r}, which is not one of the classes, {known.tolist()}")
    return indices


def places(name: str, array: Array, length: int, known: Array, stacklevel: int) -> NDArray[np.int64]:
    """The index of each row's label among known classes; -1 for a label of their kind that is none of them."""
    labels, indices = unique(discrete(name, column(name, array, length, stacklevel + 1)))
    found, wanted = kind_of(labels), kind_of(known)
    if found != wanted:
        raise ValueError(
            f"{name} has {found} labels, such as {labels.tolist()[0]!r}; they must be {wanted} labels, as the classes "
            f"{known.tolist()} (Mix of label input types ({found} and {wanted}))"
        )
    return places_among(labels, known)[indices]


def places_among(labels: Array, known: Array) -> NDArray[np.int64]:
    """The index of each label among known ones of its kind, -1 where it is none of them."""
    if known.dtype.kind in "mM":        # dates of other units
        unit = np.result_type(known.dtype, labels.dtype)
        known, labels = known.astype(unit).view(np.int64), labels.astype(unit).view(np.int64)
    place = {label: i for i, label in enumerate(known.tolist())}
    return np.array([place.get(label, -1) for label in labels.tolist()], np.int64)


def kind_of(labels: Array) -> str:
    """Labels of one kind can be compared, and go together without a conversion that changes them."""
    kinds = {"S": "bytes", "M": "date", "m": "duration"}
    return "number" if labels.dtype.kind in "biuf" else kinds.get(labels.dtype.kind, "string")


# --- weights ---------------------------------------------------------------------------------------------------------


def row_weights(value: ArrayLike | None, length: int) -> NDArray[np.float64]:
    if value is None:
        return np.ones(length)
    array = numeric("sample_weight", frames.series("sample_weight", value))
    if array.ndim and array.shape != (length,):
        raise ValueError(f"sample_weight has shape {array.shape}; it must have shape ({length},)")
    between("sample_weight", array, 0, np.finfo(np.float64).max, "weights must be finite and at least 0")
    return np.array(np.broadcast_to(array, (length,)), np.float64)


def weighted(
    class_weight: object, labels: Array, target: Array, sample_weight: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64]]:
    """A target and the weights of its rows with the class weights in them.

    A distribution t under class weights w is the distribution w t / (w . t) with w . t times the weight, so that a
    one-hot distribution is its label.
    """
    if class_weight is not None:
        factors = class_factors(class_weight, labels, class_counts(target, sample_weight, len(labels)))
        target, sample_weight = with_factors(target, sample_weight, factors)
    with np.errstate(over="ignore"):
        total_weight(float(sample_weight.sum()))
    return target, sample_weight


def with_factors(
    target: Array, sample_weight: NDArray[np.float64], factors: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64]]:
    if target.ndim == 1:
        return target, sample_weight * factors[target]
    target = target * factors
    mass = target.sum(axis=1)
    sample_weight = sample_weight * mass
    target /= np.where(mass > 0, mass, 1)[:, None]
    return target, sample_weight


def class_counts(target: Array, sample_weight: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """The weight of each class: of its rows, or of its share of them."""
    if target.ndim == 2:
        return np.asarray(sample_weight @ target, np.float64)
    return np.bincount(target, sample_weight, minlength=n_classes).astype(np.float64, copy=False)


def total_weight(total: float) -> float:
    if total == 0:
        raise ValueError(
            "sample_weight times class_weight is 0 for every sample (all weights zero); at least one must be above 0"
        )
    if not math.isfinite(total):
        raise ValueError("sample_weight times class_weight has a sum that is larger than a float can be; scale it down")
    return total


def class_factors(value: object, labels: Array, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """A weight for each class, from a dict by label or "balanced"."""
    if isinstance(value, str) and value == "balanced":
        balanced: NDArray[np.float64] = counts.sum() / (len(labels) * np.where(counts > 0, counts, 1))
        return balanced
    if not isinstance(value, Mapping):
        raise ValueError(f"class_weight is {value!r}; it must be a dict from label to weight, 'balanced' or None")
    known = labels.tolist()
    # Both as NumPy has them and as Python has them: the hashes of dates differ.
    place = {label: i for given in (labels, known) for i, label in enumerate(given)}
    result = np.ones(len(known))
    named = set()
    for label, weight in value.items():
        number = float(weight) if isinstance(weight, bool | np.bool_) else real(f"class_weight[{label!r}]", weight)
        if not 0 <= number < math.inf:
            raise ValueError(f"class_weight[{label!r}] is {number}; weights must be finite and at least 0")
        if label in place:
            result[place[label]] = number
            named.add(place[label])
    # A label more may be of a class that is missing from this part of the data; a label instead of another is a slip.
    unknown = [label for label in value if label not in place]
    slips = [label for label in unknown if len(named) < len(known) or not _may_be_among(label, labels)]
    if slips:
        raise ValueError(f"class_weight names {slips[0]!r}, which is not a label of y; the labels are {known}")
    return result


def _may_be_among(label: object, labels: Array) -> bool:
    """Whether a label is of the kind of others."""
    if labels.dtype.kind in "mM":
        return isinstance(label, datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64)
    try:
        key = target_array("class_weight", [label])
        return key.ndim == 1 and kind_of(discrete("class_weight", key)) == kind_of(labels)
    except (TypeError, ValueError):
        return False


check_parameters = parameters
