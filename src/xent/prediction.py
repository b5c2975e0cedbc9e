"""Logits, probabilities and labels of a linear classifier, a block of rows at a time: beyond what is asked for, memory
is needed for one block only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent.linear import logits
from xent.primitives import log_softmax, softmax

Array = NDArray[Any]

BLOCK_ELEMENTS = 1 << 18    # of X and the logits


def logit_blocks(X: Any, coef: Array, intercept: Array) -> Iterator[tuple[slice, Array]]:
    """The logits of each block of rows, of shape (rows, len(coef)), in the type of X."""
    coef, intercept = coef.astype(X.dtype, copy=False), intercept.astype(X.dtype, copy=False)
    n, n_features = X.shape
    row = n_features if isinstance(X, np.ndarray) else X.nnz // n
    size = max(64, BLOCK_ELEMENTS // (row + len(coef)))
    for start in range(0, n, size):
        block = slice(start, start + size)
        yield block, logits(X[block], coef, intercept)


def all_logits(X: Any, coef: Array, intercept: Array) -> Array:
    """The logits, of shape (n, len(coef))."""
    result = np.empty((X.shape[0], len(coef)), X.dtype)
    for block, scores in logit_blocks(X, coef, intercept):
        result[block] = scores
    return result


def probabilities(X: Any, coef: Array, intercept: Array, *, log: bool, n_threads: int | None) -> Array:
    """Probabilities, or their exact logarithms, of shape (n, n_classes)."""
    result = np.empty((X.shape[0], max(2, len(coef))), X.dtype)
    function = log_softmax if log else softmax
    for block, scores in logit_blocks(X, coef, intercept):
        rows = result[block]
        rows[:, 0] = 0      # one row of coefficients: the logit of the first class is 0
        rows[:, -scores.shape[1] :] = scores
        function(rows, out=rows, n_threads=n_threads)
    return result


def class_indices(X: Any, coef: Array, intercept: Array) -> NDArray[np.intp]:
    """The index of the most probable class of each row."""
    result = np.empty(X.shape[0], np.intp)
    for block, scores in logit_blocks(X, coef, intercept):
        result[block] = scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(axis=1)
    return result


def separates(X: Any, target: NDArray[np.int64], coef: Array, intercept: Array, weight: Array) -> bool:
    """Whether in each row with weight the logit of its class is larger than all others."""
    for block, scores in logit_blocks(X, coef, intercept):
        labels = target[block]
        if scores.shape[1] == 1:
            margin = np.where(labels == 1, scores[:, 0], -scores[:, 0])
        else:
            rows = np.arange(len(labels))
            own = scores[rows, labels]
            scores[rows, labels] = -np.inf
            margin = own - scores.max(axis=1)
        if not (margin > 0)[weight[block] > 0].all():
            return False
    return True
