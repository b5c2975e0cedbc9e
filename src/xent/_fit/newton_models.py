"""Which quadratic model of an objective a proximal Newton step takes.

    columns     sparse rows in memory; also dense ones, with many coefficients or too few sweeps for a Hessian to pay
    Hessian     few coefficients
    products    many coefficients, of rows elsewhere or of too many rows and classes for columns
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xent._fit.column_descent import ColumnQuadratic
from xent._fit.objective import Objective
from xent._fit.penalties import expand_curvature
from xent._fit.proximal_newton import Trust
from xent._fit.quadratics import DenseQuadratic, ProductQuadratic, Quadratic, largest_of_column
from xent._fit.row_sums import RowSums
from xent._fit.types import Array, Vector

MAX_HESSIAN_SIZE = 1500     # coefficients
MAX_LOGITS = 1 << 26        # of all rows, for columns: 40 bytes each
MIN_KEPT = 1e-2         # share of a curvature that is left where intercepts follow, for float32
SWEEPS_PER_SIZE = 0.1       # sweeps over dense columns, per coefficient, that cost as much as the Hessian


def make_quadratic(objective: Objective, x: Vector, free: NDArray[np.intp], trust: Trust) -> Quadratic:
    """The model of the smooth part at x, in some of the coefficients.

    float32 is enough for the Hessian of a damped model, and for rows in float32.
    """
    sums, matrix = objective.sums, objective.to_matrix(x)
    places = np.unravel_index(free, objective.shape, order=sums.order)
    ridges = expand_curvature(objective.penalty, objective.shape[1])[places[1]]
    intercepts = places[1] == objective.shape[1] - 1
    if isinstance(sums, RowSums):
        if sums.rows.csr is not None or len(free) > min(MAX_HESSIAN_SIZE, trust.sweeps / SWEEPS_PER_SIZE):
            return ColumnQuadratic(sums, matrix, places, ridges)
        features = np.unique(np.append(places[1], objective.shape[1] - 1))
        columns = np.searchsorted(features, places[1])
        selected = sums.select(features[:-1])
        for dtype in (np.float32, np.float64) if trust.damping > 0 else (np.float64,):
            hessian = selected.hessian_among(matrix[:, features], (places[0], columns), dtype)
            hessian /= sums.weight
            quadratic = DenseQuadratic(hessian, columns, ridges, intercepts)
            if quadratic.kept > MIN_KEPT:
                break
        return quadratic
    if matrix.size <= MAX_HESSIAN_SIZE:
        flat = np.ravel_multi_index(places, objective.shape)
        hessian = sums.hessian(matrix)[np.ix_(flat, flat)]
        hessian /= sums.weight
        return DenseQuadratic(hessian, places[1], ridges, intercepts)
    return _make_from_products(objective, x, free, (places, ridges))


def _make_from_products(
    objective: Objective, x: Vector, free: NDArray[np.intp], known: tuple[tuple[Array, ...], Vector]
) -> Quadratic:
    places, ridges = known
    diagonal: Vector = objective.sums.diagonal(objective.to_matrix(x))[places]
    product = objective.hessian_product_at(x)

    def product_among(direction: Vector) -> Vector:
        whole = np.zeros(x.shape)
        whole[free] = direction
        return product(whole)[free]

    return ProductQuadratic(product_among, diagonal + ridges, largest_of_column(diagonal, places[1]))
