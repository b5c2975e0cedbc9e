"""The scores of rows, and the sum of their outer products.

The score of a row x (its last element 1, for the intercept) with weight w is the gradient of its weighted loss by the
coefficients: w (p - t) x', with p its probabilities, t its target, and a row for each class but the first, whose score
is minus the sum of the others. Computed in float64, whatever the type of the rows.
"""

from __future__ import annotations

import numpy as np

from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions
from xent._fit.row_pass import Rows, blocks_of_columns
from xent._fit.types import Matrix

MIN_BLOCK_ROWS = 64
MAX_BLOCK_ROWS = 2048
BLOCK_BYTES = 1 << 22       # of the scores of a block


def count_free(shape: tuple[int, ...]) -> int:
    """The number of coefficients of the classes but the first, for a matrix of this shape."""
    return max(1, shape[0] - 1) * shape[1]


def multiply_scores(rows: Rows, matrix: Matrix, divisor: float) -> Matrix:
    """The sum of the outer products of all scores, of weights over a divisor: by the coefficients of each class but the
    first, one after the other, each with its intercept last."""
    (n_coef_rows, size), free = matrix.shape, count_free(matrix.shape)
    result = np.zeros((free, free))
    block_rows = min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, BLOCK_BYTES // (8 * free)))
    buffer = np.empty((free // size, size, block_rows))
    for block, X in blocks_of_columns(rows, block_rows):
        logits = np.zeros((X.shape[1], rows.n_classes))
        np.matmul(X.T, matrix.T, out=logits[:, -n_coef_rows:])
        weight = np.ones(X.shape[1]) if rows.sample_weight is None else rows.sample_weight[block]
        cross_entropy(      # whose gradient takes the place of the logits
            logits, rows.target[block], GivenOptions(sample_weight=weight / divisor), reduction="sum", grad_out=logits,
            n_threads=rows.n_threads,
        )   # fmt: skip
        residuals = np.ascontiguousarray(logits.T[1:, None, :])
        scores = np.multiply(residuals, X, out=buffer[:, :, : X.shape[1]]).reshape(free, -1)
        result += scores @ scores.T
    return result
