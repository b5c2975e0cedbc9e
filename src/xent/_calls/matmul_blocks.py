"""The matrix products of a linear layer, by blocks of rows and classes, in bounded memory: the logits
X @ weight.T + bias and, from their gradient G, the gradients of X, weight and bias: G @ weight, G.T @ X, G.sum(axis=0).

An operand that BLAS cannot read directly (because of its type, byte order or strides) is copied block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import FLOAT64, is_half, to_array, to_floats, widen

Array = NDArray[Any]

OPERAND_NAMES = ("X", "weight", "bias")


def check_operands(
    operands: tuple[ArrayLike, ArrayLike, ArrayLike | None], names: tuple[str, ...] = OPERAND_NAMES
) -> tuple[Array, Array, Array | None, np.dtype[Any]]:
    """Check the operands of X @ weight.T + bias, which have these names in errors; return them unconverted, and the
    dtype to compute in."""
    X, weight, bias = operands
    X_name, weight_name, bias_name = names
    x, w = _check_reals(X_name, X), _check_reals(weight_name, weight)
    if x.ndim == 0:
        raise ValueError(f"{X_name} is a number; it must have a last axis of features")
    if w.ndim != 2:
        raise ValueError(f"{weight_name} has {w.ndim} dimensions; it must have 2, (n_classes, n_features)")
    if w.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{weight_name} has shape {w.shape}; for {X_name} of shape {x.shape} it must be "
            f"(n_classes, {x.shape[-1]})"
        )
    b = None if bias is None else _check_reals(bias_name, bias)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(
            f"{bias_name} has shape {b.shape}; it must have shape {w.shape[:1]}, a number for each row of {weight_name}"
        )
    dtype = np.result_type(*(widen(gradient_type(array)) for array in (x, w, b) if array is not None))
    return x, w, b, dtype


def _check_reals(name: str, value: ArrayLike) -> Array:
    """An array of a dtype that `to_floats` accepts, not converted."""
    array = to_array(name, value)
    if array.dtype.kind not in "iu":
        to_floats(name, array[:0] if array.ndim else array, given=value)
    return array


def gradient_type(array: Array) -> np.dtype[Any]:
    """The dtype of an array's gradient: its own in native byte order; float64 for integers."""
    return FLOAT64 if array.dtype.kind in "iu" else array.dtype.newbyteorder("=")


def split(length: int, size: int) -> Iterator[slice]:
    """0 to `length` in slices of `size`."""
    return (slice(first, min(first + size, length)) for first in range(0, length, max(1, size)))


class Rows:
    """An array whose first axes are merged into one; blocks of rows are views where strides allow it."""

    def __init__(self, array: Array, axes: int) -> None:
        self.array = array
        self.lead = array.shape[:axes]
        self.merged = _merge(array, axes)
        row = array.itemsize * int(np.prod(array.shape[axes:]))
        self.copied = 0 if self.merged is not None else row + 8 * (axes + 1)    # bytes per row

    def __getitem__(self, rows: slice) -> Array:
        if self.merged is not None:
            return self.merged[rows]
        result: Array = self.array[np.unravel_index(np.arange(rows.start, rows.stop), self.lead)]
        return result


