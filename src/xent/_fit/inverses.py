"""Inverses and factors of positive semidefinite matrices that may be indefinite by rounding."""

from __future__ import annotations

import numpy as np

from xent._fit.types import Matrix, Vector

RIDGE = 1e-9
SMALL_RIDGE = 1e-15         # at first, of a factor: a few units in the last place
TRIANGLE = 64               # rows of a triangular system that are solved together
STACK_BYTES = 1 << 22       # of matrices that are inverted together


def invert(matrices: Matrix) -> None:
    """Replace each of a stack of matrices by its `regularised_inverse`."""
    size = max(1, STACK_BYTES // matrices[0].nbytes)
    for start in range(0, len(matrices), size):
        some = matrices[start : start + size]
        try:
            if not np.isfinite(some).all():
                raise np.linalg.LinAlgError
            some[...] = _inverses(some, RIDGE)
        except np.linalg.LinAlgError:
            for one in some:
                one[...] = regularised_inverse(one)


def regularised_inverse(matrix: Matrix) -> Matrix:
    """The inverse of a positive semidefinite matrix, with the ridge raised until it is positive definite.

    The identity if an element has overflowed.
    """
    if not np.isfinite(matrix).all():
        return np.eye(len(matrix))
    ridge = RIDGE
    while True:
        try:
            return _inverses(matrix, ridge)
        except np.linalg.LinAlgError:
            ridge *= 100


def _inverses(matrices: Matrix, ridge: float) -> Matrix:
    """Of one matrix or several, scaled to 1 on the diagonal before the ridge is added there."""
    diagonal = np.einsum("...ii->...i", matrices)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    unit = matrices * scale[..., None]
    unit *= scale[..., None, :]
    np.einsum("...ii->...i", unit)[...] += ridge
    half = np.linalg.inv(np.linalg.cholesky(unit))
    del unit
    half *= scale[..., None, :]
    result: Matrix = np.matmul(half.swapaxes(-1, -2), half)
    return result


class Factor:
    """The Cholesky factor of a positive semidefinite matrix, scaled to 1 on the diagonal, with a ridge there that is
    raised until the factor exists."""

    def __init__(self, matrix: Matrix) -> None:
        diagonal = matrix.diagonal()
        self.scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
        unit = matrix * self.scale
        unit *= self.scale[:, None]
        ridge = SMALL_RIDGE
        while True:
            np.fill_diagonal(unit, np.where(diagonal > 0, 1, 0) + ridge)
            try:
                self.lower = np.linalg.cholesky(unit)
                return
            except np.linalg.LinAlgError:
                ridge *= 10

    def solve(self, vector: Vector) -> Vector:
        """The solution x of (matrix + ridge) x = vector."""
        result = self.scale * vector
        blocks = [slice(start, start + TRIANGLE) for start in range(0, len(result), TRIANGLE)]
        for block in blocks:
            result[block] -= self.lower[block, : block.start] @ result[: block.start]
            result[block] = np.linalg.solve(self.lower[block, block], result[block])
        for block in reversed(blocks):
            result[block] -= result[block.stop :] @ self.lower[block.stop :, block]
            result[block] = np.linalg.solve(self.lower[block, block].T, result[block])
        result *= self.scale
        return result
