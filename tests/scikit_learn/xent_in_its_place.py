"""A pytest plugin that replaces scikit-learn's LogisticRegression by xent's in scikit-learn's own tests of it.

The class below takes scikit-learn's parameters. A test that asks for what xent does not offer is skipped, with that as
its reason; NOT_OURS lists the tests that are not run at all, with reasons. See test_sklearn.py, which runs this.
"""

import inspect
import re

import pytest
import sklearn.linear_model

import xent

SAME_MINIMUM = ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")     # liblinear penalises the intercept


class LogisticRegression(xent.LogisticRegression):
    def __init__(
        self,
        penalty="l2",
        *,
        C=1.0,
        l1_ratio=0.0,
        dual=False,
        tol=1e-4,
        fit_intercept=True,
        intercept_scaling=1,
        class_weight=None,
        random_state=None,
        solver="lbfgs",
        max_iter=100,
        verbose=0,
        warm_start=False,
        n_jobs=None,
    ):
        super().__init__(
            C,
            penalty=penalty,
            fit_intercept=fit_intercept,
            class_weight=class_weight,
            tol=tol,
            max_iter=max_iter,
            solver=solver,
            warm_start=warm_start,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.intercept_scaling = intercept_scaling

    def fit(self, X, y, sample_weight=None):
        if self.l1_ratio != 0 or self.penalty not in ("l2", None):
            pytest.skip(f"not offered: an L1 penalty (penalty={self.penalty!r}, l1_ratio={self.l1_ratio})")
        if self.dual:
            pytest.skip("not offered: the dual problem")
        if self.solver not in SAME_MINIMUM:
            pytest.skip(f"not offered: solver={self.solver!r}")
        asked, self.solver = self.solver, self.solver if self.solver in ("lbfgs", "newton-cg") else "auto"
        try:
            return super().fit(X, y, sample_weight)
        finally:
            self.solver = asked


# Tests that are not run: the beginning of a name, as a regular expression, and why.
NOT_OURS = {
    "test_consistency_path": "compares with a private function, for solvers that are not offered",
    "test_logistic_cv_multinomial_score": "6 digits of a private function, which stops elsewhere within tol",
    "test_logistic_regression_callback": "scikit-learn's callbacks: not offered; fit(callback=...) is",
    "test_sparsify": "not offered: sparse coefficients are for L1 penalties",
    "test_logreg_predict_proba_multinomial": "calls a private method of scikit-learn's class",
    "test_penalty_deprecated": "scikit-learn's deprecation of a parameter that xent keeps",
    "test_l1_ratio_None_deprecated": "scikit-learn's deprecation of a parameter that xent does not have",
    "test_logisticregression_warns_with_n_jobs": "scikit-learn's deprecation of a parameter that xent uses",
    "test_check_solver_option": "which solvers take L1 penalties and the dual problem",
    "test_elasticnet_l1_ratio_err_helpful": "not offered: L1 penalties",
    "test_penalty_none": "a warning that C is not used without a penalty; the same fits are in test_logistic.py",
    r"test_max_iter\[\d+-(?!lbfgs)": "the words of a warning of each solver",
    "test_warm_start_newton_solver": "two Newton steps are the same as one and one; two steps of L-BFGS are not",
    "test_newton_cholesky_fallback_to_lbfgs": "another solver when a Cholesky factor cannot be had",
    r"test_large_sparse_matrix\[\w+-saga?\]": "an error for indices of 64 bits, which xent takes",
    r"test_logistic_regression_array_api\w+\[(?!numpy)": "not offered: arrays of other libraries, and devices",
}


def pytest_configure(config):
    sklearn.linear_model.LogisticRegression = LogisticRegression


def pytest_collection_modifyitems(config, items):
    for item in items:
        reasons = [reason for name, reason in NOT_OURS.items() if re.match(name, item.name)]
        given = getattr(getattr(item, "callspec", None), "params", {}).values()
        used = any(value is LogisticRegression for value in given)
        if not used and "LogisticRegression(" not in inspect.getsource(item.function):
            reasons.append("does not use LogisticRegression")
        for reason in reasons[:1]:
            item.add_marker(pytest.mark.skip(reason=reason))
