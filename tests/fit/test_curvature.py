"""The curvature of the loss, from its definition."""

import numpy as np
import pytest
import reference

from xent._fit.curvature import add_class_blocks, apply_softmax_hessian, softmax_variance


@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_softmax_hessian_is_the_derivative_of_the_probabilities(n_classes):
    rng = np.random.default_rng(0)
    logits, v = rng.normal(size=(2, 20, n_classes))
    if n_classes == 2:      # one row of coefficients: the logit of the first class is fixed
        logits[:, 0] = v[:, 0] = 0
    above, below = (reference.softmax(logits + h * v) for h in (1e-5, -1e-5))
    p, own = reference.softmax(logits), slice(1 if n_classes == 2 else 0, None)
    product = v[:, own].copy()
    apply_softmax_hessian(p, product)
    np.testing.assert_allclose(product, (above - below)[:, own] / 2e-5, atol=1e-9)
    for k in range(n_classes):
        one = np.zeros((20, n_classes))
        one[:, k] = 1
        if n_classes > 2:
            apply_softmax_hessian(p, one)
            np.testing.assert_allclose(softmax_variance(p)[:, k], one[:, k], rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 9])
def test_class_blocks(n_classes):
    """Of fewer classes than columns, and of more."""
    rng = np.random.default_rng(1)
    X, variance = rng.normal(size=(50, 4)), rng.random((50, n_classes))
    hessian = np.ones((n_classes, 4, 4))
    add_class_blocks(hessian, X, variance)
    np.testing.assert_allclose(hessian, 1 + np.einsum("ik,ij,il->kjl", variance, X, X))
