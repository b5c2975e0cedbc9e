"""The covariance of a maximum-likelihood estimate: the coefficients at a minimum of F without a penalty.

The same vector added to the coefficients of all classes changes no probability. For more than two classes the free
coefficients are therefore the differences from the first class, theta_k = (coef_k - coef_0, intercept_k - intercept_0).
By these, F has the derivatives that it has by the coefficients of the other classes. With H its Hessian by theta and
g_i the score of row i, at the estimate:

    HESSIAN         H^-1                            if the model is right
    SANDWICH        H^-1 (sum_i g_i g_i') H^-1      in any case, for independent rows (HC0)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent._fit.scores import count_free
from xent._fit.sums import Sums
from xent._fit.types import Matrix, Vector

HESSIAN = "hessian"
SANDWICH = "sandwich"
KINDS = (HESSIAN, SANDWICH)

MIN_EIGENVALUE = 1e-13      # of a Hessian scaled to 1 on the diagonal; what is smaller may be rounding errors
MIN_SHARE = 0.01            # of a coefficient in the directions without curvature, so that its column is named


class Covariance(NamedTuple):
    """The covariance of p free coefficients, and how far they are from the minimum.

    Attributes
    ----------
    matrix : ndarray of shape (p, p)
    newton_step : ndarray of shape (n_coef_rows, n_features + 1)
        From the coefficients to the minimum, nearly.
    error_of_step : float
        The largest element of the step, in standard errors.
    """

    matrix: Matrix
    newton_step: Matrix
    error_of_step: float


class SingularHessian(ValueError):
    """The data do not determine some coefficients.

    Attributes
    ----------
    columns : list of int
        Their columns; n_features for the intercept.
    are_flat : bool
        Whether each of them alone has no curvature. If not, only some combination of them has none.
    """

    def __init__(self, columns: list[int], are_flat: bool) -> None:
        super().__init__("the Hessian is singular")
        self.columns = columns
        self.are_flat = are_flat


def compute_covariance(sums: Sums, matrix: Matrix, fit_intercept: bool, kind: str) -> Covariance:
    """The covariance of the free coefficients, class by class, each class with its intercept last.

    Raises
    ------
    SingularHessian
    OverflowError
        If the Hessian is not finite.
    """
    free = find_free(matrix.shape, fit_intercept)
    _, gradient, hessian = sums.expand(matrix)
    hessian = hessian[np.ix_(free, free)]
    if not np.isfinite(hessian).all():
        raise OverflowError("the Hessian is not finite")
    columns = free % matrix.shape[1]
    inverse = _invert(hessian, columns)
    step = -inverse @ gradient.ravel()[free]
    newton_step = np.zeros(matrix.shape)
    newton_step.reshape(-1)[free] = step
    if kind == SANDWICH:
        others = free - (matrix.size - count_free(matrix.shape))
        products = sums.multiply_scores(matrix, sums.weight)[np.ix_(others, others)]
        inverse *= sums.weight      # of F / weight: the squares of small weights might be 0
        inverse = inverse @ products @ inverse
        inverse = (inverse + inverse.T) / 2
    with np.errstate(divide="ignore"):
        errors_of_step = np.abs(step) / np.sqrt(inverse.diagonal())
    return Covariance(inverse, newton_step, float(np.max(errors_of_step, where=step != 0, initial=0)))


def find_free(shape: tuple[int, ...], fit_intercept: bool) -> NDArray[np.intp]:
    """The places of the free coefficients in a matrix of this shape."""
    free = np.ones(shape, bool)
    if shape[0] > 1:
        free[0] = False
    if not fit_intercept:
        free[:, -1] = False
    return np.flatnonzero(free)


def _invert(hessian: Matrix, columns: NDArray[np.intp]) -> Matrix:
    """The inverse; scaled to nearly 1 on the diagonal before, so that the scales of the columns do not matter."""
    diagonal = hessian.diagonal()
    if not (diagonal > 0).all():
        raise SingularHessian(_name_columns(columns[~(diagonal > 0)]), are_flat=True)
    scale = np.ldexp(1.0, -(np.frexp(diagonal)[1] // 2))      # powers of two: nothing is rounded
    unit = hessian * scale[:, None] * scale
    try:
        half = np.linalg.inv(np.linalg.cholesky(unit))
        inverse: Matrix = half.T @ half
        is_regular = 1 / np.abs(inverse).sum(axis=1).max() > MIN_EIGENVALUE     # a bound of the least eigenvalue
    except np.linalg.LinAlgError:
        is_regular = False
    if not is_regular:
        _check_eigenvalues(unit, columns)
        inverse = np.linalg.inv(unit)
        inverse = (inverse + inverse.T) / 2
    inverse *= scale[:, None]
    inverse *= scale
    return inverse


def _check_eigenvalues(unit: Matrix, columns: NDArray[np.intp]) -> None:
    """Raise if there is a direction without curvature."""
    eigenvalues, directions = np.linalg.eigh(unit)
    flat = eigenvalues <= MIN_EIGENVALUE
    if flat.any():
        shares: Vector = np.sqrt((directions[:, flat] ** 2).sum(axis=1))
        raise SingularHessian(_name_columns(columns[shares > MIN_SHARE]), are_flat=False)


def _name_columns(columns: NDArray[np.intp]) -> list[int]:
    return sorted(set(columns.tolist()))
