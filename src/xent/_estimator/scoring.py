"""Scores of coefficients on held-out rows: two measures of xent's own, and any scorer of scikit-learn's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xent._calls.losses import cross_entropy
from xent._calls.options import GivenOptions
from xent._fit.logits import compute_logits
from xent._fit.types import Matrix

Array = NDArray[Any]
Scorer = Callable[..., Any]     # scorer(estimator, X, y, **keywords) -> float

OWN = ("neg_log_loss", "accuracy")
BLOCK_ELEMENTS = 1 << 18        # of held-out rows and their logits


class HeldOut(NamedTuple):
    """Rows to score.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, n_features): all rows
    target : ndarray of shape (n,), int64, or (n, n_classes)
    weight : ndarray of shape (n,)
        The sample weights, without class weights.
    rows : ndarray of int
        The indices of those to score.
    n_classes : int
    n_threads : int or None
    """

    X: Any
    target: Array
    weight: NDArray[np.float64]
    rows: NDArray[np.intp]
    n_classes: int
    n_threads: int | None = None


class Model(Protocol):
    """A classifier whose coefficients are set by hand."""

    classes_: Array
    coef_: Array
    intercept_: Array


def find_scorer(scoring: Any, classes: Array) -> str | Scorer:
    """The name of a measure of xent's own, or a scorer."""
    if scoring is None or (isinstance(scoring, str) and scoring == "warn"):     # scikit-learn's default
        return "accuracy"
    if isinstance(scoring, str):
        if scoring in OWN:
            return scoring
        try:
            from sklearn.metrics import get_scorer
        except ImportError:
            allowed = ", ".join(map(repr, OWN))
            raise ValueError(
                f"scoring is {scoring!r}; without scikit-learn it must be {allowed}, None or a callable"
            ) from None
        try:
            return _name_labels(get_scorer(scoring), classes)
        except ValueError as error:
            raise ValueError(
                f"scoring is {scoring!r}; it must be 'neg_log_loss', 'accuracy', another name of a scorer of "
                f"scikit-learn's, None or a callable: {error}"
            ) from None
    if callable(scoring):
        return _name_labels(scoring, classes)
    raise TypeError(f"scoring is {scoring!r}; it must be a string, a callable or None")


def _name_labels(scorer: Any, classes: Array) -> Scorer:
    """The scorer, told which labels there are if its measure asks for them: held-out rows may lack some."""
    measure = getattr(scorer, "_score_func", None)
    names = inspect.signature(measure).parameters if measure is not None else {}
    if "labels" not in names:
        found: Scorer = scorer
        return found
    from sklearn.metrics import make_scorer

    keywords = {"labels": classes, **({"pos_label": classes[-1]} if len(classes) == 2 and "pos_label" in names else {})}
    keywords.update(scorer._kwargs)
    made: Scorer = make_scorer(
        measure, greater_is_better=scorer._sign == 1, response_method=scorer._response_method, **keywords
    )
    return made


def score_path(scorer: str, held_out: HeldOut, path: Matrix) -> NDArray[np.float64]:
    """The score of each matrix of coefficients, by a measure of xent's own.

    Parameters
    ----------
    scorer : {"neg_log_loss", "accuracy"}
    held_out : HeldOut
    path : ndarray of shape (n_models, n_coef_rows, n_features + 1)
    """
    totals, total_weight = np.zeros(len(path)), 0.0
    for block in _cut(held_out):
        X, target, weight = held_out.X[block], held_out.target[block], held_out.weight[block]
        total_weight += float(weight.sum())
        for i, matrix in enumerate(path):
            logits = np.zeros((len(block), held_out.n_classes), X.dtype)
            logits[:, -len(matrix) :] = compute_logits(X, matrix[:, :-1], matrix[:, -1])
            if scorer == "accuracy":
                totals[i] += _sum_right(logits, target, weight)
            else:
                totals[i] -= cross_entropy(
                    logits, target, GivenOptions(sample_weight=weight), reduction="sum", n_threads=held_out.n_threads
                )
    return totals / total_weight


def _sum_right(logits: Array, target: Array, weight: NDArray[np.float64]) -> float:
    """The weight of the rows whose label is predicted."""
    found = logits.argmax(axis=1)
    return float(weight @ (found == target if target.ndim == 1 else target[np.arange(len(found)), found]))


def _cut(held_out: HeldOut) -> Iterator[NDArray[np.intp]]:
    """Blocks of the rows to score."""
    X = held_out.X
    row_elements = X.shape[1] if isinstance(X, np.ndarray) else X.nnz // X.shape[0]
    size = max(64, BLOCK_ELEMENTS // (row_elements + held_out.n_classes))
    return (held_out.rows[start : start + size] for start in range(0, len(held_out.rows), size))
