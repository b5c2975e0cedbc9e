"""Data larger than memory: blocks of rows that are read again for every evaluation, one at a time."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import frames
from xent._calls.arrays import to_array
from xent._calls.scalars import check_positive_integer
from xent._estimator.features import Features, check_features, to_csr
from xent._estimator.labels import check_classes, to_target
from xent._estimator.parquet import RowGroups
from xent._estimator.partitions import (
    FitData,
    Partition,
    PartitionSource,
    check_partition,
    has_no_rows,
    make_plan,
    prefix_errors,
    prefix_read_errors,
    summarise,
)
from xent._fit.partitioned import SequentialSums
from xent._fit.row_sums import RowSums

Array = NDArray[Any]
Block = tuple[Any, ...]     # (X, y) or (X, y, sample_weight)

BLOCK_BYTES = 1 << 26


class Blocks(PartitionSource):
    """Data that need not fit in memory: blocks of rows that can be read any number of times.

    Pass it to :meth:`LogisticRegression.fit` in place of `X`, without `y`. Each evaluation of the objective reads every
    block once, in order. At most two blocks are in memory: the one in use and the one being read.

    Prediction and `score` read every block once, and take its labels and weights for the score. What they predict is
    one array for all rows. Blocks to predict may also be X alone, or (X,).

    Parameters
    ----------
    source : iterable or callable
        An iterable that yields the same blocks each time, such as a list; or a function that returns an iterator over
        the same blocks at each call, such as a generator function. A block is a tuple (X, y) or
        (X, y, sample_weight) as :meth:`LogisticRegression.fit` takes them; X may be sparse or a frame, and may have no
        rows.
    classes : array_like, optional
        All labels that may occur; if not given, those found in the data.

    Raises
    ------
    TypeError
        If `source` is an iterator, which can be read only once.
    ValueError
        Where blocks are read, if one has a wrong shape or value, or if in `fit` they differ from those of the first
        pass. The message names the block.

    See Also
    --------
    LogisticRegression.partial_fit : For a stream that cannot be read again.

    Examples
    --------
    >>> import xent
    >>> X, y = xent.datasets.load_digits()
    >>> def read():
    ...     for start in range(0, len(X), 500):
    ...         yield X[start : start + 500], y[start : start + 500]
    >>> model = xent.LogisticRegression().fit(xent.Blocks(read))
    >>> bool(model.converged_), model.coef_.shape
    (True, (10, 64))
    >>> model.predict(xent.Blocks(read)).shape, model.score(xent.Blocks(read)) > 0.9
    ((1797,), True)
    """

    def __init__(
        self, source: Iterable[Block] | Callable[[], Iterable[Block]], *, classes: ArrayLike | None = None
    ) -> None:
        if isinstance(source, Iterator):
            raise TypeError(
                f"source is a {type(source).__name__}, an iterator, which can be read only once; pass a function that "
                "returns a new iterator at each call, or an iterable such as a list"
            )
        if not callable(source) and not hasattr(source, "__iter__"):
            raise TypeError(f"source is a {type(source).__name__}; it must be an iterable of blocks, or a function")
        self._source = source
        self.classes = None if classes is None else check_classes(classes)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        rows: int | None = None,
        classes: ArrayLike | None = None,
    ) -> Blocks:
        """Blocks of rows of arrays, such as memory maps.

        Parameters
        ----------
        X : array_like, sparse matrix or frame of shape (n_samples, n_features)
        y, sample_weight : array_like, optional
            As in :meth:`LogisticRegression.fit`; rows to predict need none.
        rows : int, optional
            The number of rows of a block; if not given, blocks have about 64 MB.
        classes : array_like, optional
            As in the constructor.

        Returns
        -------
        Blocks
        """
        if y is None and sample_weight is not None:
            raise ValueError("y is None, but sample_weight is not; rows with weights must have labels")
        columns = [_to_sliceable(X), *([] if y is None else [to_target("y", y)])]
        if sample_weight is not None:
            columns.append(to_array("sample_weight", frames.series("sample_weight", sample_weight)))
        lengths = [a.shape[0] if a.shape else 0 for a in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"X, y and sample_weight have {lengths} rows; they must have the same number")
        if rows is None:
            row_bytes = math.prod(columns[0].shape[1:]) * getattr(getattr(X, "dtype", None), "itemsize", 8)
            rows = max(1, BLOCK_BYTES // max(1, row_bytes))
        size = check_positive_integer("rows", rows)

        def read() -> Iterator[Block]:
            for start in range(0, lengths[0], size):
                yield tuple(_take_rows(a, start, min(start + size, lengths[0])) for a in columns)

        return cls(read, classes=classes)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, classes: ArrayLike | None = None) -> Blocks:
        """A block for each file of a folder, in the order of the names.

        Parameters
        ----------
        path : path-like
            A folder of ``.npz`` files with arrays ``X``, ``y`` and optionally ``sample_weight``; or of ``.npy`` files
            ``<name>.X.npy``, ``<name>.y.npy`` and optionally ``<name>.sample_weight.npy``, which are memory-mapped.
            Rows to predict need no ``y``.
        classes : array_like, optional
            As in the constructor.

        Returns
        -------
        Blocks

        Raises
        ------
        ValueError
            If the folder has no such files, or one of a block's files is missing. Files are read in `fit`, not here.
        """
        folder = Path(path)
        archives = sorted(folder.glob("*.npz"))
        stems = sorted(file.name.removesuffix(".X.npy") for file in folder.glob("*.X.npy"))
        if not archives and not stems:
            raise ValueError(f"{os.fspath(path)!r} contains no *.npz files and no *.X.npy and *.y.npy files")
        if archives and stems:
            raise ValueError(f"{os.fspath(path)!r} contains *.npz and *.X.npy files; it must contain only one kind")
        names = _find_names(folder, stems)

        def read() -> Iterator[Block]:
            sizes = set()
            for file in archives:
                block = _read_archive(file)
                sizes.add(len(block))
                if len(sizes) > 1:
                    raise ValueError(f"{os.fspath(folder)!r} has y or sample_weight in some files but not in all")
                yield block
            for stem in stems:
                with prefix_read_errors(repr(os.fspath(folder / stem))):
                    block = tuple(np.load(folder / f"{stem}.{name}.npy", mmap_mode="r") for name in names)
                yield block

        return cls(read, classes=classes)

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        target: str | None = None,
        sample_weight: str | None = None,
        features: Sequence[str] | None = None,
        dtype: Any = np.float32,
        classes: ArrayLike | None = None,
    ) -> Blocks:
        """A block for each row group of Parquet files. Needs pyarrow.

        Parameters
        ----------
        path : path-like or sequence of path-like
            Files, or folders of files ``*.parquet``, which are read in the order of their names.
        target : str, optional
            The column of labels; rows to predict need none.
        sample_weight : str, optional
            The column of weights.
        features : sequence of str, optional
            The feature columns, in order; if not given, all other columns in the order of the first file, except those
            in which pandas has stored an index.
        dtype : dtype, default float32
            The dtype of X, in which `fit` computes: float32 or float64.
        classes : array_like, optional
            As in the constructor.

        Returns
        -------
        Blocks

        Raises
        ------
        ImportError
            If pyarrow is not installed.
        ValueError
            If there are no files, a column is missing, or `dtype` is not float32 or float64.

        Notes
        -----
        Columns may be of the types that :meth:`LogisticRegression.fit` takes in a frame: numbers and bools without
        missing values, and lists of numbers of a fixed size, such as embeddings, whose elements are features named
        ``name[0]``, ``name[1]`` and so on. Columns are found by name: their order may differ from file to file.
        """
        return cls(RowGroups(path, target, sample_weight, features, dtype), classes=classes)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._source() if callable(self._source) else self._source)

    def _read_partitions(self) -> Iterator[Partition | None]:
        for place, block in self._locate():
            if not isinstance(block, tuple | list) or len(block) not in (2, 3):
                what = "has no y" if isinstance(block, tuple) and len(block) == 1 else f"is a {type(block).__name__}"
                raise TypeError(f"{place} {what}; it must be (X, y) or (X, y, sample_weight)")
            found = check_partition(place, *block)
            del block
            yield found
            del found

    def _read_features(self) -> Iterator[tuple[str, Features]]:
        for place, block in self._locate():
            X = block
            if isinstance(block, tuple | list):
                if len(block) not in (1, 2, 3):
                    raise TypeError(f"{place} has {len(block)} elements; it must be X, (X, y) or (X, y, sample_weight)")
                X = block[0]
            del block
            with prefix_errors(place):
                found = None if has_no_rows(X) else check_features("X", X)
            del X
            if found is not None:
                yield place, found
            del found

    def _locate(self) -> Iterator[tuple[str, Block]]:
        """The blocks, and for each what errors call it."""
        for i, block in enumerate(self):
            origin = getattr(block[0], "origin", "") if isinstance(block, tuple) and block else ""
            yield f"block {i}" + (f" ({origin})" if origin else ""), block
            del block

    def _fit_data(self, class_weight: Any, n_threads: int | None, known: Array | None = None) -> FitData:
        """Make the first pass, which summarises each block, and return the data of the fit."""
        known = self.classes if known is None else known
        summaries = [p and summarise(p, known) for p in self._read_partitions()]
        plan = make_plan(summaries, class_weight)

        def read() -> Iterator[tuple[int, RowSums]]:
            lengths, i = plan.partition_lengths, -1
            for i, partition in enumerate(self._read_partitions()):
                rows = 0 if partition is None else partition.X.shape[0]
                if i >= len(lengths):
                    raise ValueError(f"there is a block {i}, but the first pass had {len(lengths)} blocks: {_AGAIN}")
                if rows != lengths[i]:
                    raise ValueError(f"block {i} has {rows} rows, but had {lengths[i]} in the first pass: {_AGAIN}")
                if partition is None:
                    continue
                features = partition.X.shape[1]
                if features != plan.features:
                    raise ValueError(f"block {i} has {features} features, but had {plan.features} at first: {_AGAIN}")
                sums = plan.row_sums(partition, n_threads)
                del partition
                yield i, sums
                del sums
            if i + 1 < len(lengths):
                raise ValueError(f"this pass had {i + 1} blocks, but the first had {len(lengths)}: {_AGAIN}")

        sums = SequentialSums(plan.layout, read)
        return plan.fit_data(sums, sums.are_separated)


_AGAIN = "a source must yield the same blocks every time"


def _find_names(folder: Path, stems: list[str]) -> list[str]:
    """What there is for each block of ``.npy`` files: X, perhaps y, perhaps sample_weight."""
    names = ["X"]
    for name in ("y", "sample_weight"):
        missing = [stem for stem in stems if not (folder / f"{stem}.{name}.npy").exists()]
        if not missing:
            names.append(name)
        elif len(missing) < len(stems):
            raise ValueError(
                f"{os.fspath(folder)!r} has *.{name}.npy for some blocks but not for all: {missing[0]}.X.npy has no "
                f"matching {missing[0]}.{name}.npy"
            )
    if names == ["X", "sample_weight"]:
        raise ValueError(f"{os.fspath(folder)!r} has *.sample_weight.npy but no *.y.npy")
    return names


@contextlib.contextmanager
def _open_archive(file: Path) -> Iterator[Any]:
    with open(file, "rb") as opened:        # NumPy leaves a damaged file open
        archive = np.load(opened, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive, but an array")
        with archive:
            yield archive


def _read_archive(file: Path) -> Block:
    with prefix_read_errors(repr(os.fspath(file))), _open_archive(file) as archive:
        for name in ("X", *(["y"] if "sample_weight" in archive else [])):
            if name not in archive:
                raise ValueError(f"it has no array {name!r}; available: {sorted(archive)}")
        return tuple(archive[name] for name in ("X", "y", "sample_weight") if name in archive)


def _to_sliceable(X: Any) -> Any:
    """Features whose rows can be sliced."""
    if hasattr(X, "tocsr"):
        return to_csr("X", X)
    return X if frames.is_frame(X) else to_array("X", frames.series("X", X))


def _take_rows(a: Any, start: int, stop: int) -> Any:
    if hasattr(a, "iloc"):      # without it, pandas may slice by labels
        return a.iloc[start:stop]
    return a.slice(start, stop - start) if frames.is_frame(a) else a[start:stop]
