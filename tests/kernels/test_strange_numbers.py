"""cross_entropy of infinities, NaN, huge and tiny numbers. (One NaN or infinity at every place: test_same_bits.py.)"""

import numpy as np
import pytest
import reference
from loss_problems import INF, NAN, REDUCTIONS, Problem, both, each_dtype, each_kind
from reference import assert_close

import xent


@each_dtype
@each_kind
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 17, 33, 513])
def test_rows_without_a_finite_maximum(n, kind, dtype):
    """All -inf, one +inf, all +inf; and beside them a row with one class that cannot happen."""
    for place in {0, n // 2, n - 1}:
        p = Problem((5, n), kind, dtype, ignored=None)
        p.logits[0], p.logits[1, place], p.logits[2], p.logits[3, place] = -INF, INF, INF, -INF
        loss, grad = both(p.logits, p.target)
        assert np.isnan(loss[:3]).all()
        assert np.isnan(grad[:3]).all()
        exact_loss, exact_grad = reference.cross_entropy(p.logits, p.target, reduction="none")
        assert_close(loss, exact_loss, dtype)
        assert_close(grad, exact_grad, dtype)


@each_dtype
@each_kind
@pytest.mark.parametrize("n", [2, 3, 8, 19])
@reference.quiet
def test_huge_and_tiny_logits(n, kind, dtype):
    info = np.finfo(dtype)
    for scale in (info.max, info.max / 4, 1e30, info.smallest_normal, info.smallest_subnormal, 0):
        for signs in ([1] * n, [-1] * n, [0, 1] + [0.5] * (n - 2), [0.5, -0.5] + [0] * (n - 2)):
            p = Problem((n, n), kind, dtype, labels=np.arange(n), ignored=None)
            x = np.broadcast_to((np.array(signs) * float(scale)).astype(dtype), (n, n))
            loss, grad = xent.cross_entropy(x, p.target, reduction="none", return_grad=True)
            exact_loss, exact_grad = reference.cross_entropy(x, p.target, reduction="none")
            np.testing.assert_allclose(loss, exact_loss.astype(dtype), rtol=8 * info.eps, atol=info.smallest_normal)
            np.testing.assert_allclose(grad, exact_grad.astype(dtype), rtol=8 * info.eps, atol=8 * info.eps)


@each_dtype
def test_floating_point_flags_are_not_seen(dtype):
    """No NaN, infinity or subnormal number raises a warning, or the error that NumPy may be told to raise instead."""
    tiny = float(np.finfo(dtype).smallest_subnormal)
    x = np.array([[NAN, 1, 2], [INF, 0, -INF], [1e30, -1e30, 0], [0, -750, -tiny]], dtype)
    t = np.array([[0, 1, 0], [NAN, INF, 0], [tiny, 1, 1], [0, 0, 1]], dtype)
    p = np.array([[0, 1, tiny]] * 4, dtype)
    labels = np.array([0, 1, 2, 1])
    with np.errstate(all="raise"):
        for function in (xent.logsumexp, xent.softmax, xent.log_softmax):
            function(x)
            function(x, where=x != 1e30)
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "sample_weight": np.array([0, 1, 3, 1])}
            for target in (labels, t):
                xent.cross_entropy(x, target, class_weight=[0, 1, 2], return_grad=True, **options)
            xent.categorical_cross_entropy(p, labels, **options)
            for other in (x, x[::-1], t):
                xent.kl_divergence(x, other, return_grad=True, **options)
                xent.kl_divergence(x, other, logit_scale=1e30, **options)
                xent.evaluate(x, labels, reference=other)
            options["sample_weight"] = options["sample_weight"][:, None]
            xent.binary_cross_entropy_with_logits(x, p, pos_weight=[0, 1, 2], return_grad=True, **options)
            xent.binary_cross_entropy(p, p, return_grad=True, **options)
    assert (np.full(5, tiny, dtype) * np.ones(5, dtype) == tiny).all()      # subnormal numbers are still there
