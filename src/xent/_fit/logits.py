"""The linear model, a block of rows at a time: logits X @ coef.T + intercept, probabilities, and separated classes.

X is an ndarray or a CSR matrix of shape (n, n_features). Beyond what is returned, memory is needed for one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._calls.softmax import log_softmax, softmax
from xent._fit.types import Array

BLOCK_ELEMENTS = 1 << 18    # of X and the logits


def logit_blocks(X: Any, coef: Array, intercept: Array) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows and their logits, of shape (rows, n_coef_rows), in the type of X."""
    coef, intercept = coef.astype(X.dtype, copy=False), intercept.astype(X.dtype, copy=False)
    n, n_features = X.shape
    row_elements = n_features if isinstance(X, np.ndarray) else X.nnz // n
    # No block is larger than the coefficients, unless that leaves it hardly any rows.
    size = max(min(64, n_features + 1), BLOCK_ELEMENTS // (row_elements + len(coef)))
    for start in range(0, n, size):
        block = slice(start, start + size)
        yield block, compute_logits(X[block], coef, intercept)


def compute_logits(X: Any, coef: Array, intercept: Array) -> Array:
    """The logits of all rows at once."""
    result: Array = X @ coef.T.astype(X.dtype, copy=False)
    result += intercept.astype(X.dtype, copy=False)
    return result


def compute_probabilities(X: Any, coef: Array, intercept: Array, *, log: bool, n_threads: int | None) -> Array:
    """Probabilities, or their exact logarithms, of shape (n, n_classes)."""
    result = np.empty((X.shape[0], max(2, len(coef))), X.dtype)
    function = log_softmax if log else softmax
    for block, logits in logit_blocks(X, coef, intercept):
        rows = result[block]
        rows[:, 0] = 0      # for one row of coefficients: the logit of the first class
        rows[:, -logits.shape[1] :] = logits
        function(rows, out=rows, n_threads=n_threads)
    return result


def count_moved(X: Any, direction: Array, weight: Array, limit: float) -> int:
    """The number of rows with weight whose logits a step in the direction moves apart by more than the limit."""
    count = 0
    for block, change in logit_blocks(X, direction[:, :-1], direction[:, -1]):
        apart = np.abs(change[:, 0]) if change.shape[1] == 1 else np.ptp(change, axis=1)
        count += int(((apart > limit) & (weight[block] > 0)).sum())
    return count


def are_separated(X: Any, target: NDArray[np.int64], coef: Array, intercept: Array, weight: Array) -> bool:
    """Whether in each row with weight the logit of its class is larger than all others."""
    for block, logits in logit_blocks(X, coef, intercept):
        labels = target[block]
        if logits.shape[1] == 1:
            margin = np.where(labels == 1, logits[:, 0], -logits[:, 0])
        else:
            rows = np.arange(len(labels))
            own = logits[rows, labels]
            logits[rows, labels] = -np.inf
            margin = own - logits.max(axis=1)
        if not (margin > 0)[weight[block] > 0].all():
            return False
    return True
