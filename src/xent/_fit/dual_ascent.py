"""Dual ascent over sparse rows: a few sweeps give a start near the minimum for Newton's method.

The dual of the objective with an L2 penalty has one distribution p_i over the classes per row. They determine the
coefficients:

    W = sum_i s_i (t_i - T_i p_i) x_i' / strength        strength = the penalty's curvature times the weight

At the minimum every p_i is the softmax of the logits W x_i + b. A sweep takes the rows one by one, moves p_i towards
that softmax as far as the curvature of the loss guarantees that the dual objective rises, and updates W at once. Each
row sees the updates before it (as in Gauss-Seidel), so a sweep over weakly coupled rows is worth many full-gradient
steps. The remaining error is in the few directions that the rows share, which conjugate gradients find first. b is not
penalised, so the p_i do not determine it; it is updated after each sweep.

References: S. Shalev-Shwartz, T. Zhang, "Stochastic dual coordinate ascent methods for regularized loss minimization",
JMLR 14 (2013); B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational
Mathematics and Mathematical Physics 4 (1964), for the momentum of b.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xent._calls.dispatch import kernels
from xent._fit.penalties import L2, Penalty
from xent._fit.row_pass import PROBABILITIES, LinearOperands, Rows, pass_over, zeros_in_lines
from xent._fit.row_sums import RowSums
from xent._fit.sums import Sums
from xent._fit.types import Array, Matrix, Vector

MAX_SWEEPS = 16
SETTLED = 1e-5      # the ascent ends with a sweep that moves less than this share of the first
STEP = 1.5          # of b, in units of its diagonal Newton step
MOMENTUM = 0.5      # of b; stable with this STEP, since the Hessian of b is at most twice its diagonal

# The distributions of all rows may take this many bytes, or as much as this many arrays of the coefficients.
MAX_DUAL_BYTES = 1 << 25
MAX_DUAL_ARRAYS = 12


class Stronger(NamedTuple):
    """The minimum with a stronger penalty, from which the ascent starts.

    Its distributions p, moved towards the targets t until (t - p) / strength is as before, have the same W.
    """

    matrix: Matrix
    strength: float     # of the penalty on the mean
    value: float        # of the objective


def dual_ascent(
    sums: Sums, penalty: Penalty, fit_intercept: bool, max_sweeps: int, stronger: Stronger | None = None
) -> tuple[Matrix, int] | None:
    """Coefficients near the minimum, and the sweeps over the rows that they took; None if the data do not allow it.

    For sparse rows in memory under an L2 penalty, if the distributions of all rows fit in memory.
    """
    if not isinstance(penalty, L2) or not isinstance(sums, RowSums) or sums.rows.csr is None or max_sweeps <= 0:
        return None
    strength = penalty.curvature * sums.weight
    dtype = _choose_dtype(sums.rows)
    if not strength > 0 or dtype is None:
        return None
    start = _start_at_targets(sums.rows, dtype, fit_intercept)
    if stronger is not None and stronger.strength > penalty.curvature:
        start = _start_at(sums.rows, start.p, stronger, penalty.curvature / stronger.strength, strength)
    return _ascend(sums.rows, start, strength, fit_intercept, min(MAX_SWEEPS, max_sweeps))


class _Start(NamedTuple):
    p: Array                # (n, n_classes)
    coef: Array | None      # (n_features, n_coef_rows); None: zeros
    intercept: Vector       # (n_coef_rows,)


def _choose_dtype(rows: Rows) -> np.dtype[Any] | None:
    """float32 if that fits in memory, since memory is what takes the time, else the type of X; None if neither fits."""
    assert rows.csr is not None
    elements, (n, n_features) = len(rows.csr[0]), rows.X.shape
    for dtype in (np.dtype(np.float32), rows.X.dtype):
        copied = 0 if dtype == rows.X.dtype else elements
        needed = dtype.itemsize * (n * rows.n_classes + copied)
        if needed <= max(MAX_DUAL_BYTES, MAX_DUAL_ARRAYS * 8 * rows.n_coef_rows * (n_features + 1)):
            return dtype
    return None


def _start_at_targets(rows: Rows, dtype: np.dtype[Any], fit_intercept: bool) -> _Start:
    """Zeros, and the intercepts that are best then."""
    k = rows.n_coef_rows
    p = _target_distributions(rows, dtype)
    intercept = np.zeros(k)
    if fit_intercept:
        target_weight, weight = _weigh(rows.row_weight, p)
        logarithms = np.log(target_weight + weight)
        intercept += logarithms - logarithms.mean() if k > 1 else logarithms[1] - logarithms[0]
    return _Start(p, None, intercept)


def _start_at(rows: Rows, target: Array, stronger: Stronger, ratio: float, strength: float) -> _Start:
    """The minimum with a stronger penalty; `ratio` is how much weaker the present one is."""
    matrix = stronger.matrix
    p = np.empty(target.shape, rows.X.dtype)
    pass_over(rows, PROBABILITIES, matrix, p)
    p = p.astype(target.dtype, copy=False)
    p -= target
    p *= ratio
    coef = rows.X.T @ (p[:, -rows.n_coef_rows :] * (-rows.row_weight / strength)[:, None].astype(p.dtype))
    p += target
    return _Start(p, coef, matrix[:, -1].copy())


def _weigh(row_weight: Vector, p: Array) -> tuple[Vector, float]:
    """The weight of each class, without BLAS, whose order depends on its threads; and that of a row, one of which for
    each class avoids division by 0."""
    return np.einsum("i,ij->j", row_weight, p), float(row_weight.sum()) / len(row_weight)


def _ascend(
    rows: Rows, start: _Start, strength: float, fit_intercept: bool, max_sweeps: int
) -> tuple[Matrix, int]:
    assert rows.csr is not None
    p, dtype = start.p, start.p.dtype
    with np.errstate(over="ignore"):    # a start with infinite elements is rejected later
        csr = rows.csr[0].astype(dtype, copy=False), *rows.csr[1:]
    (n, n_features), k, n_classes, row_weight = rows.X.shape, rows.n_coef_rows, rows.n_classes, rows.row_weight
    lanes = kernels.lanes_of(dtype.itemsize)
    coef = zeros_in_lines((n_features, -(-k // lanes) * lanes), dtype)
    if start.coef is not None:
        coef[:, :k] = start.coef
    buffer = np.empty(4 * (n_classes + lanes), dtype)
    target_weight, mean_weight = _weigh(row_weight, _target_distributions(rows, dtype))
    intercept, step = start.intercept, np.zeros(k)
    operands, stride = LinearOperands(csr, coef, intercept, row_weight, p), _choose_stride(n)
    first, sweeps = 0.0, 0
    while sweeps < max_sweeps:
        sweeps += 1
        moved = kernels.dual_sweep(operands, strength, buffer, stride)
        first = first or moved
        if not moved > SETTLED * first:
            break
        if fit_intercept:
            class_weight, _ = _weigh(row_weight, p)
            variance = class_weight - np.einsum("i,ij,ij->j", row_weight, p, p)
            step = MOMENTUM * step - STEP * ((class_weight - target_weight) / (variance + mean_weight))[-k:]
            intercept += step - step.mean() if k > 1 else step
    return np.vstack([coef[:, :k], intercept]).T, sweeps


def _target_distributions(rows: Rows, dtype: np.dtype[Any]) -> Array:
    """The target of each row as a distribution over the classes: where the ascent starts, since it makes W = 0."""
    p = np.zeros((len(rows.target), rows.n_classes), dtype)
    if rows.target.ndim == 2:
        target_mass = rows.target.sum(axis=1, dtype=np.float64, keepdims=True)
        np.divide(rows.target, target_mass, out=p, where=target_mass > 0, casting="same_kind")
    else:
        p[np.arange(len(p)), rows.target] = 1
    return p


def _choose_stride(n: int) -> int:
    """A stride coprime to n, so that it visits each row once, near the golden section of n, so that successive rows are
    far apart (rows may be sorted by class)."""
    stride = max(1, round(n * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, n) > 1:
        stride += 1
    return stride
