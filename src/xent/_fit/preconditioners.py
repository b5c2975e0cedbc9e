"""Approximate inverses of the Hessian of an objective: the fewer features, the better the approximation.

    BLOCKS    few: the inverse of each class's diagonal block, sum_i s_i T_i p_ik (1 - p_ik) x_i x_i' / weight + penalty
    FACTORS   more: the inverse of the Hessian's diagonal in a basis of eigenvectors that all classes share, as in [1]
    DIAGONAL  many: the inverse of the Hessian's diagonal

The diagonal of the Hessian is exact, from all rows; correlations of features come from a subsample. A preconditioner
affects the steps, not the result.

A preconditioner is made from sums, a penalty and coefficients, and maps a matrix of the coefficients' shape to another,
in new memory or in that of its argument. The estimate of the curvature of the sums, which takes the time, also serves
for other penalties.

[1] T. George et al., "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from xent._fit.curvature import add_class_blocks, cut_blocks
from xent._fit.inverses import invert
from xent._fit.penalties import Penalty, expand_curvature
from xent._fit.subsample import Subsample
from xent._fit.sums import Sums
from xent._fit.types import Array, Matrix, Vector

BLOCKS, FACTORS, DIAGONAL = "blocks", "factors", "diagonal"

MAX_BLOCK_ELEMENTS = 1 << 21    # of all blocks together
MAX_BLOCK_SIZE = 1 << 10        # columns
MAX_FACTOR_SIZE = 1600          # columns
COMMON_SHARE = 0.1      # of the mean over all classes in a class's curvature: a subsample may have few rows of it
RARE = 1e-6             # share of a column's curvature below which the subsample is useless for the column

Precondition = Callable[[Matrix], Matrix]


def choose_kind(shape: tuple[int, int]) -> str:
    """The kind of preconditioner for coefficients of this shape."""
    n_coef_rows, n_columns = shape
    if n_columns <= MAX_BLOCK_SIZE and n_coef_rows * n_columns**2 <= MAX_BLOCK_ELEMENTS:
        return BLOCKS
    return FACTORS if n_columns <= MAX_FACTOR_SIZE else DIAGONAL


class Curvature(Protocol):
    """An estimate of the curvature of a mean loss."""

    def precondition(self, penalty: Penalty, fit_intercept: bool) -> Precondition:
        """The preconditioner for the mean loss and a penalty."""


def make(sums: Sums, penalty: Penalty, fit_intercept: bool, matrix: Matrix) -> Precondition:
    """The preconditioner at these coefficients."""
    return estimate_curvature(sums, penalty, matrix).precondition(penalty, fit_intercept)


def estimate_curvature(sums: Sums, penalty: Penalty, matrix: Matrix) -> Curvature:
    """The curvature at these coefficients, for penalties not far from the given one."""
    kind = choose_kind(matrix.shape)
    if kind == BLOCKS:
        return _Blocks(estimate_class_blocks(sums.subsample(matrix), matrix, sums.diagonal(matrix)))
    if kind == FACTORS:
        basis, curvatures = estimate_eigen_factors(sums.subsample(matrix), matrix, sums.diagonal(matrix), penalty)
        return _Factors(basis, curvatures, penalty)
    return _Diagonal(sums.diagonal(matrix))


# --- diagonal --------------------------------------------------------------------------------------------------------


class _Diagonal(NamedTuple):
    diagonal: Matrix

    def precondition(self, penalty: Penalty, fit_intercept: bool) -> Precondition:
        diagonal = self.diagonal + expand_curvature(penalty, self.diagonal.shape[1])
        diagonal[~(diagonal > 0)] = 1.0     # columns of zeros

        def precondition(gradient: Matrix) -> Matrix:
            gradient /= diagonal
            return gradient

        return precondition


# --- blocks ----------------------------------------------------------------------------------------------------------


class _Blocks(NamedTuple):
    hessian: Matrix

    def precondition(self, penalty: Penalty, fit_intercept: bool) -> Precondition:
        inverses = self.hessian.copy()
        n_columns = inverses.shape[-1]
        inverses[:, range(n_columns), range(n_columns)] += expand_curvature(penalty, n_columns)
        if not fit_intercept:
            inverses[:, -1, :-1] = inverses[:, :-1, -1] = 0
        invert(inverses)
        return lambda gradient: np.matmul(inverses, gradient[:, :, None])[:, :, 0]


def estimate_class_blocks(subsample: Subsample, matrix: Matrix, diagonal: Matrix) -> Matrix:
    """The diagonal blocks of the Hessian with this diagonal: one for each class; one for all where coefficients are 0.

    Returns
    -------
    ndarray of shape (n_coef_rows or 1, n_columns, n_columns)
    """
    blocks = len(matrix) if matrix.any() else 1
    hessian = np.zeros((blocks, matrix.shape[1], matrix.shape[1]))
    for block, variance in subsample.variance_blocks(matrix):
        add_class_blocks(hessian, subsample.scaled_rows(block), variance[:, :blocks])
    diagonal = _prefer_exact(diagonal[:blocks], np.einsum("kii->ki", hessian) * np.square(subsample.scale))
    common = _scale_to_correlations(_average_blocks(subsample))
    for classes in cut_blocks(blocks, hessian[0].nbytes):
        correlations = _scale_to_correlations(hessian[classes])
        correlations += _common_share(subsample) * (common - correlations)
        deviations = np.sqrt(diagonal[classes])
        correlations *= deviations[:, :, None]
        np.multiply(correlations, deviations[:, None, :], out=hessian[classes])
    return hessian


# --- factors ---------------------------------------------------------------------------------------------------------


class _Factors(NamedTuple):
    basis: Matrix
    curvatures: Matrix      # the penalty's included
    penalty: Penalty

    def precondition(self, penalty: Penalty, fit_intercept: bool) -> Precondition:
        basis, curvatures = self.basis, self.curvatures.copy()
        if penalty != self.penalty:
            n_columns = len(basis)
            change = expand_curvature(penalty, n_columns) - expand_curvature(self.penalty, n_columns)
            curvatures += change @ np.square(basis)
        np.maximum(curvatures, curvatures.max(initial=0.0) * 1e-9, out=curvatures)
        curvatures[~(curvatures > 0)] = 1.0

        def precondition(gradient: Matrix) -> Matrix:
            rotated = gradient @ basis
            rotated /= curvatures
            result: Matrix = rotated @ basis.T
            return result

        return precondition


def estimate_eigen_factors(
    subsample: Subsample, matrix: Matrix, diagonal: Matrix, penalty: Penalty
) -> tuple[Matrix, Matrix]:
    """V, and curvatures along its columns, such that V diag(1 / curvatures[k]) V' is roughly the inverse of class k's
    block of the Hessian with this diagonal and the penalty.

    Returns
    -------
    ndarray of shape (n_columns, n_columns) and ndarray of shape (n_coef_rows, n_columns)
    """
    scale = subsample.scale
    of_penalty = expand_curvature(penalty, matrix.shape[1]) / np.square(scale)     # in scaled columns, as all below
    average = _average_blocks(subsample).astype(np.float64)
    found = average.diagonal().copy()
    exact = _prefer_exact(diagonal / np.square(scale), found)
    expected = np.add.reduce(exact, axis=0) / len(exact)
    stretch = np.sqrt(np.divide(expected, found, out=np.zeros_like(found), where=found > RARE * expected))
    _scale_both_sides(average, stretch)
    np.fill_diagonal(average, expected + of_penalty)
    unit = 1 / np.sqrt(np.where(average.diagonal() > 0, average.diagonal(), 1))
    _scale_both_sides(average, unit)
    if not np.isfinite(average).all():
        average = np.eye(len(average))
    average = average.astype(np.float32)        # frees the float64 one: such matrices dominate the memory of a fit
    eigenvalues, vectors = np.linalg.eigh(average)
    del average
    basis: Matrix = unit[:, None] * vectors
    del vectors
    of_columns, of_basis = _sample_curvatures(subsample, matrix, stretch, basis)
    squares = np.square(basis)
    of_penalty = of_penalty @ squares
    common = np.maximum(0, eigenvalues - of_penalty)
    share = 1 / np.where(expected > 0, expected, 1) / len(expected)
    for classes in cut_blocks(len(matrix), 8 * matrix.shape[1]):
        result = exact[classes]
        relative = result @ share
        missing = np.maximum(0, result - of_columns[classes])      # of rows that are not in the subsample
        np.matmul(missing, squares, out=result)
        result += of_basis[classes]
        result += _common_share(subsample) * (relative[:, None] * common - result)
        result += of_penalty
    basis /= scale[:, None]
    return basis, exact


def _sample_curvatures(
    subsample: Subsample, matrix: Matrix, stretch: Vector, basis: Matrix
) -> tuple[Array, Array]:
    """The curvature of each class along each stretched column of the subsample, and along each vector of the basis."""
    of_columns, of_basis = (np.zeros(matrix.shape, np.float32) for _ in range(2))
    stretch, basis = stretch.astype(np.float32), basis.astype(np.float32)
    for block, variance in subsample.variance_blocks(matrix):
        X = subsample.scaled_rows(block) * stretch
        of_columns += variance.T @ np.square(X)
        X = X @ basis
        of_basis += variance.T @ np.square(X, out=X)
    return of_columns, of_basis


# --- both ------------------------------------------------------------------------------------------------------------


def _common_share(subsample: Subsample) -> float:
    return 0.0 if subsample.is_exact else COMMON_SHARE


def _average_blocks(subsample: Subsample) -> Array:
    """The mean over the classes of their blocks of the Hessian, in scaled columns, float32.

    The mean of p (1 - p) is (1 - sum p^2) / n_classes.
    """
    size = len(subsample.scale)
    weight = np.sqrt(subsample.row_weight * subsample.undecided / subsample.candidates.n_classes).astype(np.float32)
    mean = np.zeros((size, size), np.float32)
    for block in cut_blocks(len(weight), 4 * size):
        weighted = subsample.scaled_rows(block)
        weighted *= weight[block, None]
        mean += weighted.T @ weighted
    return mean


def _prefer_exact(exact: Matrix, sampled: Array) -> Matrix:
    """The exact diagonal, but where its squares have left the range of the type: the subsample's columns are scaled."""
    return np.where(np.isfinite(exact) & (exact > 0), exact, sampled)


def _scale_to_correlations(hessian: Array) -> Matrix:
    """One matrix or several, scaled to 1 on the diagonal."""
    diagonal = np.einsum("...ii->...i", hessian).astype(np.float64)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    result: Matrix = hessian * scale[..., None]
    result *= scale[..., None, :]
    np.einsum("...ii->...i", result)[...] = 1
    return result


def _scale_both_sides(matrix: Matrix, scale: Vector) -> None:
    """matrix = diag(scale) matrix diag(scale), in place."""
    matrix *= scale
    matrix *= scale[:, None]
