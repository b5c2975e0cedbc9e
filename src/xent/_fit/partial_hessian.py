"""The Hessian by some of the coefficients, for models of a step: faster than `hessian`, and not exact.

The block of classes k and l is -sum_i w_i p_ik p_il x_i x_i', one matrix product for all of them; that of class k and
itself is sum_i w_i p_ik (1 - p_ik) x_i x_i', where 1 - p is a difference.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls.softmax import softmax
from xent._fit.row_pass import Rows, blocks_of_columns
from xent._fit.types import Matrix

BLOCK_ROWS = 512
BLOCK_BYTES = 1 << 22       # of weighted rows


def sum_hessian_among(
    rows: Rows, matrix: Matrix, places: tuple[NDArray[np.intp], ...], dtype: Any = np.float64
) -> Matrix:
    """The Hessian of the sum of losses by some elements of the matrix, at these rows and columns, sorted by row.

    Products may have another type. Columns are scaled to a largest element of 1 before they are converted to it.
    """
    classes, columns = places
    starts = np.searchsorted(classes, np.arange(len(matrix) + 1))
    of_classes = [slice(*ends) for ends in pairwise(starts)]
    own = [np.zeros((of_class.stop - of_class.start,) * 2) for of_class in of_classes]
    result = np.zeros((len(classes), len(classes)))
    scale = np.append(np.abs(rows.X).max(axis=0, initial=0.0), 1.0)
    scale[scale == 0] = 1
    for block, X in blocks_of_columns(rows, max(BLOCK_ROWS, BLOCK_BYTES // (8 * max(1, len(classes))))):
        p = np.zeros((rows.n_classes, X.shape[1]))
        np.matmul(matrix, X, out=p[-len(matrix) :])
        softmax(p, axis=0, out=p, n_threads=rows.n_threads)
        root = np.sqrt(rows.row_weight[block]).astype(dtype)
        X = np.divide(X, scale[:, None]).astype(dtype, copy=False)
        scaled = np.empty((len(classes), X.shape[1]), dtype)
        for of_class, p_k, own_k in zip(of_classes, p[-len(matrix) :], own, strict=True):
            some = X[columns[of_class]]
            np.multiply(some, root * p_k.astype(dtype), out=scaled[of_class])
            some *= root * np.sqrt(p_k * (1 - p_k)).astype(dtype)
            own_k += some @ some.T
        if len(matrix) > 1:
            result -= scaled @ scaled.T
    for of_class, own_k in zip(of_classes, own, strict=True):
        result[of_class, of_class] = own_k
    result *= scale[columns]
    result *= scale[columns, None]
    return result
