"""What of scikit-learn is replaced."""

from __future__ import annotations

import os
import threading
from typing import Any

from sklearn.linear_model import _logistic
from sklearn.metrics import log_loss
from sklearn.utils import parallel

import xent
from xent.sklearn import _fitting, _folding, _measuring

_lock = threading.RLock()
_replaced: list[tuple[Any, str, Any]] = []      # the owner of an attribute, its name, and its value before


def patch() -> None:
    """Let xent compute what scikit-learn's `LogisticRegression`, `LogisticRegressionCV` and `log_loss` compute.

    It replaces functions inside scikit-learn: also names imported before, estimators made before, subclasses, scorers
    such as ``"neg_log_loss"``, and the processes that scikit-learn starts with `n_jobs`, are under the patch. Tasks
    that a script itself sends to other processes call `patch` there. Calling it again changes nothing.

    Where xent would find another minimum or lacks something, scikit-learn computes as before, and the logger
    ``xent.sklearn`` says why (INFO; at DEBUG also what xent has done).

    See Also
    --------
    unpatch : Restores scikit-learn.

    Examples
    --------
    >>> import xent.sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> xent.sklearn.patch()
    >>> X, y = xent.datasets.load_digits()
    >>> LogisticRegression().fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.9
    True
    >>> xent.sklearn.unpatch()
    """
    with _lock:
        if _replaced:
            return
        _replace(_logistic, "_logistic_regression_path", _fitting.fit_path)
        _replace(_logistic, "_fit_liblinear", _fitting.fit_liblinear)
        _replace(_logistic, "Parallel", _folding.FoldsTogether)
        _replace(_logistic, "softmax", _measuring.softmax)
        _replace(_find_cell(log_loss), "cell_contents", _measuring.log_loss)
        _replace(parallel, "_FuncWrapper", PatchedTask)


def unpatch() -> None:
    """Restore scikit-learn as it was before `patch`.

    Fitted estimators keep their coefficients, and are scikit-learn's own. Without a patch it changes nothing.

    Examples
    --------
    >>> import xent.sklearn
    >>> xent.sklearn.patch()
    >>> xent.sklearn.unpatch()
    """
    with _lock:
        while _replaced:
            owner, name, value = _replaced.pop()
            setattr(owner, name, value)


def _replace(owner: Any, name: str, value: Any) -> None:
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _find_cell(function: Any) -> Any:
    """Where a function whose parameters scikit-learn checks keeps what it calls then.

    Scripts and scorers hold the outer function, so it is the inner one that is replaced.
    """
    for cell in function.__closure__:
        if cell.cell_contents is function.__wrapped__:
            return cell
    raise ImportError("this version of scikit-learn is not supported: log_loss has another form")


class PatchedTask(parallel._FuncWrapper):       # type: ignore[misc]
    """A task that joblib runs under the patch, in whatever process."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        if _replaced:
            return super().__call__(*args, **options)
        patch()
        before = xent.get_num_threads()
        try:
            xent.set_num_threads(_threads_of_worker(before))
            return super().__call__(*args, **options)
        finally:
            xent.set_num_threads(before)
            unpatch()


def _threads_of_worker(number: int) -> int:
    """joblib limits the threads of its processes by the variable of OpenMP."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(number, int(limit)) if limit.isdigit() and int(limit) > 0 else number
