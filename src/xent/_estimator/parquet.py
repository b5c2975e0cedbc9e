"""Parquet files as blocks of rows, one for each row group. Needs pyarrow."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xent._calls import frames
from xent._estimator.partitions import NamedMatrix, prefix_read_errors

PathLike = str | os.PathLike[str]


class RowGroups:
    """Blocks (X,), (X, y) or (X, y, sample_weight), one for each row group, read again at each iteration.

    Parameters
    ----------
    path : path-like or sequence of path-like
    target : str or None
    sample_weight : str or None
    features : sequence of str or None
        None: all other columns of the first file, except those that hold the index of a pandas frame.
    dtype : dtype
        The dtype of X.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        target: str | None,
        sample_weight: str | None,
        features: Sequence[str] | None,
        dtype: Any,
    ) -> None:
        try:
            self._parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise ImportError("reading Parquet files needs pyarrow; pip install pyarrow") from error
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is {self.dtype}; it must be float32 or float64")
        given = [path] if isinstance(path, str | os.PathLike) else list(path)
        self.files = [f for p in map(Path, given) for f in (sorted(p.glob("*.parquet")) if p.is_dir() else [p])]
        if not self.files:
            raise ValueError(f"{path!r} contains no *.parquet files")
        if isinstance(features, str):
            raise TypeError(f"features is {features!r}, a string; it must be a sequence of column names")
        if sample_weight is not None and sample_weight == target:
            raise ValueError(f"sample_weight is {sample_weight!r}, the column of labels; it must be another column")
        if sample_weight is not None and target is None:
            raise ValueError(f"target is None, but sample_weight is {sample_weight!r}; rows with weights have labels")
        self.roles = [name for name in (target, sample_weight) if name is not None]
        with prefix_read_errors(repr(os.fspath(self.files[0]))):
            schema = self._parquet.read_schema(self.files[0])
        self.may_be_index = features is not None
        others = {*self.roles, *frames.index_columns(schema)}
        self.features = [n for n in schema.names if n not in others] if features is None else list(features)
        if target in self.features:
            raise ValueError(f"features has {target!r}, which is the target; it must not be a feature")
        self._check(self.files[0], schema)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for file in self.files:
            with self._open(file) as opened:
                for group in range(opened.num_row_groups):
                    yield self._block(opened, group, f"row group {group} of {os.fspath(file)!r}")

    def _open(self, file: Path) -> Any:
        with prefix_read_errors(repr(os.fspath(file))):
            opened = self._parquet.ParquetFile(file)
        try:
            self._check(file, opened.schema_arrow)
        except ValueError:
            opened.close()
            raise
        return opened

    def _check(self, file: Path, schema: Any) -> None:
        """Raise unless a file has each column once, and no feature is the index of a pandas frame."""
        where = repr(os.fspath(file))
        for name in [*self.roles, *self.features]:
            if name not in schema.names:
                raise ValueError(f"{where} has no column {name!r}; available: {schema.names}")
            if schema.names.count(name) > 1:
                raise ValueError(f"{where} has {schema.names.count(name)} columns {name!r}; it must have one")
            with prefix_read_errors(where):
                frames.check_field(f"column {name!r}", schema.field(name))
        index = frames.index_columns(schema).intersection(self.features)
        if index and not self.may_be_index:
            raise ValueError(
                f"{where} holds the index of a pandas frame in its column {min(index)!r}, which is a feature in "
                f"{os.fspath(self.files[0])!r}; pass the names of the features, features=[...]"
            )

    def _block(self, opened: Any, group: int, origin: str) -> tuple[Any, ...]:
        with prefix_read_errors(origin):
            table = opened.read_row_group(group, columns=[*self.roles, *self.features])
            X, names = frames.to_matrix("X", table.select(self.features), self.dtype)
            columns = (frames.series(f"column {name!r}", table.column(name)) for name in self.roles)
            return NamedMatrix(X, names, origin), *columns
