"""The parameters of the estimators' constructors, checked when a fit begins."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple, Protocol

from xent._calls.scalars import check_choice, check_integer, check_n_jobs, check_real, check_real_between

Penalty = Literal["unset", "l1", "l2", "elasticnet", "deprecated"] | None

UNSET: Penalty = "unset"            # of penalty: C and l1_ratio say all
_UNSET = (UNSET, "deprecated")      # scikit-learn's word, which get_params of its estimators returns
_NAMED = ("l1", "l2", "elasticnet")


class SolverParameters(Protocol):
    tol: float
    max_iter: int
    intercept_scaling: float
    solver: Any
    n_jobs: int | None


class Parameters(SolverParameters, Protocol):
    penalty: Any
    C: float
    l1_ratio: float | None
    class_weight: Any


class PenaltyStrength(NamedTuple):
    """A penalty of strength (l1_ratio sum |w| + (1 - l1_ratio) / 2 sum w^2) on the sum of the losses."""

    strength: float
    l1_ratio: float


def check_parameters(model: Parameters, solvers: tuple[str, ...]) -> None:
    """Raise unless the parameters are valid; warn if some contradict each other."""
    if not check_real("C", model.C) > 0:
        raise ValueError(f"C is {model.C!r}; it must be greater than 0")
    if model.l1_ratio is not None:
        check_real_between("l1_ratio", model.l1_ratio, 0, 1, "in [0, 1]")
    _check_penalty(model)
    check_solver_parameters(model, solvers)


def check_solver_parameters(model: SolverParameters, solvers: tuple[str, ...]) -> None:
    """Raise unless the parameters that do not change the objective are valid."""
    check_choice("solver", model.solver, solvers)
    if not 0 < check_real("tol", model.tol) < math.inf:
        raise ValueError(f"tol is {model.tol!r}; it must be greater than 0 and finite")
    if check_integer("max_iter", model.max_iter) < 0:
        raise ValueError(f"max_iter is {model.max_iter}; it must be at least 0")
    if not 0 < check_real("intercept_scaling", model.intercept_scaling) < math.inf:
        raise ValueError(f"intercept_scaling is {model.intercept_scaling!r}; it must be greater than 0 and finite")
    check_n_jobs(model.n_jobs)


def _check_penalty(model: Parameters) -> None:
    penalty, ratio = model.penalty, model.l1_ratio
    if penalty is not None and not (isinstance(penalty, str) and penalty in _UNSET + _NAMED):
        raise ValueError(f"penalty is {penalty!r}; it must be one of 'l1', 'l2', 'elasticnet', None or 'unset'")
    if penalty == "elasticnet" and ratio is None:
        raise ValueError("l1_ratio must be specified when penalty is elasticnet: a number in [0, 1]")
    if penalty is None and model.C not in (1, math.inf):
        _warn("Setting penalty=None will ignore the C and l1_ratio parameters")
    if (penalty == "l1" and ratio not in (0, 1, None)) or (penalty == "l2" and ratio not in (0, None)):
        _warn(f"Inconsistent values: penalty={penalty} with l1_ratio={ratio}, which has no effect: leave out penalty")


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)       # at the call of fit


def penalty_strength(model: Parameters) -> PenaltyStrength:
    """What the parameters, which are valid, say of the penalty."""
    if model.penalty is None:
        return PenaltyStrength(0.0, 0.0)
    ratio = {"l1": 1.0, "l2": 0.0}.get(model.penalty, float(model.l1_ratio or 0.0))
    return PenaltyStrength(1 / float(model.C), ratio)
