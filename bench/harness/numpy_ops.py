"""The operations in NumPy as a careful user writes them: stable, and in place where that saves a temporary array. The
classes are on axis 1. Results are written to `out`, if given."""

from typing import Any

import numpy as np

from harness.cases import Floats, Labels


def logsumexp(x: Floats) -> Floats:
    maximum = x.max(axis=1, keepdims=True)
    z = x - maximum
    np.exp(z, out=z)
    return maximum[:, 0] + np.log(z.sum(axis=1))


def softmax(x: Floats, out: Floats | None = None) -> Floats:
    p = np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p


def log_softmax(x: Floats, out: Floats | None = None) -> Floats:
    maximum = x.max(axis=1, keepdims=True)
    z = np.subtract(x, maximum, out=out)
    np.exp(z, out=z)
    return np.subtract(x, maximum + np.log(z.sum(axis=1, keepdims=True)), out=z)


def index_labels(labels: Labels) -> tuple[Any, ...]:
    """The index of each label's element."""
    if labels.ndim == 1:
        return np.arange(len(labels)), labels
    rows, *others = np.ix_(*map(np.arange, labels.shape))
    return rows, labels, *others


def loss(x: Floats, labels: Labels) -> np.floating:
    return np.mean(logsumexp(x) - x[index_labels(labels)])


def loss_gradient(x: Floats, labels: Labels, out: Floats | None = None) -> tuple[np.floating, Floats]:
    places = index_labels(labels)
    z = np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    picked = z[places]
    np.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - picked)
    z /= sums * x.dtype.type(labels.size)
    z[places] -= 1 / labels.size
    return value, z
