"""The matrix products of a linear layer, a block of rows and of classes at a time, in memory that is bounded: the
logits X @ weight.T + bias, and from their gradient G those of the operands: G @ weight, G.T @ X and the sums of G.

An operand that BLAS cannot take as it is (of another type, byte order or stride) is copied block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls import arguments as check

Array = NDArray[Any]


def chunks(length: int, size: int) -> Iterator[slice]:
    """0 to `length` in slices of `size`."""
    return (slice(first, min(first + size, length)) for first in range(0, length, max(1, size)))


class Rows:
    """An array whose first axes are counted through as one; blocks of it are views where strides allow."""

    def __init__(self, array: Array, axes: int) -> None:
        self.array = array
        self.lead = array.shape[:axes]
        self.merged = _merged(array, axes)
        row = array.itemsize * int(np.prod(array.shape[axes:]))
        self.copied = 0 if self.merged is not None else row + 8 * (axes + 1)    # bytes a row

    def __getitem__(self, rows: slice) -> Array:
        if self.merged is not None:
            return self.merged[rows]
        result: Array = self.array[np.unravel_index(np.arange(rows.start, rows.stop), self.lead)]
        return result


def _merged(array: Array, axes: int) -> Array | None:
    """A view with the first axes merged, or None if their strides do not allow it."""
    if axes == 1:
        return array
    sizes = [(n, stride) for n, stride in zip(array.shape[:axes], array.strides[:axes], strict=True) if n != 1]
    if any(outer != n * inner for (_, outer), (n, inner) in pairwise(sizes)):
        return None
    shape = (int(np.prod(array.shape[:axes])), *array.shape[axes:])
    strides = (sizes[-1][1] if sizes else 0, *array.strides[axes:])
    return np.lib.stride_tricks.as_strided(array, shape, strides)


def _fits_blas(array: Array | None, dtype: np.dtype[Any]) -> bool:
    """Whether NumPy hands blocks of a matrix to BLAS without a copy."""
    if array is None or array.dtype != dtype or not array.flags.aligned:
        return False
    (n, m), (down, along) = array.shape, array.strides
    if 0 in (n, m):
        return True
    size = dtype.itemsize
    return (along == size and down % size == 0 and down >= m * size) or (
        down == size and along % size == 0 and along >= n * size
    )


class Products:
    """Of a block of rows after another (`open`, `close`), and in each of a chunk of classes after another.

    Parameters
    ----------
    X : ndarray of shape (..., features)
    weight : ndarray of shape (classes, features)
    bias : ndarray of shape (classes,), or None
    dtype : dtype
        In which to compute.
    with_grad : bool
    """

    def __init__(self, X: Array, weight: Array, bias: Array | None, dtype: np.dtype[Any], with_grad: bool) -> None:
        self.dtype, self.with_grad = dtype, with_grad
        self.X, self.weight, self.bias = Rows(X, X.ndim - 1), weight, bias
        self.features = X.shape[-1]
        self.copies_X = not _fits_blas(self.X.merged, dtype)
        self.copies_weight = not _fits_blas(weight, dtype)
        self.types = [check.gradient_type(array) for array in (X, weight)]

    def row_bytes(self) -> int:
        """What a row of a block needs."""
        copies = self.copies_X + (self.with_grad and self.types[0] != self.dtype)
        numbers: int = copies * self.features
        return self.X.copied + numbers * self.dtype.itemsize

    def fixed_bytes(self, classes: int, piece: int, several: bool) -> int:
        """What chunks of so many classes and pieces of so many rows need; `several` blocks of rows need sums apart for
        a gradient of half precision, which would round each addition."""
        rooms = self.copies_weight * classes + self.with_grad * (classes + piece)
        numbers: int = rooms * self.features + self._sums_apart(several) * self.weight.size
        if self.bias is not None:
            numbers += (1 + self.with_grad) * len(self.bias)
        return numbers * self.dtype.itemsize

    def _sums_apart(self, several: bool) -> bool:
        return self.with_grad and several and check.is_half(self.types[1])

    def allocate(self, rows: int, classes: int, piece: int, several: bool) -> None:
        """Room for blocks of so many rows."""
        dtype, features = self.dtype, self.features
        self.piece = piece
        self.room_X = np.empty((rows * self.copies_X, features), dtype)
        self.room_weight = np.empty((classes * self.copies_weight, features), dtype)
        self.wide_bias = None if self.bias is None else self.bias.astype(dtype)
        if self.with_grad:
            self.grad_X = np.zeros(self.X.array.shape, self.types[0])
            self.grad_weight = np.zeros(self.weight.shape, self.types[1])
            self.rows_of_grad = Rows(self.grad_X, self.grad_X.ndim - 1)
            self.sums = np.zeros(self.weight.shape, dtype) if self._sums_apart(several) else self.grad_weight
            self.bias_sums = None if self.bias is None else np.zeros(self.bias.shape, dtype)
            self.room_grad = np.zeros((rows * (self.types[0] != dtype), features), dtype)
            self.room_piece = np.empty((piece, features), dtype)
            self.room_chunk = np.empty((classes, features), dtype)
            self.ones = np.ones(rows, dtype)

    def open(self, rows: slice, idle: Array | None) -> None:
        """Begin a block of rows, of which those that are `idle` (bool) have a gradient of 0 whatever is in them."""
        self.rows, self.idle = rows, idle
        self.x = self.X[rows]
        if self.copies_X:
            room = self.room_X[: len(self.x)]
            np.copyto(room, self.x, casting="unsafe")
            if idle is not None:
                room[idle] = 0
            self.x = room
        if self.with_grad:
            own = self.types[0] == self.dtype
            self.grad_x = self.rows_of_grad[rows] if own else self.room_grad[: len(self.x)]

    def logits(self, classes: slice, out: Array) -> None:
        np.matmul(self.x, self._weight(classes).T, out=out)
        if self.wide_bias is not None:
            out += self.wide_bias[classes]

    def backward(self, classes: slice, slopes: Array) -> None:
        """Add what the gradient for the logits of a chunk of classes makes of the others."""
        weight = self._weight(classes)
        for piece in chunks(len(slopes), self.piece):
            out = self.grad_x[piece]
            if classes.start == 0:
                np.matmul(slopes[piece], weight, out=out)
            else:
                out += np.matmul(slopes[piece], weight, out=self.room_piece[: len(out)])
        own = self.rows.start == 0 and self.sums.dtype == self.dtype
        for part in chunks(slopes.shape[1], slopes.shape[1] if own else len(self.room_chunk)):
            sums = self.sums[classes][part]
            if own:
                np.matmul(slopes.T, self.x, out=sums)
            else:
                room = np.matmul(slopes[:, part].T, self.x, out=self.room_chunk[: len(sums)])
                np.add(sums, room, out=sums, casting="unsafe")
        if self.bias_sums is not None:
            self.bias_sums[classes] += self.ones[: len(slopes)] @ slopes

    def close(self) -> None:
        """End a block of rows."""
        if self.with_grad:
            if self.idle is not None:
                self.grad_x[self.idle] = 0
            if self.types[0] != self.dtype:
                self.rows_of_grad[self.rows][...] = self.grad_x

    def gradients(self) -> tuple[Array, Array, Array | None]:
        """For X, weight and bias, each in the type of its own."""
        if self.sums is not self.grad_weight:
            self.grad_weight[...] = self.sums
        if self.bias is None or self.bias_sums is None:
            return self.grad_X, self.grad_weight, None
        return self.grad_X, self.grad_weight, self.bias_sums.astype(check.gradient_type(self.bias), copy=False)

    def _weight(self, classes: slice) -> Array:
        weight = self.weight[classes]
        if not self.copies_weight:
            return weight
        room = self.room_weight[: len(weight)]
        np.copyto(room, weight, casting="unsafe")
        return room
