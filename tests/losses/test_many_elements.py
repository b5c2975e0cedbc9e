"""Arrays of more than 2**31 elements, in little memory: repeated rows, and memory that is never written to."""

import sys
from pathlib import Path

import numpy as np
import pytest
from loss_problems import ALL, IGNORED, Problem, move_target
from reference import assert_same_bits

import xent

BINARY = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
each_kind = pytest.mark.parametrize("kind", ["labels", "distribution", "sparse"])
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="relies on how Linux hands out memory")
BASE = 100, 1000
TIMES = 2**31 // 100_000 + 1


def repeated(a):
    return np.broadcast_to(a, (TIMES, *np.shape(a)))


@pytest.fixture
def little_memory():
    """Limit memory to 2 GB more than is in use: less than an operand of 2**31 elements takes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def many_elements(test):
    return only_linux(pytest.mark.deep(pytest.mark.usefixtures("little_memory")(test)))


@many_elements
@each_kind
@pytest.mark.parametrize(("dtype", "alone"), [(np.float16, False), (np.float32, True)], ids=["every option", "alone"])
def test_large_cross_entropy(dtype, kind, alone):
    p = Problem(BASE, kind, dtype)
    large, names = p.with_rows(repeated), () if alone else ALL
    rows = xent.cross_entropy(p.logits, p.target, reduction="none", **p.select(names))
    many = xent.cross_entropy(large.logits, large.target, reduction="none", **large.select(names))
    assert_same_bits(many, repeated(rows))
    for reduction, times in (("mean", 1), ("sum", TIMES)):
        loss = xent.cross_entropy(p.logits, p.target, reduction=reduction, **p.select(names))
        total = xent.cross_entropy(large.logits, large.target, reduction=reduction, **large.select(names))
        assert total == pytest.approx(times * loss, rel=1e-13)


@many_elements
def test_large_cross_entropy_along_the_first_axis():
    p = Problem((2, 1000), "labels", np.float32)
    p.options["sample_weight"][:] = 1, 2
    loss = xent.cross_entropy(p.logits, p.target, **p.select())
    large = p.with_rows(lambda a: np.broadcast_to(a.T[..., None], (*a.T.shape, 2**30 // 1000 + 1)))
    options = large.select() | {"axis": 0}
    assert xent.cross_entropy(large.logits, large.target, **options) == pytest.approx(loss, rel=1e-13)


@many_elements
def test_large_evaluation():
    p = Problem(BASE, "labels", np.float32)
    x, target, weight, ignored = p.logits, p.target, p.options["sample_weight"], {"ignore_index": IGNORED}
    ref = x[:, ::-1] / 2
    expected = xent.evaluate(x, target, sample_weight=weight, reference=ref, **ignored)
    result = xent.evaluate(repeated(x), repeated(target), sample_weight=weight, reference=repeated(ref), **ignored)
    assert result.weight == TIMES * expected.weight
    assert result.topk == pytest.approx(expected.topk)
    for name in ("loss", "accuracy", "perplexity", "entropy", "brier", "ece", "kl", "agreement"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-13)
    assert_same_bits(xent.logsumexp(repeated(x)), repeated(xent.logsumexp(x)))
    p, target = xent.softmax(x), np.maximum(target, 0)
    for t in (target, (target[:, None], np.ones((100, 1)))):
        loss = xent.categorical_cross_entropy(p, t, sample_weight=weight)
        large = xent.categorical_cross_entropy(repeated(p), move_target(repeated, t), sample_weight=weight)
        assert large == pytest.approx(loss, rel=1e-13)


@many_elements
def test_large_divergences():
    p = Problem(BASE, "labels", np.float32)
    x, ref, weight = p.logits, p.logits[:, ::-1] / 2, p.options["sample_weight"]
    rows = xent.kl_divergence(x, ref, sample_weight=weight, reduction="none")
    many = xent.kl_divergence(repeated(x), repeated(ref), sample_weight=weight, reduction="none")
    assert_same_bits(many, repeated(rows))
    for reduction, times in (("mean", 1), ("sum", TIMES)):
        loss = xent.kl_divergence(x, ref, sample_weight=weight, reduction=reduction)
        total = xent.kl_divergence(repeated(x), repeated(ref), sample_weight=weight, reduction=reduction)
        assert total == pytest.approx(times * loss, rel=1e-13)


@many_elements
@pytest.mark.parametrize("name", BINARY)
def test_large_binary_losses(name):
    x, target, *weights = np.random.default_rng(0).random((4, *BASE), np.float32)
    target = (target < 0.5).astype(np.int8)
    names = ["sample_weight", "pos_weight"] if name == BINARY[0] else ["sample_weight"]
    options = dict(zip(names, weights, strict=False))
    loss = getattr(xent, name)(x, target, **options)
    large = getattr(xent, name)(repeated(x), repeated(target), **options)
    assert large == pytest.approx(loss, rel=1e-12)


@many_elements
def test_one_long_row():
    n = 2**31 + 5
    x, yes = np.broadcast_to(np.float32(0.5), n), np.broadcast_to(np.int8(1), n)
    loss = xent.binary_cross_entropy_with_logits(x, yes, reduction="sum")
    assert loss == pytest.approx(n * np.log1p(np.exp(-0.5)), rel=1e-6)


@only_linux
@pytest.mark.deep
def test_far_addresses():
    """Only the last rows count; the rest of the arrays is memory that is never written to."""
    n, rows = 1000, 2**31 // 1000 + 100
    p = Problem((50, n), "distribution", np.float16)
    x, target = p.logits, p.target
    far, mass = np.zeros((rows, n), np.float16), np.zeros((rows, n), np.int8)
    far[-50:], mass[-50:] = x, 100 * target
    options = {"class_weight": p.options["class_weight"], "softcap": 5.0, "reduction": "none"}
    loss = xent.cross_entropy(far, mass, **options)
    assert (loss[:-50] == 0).all()
    assert_same_bits(loss[-50:], xent.cross_entropy(x, mass[-50:], **options))
    weight = np.zeros((rows, n), np.float16)
    weight[-50:] = target
    loss = xent.binary_cross_entropy_with_logits(far, weight, sample_weight=weight, reduction="sum")
    small = xent.binary_cross_entropy_with_logits(x, weight[-50:], sample_weight=weight[-50:], reduction="sum")
    assert loss == pytest.approx(small, rel=1e-13)
