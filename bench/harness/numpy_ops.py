"""The operations in NumPy as a careful user writes them: stable, and in place where that saves a temporary array.
Results are written to `out`, if given."""

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


def loss(x: Floats, labels: Labels) -> np.floating:
    return np.mean(logsumexp(x) - x[np.arange(len(labels)), labels])


def loss_gradient(x: Floats, labels: Labels, out: Floats | None = None) -> tuple[np.floating, Floats]:
    rows = np.arange(len(labels))
    z = np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    picked = z[rows, labels]
    np.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - picked)
    z /= sums * x.dtype.type(len(labels))
    z[rows, labels] -= 1 / len(labels)
    return value, z
