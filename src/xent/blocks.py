"""Data larger than memory: blocks of rows that are read again for every evaluation, one at a time."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent import parts
from xent._arguments import positive_integer
from xent._estimator_arguments import given_classes
from xent.linear import RowSums

if TYPE_CHECKING:
    from pathlib import Path

Array = NDArray[Any]
Block = tuple[Any, ...]     # (X, y) or (X, y, sample_weight)

BLOCK_BYTES = 1 << 26


class Blocks:
    """Rows in blocks that can be read again and again: data that need not fit in memory.

    :meth:`LogisticRegression.fit` takes it in the place of `X`, without `y`, and reads every block once for each
    evaluation of the objective, in order, with at most two in memory: the one it computes with, and the one being read.

    Parameters
    ----------
    source : iterable or callable
        What gives the blocks each time that it is iterated over, such as a list; or a function, such as a generator
        function, that returns an iterator of the same blocks at each call. A block is a tuple (X, y) or
        (X, y, sample_weight) as :meth:`LogisticRegression.fit` takes them; X may be sparse or a frame, and may have no
        rows.
    classes : array_like, optional
        All labels that may come; if not given, those that are found.

    Raises
    ------
    TypeError
        If `source` is an iterator, which can be read only once.
    ValueError
        In `fit`, if a block has a wrong shape or value, or the blocks are others than they were: the message names the
        block.

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
    """

    def __init__(
        self, source: Iterable[Block] | Callable[[], Iterable[Block]], *, classes: ArrayLike | None = None
    ) -> None:
        if isinstance(source, Iterator):
            raise TypeError(
                f"source is a {type(source).__name__}, an iterator, which can be read only once; it must be a function "
                "that returns a new one at each call, or something that can be iterated over again"
            )
        if not callable(source) and not hasattr(source, "__iter__"):
            raise TypeError(f"source is a {type(source).__name__}; it must be an iterable of blocks, or a function")
        self._source = source
        self.classes = None if classes is None else given_classes(classes)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        rows: int | None = None,
        classes: ArrayLike | None = None,
    ) -> Blocks:
        """Blocks of rows of arrays, such as memory maps.

        Parameters
        ----------
        X : ndarray or sparse CSR matrix of shape (n_samples, n_features)
        y, sample_weight : array_like
            As in :meth:`LogisticRegression.fit`.
        rows : int, optional
            Of a block; about 64 MB if not given.
        classes : array_like, optional
            As in the constructor.

        Returns
        -------
        Blocks
        """
        columns = [X, *(np.asarray(a) if not hasattr(a, "shape") else a for a in (y, sample_weight) if a is not None)]
        lengths = [a.shape[0] for a in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"X, y and sample_weight have {lengths} rows; they must have as many")
        if rows is None:
            rows = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
        size = positive_integer("rows", rows)

        def read() -> Iterator[Block]:
            for start in range(0, lengths[0], size):
                yield tuple(a[start : start + size] for a in columns)

        return cls(read, classes=classes)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, classes: ArrayLike | None = None) -> Blocks:
        """A block for each file of a folder, in the order of their names.

        Parameters
        ----------
        path : path-like
            A folder of ``.npz`` files with arrays ``X``, ``y`` and, if there are weights, ``sample_weight``; or of
            ``.npy`` files named ``<name>.X.npy``, ``<name>.y.npy`` and ``<name>.sample_weight.npy``, which are mapped
            into memory.
        classes : array_like, optional
            As in the constructor.

        Returns
        -------
        Blocks

        Raises
        ------
        ValueError
            If the folder has no such files, or a file has no partner. Files are read in `fit`, not here.
        """
        from pathlib import Path  # here, so that importing xent does not pay for it

        folder = Path(path)
        archives = sorted(folder.glob("*.npz"))
        stems = sorted(file.name.removesuffix(".X.npy") for file in folder.glob("*.X.npy"))
        if not archives and not stems:
            raise ValueError(f"{os.fspath(path)!r} has no files *.npz, nor *.X.npy and *.y.npy; it must have some")
        if archives and stems:
            raise ValueError(f"{os.fspath(path)!r} has files *.npz and files *.X.npy; it must have one kind")
        weighted = [(folder / f"{stem}.sample_weight.npy").exists() for stem in stems]
        for stem, has_weight in zip(stems, weighted, strict=True):
            if not (folder / f"{stem}.y.npy").exists():
                raise ValueError(f"{os.fspath(folder / stem)}.X.npy has no partner {stem}.y.npy")
            if has_weight != weighted[0]:
                raise ValueError(f"{os.fspath(folder)!r} has *.sample_weight.npy for some blocks, not for all")

        def read() -> Iterator[Block]:
            for file in archives:
                yield _archive(file)
            for stem in stems:
                names = ["X", "y", *(["sample_weight"] if weighted[0] else [])]
                yield tuple(np.load(folder / f"{stem}.{name}.npy", mmap_mode="r") for name in names)

        return cls(read, classes=classes)

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        target: str,
        sample_weight: str | None = None,
        features: Sequence[str] | None = None,
        dtype: Any = np.float32,
        classes: ArrayLike | None = None,
    ) -> Blocks:
        """A block for each row group of Parquet files. Needs pyarrow.

        Parameters
        ----------
        path : path-like or sequence of path-like
            Files, or folders of files ``*.parquet``, in the order of their names.
        target : str
            The column of labels.
        sample_weight : str, optional
            The column of weights.
        features : sequence of str, optional
            The columns of features, in their order; if not given, all others, in the order of the first file.
        dtype : dtype, default float32
            To compute in: float32 or float64.
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
            If there are no files, or a column is missing.
        """
        from pathlib import Path

        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise ImportError("Parquet files are read by pyarrow, which is not installed") from error
        given = [path] if isinstance(path, str | os.PathLike) else list(path)
        files = [f for p in map(Path, given) for f in (sorted(p.glob("*.parquet")) if p.is_dir() else [p])]
        if not files:
            raise ValueError(f"{path!r} has no files *.parquet; it must have at least one")
        roles = [target, *([] if sample_weight is None else [sample_weight])]
        present = parquet.read_schema(files[0]).names
        names = [n for n in present if n not in roles] if features is None else list(features)
        for name in [*roles, *names]:
            if name not in present:
                raise ValueError(f"{os.fspath(files[0])!r} has no column {name!r}; those are {present}")

        def read() -> Iterator[Block]:
            for file in files:
                with parquet.ParquetFile(file) as opened:
                    for group in range(opened.num_row_groups):
                        table = opened.read_row_group(group, columns=[*roles, *names])
                        X = np.empty((table.num_rows, len(names)), dtype)
                        for j, name in enumerate(names):
                            X[:, j] = table.column(name).to_numpy()
                        columns = [table.column(name).to_numpy() for name in roles]
                        del table
                        yield parts.Named(X, names), *columns

        return cls(read, classes=classes)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._source() if callable(self._source) else self._source)

    def _parts(self) -> Iterator[parts.Part | None]:
        for i, block in enumerate(self):
            place = f"block {i}"
            if not isinstance(block, tuple | list) or len(block) not in (2, 3):
                raise TypeError(f"{place} is a {type(block).__name__}; it must be (X, y) or (X, y, sample_weight)")
            found = parts.part(place, *block)
            del block
            yield found
            del found

    def _rows(self, class_weight: Any, n_threads: int | None) -> parts.Rows:
        """What a fit is to."""
        summaries = [None if part is None else parts.summary(part, self.classes) for part in self._parts()]
        plan = parts.plan(summaries, class_weight)

        def read() -> Iterator[tuple[int, RowSums]]:
            i = -1
            for i, part in enumerate(self._parts()):
                rows = 0 if part is None else part.X.shape[0]
                if i >= len(plan.rows):
                    raise ValueError(f"there is a block {i}, but the first pass had {len(plan.rows)}: {_AGAIN}")
                if rows != plan.rows[i]:
                    raise ValueError(f"block {i} has {rows} rows, but {plan.rows[i]} at the first pass: {_AGAIN}")
                if part is None:
                    continue
                if part.X.shape[1] != plan.features:
                    raise ValueError(f"block {i} has {part.X.shape[1]} features, but {plan.features} before: {_AGAIN}")
                sums = plan.sums(part, n_threads)
                del part
                yield i, sums
                del sums
            if i + 1 < len(plan.rows):
                raise ValueError(f"there were {i + 1} blocks at this pass, but {len(plan.rows)} at the first: {_AGAIN}")

        sums = parts.SequentialSums(plan, read)
        return parts.Rows(sums, plan.classes, plan.weight, plan.dtype, plan.names, sums.separated)


_AGAIN = "a source must give the same blocks each time that it is read"


def _archive(file: Path) -> Block:
    with np.load(file, allow_pickle=False) as archive:
        for name in ("X", "y"):
            if name not in archive:
                raise ValueError(f"{os.fspath(file)!r} has no array {name!r}; those are {sorted(archive)}")
        return tuple(archive[name] for name in ("X", "y", "sample_weight") if name in archive)
