"""Which solver minimises an objective, and from where."""

from __future__ import annotations

import math
from contextlib import nullcontext

from xent._fit import preconditioners
from xent._fit.blas_threads import limit_to_one_thread
from xent._fit.dual_ascent import Stronger, dual_ascent
from xent._fit.lbfgs import choose_memory, lbfgs
from xent._fit.newton_cg import FORCING, newton_cg
from xent._fit.objective import Objective
from xent._fit.solver import Progress, Result, Settings
from xent._fit.types import Vector
from xent._fit.working_set import minimise_kinked

SOLVERS = ("auto", "lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga")     # "auto", if not below

PATIENCE = 60           # iterations of L-BFGS with a good preconditioner
FORCING_NEAR = 0.1      # of Newton-CG near the minimum: few steps are left, each with a few more Hessian products


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
        kind = preconditioners.choose_kind(objective.shape)
        if kind == preconditioners.DIAGONAL:
            return _minimise_wide(relay, start, stronger)
        return _minimise_narrow(relay, start, PATIENCE if kind == preconditioners.BLOCKS else settings.max_iter)


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


def _minimise_narrow(relay: _Relay, start: Vector, patience: int) -> Result:
    """L-BFGS; then Newton-CG, if L-BFGS stops short of tol or takes more iterations than a good preconditioner allows
    (rounding spoils it if columns differ by many orders of magnitude)."""
    first = relay.lbfgs(start, patience)
    if first.converged or first.iterations == relay.settings.max_iter:
        return first
    second = relay.newton_cg(first.x)
    better = second if second.converged or second.loss < first.loss else first
    return better._replace(iterations=second.iterations, reason=second.reason)
