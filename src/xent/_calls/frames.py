"""Converts frames of pandas, polars and Arrow, and their columns, to arrays.

A row group of a Parquet file is an Arrow table, so the same code converts a frame and a file. Bools, integers, floats
and decimals count as numbers, also as categories. Strings, dates, durations and nested values are refused. A column of
fixed-size lists becomes one column per element. Missing values become NaN.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The column in which Arrow stores a pandas index that has no name; other readers take it for a feature.
_INDEX = re.compile(r"__index_level_\d+__")
_NUMBERS = "real numbers (bools, integers, floats or decimals)"


def is_instance(value: Any, library: str, *names: str) -> bool:
    """Whether a value is an instance of one of these classes of a library, without importing it."""
    module = sys.modules.get(library)
    return module is not None and any(isinstance(value, getattr(module, name, ())) for name in names)


def _is_table(value: Any) -> bool:
    return is_instance(value, "pyarrow", "Table", "RecordBatch")


def is_frame(value: Any) -> bool:
    return _is_table(value) or (hasattr(value, "columns") and hasattr(value, "dtypes"))


def is_lazy(value: Any) -> bool:
    return is_instance(value, "polars", "LazyFrame")


def labels_of(frame: Any) -> list[Any]:
    """The names of the columns."""
    return list(frame.column_names if _is_table(frame) else frame.columns)


def columns_of(frame: Any) -> list[Any] | None:
    """The columns; None for a frame of an unknown library."""
    if _is_table(frame):
        return list(frame.columns)
    if is_instance(frame, "polars", "DataFrame"):
        return list(frame.get_columns())
    if is_instance(frame, "pandas", "DataFrame"):
        return [column for _, column in frame.items()]
    return None


# --- the index of pandas ---------------------------------------------------------------------------------------------


def index_columns(schema: Any) -> set[str]:
    """The columns of an Arrow schema that hold the index of a pandas frame, not features."""
    stored = (schema.pandas_metadata or {}).get("index_columns", [])
    named = {name for name in stored if isinstance(name, str)}      # a dict describes a range, which has no column
    return named | {name for name in schema.names if _INDEX.fullmatch(name)}


def without_index(frame: Any) -> Any:
    """An Arrow table without the columns that hold an index; any other frame as it is."""
    if not _is_table(frame):
        return frame
    index = index_columns(frame.schema)
    return frame.select([i for i, name in enumerate(frame.column_names) if name not in index]) if index else frame


def stored_index(labels: Iterable[Any]) -> str | None:
    """The first label that is Arrow's name of a pandas index, or None."""
    return next((label for label in labels if isinstance(label, str) and _INDEX.fullmatch(label)), None)


# --- a frame as a matrix ---------------------------------------------------------------------------------------------


def to_matrix(name: str, frame: Any, dtype: Any = None) -> tuple[Array, list[Any]]:
    """The values of a frame, of the given type or the common one of its columns, and a label for each column.

    The common type of float16 is float32. Nothing is copied if the frame holds such a matrix.
    """
    labels = labels_of(frame)
    columns = columns_of(frame)
    if columns is None or (dtype is None and _has_one_type(frame)):
        return np.asarray(frame), labels
    blocks: list[Array] = []
    wide: list[Any] = []
    if _is_table(frame):
        for field in frame.schema:
            check_field(f"column {field.name!r} of {name}", field)
    for label, column in zip(labels, columns, strict=True):
        blocks.append(_numbers(name, len(wide), label, column))
        width = 1 if blocks[-1].ndim == 1 else blocks[-1].shape[1]
        one = blocks[-1].ndim == 1 or not isinstance(label, str)
        wide += [label] * width if one else [f"{label}[{i}]" for i in range(width)]
    if dtype is None:
        dtype = _common_type(name, labels, blocks)
    matrix = np.empty((frame.shape[0], len(wide)), dtype)
    first = 0
    for label, block in zip(labels, blocks, strict=True):
        last = first + (1 if block.ndim == 1 else block.shape[1])
        try:
            with np.errstate(over="raise"):
                matrix[:, first:last] = block[:, None] if block.ndim == 1 else block
        except FloatingPointError:
            raise ValueError(f"column {label!r} of {name} has numbers that are too large for {matrix.dtype}") from None
        first = last
    return matrix, wide


def _has_one_type(frame: Any) -> bool:
    """Whether all columns are plain numbers of one type: the library itself then converts them, or holds a matrix."""
    dtypes = set() if _is_table(frame) else set(frame.dtypes)
    if len(dtypes) != 1:
        return False
    dtype = dtypes.pop()
    if isinstance(dtype, np.dtype):
        return dtype.kind in "biu" or dtype in (np.float32, np.float64)
    return is_instance(frame, "polars", "DataFrame") and str(dtype) in ("Float32", "Float64")


def _common_type(name: str, labels: list[Any], blocks: list[Array]) -> np.dtype[Any]:
    if not blocks:
        return np.dtype(np.float64)
    dtype: np.dtype[Any] = np.result_type(*(block.dtype for block in blocks))
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind == "f" and dtype not in (np.float32, np.float64):
        label = next(label for label, block in zip(labels, blocks, strict=True) if block.dtype == dtype)
        raise TypeError(
            f"column {label!r} of {name} has dtype {dtype}; it must be float16, float32 or float64: convert it with "
            f"{name}.astype(np.float64)"
        )
    return dtype


def _numbers(name: str, place: int, label: Any, column: Any) -> Array:
    """The values of a column as bools, integers or floats, of shape (n,) or, for lists, (n, length)."""
    title = f"column {label!r} of {name}"
    values: Array = series(title, column)
    kind = values.dtype.kind
    if kind in "biuf" and values.ndim <= 2:
        return values
    found = f"{title} has dtype {column.type if is_arrow(column) else column.dtype}"
    if kind == "c":
        raise ValueError(f"{found}; columns must be {_NUMBERS} (Complex data not supported)")
    if kind != "O" or values.ndim > 2:
        raise TypeError(f"{found}; columns must be {_NUMBERS}")
    return numbers_of_objects(name, values, place, f" in column {label!r}")


