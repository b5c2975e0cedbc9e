"""Log loss and softmax in place of scikit-learn's."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.linear_model import _logistic
from sklearn.metrics import _classification

from xent._estimator import log_loss as exact
from xent.primitives import softmax as xent_softmax

logger = logging.getLogger("xent.sklearn")

scikit_learn_log_loss = _classification.log_loss.__wrapped__        # beneath the check of its parameters
scikit_learn_softmax = _logistic.softmax

_SIGNATURE = inspect.signature(scikit_learn_log_loss)
_NOT_GIVEN = "deprecated"       # the default of y_pred, where y_proba is its new name


@functools.wraps(scikit_learn_log_loss)
def log_loss(*args: Any, **options: Any) -> float:
    """Stands in for `sklearn.metrics.log_loss`: probabilities are clipped as there."""
    given = _SIGNATURE.bind(*args, **options)
    given.apply_defaults()
    try:
        return _log_loss(**given.arguments)
    except (TypeError, ValueError) as reason:
        logger.info("log_loss is computed by scikit-learn: %s", reason)
    return float(scikit_learn_log_loss(*args, **options))


def _log_loss(
    y_true: Any, y_proba: Any = None, *, normalize: bool, sample_weight: Any, labels: Any, y_pred: Any = _NOT_GIVEN
) -> float:
    renamed = "y_proba" in _SIGNATURE.parameters
    if y_proba is None:
        if isinstance(y_pred, str):
            raise TypeError("there is no y_proba")
        y_proba = y_pred
    elif not isinstance(y_pred, str):
        raise TypeError("y_proba and y_pred are given")
    else:
        renamed = False
    if get_config()["array_api_dispatch"] and not isinstance(y_proba, np.ndarray):
        raise TypeError(f"y_proba is a {type(y_proba).__name__}, and array_api_dispatch is on")
    if sample_weight is not None and not np.any(sample_weight):
        raise ValueError("sample_weight is 0 for every row")
    loss = exact.log_loss(y_true, y_proba, bool(normalize), sample_weight, labels, clip=True)
    if renamed:
        words = "`y_pred` was renamed to `y_proba` in version 1.9 and will be removed in 1.11 of scikit-learn"
        warnings.warn(words, FutureWarning, stacklevel=5)
    return loss


def softmax(X: Any, copy: bool = True) -> NDArray[Any]:
    """Stands in for the softmax of `LogisticRegression.predict_proba`."""
    if type(X) is np.ndarray and X.dtype in (np.float32, np.float64):
        return xent_softmax(X, axis=1, out=None if copy else X)
    result: NDArray[Any] = scikit_learn_softmax(X, copy=copy)
    return result
