"""Bad arguments of the estimator, and what is said of them."""

import numpy as np
import pytest
from good_arguments import HALVES, OTHER_FLOATS, fails, inf, nan

import xent

FEATURES = np.random.default_rng(0).normal(size=(4, 2))
CLASSES = np.array([0, 1, 2, 1])


def test_parameters():
    model = xent.LogisticRegression(C=2.0, max_iter=7)
    assert model.get_params()["C"] == 2.0
    assert model.set_params(C=3.0) is model
    assert repr(model) == "LogisticRegression(C=3.0, max_iter=7)"
    assert type(model)(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ValueError, match="'alpha' is not a parameter"):
        model.set_params(alpha=1)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"C": 0}, ValueError, "C is 0; it must be greater than 0"),
        ({"C": nan}, ValueError, "C is nan"),
        ({"C": "1"}, TypeError, "C is '1'; it must be a real number"),
        ({"C": True}, TypeError, "C is True; it must be a real number"),
        ({"C": None}, TypeError, "C is None; it must be a real number"),
        ({"C": [1.0]}, TypeError, r"C is \[1.0\]; it must be a real number"),
        ({"C": 10**400}, ValueError, "C is larger than a float can be"),
        ({"penalty": "l0"}, ValueError, "penalty is 'l0'; it must be one of 'l1', 'l2', 'elasticnet', None or 'unset'"),
        ({"penalty": 1}, ValueError, "penalty is 1; it must be one of"),
        ({"penalty": ["l2"]}, ValueError, r"penalty is \['l2'\]; it must be one of"),
        ({"penalty": "elasticnet", "l1_ratio": None}, ValueError, "l1_ratio must be specified when penalty is elast"),
        ({"l1_ratio": 1.5}, ValueError, r"l1_ratio is 1.5; it must be in \[0, 1\]"),
        ({"l1_ratio": nan}, ValueError, r"l1_ratio is nan; it must be in \[0, 1\]"),
        ({"l1_ratio": "half"}, TypeError, "l1_ratio is 'half'; it must be a real number"),
        ({"intercept_scaling": 0}, ValueError, "intercept_scaling is 0; it must be greater than 0 and finite"),
        ({"solver": "adam"}, ValueError, "solver is 'adam'; it must be one of 'auto', 'lbfgs', 'liblinear'"),
        ({"tol": 0}, ValueError, "tol is 0"),
        ({"max_iter": -1}, ValueError, "max_iter is -1"),
        ({"max_iter": 1.5}, TypeError, "max_iter is 1.5; it must be an integer"),
        ({"n_jobs": 0}, ValueError, "n_jobs is 0; it must be at least 1, negative "),
        ({"class_weight": "heavy"}, ValueError, "class_weight is 'heavy'; it must be a dict from label to weight, 'ba"),
        ({"class_weight": [1, 2, 3]}, ValueError, r"class_weight is \[1, 2, 3\]; it must be a dict"),
        ({"class_weight": {3: 1.0}}, ValueError, r"class_weight names 3, which is not a label of y; the labels are \["),
        ({"class_weight": {0: None}}, TypeError, r"class_weight\[0\] is None; it must be a real number"),
        ({"class_weight": {1: -1.0}}, ValueError, r"class_weight\[1\] is -1.0; weights must be finite and at least 0"),
        ({"class_weight": {0: inf}}, ValueError, r"class_weight\[0\] is inf; weights must be finite and at least 0"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=f"^{message}"):
        xent.LogisticRegression(**parameters).fit(FEATURES, CLASSES)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"])
