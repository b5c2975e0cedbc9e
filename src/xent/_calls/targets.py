"""Logits and targets: labels, distributions and sparse distributions, with the masks and weights that go with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import (
    check_between,
    check_mask,
    check_unit_interval,
    check_weights,
    describe_first_bad,
    move_axis_last,
    to_array,
    to_floats,
    to_native,
    to_numbers,
)
from xent._calls.scalars import check_axis, check_integer
from xent._calls.tensors import is_tensor

Array = NDArray[Any]


CHECKED_ELEMENTS = 1 << 20      # of a target at a time


class Batch(NamedTuple):
    """The checked arrays of a loss. Where an array has a class axis, it is the last one.

    Attributes
    ----------
    logits : ndarray of shape (..., C)
        Logits or probabilities.
    target : ndarray
        Labels of shape (...), a distribution of shape (..., C), or the indices of a sparse one, of shape (..., k). For
        a divergence, the logits of the reference.
    target_probs : ndarray of shape (..., k), or None
        The probabilities of a sparse distribution.
    where : ndarray of bool, of shape (..., C), or None
        The classes that can occur.
    class_weight : ndarray of shape (C,), or None
        For binary losses, `pos_weight` in the shape of the logits.
    sample_weight : ndarray of shape (...), or None
    axis : int
        The class axis of the user's logits.
    """

    logits: Array
    target: Array
    target_probs: Array | None = None
    where: Array | None = None
    class_weight: Array | None = None
    sample_weight: Array | None = None
    axis: int = -1

    def is_dense(self) -> bool:
        """Whether the target is a distribution over all classes."""
        return self.target_probs is None and self.target.ndim == self.logits.ndim

    def logits_as_given(self) -> Array:
        """The logits with the class axis where the user had it."""
        return self.logits if self.axis == -1 else np.moveaxis(self.logits, -1, self.axis)


def check_batch(
    name: str,
    logits: ArrayLike,
    target: object,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Batch:
    """Check the arguments of a loss, except the range of the labels, which a kernel checks (see `raise_bad_label`).

    `name` is the name of the logits in errors.
    """
    given = to_floats(name, logits)
    axis = check_axis(axis, given, name)
    x = move_axis_last(given, axis)
    classes = x.shape[-1:]
    t, target_probs = _check_target(name, target, given.shape, axis)
    if class_weight is not None:
        class_weight = to_numbers("class_weight", class_weight)
        if class_weight.shape != classes:
            raise ValueError(f"class_weight has shape {class_weight.shape}; it must have shape {classes}")
        class_weight = np.ascontiguousarray(check_weights("class_weight", class_weight, classes, "a row"), np.float64)
    return _complete(name, given, axis, Batch(x, t, target_probs, class_weight=class_weight), sample_weight, where)


def check_pair(
    name: str,
    logits: ArrayLike,
    ref_name: str,
    ref_logits: ArrayLike,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Batch:
    """Check logits and those of a reference, which take the place of a target."""
    given = to_floats(name, logits)
    axis = check_axis(axis, given, name)
    reference = check_reference(ref_name, ref_logits, name, given.shape)
    batch = Batch(move_axis_last(given, axis), move_axis_last(reference, axis))
    return _complete(name, given, axis, batch, sample_weight, where)


def check_reference(ref_name: str, ref_logits: ArrayLike, name: str, shape: tuple[int, ...]) -> Array:
    """Check logits that are compared with others, of a given shape."""
    reference = to_floats(ref_name, ref_logits)
    if reference.shape != shape:
        raise ValueError(f"{ref_name} has shape {reference.shape}; it must have shape {shape}, as {name}")
    return reference


def _complete(
    name: str, given: Array, axis: int, batch: Batch, sample_weight: ArrayLike | None, where: ArrayLike | None
) -> Batch:
    """Check and add what does not depend on the target; `given` are the logits as the user has them."""
    if where is not None:
        where = move_axis_last(check_mask(where, given.shape, name), axis)
    if sample_weight is not None:
        sample_weight = check_weights("sample_weight", sample_weight, batch.logits.shape[:-1], "the unreduced loss")
    return batch._replace(
        where=where, sample_weight=sample_weight, axis=-1 if axis == given.ndim - 1 else axis
    )


def check_binary_batch(
    name: str, x: Array, target: ArrayLike, pos_weight: ArrayLike | None, sample_weight: ArrayLike | None
) -> Batch:
    """`check_batch` for binary losses, where all arrays have the shape of `x`."""
    t = to_numbers("target", target)
    if t.shape != x.shape:
        raise ValueError(f"target has shape {t.shape}; it must have shape {x.shape}, as {name}")
    if t.dtype.kind in "iu":
        check_between("target", t, 0, 1, "labels must be 0 or 1")
    else:
        check_unit_interval("target", t)
    if pos_weight is not None:
        pos_weight = check_weights("pos_weight", pos_weight, x.shape, name)
    if sample_weight is not None:
        sample_weight = check_weights("sample_weight", sample_weight, x.shape, "the unreduced loss")
    return Batch(x, t, None, None, pos_weight, sample_weight)


def _check_target(name: str, target: object, full: tuple[int, ...], axis: int) -> tuple[Array, Array | None]:
    """The target, with its class axis (if any) last, and the probabilities of a sparse target."""
    shape = full[:axis] + full[axis + 1 :]
    what = f"for {name} of shape {full} with axis {axis}"
    if isinstance(target, tuple):
        return _check_sparse(target, shape, what, functools.partial(_suggest_axis, name, full))
    array = to_array("target", target)  # type: ignore[arg-type]
    if array.shape == full:
        return move_axis_last(to_numbers("target", array, given=target), axis), None
    if array.shape != shape:
        raise ValueError(
            f"target has shape {array.shape}; {what} it must have shape {shape} (labels) or {full} (a distribution)"
            + (_suggest_axis(name, full, array.shape, array) or _suggest_order(name, full, array))
        )
    return _check_labels("target", array, target, "labels"), None


def _check_sparse(
    target: tuple[Any, ...], shape: tuple[int, ...], what: str, suggest: Callable[[tuple[int, ...], Array], str]
) -> tuple[Array, Array]:
    """The classes and probabilities of a sparse distribution, both of a shape (*shape, k)."""
    if len(target) != 2:
        raise TypeError(
            f"target is a tuple of {len(target)}; a tuple must be (indices, probabilities), and labels an array or list"
        )
    indices = to_array("target[0]", target[0])
    if indices.shape[:-1] != shape or indices.ndim != len(shape) + 1:
        raise ValueError(
            f"target[0] has shape {indices.shape}; {what} the indices of a sparse distribution must have shape "
            + (f"({', '.join(map(str, shape))}, k)" if shape else "(k,)")
            + suggest(indices.shape[:-1], indices)
        )
    target_probs = to_numbers("target[1]", target[1])
    if target_probs.shape != indices.shape:
        raise ValueError(f"target[1] has shape {target_probs.shape}; it must have shape {indices.shape}, as target[0]")
    return _check_labels("target[0]", indices, target[0], "indices"), target_probs


def _suggest_axis(name: str, full: tuple[int, ...], shape: tuple[int, ...], labels: Array) -> str:
    """Text for an error: another `axis` for which labels of this shape would be right, if there is one."""
    if labels.dtype.kind in "iu" and name in ("logits", "proba"):
        for axis in (1, 0, *range(2, len(full))) if len(full) > 2 else ():
            if full[:axis] + full[axis + 1 :] == shape:
                also = ", as in PyTorch" if axis == 1 else ""
                return f"; labels of the given shape go with a class axis of {axis}{also}: pass axis={axis}"
    return ""


def _suggest_order(name: str, full: tuple[int, ...], target: Array) -> str:
    """Text for an error: whether the target looks like logits, and the logits like labels."""
    return f": are {name} and target swapped?" if target.dtype.kind == "f" and target.shape[:-1] == full else ""


def _check_labels(name: str, array: Array, given: object, what: str) -> Array:
    if array.dtype.kind in "iu":
        return to_native(array)
    typed = isinstance(given, np.ndarray) or is_tensor(given)
    if array.size == 0 and not typed:
        return array.astype(np.int64)       # NumPy converts an empty list to floats
    if array.dtype.kind == "f" and not typed and np.isnan(array).any():
        missing = describe_first_bad(array, ~np.isnan(array))
        raise TypeError(f"{name}{missing}; {what} must be integers, none of them missing")
    raise TypeError(f"{name} has dtype {array.dtype}; {what} must be integers")


def check_one_class(batch: Batch, ignore_index: int) -> None:
    """Raise unless each row has all its target mass on one class."""
    if not batch.target.size or (batch.target_probs is None and not batch.is_dense()):
        return
    target = np.atleast_2d(batch.target)
    mass = target if batch.target_probs is None else np.atleast_2d(batch.target_probs)
    step = max(1, CHECKED_ELEMENTS // max(1, mass[0].size))
    for start in range(0, len(mass), step):
        has_mass = mass[start : start + step] != 0
        if batch.target_probs is None:
            several = np.count_nonzero(has_mass, axis=-1) > 1
        else:       # classes may be repeated
            classes = target[start : start + step]
            has_mass &= classes != ignore_index
            first = np.take_along_axis(classes, np.argmax(has_mass, axis=-1, keepdims=True), axis=-1)
            several = (has_mass & (classes != first)).any(axis=-1)
        if several.any():
            row = [int(i) for i in np.argwhere(several)[0]]
            row[0] += start
            place = f"target[{', '.join(map(str, row))}]" if batch.target.ndim > 1 else "target"
            raise ValueError(f"{place} has mass on several classes; with focal_gamma all must be on one")


def refuse_distribution(batch: Batch) -> None:
    """Raise unless the target is labels."""
    if batch.target_probs is not None or batch.is_dense():
        shape = batch.logits.shape[:-1]
        binary = not shape and batch.target_probs is None and batch.target.dtype.kind in "iu"
        hint = "; for two classes with one logit a row, pass np.column_stack([np.zeros(n), logits])" if binary else ""
        raise TypeError(f"target is a distribution; it must be labels, integers of shape {shape}{hint}")


def check_ignore_index(value: object, target: Array) -> int | None:
    """The ignored label as the kernels read it; None if it is out of range of the target's dtype."""
    number = check_integer("ignore_index", value)
    if target.dtype == np.uint64 and number >= 1 << 63:
        return number - (1 << 64) if number < 1 << 64 else None     # kernels read uint64 as int64
    if target.dtype == np.uint64 and number < 0:
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


def raise_bad_label(batch: Batch, place: int, ignore_index: int | None) -> NoReturn:
    """Raise the error for a label or sparse index that is out of range.

    `place` is its flat index in the target; `ignore_index` is the user's argument, None if the loss has none.
    """
    good = np.ones(batch.target.size, bool)
    good[place] = False
    name, what = ("target", "labels") if batch.target_probs is None else ("target[0]", "indices")
    also = "" if ignore_index is None else f" or be ignore_index, {ignore_index}"
    found = describe_first_bad(batch.target, good)
    raise ValueError(f"{name}{found}; {what} must be in [0, {batch.logits.shape[-1]}){also}")
