"""Bad input to the estimator, and what it says."""

import re

import numpy as np
import pytest
from good_arguments import HALVES, OTHER_FLOATS, fails, inf, nan

import xent

FEATURES = np.random.default_rng(0).normal(size=(4, 2))
CLASSES = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"X": FEATURES[0]}, ValueError, r"^X has 1 dimensions; it must have 2, \(n_samples, n_features\)"),
        ({"X": FEATURES[:0]}, ValueError, r"^X has shape \(0, 2\); it must have at least one sample and one feature"),
        ({"X": FEATURES[:, :0]}, ValueError, r"^X has shape \(4, 0\); it must have at least one sample"),
        ({"X": np.where(FEATURES < 9, nan, 0)}, ValueError, r"^X\[0, 0\] is nan; it must be finite \(no NaN, no inf\)"),
        ({"X": [[1.0], [2.0], [inf], [0.0]]}, ValueError, r"^X\[2, 0\] is inf; it must be finite"),
        ({"y": [0, 1]}, ValueError, r"^y has shape \(2,\); it must have shape \(4,\), a value for each row of X"),
        ({"y": [1, 1, 1, 1]}, ValueError, "^y has one class only, .*1.*; it must have at least 2"),
        ({"y": [0, 0.5, 1, 1]}, ValueError, r"^y\[1\] is 0.5; labels must be integers, bools, strings, bytes or dates"),
        ({"y": np.array([1, "a", 2, 1], object)}, TypeError, "^y has labels that cannot be sorted: .* types int, str"),
        ({"sample_weight": [1, 2]}, ValueError, r"^sample_weight has shape \(2,\); it must have shape \(4,\)"),
        ({"sample_weight": [1, -2, 0, 0]}, ValueError, r"^sample_weight\[1\] is -2; weights must be finite"),
        ({"sample_weight": [1, inf, 0, 0]}, ValueError, r"^sample_weight\[1\] is inf; weights must be finite"),
    ],
)
def test_bad_input_to_fit(options, error, message):
    with pytest.raises(error, match=message):
        xent.LogisticRegression().fit(**{"X": FEATURES, "y": CLASSES, **options})


def test_boolean_weights_are_0_and_1():
    keep = np.array([True, False, True, True])
    model, other = (xent.LogisticRegression().fit(FEATURES, CLASSES, sample_weight=w) for w in (keep, keep * 1.0))
    np.testing.assert_array_equal(model.coef_, other.coef_)
    assert model.score(FEATURES, CLASSES, keep) == model.score(FEATURES, CLASSES, keep * 1.0)


@pytest.mark.parametrize("dtype", [*HALVES, *OTHER_FLOATS, np.complex128, "M8[s]"])
def test_types_of_features(dtype):
    """No half precision, and no message that offers it."""
    allowed, error = "it must be real numbers, float32 or float64", TypeError
    if dtype is np.complex128:
        allowed, error = "it must be real numbers (Complex data not supported)", ValueError     # as scikit-learn
    if dtype in HALVES + OTHER_FLOATS:
        wider = "float32" if dtype in HALVES else "float64"
        allowed = f"it must be float32 or float64: convert it, with X.astype(np.{wider})"
    model, bad = xent.LogisticRegression().fit(FEATURES, CLASSES), FEATURES.astype(dtype)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.predict, bad)
    fails(error, f"X has dtype {np.dtype(dtype)}; {allowed}", model.fit, bad, CLASSES)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("heavy", "^class_weight is 'heavy'; it must be a dict from label to weight, 'balanced' or None"),
        ([1, 2, 3], r"^class_weight is \[1, 2, 3\]; it must be a dict"),
        ({3: 1.0}, r"^class_weight names 3, which is not a label of y; the labels are \[0, 1, 2\]"),
        ({1: -1.0}, r"^class_weight\[1\] is -1.0; weights must be finite and at least 0"),
        ({0: inf}, r"^class_weight\[0\] is inf; weights must be finite and at least 0"),
    ],
)
def test_bad_class_weights_of_the_estimator(bad, message):
    with pytest.raises(ValueError, match=message):
        xent.LogisticRegression(class_weight=bad).fit(FEATURES, CLASSES)


@pytest.mark.parametrize("bad", ["1", True, None, [1.0]])
def test_numbers_of_the_estimator(bad):
    with pytest.raises(TypeError, match=rf"^C is {re.escape(repr(bad))}; it must be a real number"):
        xent.LogisticRegression(C=bad).fit(FEATURES, CLASSES)
