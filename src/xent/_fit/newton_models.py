"""Which quadratic model of an objective a proximal Newton step takes.

    columns     sparse rows in memory; also dense ones, with many coefficients or too few sweeps for a Hessian to pay
    Hessian     few coefficients
    products    rows elsewhere, with many coefficients
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xent._fit.column_descent import ColumnQuadratic
from xent._fit.objective import Objective
from xent._fit.penalties import expand_curvature
from xent._fit.proximal_newton import Trust
from xent._fit.quadratics import DenseQuadratic, ProductQuadratic, Quadratic
from xent._fit.row_sums import RowSums
from xent._fit.types import Array, Matrix, Vector

MAX_HESSIAN_SIZE = 1500     # coefficients
SWEEPS_PER_SIZE = 0.1       # sweeps over dense columns, per coefficient, that cost as much as the Hessian


def make_quadratic(objective: Objective, x: Vector, free: NDArray[np.intp], trust: Trust) -> Quadratic:
    """The model of the smooth part at x, in some of the coefficients.

    float32 is enough for the Hessian of a damped model.
    """
    sums, matrix = objective.sums, objective.to_matrix(x)
    places = np.unravel_index(free, objective.shape, order=sums.order)
    ridges = expand_curvature(objective.penalty, objective.shape[1])[places[1]]
    if isinstance(sums, RowSums):
        if sums.rows.csr is not None or len(free) > min(MAX_HESSIAN_SIZE, trust.sweeps / SWEEPS_PER_SIZE):
            return ColumnQuadratic(sums, matrix, places, ridges)
        features = np.unique(np.append(places[1], objective.shape[1] - 1))
        columns = np.searchsorted(features, places[1])
        dtype = np.float32 if trust.damping > 0 else np.float64
        hessian = sums.select(features[:-1]).hessian_among(matrix[:, features], (places[0], columns), dtype)
    elif matrix.size <= MAX_HESSIAN_SIZE:
        flat = np.ravel_multi_index(places, objective.shape)
        hessian = sums.hessian(matrix)[np.ix_(flat, flat)]
    else:
        return _make_from_products(objective, x, free, (places, ridges))
    hessian /= sums.weight
    return DenseQuadratic(hessian, _largest_of_column(hessian.diagonal(), places[1]), ridges)


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

    return ProductQuadratic(product_among, diagonal + ridges, _largest_of_column(diagonal, places[1]))


def _largest_of_column(diagonal: Vector, columns: Array) -> Vector:
    """For each coefficient the largest curvature of those in its column, of any class."""
    most: Matrix = np.zeros(columns.max(initial=0) + 1)
    np.maximum.at(most, columns, diagonal)
    return most[columns]
