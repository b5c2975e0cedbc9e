"""Which solver minimises an objective, and from where."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np

from xent._fit import preconditioners
from xent._fit.blas_threads import limit_to_one_thread
from xent._fit.dual_ascent import Stronger, dual_ascent
from xent._fit.lbfgs import choose_memory, lbfgs
from xent._fit.newton import newton
from xent._fit.newton_cg import FORCING, newton_cg
from xent._fit.objective import Objective
from xent._fit.solver import NO_DESCENT, Progress, Result, Settings
from xent._fit.types import Vector
from xent._fit.working_set import minimise_kinked

SOLVERS = ("auto", "lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga")     # "auto", if not below

FLOAT64_NOISE = float(np.finfo(np.float64).eps)
PATIENCE = 60           # iterations of L-BFGS with a good preconditioner, at most
NEWTON_STEPS = 5        # whose time L-BFGS has before Newton's method takes over
MAX_COST = 60           # of an expansion, for which Newton's method is the next after L-BFGS
MAX_NEWTON_SIZE = 1000  # coefficients for which "auto" keeps a Hessian and its factors in memory
FORCING_NEAR = 0.03     # of Newton-CG near the minimum: few steps are left, each with a few more Hessian products


def uses_newton(solver: str, size: int) -> bool:
    """Whether a fit of so many coefficients ends with the whole Hessian, if nothing else brings it within tol."""
    return solver == "newton-cholesky" or (solver not in ("lbfgs", "newton-cg") and size <= MAX_NEWTON_SIZE)


class _Relay:
    """Runs solvers on one objective, each from where the last one stopped, and counts their iterations together."""

    def __init__(self, objective: Objective, settings: Settings, done: int = 0) -> None:
        self.objective = objective
        self.settings = settings
        self.done = done            # iterations
        self.reported = -1          # the last iteration that the callback has seen

    def lbfgs(self, start: Vector, max_iter: int | None = None) -> Result:
        return self._count(
            lbfgs(
                self.objective, start, self._settings(max_iter), preconditioner_at=self.objective.preconditioner_at,
                memory=choose_memory(start.size),
            )
        )  # fmt: skip

    def newton_cg(self, start: Vector, at_start: tuple[float, Vector] | None = None) -> Result:
        return self._count(
            newton_cg(
                self.objective, start, self._settings(), hessian_product_at=self.objective.hessian_product_at,
                preconditioner_at=self.objective.preconditioner_at, at_start=at_start,
                forcing=FORCING if at_start is None else FORCING_NEAR,
            )
        )  # fmt: skip

    @property
    def is_left(self) -> bool:
        """Whether there are iterations left."""
        return self.done < self.settings.max_iter

    def newton(self, start: Vector) -> Result:
        zeros = np.zeros_like(start)
        return self._count(
            newton(
                self.objective.expand, start, self._settings()._replace(noise=FLOAT64_NOISE),
                make_metric=lambda: self.objective.expand(zeros).hessian,
            )
        )  # fmt: skip

    def _settings(self, max_iter: int | None = None) -> Settings:
        """For a solver that counts from 0."""
        left = self.settings.max_iter - self.done
        return self.settings._replace(max_iter=left if max_iter is None else min(max_iter, left), callback=self._report)

    def _report(self, progress: Progress, x: Vector) -> None:
        iteration = self.done + progress.iteration
        if self.settings.callback is not None and iteration > self.reported:    # it starts where the last ended
            self.settings.callback(progress._replace(iteration=iteration), x)
        self.reported = iteration

    def _count(self, result: Result) -> Result:
        self.done += result.iterations
        return result._replace(iterations=self.done)


def minimise(
    objective: Objective, start: Vector, settings: Settings, solver: str = "auto", stronger: Stronger | None = None
) -> Result:
    """The minimum of an objective, from centred coefficients on; it may help to know that with a stronger penalty.

    "auto" takes Newton-CG if there are too many features for a good preconditioner, else L-BFGS. Per pass over the
    rows, L-BFGS came closer on all data sets that were measured; but with many coefficients, the steps that it
    remembers cost more than the rows.
    """
    start = objective.centred(start)
    if objective.penalty.kink > 0:      # for every name: the other solvers are for smooth functions
        with limit_to_one_thread():
            result = minimise_kinked(objective, start, settings)
        return result._replace(x=objective.centred(result.x))
    relay = _Relay(objective, settings)
    with limit_to_one_thread() if objective.sums.needs_no_blas else nullcontext():
        if solver == "lbfgs":
            return relay.lbfgs(start)
        if solver == "newton-cg":
            return relay.newton_cg(start)
        if solver == "newton-cholesky":
            return relay.newton(start)
        if preconditioners.choose_kind(objective.shape) == preconditioners.DIAGONAL:
            return _minimise_wide(relay, start, stronger)
        return _minimise_narrow(relay, start)


def _minimise_wide(relay: _Relay, start: Vector, stronger: Stronger | None) -> Result:
    """Newton-CG; first a dual ascent where the data allow it, from zeros or from the minimum with a stronger penalty.
    Its sweeps count as iterations."""
    objective, settings = relay.objective, relay.settings
    if stronger is not None or not start.any():
        found = dual_ascent(objective.sums, objective.penalty, objective.fit_intercept, settings.max_iter, stronger)
        if found is not None:
            matrix, relay.done = found
            near = objective.centred(objective.to_vector(matrix))
            value = objective(near)
            if value[0] < (math.log(max(2, objective.shape[0])) if stronger is None else stronger.value):
                return relay.newton_cg(near, value)
    return relay.newton_cg(start)


def _minimise_narrow(relay: _Relay, start: Vector) -> Result:
    """L-BFGS; then Newton's method, if L-BFGS stops short of tol or takes more iterations than it should.

    With badly conditioned or nearly separated data it would go on for thousands. What then remains takes Newton's
    method a dozen iterations or a few; so L-BFGS has as much time as these would take, or PATIENCE. Where the whole
    Hessian is dear, Newton-CG comes first, and the whole Hessian only where rounding ends that.
    """
    return _go_on(relay, relay.lbfgs(start, patience(relay.objective.shape, relay.settings.max_iter)))


def go_on(objective: Objective, first: Result, settings: Settings) -> Result:
    """What "auto" does after L-BFGS has stopped: nothing if it has converged."""
    return _go_on(_Relay(objective, settings, first.iterations), first)


def _go_on(relay: _Relay, best: Result) -> Result:
    small = uses_newton("auto", best.x.size)
    cheap = small and cost_of_expansion(relay.objective.shape) <= MAX_COST
    if not cheap and not best.converged and relay.is_left:
        best = _better(best, relay.newton_cg(best.x))
    if small and not best.converged and relay.is_left and (cheap or best.reason == NO_DESCENT):
        best = _better(best, relay.newton(best.x))
    return best


def cost_of_expansion(shape: tuple[int, int]) -> float:
    """The time of `Sums.expand` in units of that of `Sums.loss_gradient`: both in ns a row, as measured in float64."""
    n_coef_rows, size = shape
    pairs = max(1, n_coef_rows * (n_coef_rows - 1) // 2)
    products = size * (size + 1) // 2
    expansion = 0.05 * pairs * products + 1.5 * size + 5 * n_coef_rows + 10
    return expansion / (0.12 * n_coef_rows * size + 0.7 * size + 4 * n_coef_rows + 5)


def patience(shape: tuple[int, int], max_iter: int) -> int:
    """The iterations that L-BFGS has before another solver goes on."""
    if preconditioners.choose_kind(shape) != preconditioners.BLOCKS:
        return max_iter
    return min(max_iter, PATIENCE, round(NEWTON_STEPS * cost_of_expansion(shape)))


def _better(first: Result, second: Result) -> Result:
    better = second if second.converged or second.loss < first.loss else first
    return better._replace(iterations=second.iterations, reason=second.reason)
