"""Solvers of logistic regression with L1 or elastic net: xent, then the peers that are installed.

All minimise mean loss + (l1_ratio |coef|_1 + (1 - l1_ratio) / 2 |coef|^2) / (C N), without a penalty on intercepts.
celer fits no intercept, and is compared where the others do not either. Peers that are compiled when they first run do
that before they are timed.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import fit_data
import numpy as np
from fit_data import DataSet
from harness.cases import Floats, Labels

import xent

Model = tuple[Floats, Floats]
Fit = Callable[[Any, Labels, int], Model]


@dataclass(frozen=True)
class Problem:
    """The penalty, and whether there is an intercept; by default, that of the other benchmark of fits."""

    C: float = 1.0
    l1_ratio: float = 0.0
    fit_intercept: bool = True

    def compute_objective(self, X: Any, y: Labels, coef: Floats, intercept: Floats) -> float:
        """Mean loss and penalty in float64, by plain NumPy."""
        loss = fit_data.compute_objective(X, y, coef, intercept, C=np.inf)
        coef = coef.astype(np.float64)
        size = self.l1_ratio * np.abs(coef).sum() + (1 - self.l1_ratio) / 2 * np.vdot(coef, coef)
        return loss + float(size) / (self.C * len(y))


def list_fits(problem: Problem) -> list[tuple[str, Fit, Callable[[DataSet], bool]]]:
    """Name, fit, and which data sets it takes."""
    found: list[tuple[str, Fit, Callable[[DataSet], bool]]] = [("xent", make_xent(problem), takes_all)]
    if importlib.util.find_spec("sklearn"):
        found.append(("scikit-learn saga", make_saga(problem), takes_all))
    if importlib.util.find_spec("cyanure"):
        found.append(("cyanure", make_cyanure(problem), takes_all))
    if importlib.util.find_spec("skglm"):
        found.append(("skglm", make_skglm(problem), is_binary))
    if importlib.util.find_spec("celer") and problem.l1_ratio == 1 and not problem.fit_intercept:
        found.append(("celer", make_celer(problem), is_binary))
    return found


def takes_all(data: DataSet) -> bool:
    return True


def is_binary(data: DataSet) -> bool:
    return int(data.y.max()) == 1


def make_xent(problem: Problem) -> Fit:
    def fit(X: Any, y: Labels, iterations: int) -> Model:
        model = xent.LogisticRegression(**asdict(problem), max_iter=iterations, tol=1e-13).fit(X, y)
        return model.coef_, model.intercept_

    return fit


def make_saga(problem: Problem) -> Fit:
    from sklearn.linear_model import LogisticRegression

    def fit(X: Any, y: Labels, iterations: int) -> Model:
        model = LogisticRegression(**asdict(problem), solver="saga", max_iter=iterations, tol=1e-13).fit(X, y)
        return model.coef_, model.intercept_

    return fit


def make_cyanure(problem: Problem) -> Fit:
    from cyanure.estimators import Classifier

    def fit(X: Any, y: Labels, iterations: int) -> Model:
        strength = 1 / (problem.C * len(y))
        n_classes = int(y.max()) + 1
        model = Classifier(
            loss="logistic" if n_classes == 2 else "multiclass-logistic",
            penalty="l1" if problem.l1_ratio == 1 else "elastic-net", lambda_1=strength * problem.l1_ratio,
            lambda_2=strength * (1 - problem.l1_ratio), fit_intercept=problem.fit_intercept,
            max_iter=iterations, tol=1e-14, verbose=False, n_threads=xent.get_num_threads(),
        )  # fmt: skip
        model.fit(X, y)
        coef = np.asarray(model.coef_)
        intercept = np.asarray(getattr(model, "intercept_", 0.0)).ravel()     # there is none without fit_intercept
        return (coef.reshape(1, -1) if n_classes == 2 else coef.T), intercept

    return fit


def make_skglm(problem: Problem) -> Fit:
    from skglm import GeneralizedLinearEstimator
    from skglm.datafits import Logistic
    from skglm.penalties import L1, L1_plus_L2
    from skglm.solvers import ProxNewton

    def fit(X: Any, y: Labels, iterations: int) -> Model:
        strength = 1 / (problem.C * len(y))
        penalty = L1(strength) if problem.l1_ratio == 1 else L1_plus_L2(strength, problem.l1_ratio)
        solver = ProxNewton(max_iter=iterations, tol=1e-12, fit_intercept=problem.fit_intercept)
        signs = (2 * y - 1).astype(X.dtype)
        model = GeneralizedLinearEstimator(Logistic(), penalty, solver).fit(X, signs)
        return np.atleast_2d(model.coef_), np.broadcast_to(np.atleast_1d(model.intercept_), 1)

    return compile_first(fit)


def make_celer(problem: Problem) -> Fit:
    from celer import LogisticRegression

    def fit(X: Any, y: Labels, iterations: int) -> Model:
        model = LogisticRegression(C=problem.C, max_iter=iterations, tol=1e-12, fit_intercept=False).fit(X, y)
        return np.atleast_2d(model.coef_), np.zeros(1)

    return compile_first(fit)


def compile_first(fit: Fit) -> Fit:
    """The fit, after a short one of each kind and type."""
    seen = set()

    def run(X: Any, y: Labels, iterations: int) -> Model:
        kind = type(X), X.dtype
        if kind not in seen:
            seen.add(kind)
            fit(X, y, 2)
        return fit(X, y, iterations)

    return run
