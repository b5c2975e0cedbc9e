"""Sample weights and class weights of the estimator."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import frames
from xent._calls.arrays import check_between, to_numbers
from xent._calls.scalars import check_real
from xent._estimator.labels import check_labels, kind_of, to_target

Array = NDArray[Any]


def to_row_weights(value: ArrayLike | None, length: int) -> NDArray[np.float64]:
    if value is None:
        return np.ones(length)
    array = to_numbers("sample_weight", frames.series("sample_weight", value))
    if array.ndim and array.shape != (length,):
        raise ValueError(f"sample_weight has shape {array.shape}; it must have shape ({length},)")
    check_between("sample_weight", array, 0, np.finfo(np.float64).max, "weights must be finite and at least 0")
    return np.array(np.broadcast_to(array, (length,)), np.float64)


def apply_class_weight(
    class_weight: object, labels: Array, target: Array, sample_weight: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64]]:
    """The target and the sample weights after multiplication by the class weights.

    A distribution t under class weights w becomes the distribution w t / (w . t), and its sample weight is multiplied
    by w . t. So a one-hot distribution and the same label give the same fit.
    """
    if class_weight is not None:
        factors = to_class_factors(class_weight, labels, weigh_classes(target, sample_weight, len(labels)))
        target, sample_weight = apply_class_factors(target, sample_weight, factors)
    with np.errstate(over="ignore"):
        check_total_weight(float(sample_weight.sum()))
    return target, sample_weight


def apply_class_factors(
    target: Array, sample_weight: NDArray[np.float64], factors: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64]]:
    if target.ndim == 1:
        return target, sample_weight * factors[target]
    target = target * factors
    mass = target.sum(axis=1)
    sample_weight = sample_weight * mass
    target /= np.where(mass > 0, mass, 1)[:, None]
    return target, sample_weight


def weigh_classes(target: Array, sample_weight: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """The total sample weight of each class; for distributions, each row counts by its probability of the class."""
    if target.ndim == 2:
        return np.asarray(sample_weight @ target, np.float64)
    return np.bincount(target, sample_weight, minlength=n_classes).astype(np.float64, copy=False)


def check_total_weight(total: float) -> float:
    if total == 0:
        raise ValueError(
            "sample_weight times class_weight is 0 for every sample (all weights zero); at least one must be greater "
            "than 0"
        )
    if not math.isfinite(total):
        raise ValueError("sample_weight times class_weight has a sum that overflows float64; scale the weights down")
    return total


def to_class_factors(value: object, labels: Array, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of each class, from a dict by label or "balanced": equal total weight for each class."""
    if isinstance(value, str) and value == "balanced":
        balanced: NDArray[np.float64] = counts.sum() / (len(labels) * np.where(counts > 0, counts, 1))
        return balanced
    if not isinstance(value, Mapping):
        raise ValueError(f"class_weight is {value!r}; it must be a dict from label to weight, 'balanced' or None")
    known = labels.tolist()
    # NumPy's scalars and Python's objects are both keys, since dates of the two have different hashes.
    place = {label: i for given in (labels, known) for i, label in enumerate(given)}
    result = np.ones(len(known))
    found = set()
    for label, weight in value.items():
        name = f"class_weight[{label!r}]"
        number = float(weight) if isinstance(weight, bool | np.bool_) else check_real(name, weight)
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} is {number}; weights must be finite and at least 0")
        if label in place:
            result[place[label]] = number
            found.add(place[label])
    # An additional label may be of a class that these rows lack; but if a known label is missing, it is misspelt.
    unknown = [label for label in value if label not in place]
    misspelt = [label for label in unknown if len(found) < len(known) or not _may_be_among(label, labels)]
    if misspelt:
        raise ValueError(f"class_weight names {misspelt[0]!r}, which is not a label of y; the labels are {known}")
    return result


def _may_be_among(label: object, labels: Array) -> bool:
    """Whether a label is of the same kind as the others."""
    if labels.dtype.kind in "mM":
        return isinstance(label, datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64)
    try:
        key = to_target("class_weight", [label])
        return key.ndim == 1 and kind_of(check_labels("class_weight", key)) == kind_of(labels)
    except (TypeError, ValueError):
        return False
