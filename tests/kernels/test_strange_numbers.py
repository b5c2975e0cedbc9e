"""cross_entropy of infinities, NaN, huge and tiny numbers, and targets that are no distributions."""

import numpy as np
import pytest
import reference
from loss_problems import INF, NAN, REDUCTIONS, Problem, check, each_dtype, each_target
from reference import NANS, SHORT_LENGTHS, assert_close, assert_same_bits, rows_with_every_maximum

import xent


@each_dtype
@each_target
@pytest.mark.parametrize("axis", [0, -1])
def test_nan_stays_in_its_row(axis, kind, dtype):
    """At every place of short rows; the neighbours keep their bits."""
    for n in (*SHORT_LENGTHS, 513):
        clean = rows_with_every_maximum(n, dtype)
        p = Problem(clean.shape, -1, dtype, kind)
        dirty, target = np.repeat(clean, 2, axis=0), np.repeat(p.target, 2, axis=0)
        np.fill_diagonal(dirty[1::2], np.resize(NANS[dtype], len(clean)))
        results = []
        for logits, t in ((clean, p.target), (dirty, target)):
            t = t if kind == "labels" else np.moveaxis(t, -1, axis).copy()
            logits = np.moveaxis(logits, -1, axis).copy()
            loss, grad = xent.cross_entropy(logits, t, axis=axis, reduction="none", return_grad=True)
            results += [loss, np.moveaxis(grad, axis, -1)]
        for a, b in zip(results[:2], results[2:], strict=True):
            assert np.isnan(b[1::2]).all()
            assert_same_bits(b[::2], a)


@each_dtype
@each_target
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 17, 33, 513])
def test_infinite_logits(n, kind, dtype):
    """All -inf, some +inf, and -inf: a class that cannot happen, with target mass and without."""
    for place in {0, n // 2, n - 1}:
        p = Problem((6, n), dtype=dtype, kind=kind)
        x = p.logits
        x[0] = -INF
        x[1, place] = INF
        x[2] = INF
        x[3:, place] = -INF
        free = (np.arange(3, 6) + place) % n
        free[free == place] = (place + 1) % n
        if kind == "labels":
            p.target[3:] = free
            p.target[5] = place
        elif kind == "one-hot":
            p.target[3:] = np.eye(n)[[*free[:2], place]]
        else:
            p.target[3:5, place] = 0
        loss, grad = xent.cross_entropy(x, p.target, reduction="none", return_grad=True)
        assert np.isnan(loss[:3]).all()
        assert np.isnan(grad[:3]).all()
        assert np.isfinite(loss[3:5]).all()
        assert (grad[3:5, place] == 0).all()
        assert loss[5] == INF
        exact_loss, exact_grad = reference.cross_entropy(x, p.target, reduction="none")
        assert_close(loss, exact_loss, dtype)
        assert_close(grad, exact_grad, dtype)


@each_dtype
def test_mass_on_a_class_that_cannot_happen(dtype):
    """The loss is inf, the gradient T p - t as everywhere."""
    x = np.array([[0, 0, -INF], [0, 0, -INF], [0, 0, -INF]], dtype)
    t = np.array([[0, 0, 1], [0.5, 0, 0.5], [1, 1, 2]], dtype)
    loss, grad = xent.cross_entropy(x, t, reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_array_equal(grad, [[0.5, 0.5, -1], [0, 0.5, -0.5], [1, 1, -2]])
    loss, grad = xent.cross_entropy(x, [2, 2, 2], class_weight=[1, 1, 0], reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(grad, 0)
    assert xent.cross_entropy(x, t) == INF
    assert xent.cross_entropy(x, t, reduction="sum") == INF


@each_dtype
@each_target
@pytest.mark.parametrize("n", [2, 3, 8, 19])
def test_huge_and_tiny_logits(n, kind, dtype):
    info = np.finfo(dtype)
    for scale in (info.max, info.max / 4, 1e30, info.smallest_normal, info.smallest_subnormal, 0):
        for signs in ([1] * n, [-1] * n, [0, 1] + [0.5] * (n - 2), [0.5, -0.5] + [0] * (n - 2)):
            p = Problem((n, n), dtype=dtype, kind=kind)
            if kind != "distribution":
                p.labels[:] = range(n)
                p.target = p.labels if kind == "labels" else np.eye(n, dtype=dtype)
            x = np.broadcast_to((np.array(signs) * float(scale)).astype(dtype), (n, n))
            loss, grad = xent.cross_entropy(x, p.target, reduction="none", return_grad=True)
            exact_loss, exact_grad = reference.cross_entropy(x, p.target, reduction="none")
            np.testing.assert_allclose(loss, exact_loss.astype(dtype), rtol=8 * info.eps, atol=info.smallest_normal)
            np.testing.assert_allclose(grad, exact_grad.astype(dtype), rtol=8 * info.eps, atol=8 * info.eps)


@each_dtype
def test_targets_that_are_no_distributions(dtype):
    """They are neither checked nor normalised: negative, of any sum, all 0."""
    p = Problem((4, 6), dtype=dtype)
    t = np.array([[1, -1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 2, 0, 0], [0, 0, -2, 0, 0, 0]], dtype)
    check(p.logits, t)
    check(p.logits, t, class_weight=[1, 2, 3, 0, 1, 1], sample_weight=[1, 2, 3, 4])
    loss, grad = xent.cross_entropy(p.logits, t, reduction="none", return_grad=True)
    assert loss[1] == 0
    assert (grad[1] == 0).all()


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
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "sample_weight": np.array([0, 1, 3, 1])}
            for target in (labels, t):
                xent.cross_entropy(x, target, class_weight=[0, 1, 2], return_grad=True, **options)
            xent.categorical_cross_entropy(p, labels, **options)
            options["sample_weight"] = options["sample_weight"][:, None]
            xent.binary_cross_entropy_with_logits(x, p, pos_weight=[0, 1, 2], return_grad=True, **options)
            xent.binary_cross_entropy(p, p, return_grad=True, **options)
    assert (np.full(5, tiny, dtype) * np.ones(5, dtype) == tiny).all()      # subnormal numbers are still there
