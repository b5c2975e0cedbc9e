"""The covariance of the coefficients of an estimator: when it exists, and what is said if it does not."""

from __future__ import annotations

import os
import warnings
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xent._estimator.parameters import Parameters, penalty_strength
from xent._estimator.partitions import FitData
from xent._fit.covariance import SingularHessian, compute_covariance

Array = NDArray[Any]

MAX_STEP = 0.1          # in standard errors: how far from the minimum the coefficients may be without a warning
MAX_CHANGE = 0.5        # of the logits of any row, in the same step
MAX_NAMES = 8
MATRICES = 6            # as large as the Hessian by all coefficients, at the same time


def check_no_penalty(model: Parameters) -> None:
    if penalty_strength(model).strength > 0:
        raise ValueError(
            f"C is {model.C!r}; the covariance is that of a fit without a penalty, since a penalty draws the "
            "coefficients towards 0 by an amount that the Hessian does not know: fit with C=inf"
        )


def check_memory(n_coefficients: int) -> None:
    """Raise if matrices of these coefficients would not fit the memory of this machine."""
    needed = MATRICES * 8 * n_coefficients**2
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):      # Windows
        return
    if needed > present:
        raise MemoryError(
            f"the covariance of {n_coefficients} coefficients needs about {needed / 1e9:.0f} GB, but this machine has "
            f"{present / 1e9:.0f} GB: leave out features"
        )


def estimate_covariance(
    data: FitData, matrix: NDArray[np.float64], fit_intercept: bool, kind: str, warning: type[Warning]
) -> NDArray[np.float64]:
    """The covariance at a matrix of coefficients (see `Sums`), with warnings of this class if they are no minimum."""
    if data.are_separated(matrix[:, :-1], matrix[:, -1]):
        raise ValueError(
            "the classes are linearly separable: the likelihood has no maximum, and the coefficients, which depend on "
            "tol and max_iter, have no covariance"
        )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = compute_covariance(data.sums, matrix, fit_intercept, kind)
    except SingularHessian as error:
        _raise_singular(error, data)
    except OverflowError:
        raise ValueError("the Hessian overflows float64: scale the features or the weights down") from None
    if found.error_of_step > MAX_STEP:
        warnings.warn(
            f"coef_ is not at the minimum for these data, but {found.error_of_step:.2g} standard errors from it: pass "
            "the data of the fit (with the same weights), or fit with a smaller tol",
            warning,
            stacklevel=4,
        )
        return found.matrix
    moved = data.sums.count_moved(found.newton_step, MAX_CHANGE)
    if moved:
        warnings.warn(
            f"one more step of Newton's method would change the logits of {moved} rows by more than {MAX_CHANGE}: "
            "either tol is too large for them, or some columns separate them from the rows of other classes, and the "
            "likelihood has no maximum",
            warning,
            stacklevel=4,
        )
    return found.matrix


def _raise_singular(error: SingularHessian, data: FitData) -> NoReturn:
    names = [_describe_column(column, data) for column in error.columns]
    listed = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    if error.are_flat:
        raise ValueError(
            f"the Hessian is singular: the likelihood does not depend on the coefficients of {listed}. A column may be "
            "0 in all rows with weight, or a class certain in all rows where it is not 0"
        ) from None
    raise ValueError(
        f"the Hessian is singular: {listed} are linearly dependent, so the data do not determine their coefficients. "
        "Leave out a column of them"
    ) from None


def _describe_column(column: int, data: FitData) -> str:
    if column == data.sums.n_features:
        return "the intercept (a column of ones)"
    return f"column {column}" if data.names is None else f"column {data.names[column]!r}"
