"""y of the estimator: labels or distributions, and the classes.

Labels are integers, bools, whole floats, strings, bytes, dates or durations. A distribution is a row of probabilities,
one for each class. Messages contain the words that scikit-learn's users, tools and tests look for.
"""

from __future__ import annotations

import datetime
import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls import frames
from xent._calls.arrays import check_between, describe_first_bad, is_half, to_array, to_numbers
from xent._estimator.sklearn_protocol import DataConversionWarning, shared

Array = NDArray[Any]

SUM_ERROR = 1e-3        # of a distribution: float16 probabilities sum to 1 this closely


def to_target(name: str, value: Any) -> Array:
    """Convert labels or distributions to an array, without checks of their values."""
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
    type_ = {"U": str, "S": bytes}.get(array.dtype.kind)
    if type_ is not None and isinstance(value, list | tuple) and not all(isinstance(v, type_) for v in value):
        return frames.objects(value)       # a mixed list, which NumPy would convert to strings
    return array


def to_column(name: str, value: Any, length: int, stacklevel: int) -> Array:
    """The target as a 1d array of as many labels as X has rows; stacklevel as in `warnings.warn`, for the caller."""
    array = to_target(name, value)
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


def check_labels(name: str, array: Array) -> Array:
    """Raise unless an array holds labels that can be classes: no fractions, none missing, and objects are strings."""
    if is_half(array.dtype):
        array = array.astype(np.float32)
    kind = array.dtype.kind
    if kind in "OT":
        return _check_objects(name, array.astype(object, copy=False))
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
        raise ValueError(f"{name}{describe_first_bad(array, good)}; {_LABELS} (Unknown label type: {unknown})")
    return array


def _check_objects(name: str, array: Array) -> Array:
    """Raise unless all objects are strings. For all other labels NumPy has dtypes, which it can compare and save."""
    good = np.array([isinstance(label, str) for label in array.flat], bool).reshape(array.shape)
    if good.all():
        return array
    present = np.array([_is_present(label) for label in array.flat], bool).reshape(array.shape)
    if not present.all():
        raise ValueError(f"{name}{describe_first_bad(array, present)}; {_LABELS} (Unknown label type: unknown)")
    types = {type(label) for label in array.flat}
    names = ", ".join(sorted(kind.__name__ for kind in types))
    if good.any():
        raise TypeError(
            f"{name} has labels that cannot be sorted: they are of types {names}. Convert them to one type, such as str"
        )
    raise ValueError(
        f"{name} has labels of type {names}, such as {name}{describe_first_bad(array, good)}; {_LABELS}, or objects "
        f"that are all strings: convert them to {_find_type(types)} (Unknown label type: unknown)"
    )


def _is_present(value: object) -> bool:
    """False for None, and for NaN, NaT and pandas.NA, which do not equal themselves."""
    try:
        return value is not None and bool(value == value)
    except (TypeError, ValueError):     # pandas.NA; an array
        return isinstance(value, np.ndarray | list)


def _find_type(types: set[type]) -> str:
    """The dtype that the message suggests for objects of some types."""
    for dtype, kinds in (
        ("bool", (bool, np.bool_)),
        ("int", (bool, np.bool_, int, np.integer)),
        ("float", (bool, np.bool_, int, float, np.integer, np.floating)),
        ("bytes", (bytes,)),
        ("datetime64[us]", (datetime.date, np.datetime64)),
        ("timedelta64[us]", (datetime.timedelta, np.timedelta64)),
    ):
        if all(issubclass(kind, kinds) for kind in types):
            return dtype
    return "str"


def find_classes(name: str, value: Any, length: int, stacklevel: int) -> tuple[Array, Array]:
    """The distinct labels, sorted, and the index of each row's label among them (int64).

    If the rows are distributions, these are returned in place of the indices, and the classes are 0, 1, 2, ...
    """
    labels, target = find_partition_classes(name, value, length, stacklevel + 1)
    if len(labels) < 2:
        raise ValueError(f"{name} has one class only, {labels[0]!s}; it must have at least 2")
    return labels, target


def find_partition_classes(name: str, value: Any, length: int, stacklevel: int) -> tuple[Array, Array]:
    """`find_classes` for some of the rows, which may all be of one class."""
    array = to_target(name, value)
    soft = to_distribution(name, array, length)
    if soft is not None:
        return np.arange(soft.shape[1]), soft
    return find_unique(name, to_column(name, array, length, stacklevel + 1))


def find_unique(name: str, array: Array) -> tuple[Array, NDArray[np.int64]]:
    """Check labels; return the distinct ones, sorted, and the index of each label among these."""
    labels, indices = np.unique(check_labels(name, array), return_inverse=True)
    return labels, indices.astype(np.int64, copy=False)