def test_every_solver_has_the_same_minimum(solver):
    model = xent.LogisticRegression(solver=solver, tol=1e-8, dual=True, intercept_scaling=9.0, random_state=1)
    want = xent.LogisticRegression(tol=1e-8).fit(FEATURES, CLASSES)
    np.testing.assert_allclose(model.fit(FEATURES, CLASSES).coef_, want.coef_, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"penalty": None}, {"C": inf}),
        ({"penalty": None, "l1_ratio": 0.5}, {"C": inf}),
        ({"penalty": "l2", "C": 0.1}, {"C": 0.1}),
        ({"penalty": "elasticnet", "l1_ratio": 0, "C": 0.1}, {"C": 0.1}),
        ({"penalty": "deprecated", "C": 0.1}, {"C": 0.1}),      # what scikit-learn's get_params returns
        ({"l1_ratio": None}, {}),
    ],
)
def test_two_ways_to_say_the_penalty(old, new):
    overlapping = [0, 1, 0, 1, 1, 0, 0, 1]
    X = np.repeat(FEATURES, 2, axis=0)
    fits = [xent.LogisticRegression(tol=1e-8, **given).fit(X, overlapping) for given in (old, new)]
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"penalty": None, "C": 2.0}, "Setting penalty=None will ignore the C and l1_ratio parameters"),
        ({"penalty": "l2", "l1_ratio": 0.5}, "Inconsistent values: penalty=l2 with l1_ratio=0.5, which has no"),
    ],
)
def test_contradictions_are_warned_of(parameters, message):
    X = np.repeat(FEATURES, 2, axis=0)
    with pytest.warns(UserWarning, match=message) as caught:
        xent.LogisticRegression(**parameters).fit(X, [0, 1, 0, 1, 1, 0, 0, 1])
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"X": FEATURES[0]}, ValueError, r"^X has 1 dimensions; it must have 2, \(n_samples, n_features\)"),
        ({"X": FEATURES[:0]}, ValueError, r"^X has shape \(0, 2\); it must have at least one sample and one feature"),
        ({"X": FEATURES[:, :0]}, ValueError, r"^X has shape \(4, 0\); it must have at least one sample"),
        ({"X": np.where(FEATURES < 9, nan, 0)}, ValueError, r"^X\[0, 0\] is nan; it must be finite \(no NaN, no inf\)"),
        ({"X": [[1.0, 0.0], [2.0, 0.0], [3.0, inf], [0.0, 0.0]]}, ValueError, r"^X\[2, 1\] is inf; it must be finite"),
        ({"y": [0, 1]}, ValueError, r"^y has shape \(2,\); it must have shape \(4,\), a value for each row of X"),
        ({"y": [1, 1, 1, 1]}, ValueError, "^y has one class only, .*1.*; it must have at least 2"),
        ({"y": [0, 0.5, 1, 1]}, ValueError, r"^y\[1\] is 0.5; labels must be integers, bools, strings, bytes or dates"),
        ({"y": [0, inf, 1, 1]}, ValueError, r"^y\[1\] is inf; labels must be"),
        ({"y": [0, nan, 1, 1]}, ValueError, r"^y\[1\] is nan; labels must be"),
        ({"y": np.array(["a", None, "b", "b"], object)}, ValueError, r"^y\[1\] is None; labels must be"),
        ({"y": np.array(["a", nan, "b", "b"], object)}, ValueError, r"^y\[1\] is nan; labels must be"),
        ({"y": np.array(["2020", "NaT", "2021", "2021"], "M8[D]")}, ValueError, r"^y\[1\] is NaT; labels must be"),
        ({"y": np.array([1, "a", 2, 1], object)}, TypeError, "^y has labels that cannot be sorted: .* types int, str"),
        ({"sample_weight": [1, 2]}, ValueError, r"^sample_weight has shape \(2,\); it must have shape \(4,\)"),
        ({"sample_weight": [1, -2, 0, 0]}, ValueError, r"^sample_weight\[1\] is -2; weights must be finite"),
        ({"sample_weight": [1, inf, 0, 0]}, ValueError, r"^sample_weight\[1\] is inf; weights must be finite"),
        ({"sample_weight": np.zeros(4)}, ValueError, "is 0 for every sample"),
        ({"sample_weight": np.full(4, 1e308)}, ValueError, "has a sum that overflows float64"),
    ],
)
def test_bad_data_leaves_a_fitted_estimator_alone(data, error, message):
    model = xent.LogisticRegression().fit(FEATURES, CLASSES)
    before = model.coef_.copy()
    with pytest.raises(error, match=message):
        model.fit(**{"X": FEATURES, "y": CLASSES, **data})
    np.testing.assert_array_equal(model.coef_, before)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.6]], r"^y\[1\] sums to 1.1; each row must sum to 1 \(use sample_weight to weight rows\)"),
        ([[0.5, 0.5], [1.5, -0.5]], r"^y\[1, 1\] is -0.5; probabilities must be at least 0"),
        ([[0.5, 0.5], [np.nan, 1]], r"^y\[1, 0\] is nan"),
        ([[0.5, 0.5]], r"^y has shape \(1, 2\); it must have 2 rows"),
        ([[0, 1], [1, 0]], r"^y should be a 1d array of labels, or floats or bools of shape \(n_samples, n_classes\)"),
        ([[[0.5, 0.5]] * 2], r"^y should be a 1d array"),
    ],
)
def test_bad_distributions(y, message):
    with pytest.raises(ValueError, match=message):
        xent.LogisticRegression().fit([[0.0], [1.0]], y)


@pytest.mark.parametrize("dtype", [*HALVES, *OTHER_FLOATS, np.complex128, "M8[s]"])
def test_types_of_features(dtype):
    """No half precision, and no message that offers it."""
    allowed, error = "it must be real numbers, float32 or float64", TypeError
    if dtype is np.complex128:
        allowed, error = "it must be real numbers (Complex data not supported)", ValueError     # as scikit-learn
    if dtype in HALVES + OTHER_FLOATS:
        wider = "float32" if dtype in HALVES else "float64"
        allowed = f"it must be float32 or float64: convert it with X.astype(np.{wider})"
    model, bad = xent.LogisticRegression().fit(FEATURES, CLASSES), FEATURES.astype(dtype)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.predict, bad)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.fit, bad, CLASSES)
