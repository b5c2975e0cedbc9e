"""Dual ascent over sparse rows: in a few sweeps near the minimum, from where Newton's method goes on.

The dual of the objective has a distribution p_i over the classes for each row, which makes the coefficients:

    W = sum_i s_i (t_i - T_i p_i) x_i' / strength        strength = l2 times the weight

At the minimum p_i is the softmax of the row's logits W x_i + b, for each row. A sweep takes the rows one by one and
moves each p_i towards that, at once with the W that it makes: as far as the curvature of the loss lets the dual
objective rise for sure. A row gains from what all before it have done, so that where rows have little in common a sweep
is worth many passes that move all of them together. What is left afterwards is in the few directions that they do have
in common, which conjugate gradients find first. b has no penalty, so that no p make it; it moves after each sweep.

References: S. Shalev-Shwartz, T. Zhang, "Stochastic dual coordinate ascent methods for regularized loss minimization",
JMLR 14 (2013); B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational
Mathematics and Mathematical Physics 4 (1964), for the momentum of b.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xent._calls.dispatch import kernels

if TYPE_CHECKING:
    from xent._fit.linear import Matrix, RowSums

Array = NDArray[Any]

MAX_SWEEPS = 16
SETTLED = 1e-5      # of what the first sweep moved: of one that ends the ascent
STEP = 1.5          # of b, in units of its diagonal Newton step, and
MOMENTUM = 0.5      # what it keeps of the last one: stable, as that Hessian is at most twice its diagonal


def ascend(
    sums: RowSums,
    csr: tuple[Array, Array, Array],
    dtype: np.dtype[Any],
    strength: float,
    fit_intercept: bool,
    most: int,
) -> tuple[Matrix, int]:
    """Coefficients of shape (rows, features + 1) after a few sweeps from zeros, and how many, of so many at most."""
    with np.errstate(over="ignore"):    # which makes a start that is no good
        csr = csr[0].astype(dtype, copy=False), *csr[1:]
    n, rows, classes = len(sums.mass), sums.rows, sums.classes
    lanes = kernels.lanes_of(dtype.itemsize)
    p = np.zeros((n, classes), dtype)
    if sums.target.ndim == 2:
        mass = sums.target.sum(axis=1, dtype=np.float64, keepdims=True)
        np.divide(sums.target, mass, out=p, where=mass > 0, casting="same_kind")
    else:
        p[np.arange(n), sums.target] = 1
    coef = np.zeros((sums.features, -(-rows // lanes) * lanes), dtype)
    room = np.empty(4 * (classes + lanes), dtype)
    a_row = sums.weight / n
    # Without BLAS, whose sums depend on its threads.
    target_mass = np.einsum("i,ij->j", sums.mass, p)
    intercept = np.zeros(rows)
    step = np.zeros(rows)
    if fit_intercept:
        logarithms = np.log(target_mass + a_row)
        intercept += logarithms - logarithms.mean() if rows > 1 else logarithms[1] - logarithms[0]
    stride = _coprime(n)
    first, sweeps = 0.0, 0
    while sweeps < min(MAX_SWEEPS, most):
        sweeps += 1
        moved = kernels.dual_sweep(csr, rows, coef, intercept, p, sums.mass, strength, room, n, stride)
        first = first or moved
        if not moved > SETTLED * first:
            break
        if fit_intercept:
            mass = np.einsum("i,ij->j", sums.mass, p)
            spread = mass - np.einsum("i,ij,ij->j", sums.mass, p, p)
            step = MOMENTUM * step - STEP * ((mass - target_mass) / (spread + a_row))[-rows:]
            intercept += step - step.mean() if rows > 1 else step
    return np.vstack([coef[:, :rows], intercept]).T, sweeps


def _coprime(n: int) -> int:
    """A step through n rows that meets each once and, being near their golden section, spreads them evenly: they may be
    sorted."""
    step = max(1, round(n * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, n) > 1:
        step += 1
    return step