def to_distribution(name: str, array: Array, length: int) -> Array | None:
    """Distributions as floats of shape (n_samples, n_classes), each summing to 1; None if the shape is another."""
    if array.ndim != 2 or array.shape[1] < 2:
        return None
    if array.dtype.kind not in "bf" and not is_half(array.dtype):
        raise ValueError(
            f"{name} should be a 1d array of labels, or floats or bools of shape (n_samples, n_classes), a "
            f"distribution per row; got an array of shape {array.shape} and dtype {array.dtype}"
        )
    if len(array) != length:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have {length} rows, as X (Found input variables with "
            f"inconsistent numbers of samples: {[length, len(array)]})"
        )
    if array.dtype.kind == "b":
        array = array.astype(np.float64)
    array = array.astype(np.float32) if is_half(array.dtype) else to_numbers(name, array)
    check_between(name, array, 0, math.inf, "probabilities must be at least 0")
    mass = array.sum(axis=1, dtype=np.float64)
    good = np.abs(mass - 1) <= SUM_ERROR
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"{name}[{row}] sums to {mass[row]:g}; each row must sum to 1 (use sample_weight to weight rows) (Unknown "
            "label type: continuous-multioutput)"
        )
    return array


def check_classes(value: Any) -> Array:
    """The argument `classes`, sorted."""
    array = to_target("classes", value)
    if array.ndim != 1:
        raise ValueError(f"classes has shape {array.shape}; it must be a 1d array of labels")
    labels, _ = find_unique("classes", array)
    if len(labels) < 2:
        raise ValueError(f"classes has {len(labels)} class(es); it must have at least 2")
    return labels


def find_stream_classes(y: Any, value: Any, known: Array | None, length: int) -> Array:
    """The classes of a stream: the known ones; in the first call the given ones, or the columns of a distribution."""
    labels = None if value is None else check_classes(value)
    if known is not None:
        if labels is not None and not np.array_equal(labels, known):
            raise ValueError(f"classes={value!r} is not the same as on last call to partial_fit, was: {known.tolist()}")
        return known
    if labels is not None:
        return labels
    soft = to_distribution("y", to_target("y", y), length)
    if soft is None:
        raise ValueError("classes must be passed on the first call to partial_fit: all labels that may occur")
    return np.arange(soft.shape[1])


def encode_target(name: str, value: Any, length: int, known: Array, stacklevel: int) -> Array:
    """The index of each row's label among the known classes (int64), or a distribution over them."""
    array = to_target(name, value)
    soft = to_distribution(name, array, length)
    if soft is not None:
        if not np.array_equal(known, np.arange(soft.shape[1])):
            raise ValueError(
                f"{name} is a distribution over {soft.shape[1]} classes, which are the numbers of its columns; the "
                f"classes must be these, but are {known.tolist()}"
            )
        return soft
    indices = encode_labels(name, array, length, known, stacklevel + 1)
    if (indices < 0).any():
        row = int(np.argmax(indices < 0))
        found = array.reshape(-1)[row : row + 1].tolist()[0]
        raise ValueError(f"{name}[{row}] is {found!r}, which is not one of the classes, {known.tolist()}")
    return indices


def encode_labels(name: str, array: Array, length: int, known: Array, stacklevel: int) -> NDArray[np.int64]:
    """The index of each row's label among the known classes; -1 for a label that is not one of them.

    A label of another kind than the classes, such as a string among numbers, is an error.
    """
    labels, indices = find_unique(name, to_column(name, array, length, stacklevel + 1))
    found, wanted = kind_of(labels), kind_of(known)
    if found != wanted:
        raise ValueError(
            f"{name} has {found} labels, such as {labels.tolist()[0]!r}; they must be {wanted} labels, as the classes "
            f"{known.tolist()} (Mix of label input types ({found} and {wanted}))"
        )
    return find_indices(labels, known)[indices]


def find_indices(labels: Array, known: Array) -> NDArray[np.int64]:
    """The index of each label among known labels of the same kind; -1 if it is not one of them."""
    if known.dtype.kind in "mM":        # their units may differ
        unit = np.result_type(known.dtype, labels.dtype)
        known, labels = known.astype(unit).view(np.int64), labels.astype(unit).view(np.int64)
    place = {label: i for i, label in enumerate(known.tolist())}
    return np.array([place.get(label, -1) for label in labels.tolist()], np.int64)


def kind_of(labels: Array) -> str:
    """The kind of some labels. Labels of one kind can be compared, and put in one array without changing them."""
    kinds = {"S": "bytes", "M": "date", "m": "duration"}
    return "number" if labels.dtype.kind in "biuf" else kinds.get(labels.dtype.kind, "string")