def _merge(array: Array, axes: int) -> Array | None:
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
    """Whether NumPy passes blocks of a matrix to BLAS without a copy."""
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
    """The products for one block of rows at a time (from `open` to `close`), by chunks of classes.

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
        self.X_type, self.weight_type = gradient_type(X), gradient_type(weight)

    # --- memory ---

    def row_bytes(self) -> int:
        """Bytes for each row of a block."""
        copies = self.copies_X + (self.with_grad and self.X_type != self.dtype)
        numbers: int = copies * self.features
        return self.X.copied + numbers * self.dtype.itemsize

    def class_bytes(self) -> int:
        """Temporary bytes for each class of a chunk: a copy of `weight`, and a product."""
        numbers: int = (self.copies_weight + self.with_grad) * self.features
        return numbers * self.dtype.itemsize

    def fixed_bytes(self, several_blocks: bool) -> int:
        """Bytes that depend neither on the rows of a block nor on the classes of a chunk."""
        numbers: int = self._needs_wide_sums(several_blocks) * self.weight.size
        if self.bias is not None:
            numbers += (1 + self.with_grad) * len(self.bias)
        return numbers * self.dtype.itemsize

    def _needs_wide_sums(self, several_blocks: bool) -> bool:
        """Whether sums over blocks need a float32 array: a half-precision gradient would round after each block."""
        return self.with_grad and several_blocks and is_half(self.weight_type)

    def allocate(self, rows: int, chunk: int, several_blocks: bool) -> None:
        """Allocate for blocks of `rows` and chunks of `chunk` classes."""
        dtype, features = self.dtype, self.features
        self.chunk = chunk
        self.X_copy = np.empty((rows * self.copies_X, features), dtype)
        self.wide_bias = None if self.bias is None else self.bias.astype(dtype)
        if self.with_grad:
            self.grad_X = np.zeros(self.X.array.shape, self.X_type)
            self.grad_weight = np.zeros(self.weight.shape, self.weight_type)
            self.grad_X_rows = Rows(self.grad_X, self.grad_X.ndim - 1)
            wide = self._needs_wide_sums(several_blocks)
            self.weight_sums = np.zeros(self.weight.shape, dtype) if wide else self.grad_weight
            self.bias_sums = None if self.bias is None else np.zeros(self.bias.shape, dtype)
            self.grad_X_buffer = np.zeros((rows * (self.X_type != dtype), features), dtype)
            self.ones = np.ones(rows, dtype)

    # --- a block of rows ---

    def open(self, rows: slice, ignored: Array | None) -> None:
        """Begin a block of rows. Rows marked in `ignored` (bool) get gradient 0, whatever they hold."""
        self.rows, self.ignored = rows, ignored
        self.x = self.X[rows]
        if self.copies_X:
            copy = self.X_copy[: len(self.x)]
            np.copyto(copy, self.x, casting="unsafe")
            if ignored is not None:
                copy[ignored] = 0
            self.x = copy
        if self.with_grad:
            in_place = self.X_type == self.dtype
            self.grad_x = self.grad_X_rows[rows] if in_place else self.grad_X_buffer[: len(self.x)]

    def logits(self, classes: slice, out: Array) -> None:
        np.matmul(self.x, self._weight_chunk(classes).T, out=out)
        if self.wide_bias is not None:
            out += self.wide_bias[classes]

    def backward(self, classes: slice, logit_grad: Array) -> None:
        """Add the contribution of a chunk's logit gradient to the gradients of the operands."""
        weight, sums = self._weight_chunk(classes), self.weight_sums[classes]
        buffer = np.empty((self.chunk, self.features), self.dtype)
        if classes.start == 0:
            np.matmul(logit_grad, weight, out=self.grad_x)
        else:
            for piece in split(len(logit_grad), self.chunk):
                out = self.grad_x[piece]
                out += np.matmul(logit_grad[piece], weight, out=buffer[: len(out)])
        if self.rows.start == 0 and sums.dtype == self.dtype:
            np.matmul(logit_grad.T, self.x, out=sums)
        else:
            for chunk in split(len(sums), self.chunk):
                product = np.matmul(logit_grad[:, chunk].T, self.x, out=buffer[: len(sums[chunk])])
                np.add(sums[chunk], product, out=sums[chunk], casting="unsafe")
        if self.bias_sums is not None:
            self.bias_sums[classes] += self.ones[: len(logit_grad)] @ logit_grad

    def close(self) -> None:
        """End a block of rows."""
        if self.with_grad:
            if self.ignored is not None:
                self.grad_x[self.ignored] = 0
            if self.X_type != self.dtype:
                self.grad_X_rows[self.rows][...] = self.grad_x

    def gradients(self) -> tuple[Array, Array, Array | None]:
        """The gradients of X, weight and bias, each in the dtype of its operand."""
        if self.weight_sums is not self.grad_weight:
            self.grad_weight[...] = self.weight_sums
        if self.bias is None or self.bias_sums is None:
            return self.grad_X, self.grad_weight, None
        return self.grad_X, self.grad_weight, self.bias_sums.astype(gradient_type(self.bias), copy=False)

    def _weight_chunk(self, classes: slice) -> Array:
        weight = self.weight[classes]
        return weight.astype(self.dtype, order="C") if self.copies_weight else weight
