"""The log loss of scikit-learn: labels of any type and predicted probabilities are checked, then a loss computes it.

Messages contain the words that scikit-learn's users, tools and tests look for.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import check_between, to_array, to_floats, to_numbers
from xent._calls.losses import binary_loss, categorical_loss
from xent._calls.targets import check_batch, check_binary_batch
from xent._estimator.labels import find_indices, find_unique, to_target

Array = NDArray[Any]


def log_loss(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    normalize: bool,
    sample_weight: ArrayLike | None,
    labels: ArrayLike | None,
    clip: bool = False,
) -> float:
    """`xent.log_loss`; with `clip`, of probabilities in [eps, 1 - eps], as in scikit-learn."""
    if not isinstance(normalize, bool | np.bool_):
        raise TypeError(f"normalize is {normalize!r}; it must be True or False")
    reduction = "mean" if normalize else "sum"
    proba = _check_proba(y_proba)
    target = _check_truth(y_true, proba, labels)
    weight = None if sample_weight is None else to_numbers("sample_weight", sample_weight)
    if weight is not None and weight.shape != proba.shape[:1]:
        raise ValueError(f"sample_weight has shape {weight.shape}; it must have shape {proba.shape[:1]}, as y_true")
    given = proba
    if clip:
        proba, target = _clip(proba, target)
    if proba.ndim == 1:
        binary_batch = check_binary_batch("y_proba", proba, target, None, weight)
        _warn_unless_normalised(given)
        return float(binary_loss(binary_batch, 0.0, False, reduction, None, None))
    batch = check_batch("y_proba", proba, target, -1, sample_weight=weight)
    _warn_unless_normalised(given)
    return float(categorical_loss(batch, reduction, None, by_mass=False))


def _check_proba(y_proba: ArrayLike) -> Array:
    """Probabilities, a column for each label or, of two labels, those of the greater one."""
    array = to_array("y_proba", y_proba)
    hint = ": are y_true and y_proba swapped?" if array.dtype.kind in "iu" else ""
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"y_proba has dtype object and an element that is no number: {error}") from None
    array = to_floats("y_proba", to_numbers("y_proba", array))
    if array.ndim not in (1, 2):
        raise ValueError(f"y_proba has {array.ndim} dimensions; it must have 2, (n_samples, n_classes), or 1")
    check_between("y_proba", array, 0, 1, f"probabilities must be in [0, 1]{hint}")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _warn_unless_normalised(proba: Array) -> None:
    """Warn of a row that does not sum to 1: last of all, since an error says more."""
    if proba.ndim == 1:
        return
    total = proba.sum(axis=1, dtype=np.float64)
    epsilon = float(np.finfo(proba.dtype).eps) if proba.dtype.kind == "f" else 2.0**-7      # of bfloat16
    good = np.isclose(total, 1, rtol=math.sqrt(epsilon))
    if not good.all():
        row = int(np.argmin(good))
        message = f"y_proba[{row}] sums to {total[row]}, not 1 (The y_prob values do not sum to one.)"
        warnings.warn(message, UserWarning, stacklevel=4)


def _clip(proba: Array, target: Array) -> tuple[Array, Array]:
    """The probabilities of the labels, clipped; of a column for each label as those of a binary target that is 1."""
    if target.ndim == 2:
        raise ValueError("y_true has several columns")
    if proba.ndim == 2:
        proba, target = np.take_along_axis(proba, target[:, None], axis=1)[:, 0], np.ones_like(target)
    eps = np.finfo(proba.dtype).eps
    return np.clip(proba, eps, 1 - eps, dtype=proba.dtype), target


def _check_truth(y_true: ArrayLike, proba: Array, labels: ArrayLike | None) -> Array:
    """The index of each row's label, or a distribution for each row."""
    columns = 2 if proba.ndim == 1 else proba.shape[1]
    array = to_target("y_true", y_true)
    soft = array.ndim == 2 and array.shape[1] > 1
    if array.ndim == 2 and not soft:
        array = array.reshape(-1)       # a column
    if array.ndim != 1 and array.shape != proba.shape:
        raise ValueError(
            f"y_true has shape {array.shape} and y_proba {proba.shape}; y_true, which comes first, must be labels of "
            f"shape {proba.shape[:1]}, or a distribution of the shape of y_proba"
        )
    if len(array) != len(proba):
        raise ValueError(
            f"y_true has {len(array)} rows and y_proba {len(proba)}; they must have the same number (Found input "
            f"variables with inconsistent numbers of samples: {[len(proba), len(array)]})"
        )
    known = None if labels is None else _check_labels(labels)
    if known is not None and len(known) != columns:
        raise ValueError(
            f"y_proba has {columns} classes and labels {len(known)} (The number of classes in labels is different from "
            f"that in y_prob. Classes found in labels: {known.tolist()})"
        )
    if soft:
        target = to_numbers("y_true", array)
        if target.dtype.kind in "iu":
            check_between("y_true", target, 0, 1, "an indicator of classes must be 0 or 1")
        return target
    found, indices = find_unique("y_true", array)
    if known is not None:
        return _find_places(found, indices, known)
    if len(found) < 2:
        raise ValueError(
            f"y_true contains only one label ({found[0]}). Please provide the list of all expected class labels "
            "explicitly through the labels argument." if len(found) else "y_true is empty; name all labels with labels="
        )
    if len(found) != columns:
        raise ValueError(
            f"y_true has {len(found)} labels, {found.tolist()}, and y_proba {columns} classes; name all with labels= "
            "(y_true and y_prob contain different number of classes)"
        )
    return indices


def _check_labels(labels: ArrayLike) -> Array:
    """The argument `labels`, sorted."""
    array = to_target("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels has shape {array.shape}; it must have one axis")
    known, _ = find_unique("labels", array)
    if len(known) < 2:
        raise ValueError(f"The labels array needs to contain at least two labels, got {known.tolist()}.")
    if len(known) == len(array) and (known != array).any():
        message = (
            f"Labels passed were {array.tolist()}. But this function assumes labels are ordered lexicographically. "
            f"Pass the ordered labels={known.tolist()} and ensure that the columns of y_prob correspond to this "
            "ordering."
        )
        warnings.warn(message, UserWarning, stacklevel=5)
    return known


def _find_places(found: Array, indices: Array, known: Array) -> Array:
    """The index of each row's label among the known labels."""
    places = find_indices(found, known)
    if (places < 0).any():
        row = int(np.argmax(places[indices] < 0))
        unknown = {label for label, place in zip(found.tolist(), places.tolist(), strict=True) if place < 0}
        raise ValueError(
            f"y_true[{row}] is {found.tolist()[indices[row]]!r}, which is not one of labels (y_true contains values "
            f"{unknown} not belonging to the passed labels {known.tolist()}.)"
        )
    return places[indices]