def numbers_of_objects(name: str, array: Array, first: int | None = None, where: str = "") -> Array:
    """Objects as float64, with NaN for None and pandas.NA. Raises for the first one that is not a number.

    The array may be columns of a matrix; `first` is the place of the first one there, for the error.
    """
    result = np.empty(array.shape)
    numbers = result.reshape(-1)
    for i, value in enumerate(array.flat):
        if isinstance(value, float):
            numbers[i] = value
            continue
        if value is None or type(value).__name__ == "NAType":
            numbers[i] = np.nan
            continue
        index = [int(k) for k in np.unravel_index(i, array.shape)]
        if first is not None:
            index = [index[0], first + sum(index[1:])]
        found = f"{name}{index or ''} is {value!r}{where}; it must be a real number"
        if isinstance(value, str | bytes):
            raise ValueError(f"{found}, not a string")
        try:
            if isinstance(value, np.timedelta64 | np.ndarray):      # float() would accept some of them
                raise TypeError(f"found {type(value).__name__}")
            numbers[i] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            lists = "; lists must have a fixed-size type (pyarrow.list_(type, size), polars.Array)"
            raise TypeError(f"{found}{lists if isinstance(value, list | np.ndarray) else ''} ({error})") from None
    return result


# --- a column as an array --------------------------------------------------------------------------------------------


def is_arrow(value: Any) -> bool:
    return is_instance(value, "pyarrow", "Array", "ChunkedArray")


def arrow_to_array(name: str, value: Any) -> Any:
    """The values of an Arrow array or table, without a stored pandas index; anything else as it is."""
    if is_arrow(value):
        return _from_arrow(name, value)
    if not _is_table(value):
        return value
    value = without_index(value)
    columns = [
        _from_arrow(f"column {label!r} of {name}", column)
        for label, column in zip(value.column_names, value.columns, strict=True)
    ]
    return np.stack(columns, axis=1) if columns else np.empty((value.num_rows, 0))


def series(name: str, value: Any) -> Any:
    """A column of pandas, polars or Arrow as a NumPy array; anything else as it is."""
    if is_instance(value, "pandas", "Series", "Index") or is_instance(value, "pandas.api.extensions", "ExtensionArray"):
        return _from_pandas(name, value)
    if is_instance(value, "polars", "Series"):
        return _from_polars(value)
    return _from_arrow(name, value) if is_arrow(value) else value


def _from_pandas(name: str, column: Any) -> Array:
    dtype = column.dtype
    if hasattr(dtype, "pyarrow_dtype"):
        return _from_arrow(name, getattr(column, "array", column).__arrow_array__())
    if not isinstance(dtype, np.dtype) and isinstance(getattr(dtype, "numpy_dtype", None), np.dtype):   # nullable
        plain = dtype.numpy_dtype
        if not column.isna().any():
            return np.asarray(column.to_numpy(plain))
        return np.asarray(column.to_numpy(plain if plain.kind == "f" else np.dtype(np.float64), na_value=np.nan))
    if hasattr(dtype, "categories"):
        return np.asarray(column, object) if dtype.categories.dtype.kind == "O" else np.asarray(column)
    return np.asarray(column)


def _from_polars(column: Any) -> Array:
    name = str(column.dtype)
    if name.startswith(("Decimal", "Struct")) or name.endswith("Int128"):       # NumPy has no such types
        return objects(column.to_list())
    return np.asarray(column.to_numpy())


def objects(values: Any) -> Array:
    """An array of objects, even if they are sequences."""
    result = np.empty(len(values), object)
    result[:] = values
    return result


def check_field(name: str, field: Any) -> None:
    """Raise for a column of an extension type that is not registered: Arrow would read it as its storage type."""
    extension = (field.metadata or {}).get(b"ARROW:extension:name")
    if extension is not None:
        _refuse(name, f"extension<{extension.decode(errors='replace')}>")


def _refuse(name: str, kind: object) -> NoReturn:
    raise TypeError(f"{name} has dtype {kind}; convert it to numbers, strings or dates")


def _from_arrow(name: str, column: Any) -> Array:
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if isinstance(kind, pyarrow.BaseExtensionType):     # a period, for example, is stored as a number
        if kind.extension_name != "arrow.bool8" and getattr(kind, "shape", [0, 0])[1:]:
            _refuse(name, kind)
        return _from_arrow(name, column.cast(kind.storage_type))
    if types.is_dictionary(kind):       # np.asarray would put the last category where a value is missing
        return _from_arrow(name, column.cast(kind.value_type))
    if types.is_run_end_encoded(kind):
        return _from_arrow(name, compute.run_end_decode(column))
    if types.is_fixed_size_list(kind) and not types.is_nested(kind.value_type):
        chunks = [_from_lists(name, chunk) for chunk in getattr(column, "chunks", [column])]
        return np.concatenate(chunks) if chunks else np.empty((0, kind.list_size))
    return np.asarray(column)


def _from_lists(name: str, lists: Any) -> Array:
    """Lists of one length, as rows of a matrix; a missing list is a row of NaN."""
    length = lists.type.list_size
    elements = lists.values.slice(lists.offset * length, len(lists) * length)
    values = _from_arrow(name, elements).reshape(len(lists), length)
    if lists.null_count:
        values = values.astype(values.dtype if values.dtype.kind in "fO" else np.float64)
        values[np.asarray(lists.is_null())] = np.nan
    return values
