"""Inverses of positive semidefinite matrices that may be indefinite by rounding."""

from __future__ import annotations

import numpy as np

from xent._fit.types import Matrix

RIDGE = 1e-9
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
