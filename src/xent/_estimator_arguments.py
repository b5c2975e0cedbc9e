"""The checks of the estimator's parameters and arguments: what `_arguments` is to the losses.

Where scikit-learn's users, its tools and its tests look for words of its messages, those words are used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._arguments import (
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
    what_it_has,
)
from xent._sklearn import DataConversionWarning, shared

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
    names = _column_names(value)
    if hasattr(value, "tocsr"):
        return Features(_sparse(name, value), names)
    if hasattr(value, "sparse") and hasattr(value.sparse, "to_coo"):    # a pandas frame, all of sparse columns
        return Features(_sparse(name, value.sparse.to_coo()), names)
    matrix = _dense(name, value)
    if matrix.ndim != 2:
        raise ValueError(
            f"{name} has {matrix.ndim} dimensions; it must have 2, (n_samples, n_features). Reshape your data: "
            f"{name}.reshape(-1, 1) if it is one feature, {name}.reshape(1, -1) if it is one sample"
        )
    _not_empty(name, matrix.shape)
    if not _all_finite(matrix):
        row, column = (int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(matrix))), matrix.shape))
        _not_finite(name, row, column, matrix[row, column])
    return Features(matrix, names)


def _column_names(value: Any) -> Array | None:
    """The names of a frame's columns, if they are all strings."""
    columns = getattr(value, "columns", None)
    if columns is None or not hasattr(value, "dtypes"):
        return None
    names = np.array(list(columns), object)
    strings = sum(isinstance(column, str) for column in names)
    if 0 < strings < len(names):
        kinds = sorted({type(column).__name__ for column in names})
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types. Convert them all to strings, with "
            "X.columns = X.columns.astype(str), or remove them"
        )
    return names if strings else None


def _dense(name: str, value: Any) -> Array:
    array = to_array(name, value)
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"{name} has dtype {array.dtype}; it must be real numbers (Complex data not supported)")
    if kind == "O":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            found = what_it_has(value, array)
            raise type(error)(f"{name} has {found} and an element that is no number: {error}") from None
    if kind == "b":
        return array.astype(np.float64)
    return floating(name, array, halves=False)


def _sparse(name: str, value: Any) -> Matrix:
    """CSR without duplicates, float32 or float64. The given matrix is neither changed nor, where it fits, copied."""
    if value.ndim != 2:
        raise ValueError(f"{name} has {value.ndim} dimensions; it must have 2, (n_samples, n_features)")
    _not_empty(name, value.shape)
    if value.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {value.dtype}; it must be real numbers (Complex data not supported)")
    if value.dtype.kind not in "biuf" or (value.dtype.kind == "f" and value.dtype.itemsize > 8):
        raise TypeError(f"{name} has dtype {value.dtype}; it must be real numbers, float32 or float64")
    matrix = value.tocsr()      # itself if it is CSR
    _check_csr(name, matrix)
    if matrix.dtype not in (np.float32, np.float64) or not matrix.dtype.isnative:
        matrix = matrix.astype(np.float32 if matrix.dtype.itemsize == 4 and matrix.dtype.kind == "f" else np.float64)
    if not matrix.has_canonical_format:
        if matrix is value:
            matrix = matrix.copy()
        matrix.sum_duplicates()
    if not _all_finite(matrix.data):
        place = int(np.argmin(np.isfinite(matrix.data)))
        row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
        _not_finite(name, row, int(matrix.indices[place]), matrix.data[place])
    return matrix


def _check_csr(name: str, matrix: Matrix) -> None:
    """Indices are used to address memory, and SciPy takes them as they come."""
    indptr, indices = matrix.indptr, matrix.indices
    if indptr[0] != 0 or indptr[-1] > min(len(indices), len(matrix.data)) or (np.diff(indptr) < 0).any():
        raise ValueError(f"{name}.indptr must rise from 0 to at most the number of elements, {len(matrix.data)}")
    used = indices[: indptr[-1]]
    between(f"{name}.indices", used, 0, matrix.shape[1] - 1, f"indices must be in [0, {matrix.shape[1]}), the columns")


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


def _not_finite(name: str, row: int, column: int, value: Any) -> None:
    what = "NaN" if np.isnan(value) else "infinity"
    raise ValueError(
        f"{name}[{row}, {column}] is {value}; it must be finite (no NaN, no inf). Input {name} contains {what}."
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


def column(name: str, value: ArrayLike, length: int, stacklevel: int) -> Array:
    """One value for each row of X."""
    if value is None:
        raise ValueError(f"requires y to be passed, but the target y is None: {name} must be labels, one a row of X")
    array = to_array(name, value)
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


def discrete(name: str, array: Array) -> Array:
    """Labels that are classes: no fractions, nothing that stands for a missing label."""
    if is_half(array.dtype):
        array = array.astype(np.float32)
    good = np.ones(array.shape, bool)
    if array.dtype.kind == "f":
        good = np.isfinite(array) & (array == np.floor(array))
    elif array.dtype.kind in "mM":
        good = ~np.isnat(array)
    elif array.dtype.kind == "O":
        good = np.array([_is_label(label) for label in array], bool)
    elif array.dtype.kind == "c":
        raise ValueError(
            f"{name} is complex; labels must be integers, strings or other classes (Unknown label type: complex)"
        )
    if not good.all():
        kind = "continuous" if array.dtype.kind in "fO" else "unknown"
        raise ValueError(
            f"{name}{position(array, good)}; labels must be integers, strings or other classes (Unknown label type: "
            f"{kind})"
        )
    return array


def _is_label(value: object) -> bool:
    """Not None, nor NaN in any of its guises, which is not itself; nor a fraction."""
    try:
        return value is not None and bool(value == value) and (not isinstance(value, float) or value.is_integer())
    except TypeError:       # pandas.NA
        return False


def classes(name: str, value: ArrayLike, length: int, stacklevel: int) -> tuple[Array, Array]:
    """The different labels, sorted, and the index of each row's label among them (int64).

    Floats of shape (length, n_classes) are a distribution for each row: the classes are the columns' numbers then, and
    the distributions are returned instead of the indices.
    """
    labels, target = classes_of_part(name, value, length, stacklevel + 1)
    if len(labels) < 2:
        raise ValueError(f"{name} has one class only, {labels[0]!s}; it must have at least 2")
    return labels, target


def classes_of_part(name: str, value: ArrayLike, length: int, stacklevel: int) -> tuple[Array, Array]:
    """The same of a part of the rows, in which there may be one class only."""
    soft = distribution(name, value, length)
    if soft is not None:
        return np.arange(soft.shape[1]), soft
    return unique(name, discrete(name, column(name, value, length, stacklevel + 1)))


def unique(name: str, array: Array) -> tuple[Array, Array]:
    try:
        labels, indices = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"{name} has labels that cannot be sorted: {error}") from None
    return labels, indices.astype(np.int64, copy=False)


