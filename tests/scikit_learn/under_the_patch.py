"""A pytest plugin that runs scikit-learn's own tests of logistic regression under `xent.sklearn.patch`.

NOT_OURS lists the tests that are not run, with reasons. See tests/bridges/test_sklearn_patch.py, which runs this.
"""

import re

import pytest

import xent.sklearn

# The beginning of a name, as a regular expression, and why.
NOT_OURS = {
    "test_warm_start_newton_solver": "one Newton step after another is as two steps at once; xent's solvers remember",
    "test_newton_cholesky_fallback_to_lbfgs": "as many iterations as L-BFGS, since a Cholesky factor cannot be had",
    "test_logistic_regression_callback_fitted_estimator": "iterations with a callback, which are scikit-learn's, are "
    "compared with those without",
    r"test_logistic_regression_array_api_compliance\[torch-cpu-float64": "the fit of a tensor, which is "
    "scikit-learn's, is compared to 1e-5 with that of an array",
}


def pytest_configure(config):
    xent.sklearn.patch()


def pytest_collection_modifyitems(config, items):
    for item in items:
        for name, reason in NOT_OURS.items():
            if re.match(name, item.name):
                item.add_marker(pytest.mark.skip(reason=reason))
