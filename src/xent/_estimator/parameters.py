"""The parameters of the estimator's constructor, checked when a fit begins."""

from __future__ import annotations

import math
from typing import Any, Protocol

from xent._calls.scalars import check_choice, check_integer, check_n_jobs, check_real


class Parameters(Protocol):
    C: float
    penalty: Any
    class_weight: Any
    tol: float
    max_iter: int
    solver: Any
    n_jobs: int | None


def check_parameters(model: Parameters, solvers: tuple[str, ...]) -> None:
    strength = check_real("C", model.C)
    if not strength > 0:
        raise ValueError(f"C is {model.C!r}; it must be greater than 0")
    if model.penalty not in ("l2", None):
        raise ValueError(f"penalty is {model.penalty!r}; it must be 'l2' or None")
    check_choice("solver", model.solver, solvers)
    if not 0 < check_real("tol", model.tol) < math.inf:
        raise ValueError(f"tol is {model.tol!r}; it must be greater than 0 and finite")
    if check_integer("max_iter", model.max_iter) < 0:
        raise ValueError(f"max_iter is {model.max_iter}; it must be at least 0")
    check_n_jobs(model.n_jobs)