def distribution(name: str, value: ArrayLike, length: int) -> Array | None:
    """A probability of each class for each row; None if the value is something else."""
    if value is None:
        return None
    array = to_array(name, value)
    if array.ndim != 2 or array.shape[1] < 2:
        return None
    if array.dtype.kind != "f" and not is_half(array.dtype):
        raise ValueError(
            f"{name} should be a 1d array of labels, or floats of shape (n_samples, n_classes), a distribution of each "
            f"row; got an array of shape {array.shape} and dtype {array.dtype}"
        )
    if len(array) != length:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have {length} rows, as X (Found input variables with "
            f"inconsistent numbers of samples: {[length, len(array)]})"
        )
    array = array.astype(np.float32) if is_half(array.dtype) else numeric(name, array)
    between(name, array, 0, math.inf, "probabilities must be at least 0")
    mass = array.sum(axis=1, dtype=np.float64)
    good = np.abs(mass - 1) <= MASS_ERROR
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"{name}[{row}] has the sum {mass[row]:g}; a row of a distribution must have the sum 1, and what it "
            "counts for is its sample_weight (Unknown label type: continuous-multioutput)"
        )
    return array


def given_classes(value: ArrayLike) -> Array:
    """Classes that a caller names, sorted."""
    labels, _ = unique("classes", discrete("classes", to_array("classes", value)))
    if len(labels) < 2:
        raise ValueError(f"classes has {len(labels)} class(es); it must have at least 2")
    return labels


def stream_classes(y: ArrayLike, value: ArrayLike | None, known: Array | None, length: int) -> Array:
    """All the classes of a stream: the known ones, or in the first call those given or those that y has columns for."""
    labels = None if value is None else unique("classes", discrete("classes", to_array("classes", value)))[0]
    if known is not None:
        if labels is not None and not np.array_equal(labels, known):
            raise ValueError(f"classes={value!r} is not the same as on last call to partial_fit, was: {known.tolist()}")
        return known
    if labels is None:
        soft = distribution("y", y, length)
        if soft is None:
            raise ValueError("classes must be passed on the first call to partial_fit: all labels that may come")
        labels = np.arange(soft.shape[1])
    if len(labels) < 2:
        raise ValueError(f"classes has {len(labels)} class(es); it must have at least 2")
    return labels


def indices_of(name: str, value: ArrayLike, length: int, known: Array, stacklevel: int) -> Array:
    """The index of each row's label among known classes (int64), or a distribution over them."""
    soft = distribution(name, value, length)
    if soft is not None:
        if not np.array_equal(known, np.arange(soft.shape[1])):
            raise ValueError(f"{name} has {soft.shape[1]} columns; their numbers must be the classes, {known.tolist()}")
        return soft
    labels, indices = unique(name, discrete(name, column(name, value, length, stacklevel + 1)))
    places = places_among(labels, known)
    if (places < 0).any():
        row = int(np.argmax(places[indices] < 0))
        label = labels.tolist()[indices[row]]
        raise ValueError(f"{name}[{row}] is {label!r}, which is not one of the classes; those are {known.tolist()}")
    return places[indices]


def places_among(labels: Array, known: Array) -> NDArray[np.int64]:
    """The index of each label among known ones, -1 where it is none of them."""
    if labels.dtype.kind == known.dtype.kind and known.dtype.kind in "mM":
        unit = np.result_type(labels, known)        # dates are equal whatever their units, but hashed by them
        labels, known = labels.astype(unit), known.astype(unit)
    place = {label: i for i, label in enumerate(known.tolist())}
    return np.array([place.get(label, -1) for label in labels.tolist()], np.int64)


# --- weights ---------------------------------------------------------------------------------------------------------


def row_weights(value: ArrayLike | None, length: int) -> NDArray[np.float64]:
    if value is None:
        return np.ones(length)
    array = numeric("sample_weight", value)
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
        raise ValueError("sample_weight times class_weight is 0 for every sample; all weights zero leave no objective")
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
        number = real(f"class_weight[{label!r}]", weight)
        if not 0 <= number < math.inf:
            raise ValueError(f"class_weight[{label!r}] is {number}; weights must be finite and at least 0")
        if label in place:
            result[place[label]] = number
            named.add(place[label])
    # A label more may be of a class that is missing from this part of the data; a label instead of another is a slip.
    unknown = [label for label in value if label not in place]
    if unknown and len(named) < len(known):
        raise ValueError(f"class_weight names {unknown[0]!r}, which is not a label of y; those are {known}")
    return result
