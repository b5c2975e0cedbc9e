"""evaluate and StreamingLoss against the twin: types, layouts, weights, ties, infinities, calibration, references;
merging to the last bit."""

import copy
import math
import pickle
from functools import reduce

import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import DTYPES, EDGE_LENGTHS, LAYOUTS, NANS, SHORT_LENGTHS, rows_with_every_maximum

import xent
from xent._calls import threads

SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u8"]
INF, NAN = np.inf, np.nan
NOTHING = xent.Evaluation(NAN, NAN, {1: NAN, 5: NAN}, NAN, NAN, 0.0, NAN, NAN, NAN, NAN)

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def problem(shape, axis=-1, dtype=np.float64, seed=0, scale=3):
    """Logits, labels and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    rows = tuple(np.delete(shape, axis))
    labels, weight = rng.integers(shape[axis], size=rows), rng.integers(0, 4, rows) / 2
    return rng.normal(size=shape, scale=scale).astype(dtype), np.asarray(labels), np.asarray(weight)


def check(logits, labels, *, topk=(1, 5), axis=-1, **options):
    """Everything that evaluate returns is the twin's, and the loss and the entropy are accurate to the last digits."""
    result = xent.evaluate(logits, labels, topk=topk, axis=axis, **options)
    ks = [int(k) for k in np.atleast_1d(topk)]
    # More than there are classes is all of them: NaN is right for no k.
    capped = [min(k, np.shape(logits)[axis]) for k in ks]
    exact = reference.evaluate(logits, labels, topk=capped, axis=axis, **options)
    assert type(result) is xent.Evaluation
    assert list(result.topk) == list(dict.fromkeys(ks))
    assert {type(x) for x in (*result, *result.topk.values())} <= {float, dict}
    assert {type(k) for k in result.topk} <= {int}
    dtype = np.asarray(logits).dtype
    few = 4 if reference.IS_EXACT else 100
    eps = np.finfo(np.float64 if dtype.kind in "iu" or dtype.itemsize > 4 else np.float32).eps
    for name in ("loss", "entropy"):
        np.testing.assert_allclose(getattr(result, name), float(exact[name]), rtol=few * eps, atol=0, err_msg=name)
    for name in ("brier", "kl"):
        np.testing.assert_allclose(getattr(result, name), float(exact[name]), rtol=16 * eps, atol=0, err_msg=name)
    np.testing.assert_allclose(result.ece, float(exact["ece"]), rtol=0, atol=few * eps, err_msg="ece")
    for name in ("accuracy", "weight", "agreement"):
        np.testing.assert_allclose(getattr(result, name), float(exact[name]), rtol=2**-51, atol=0, err_msg=name)
    for k, c in zip(ks, capped, strict=True):
        np.testing.assert_allclose(result.topk[k], float(exact["topk"][c]), rtol=2**-51, atol=0, err_msg=str(k))
    np.testing.assert_equal(result.perplexity, math.exp(result.loss) if result.loss < 709 else result.loss + INF)
    return result


def assert_equal(actual, expected):
    """The same bits, except that any NaN equals any other."""
    assert type(actual) is type(expected) is xent.Evaluation
    np.testing.assert_equal(tuple(actual), tuple(expected))


def fails(error, message, function, *args, **options):
    with pytest.raises(error) as caught:
        function(*args, **options)
    assert str(caught.value) == message


# --- sweeps ----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, dtype):
    move = LAYOUTS[layout]
    for shape in SHAPES:
        for axis in range(-len(shape), len(shape)):
            logits, labels, weight = problem(shape, axis, dtype)
            given_logits, given_labels = move(logits), move(labels)
            check(given_logits, given_labels, axis=axis, topk=(1, 2))
            check(given_logits, given_labels, axis=axis, topk=(1, 2), sample_weight=move(weight))
            ref = problem(shape, axis, dtype, seed=1)[0]
            compared = check(given_logits, given_labels, axis=axis, topk=(1, 2), reference=move(ref))
            assert_equal(compared, xent.evaluate(logits, labels, axis=axis, topk=(1, 2), reference=ref))
            np.testing.assert_array_equal(given_logits, logits)
            np.testing.assert_array_equal(given_labels, labels)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision(name):
    """Half precision gives the bits of the same numbers in float32."""
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    for shape in [(40, 3), (6, 50), (2, 300)]:
        for axis in (0, 1):
            logits, labels, weight = problem(shape, axis, dtype)
            result = check(logits, labels, axis=axis, sample_weight=weight)
            assert_equal(result, xent.evaluate(logits.astype(np.float32), labels, axis=axis, sample_weight=weight))


@each_dtype
@pytest.mark.parametrize("lengths", [SHORT_LENGTHS, EDGE_LENGTHS[::3]], ids=["short", "edge"])
def test_row_lengths(lengths, dtype):
    """One row at a time and all together, with the label at every rank."""
    for n in lengths:
        x = rows_with_every_maximum(n, dtype)
        for rank in sorted({0, 1 % n, n // 2, n - 1}):
            labels = np.argsort(-x, axis=1)[:, rank]
            result = check(x, labels, topk=[1, rank + 1, max(rank, 1)], reference=x[::-1])
            assert result.topk[rank + 1] == 1
            assert result.accuracy == (rank == 0)
            check(x.T.copy(), labels, axis=0, topk=rank + 1)
            assert_equal(xent.evaluate(x[:1], labels[:1]), xent.evaluate(x[0], labels[0]))


@each_dtype
@pytest.mark.parametrize("kind", INTEGERS)
def test_label_types(kind, dtype):
    logits, labels, weight = problem((6, 4), dtype=dtype)
    expected = check(logits, labels, sample_weight=weight)
    for move in LAYOUTS.values():
        assert_equal(xent.evaluate(logits, move(labels.astype(kind)), sample_weight=weight), expected)


def test_other_arguments():
    """Lists, integer logits, and weights of other types and shapes."""
    logits, labels, weight = problem((2, 3, 4))
    expected = check(logits, labels, sample_weight=weight)
    assert_equal(xent.evaluate(logits.tolist(), labels.tolist(), sample_weight=weight.tolist()), expected)
    for kind in (np.float32, np.float16, ">f4"):
        assert_equal(xent.evaluate(logits, labels, sample_weight=weight.astype(kind)), expected)
    for other in (2, [1, 2, 3], [[1], [0]], np.array([[4, 5, 0]], "u1")):
        check(logits, labels, sample_weight=other)
    check(np.array([[3, 100, 7], [1, 2, 3]], "i2"), [1, 0])
    check(np.broadcast_to(logits[:, :1], (2, 3, 4)), labels)


@each_dtype
@pytest.mark.parametrize("lead", [10, 30, 60])
def test_confident_rows_keep_their_digits(lead, dtype):
    logits, labels, _ = problem((50, 20), dtype=dtype, scale=1)
    logits[np.arange(50), labels] += lead
    result = check(logits, labels)
    assert 0 < result.loss < math.exp(8 - lead)
    assert 0 < result.entropy < math.exp(12 - lead)


@each_dtype
def test_loss_is_that_of_cross_entropy(dtype):
    for shape, scale in [((500, 3), 1), ((60, 70), 10), ((9, 1500), 30)]:
        logits, labels, weight = problem(shape, dtype=dtype, scale=scale)
        labels[::7] = -1
        for options in ({}, {"sample_weight": weight}):
            loss = xent.evaluate(logits, labels, ignore_index=-1, **options).loss
            mean = xent.cross_entropy(logits, labels, ignore_index=-1, **options)
            assert loss == pytest.approx(mean, rel=4 * float(np.finfo(dtype).eps), abs=0)


@pytest.mark.parametrize("size", [1e-290, 1e-50, 1e50, 1e290])
def test_size_of_the_weights_leaves_the_means_alone(size):
    logits, labels, weight = problem((20, 6))
    result = check(logits, labels, sample_weight=size * weight)
    expected = xent.evaluate(logits, labels, sample_weight=weight)
    np.testing.assert_allclose(result[:2], expected[:2], rtol=2**-50)


# --- how many are right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topk", [1, 3, [2], (1, 5), [3, 1, 3], range(1, 4), np.array([1, 2]), np.array(2), np.int8(2), 7, 2**70, ()]
)
def test_topk(topk):
    logits, labels, weight = problem((30, 6))
    result = check(logits, labels, topk=topk, sample_weight=weight)
    assert result.accuracy == xent.evaluate(logits, labels, topk=1, sample_weight=weight).topk[1]
    assert all(share == 1 for k, share in result.topk.items() if k >= 6)


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 8, 17, 40, 5000])
def test_ties_never_help(n, dtype):
    """The rank of a label is 1 more than the number of larger logits, and of earlier classes with an equal one."""
    labels = np.array([0, 1, n // 2, n - 1])
    ks = (1, 2, n)
    for value in (0, 1e30):
        result = xent.evaluate(np.full((4, n), value, dtype), labels, topk=ks)
        assert result.accuracy == 1 / 4
        assert result.topk == {k: (labels < k).mean() for k in ks}
    assert xent.evaluate(np.full((4, n), -INF, dtype), labels, topk=ks).topk == dict.fromkeys(ks, 0)
    x = np.array([[3, 3, 1, 1, 0]], dtype)
    for label, rank in enumerate([1, 2, 3, 4, 5]):
        assert xent.evaluate(x, [label], topk=range(1, 8)).topk == {k: k >= rank for k in range(1, 8)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_accuracy_is_what_the_first_maximum_says(dtype):
    """Half of the half-precision logits are tied; they are ranked as they are, without rounding."""
    for n in (2, 10, 100, 3000):
        x, labels, _ = problem((500, n))
        x = np.rint(4 * x).astype(dtype)
        assert xent.evaluate(x, labels).accuracy == (x.astype(np.float64).argmax(axis=1) == labels).mean()


@each_dtype
def test_nan_is_never_right(dtype):
    """A NaN at any place: no k counts the row as right, and the loss is NaN."""
    for n in (*SHORT_LENGTHS, 513):
        x = rows_with_every_maximum(n, dtype)
        best = x.argmax(axis=1)
        np.fill_diagonal(x, np.resize(NANS[dtype], len(x)))
        for labels in (best, np.arange(len(x)), np.full(len(x), n - 1)):
            result = xent.evaluate(x, labels, topk=(1, n, n + 1, 10**6))
            none = {1: 0, n: 0, n + 1: 0, 10**6: 0}
            assert_equal(result, xent.Evaluation(NAN, 0, none, NAN, NAN, len(x), *4 * [NAN]))
    mixed = xent.evaluate(np.array([[0, 1], [NAN, 1], [0, 1], [1, 0]], dtype), [1, 1, 1, 1])
    assert_equal(mixed, xent.Evaluation(NAN, 0.5, {1: 0.5, 5: 0.75}, NAN, NAN, 4, *4 * [NAN]))


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 8, 19, 70])
def test_infinite_logits(n, dtype):
    with np.errstate(all="raise"):
        for place in {0, n // 2, n - 1}:
            x = problem((1, n), dtype=dtype)[0]
            x[0, place] = -INF      # a class that cannot happen, and a label that does
            assert math.isfinite(check(x, [(place + 1) % n]).loss)
            result = check(x, [place], topk=range(1, n + 1))
            assert result.loss == result.perplexity == INF
            assert result.topk == {k: k == n for k in range(1, n + 1)}
            assert check(np.repeat(x, 3, axis=0), [place, (place + 1) % n, place], sample_weight=[1, 2, 0]).loss == INF
            x[0, place] = INF
            for label in (place, (place + 1) % n):
                result = check(x, [label], topk=(1, n))
                assert math.isnan(result.loss)
                assert result.topk == {1: label == place, n: 1}
        assert math.isnan(check(np.full((2, n), -INF, dtype), [0, n - 1]).loss)


@each_dtype
def test_perplexity_overflows_to_infinity(dtype):
    for loss in (1, 700, 709, 710, 1000, 1e30):
        perplexity = math.exp(loss) if loss < 710 else INF
        x = np.array([[0, loss]], dtype)
        assert xent.evaluate(x, [0]).perplexity == pytest.approx(perplexity if loss > 1 else 1 + math.e, rel=1e-6)


def test_infinite_sums():
    """Each loss and each weight is finite, but their sum is not."""
    for shape in ((2, 4), (70_000, 2)):
        logits = np.zeros(shape)
        labels = np.ones(len(logits), int)
        assert xent.evaluate(logits, labels, sample_weight=1.7e308).weight == INF
        logits[:, 0] = 1.7e308
        result = xent.evaluate(logits, labels)
        assert result[:2] == (INF, 0)
        assert (result.perplexity, result.weight) == (INF, len(logits))
        half = len(logits) // 2
        parts = [xent.StreamingLoss().update(x, [1] * half) for x in (logits[:half], logits[half:])]
        assert_equal(parts[0].merge(parts[1]).result(), result)


# --- calibration -----------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 10, 300, 3000])
def test_brier_score_is_that_of_scikit_learn(n, dtype):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels, weight = problem((40, n), dtype=dtype)
    p = xent.softmax(logits.astype(np.float64))
    try:
        expected = metrics.brier_score_loss(
            labels, p, sample_weight=weight, labels=np.arange(n), scale_by_half=False
        )
    except TypeError:
        pytest.skip("this scikit-learn has no Brier score of several classes")
    result = xent.evaluate(logits, labels, sample_weight=weight)
    assert result.brier == pytest.approx(expected, rel=8 * float(np.finfo(dtype).eps))


def test_calibration_error_by_hand():
    """Largest probabilities of 0.9 (bin 14 of 15, one of two rows right), 0.6 (bin 9, right) and 0.5 (bin 8, wrong)."""
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.5, 0.5]])
    x = np.log(p)
    labels = [0, 0, 0, 1]
    gaps = [abs(0.5 - 0.9), abs(1 - 0.6), abs(0 - 0.5)]
    assert xent.evaluate(x, labels).ece == pytest.approx((2 * gaps[0] + gaps[1] + gaps[2]) / 4, rel=1e-14)
    weight = np.array([3, 1, 2, 4])
    gaps = [abs(3 / 4 - 0.9), abs(1 - 0.6), abs(0 - 0.5)]
    expected = (4 * gaps[0] + 2 * gaps[1] + 4 * gaps[2]) / 10
    assert xent.evaluate(x, labels, sample_weight=weight).ece == pytest.approx(expected, rel=1e-14)
    together = xent.evaluate(np.log([[0.95, 0.05], [0.97, 0.03]]), [0, 1]).ece     # in one bin, where they cancel
    assert together == pytest.approx(abs(0.95 + 0.97 - 1) / 2, rel=1e-14)


@each_dtype
@pytest.mark.parametrize("n", [1, 3, 5, 15])
def test_bins_are_closed_on_the_right(n, dtype):
    """n equal classes have a probability of 1/n, the end of a bin: a row just below is in the same bin, one just above
    in another."""
    x = np.zeros((3, n + 1), dtype)
    x[:, n] = -INF
    x[1, n], x[2, 0] = -7, 2.0**-7
    p = xent.softmax(x.astype(np.float64)).max(axis=1)
    assert p[1] < p[0] == 1 / n
    expected = (abs(1 - p[0] - p[1]) + p[2]) / 3 if n > 1 else abs(1 - p.sum()) / 3     # there is nothing above 1
    labels = np.array([0, n, n])
    result = xent.evaluate(x, labels)
    assert result.ece == pytest.approx(expected, rel=8 * float(np.finfo(dtype).eps))
    check(x, labels)


@each_dtype
def test_confident_rows_keep_the_digits_of_their_calibration(dtype):
    """1 - p is not computed as that: rows that are right are off by the sum of the other probabilities."""
    for n in (3, 300, 3000):
        for lead in (20, 40, 80):
            x = np.zeros((5, n), dtype)
            x[:, 0] = lead
            rest = (n - 1) * math.exp(-lead)
            result = xent.evaluate(x, [0] * 5)
            assert result.ece == pytest.approx(rest / (1 + rest), rel=8 * float(np.finfo(dtype).eps))
            brier = ((n - 1) * math.exp(-2 * lead) + rest**2) / (1 + rest) ** 2
            assert result.brier == pytest.approx(brier, rel=16 * float(np.finfo(dtype).eps))
            assert xent.evaluate(x, [1] * 5).ece == pytest.approx(1 / (1 + rest))


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, "i2"])
@pytest.mark.parametrize("ref_dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, "i8"])
def test_references_of_other_types(ref_dtype, dtype):
    for n in (3, 200, 2100):
        logits, labels, weight = problem((9, n), dtype=dtype)
        ref = problem((9, n), dtype=ref_dtype, seed=1)[0]
        result = xent.evaluate(logits, labels, sample_weight=weight, reference=ref)
        wide = [a.astype(np.float64) for a in (logits, ref)]
        expected = xent.evaluate(wide[0], labels, sample_weight=weight, reference=wide[1])
        assert result.agreement == expected.agreement
        assert result.kl == pytest.approx(expected.kl, rel=1e-5)
        assert result.kl == pytest.approx(xent.kl_divergence(logits, ref, sample_weight=weight), rel=1e-6)


@each_dtype
def test_a_reference_changes_no_other_measure(dtype):
    for n in (3, 40, 200, 2100):
        logits, labels, weight = problem((60, n), dtype=dtype)
        logits[::5, 0], logits[3::7], logits[4::9, 1] = -INF, 7, 1e30
        ref = problem((60, n), dtype=dtype, seed=1)[0]
        ref[::3] = logits[::3]
        alone = xent.evaluate(logits, labels, sample_weight=weight)
        compared = xent.evaluate(logits, labels, sample_weight=weight, reference=ref)
        np.testing.assert_equal(tuple(compared)[:-2], tuple(alone)[:-2])
        assert math.isnan(alone.kl)
        assert math.isnan(alone.agreement)


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 8, 17, 40, 300, 5000])
def test_agreement(n, dtype):
    """The first largest class counts; rows that have none, or NaN, agree with none, not even with themselves."""
    x = np.zeros((8, n), dtype)
    ref = x.copy()
    x[1, n - 1] = ref[1, n - 1] = 1
    x[2, :2] = ref[2, 1] = 1            # a tie, of which the reference has the second
    x[3, n - 1] = NAN
    ref[4, 0] = NAN
    x[5], ref[5] = -INF, -INF
    x[6, n - 1], ref[6, n - 1] = INF, INF
    ref[7] = -INF
    for i, agrees in enumerate([1, 1, 0, 0, 0, 0, 1, 0]):
        for a, b in ((x[i], ref[i]), (ref[i], x[i])):
            assert xent.evaluate(a, 0, reference=b).agreement == agrees, i
    weight = np.arange(1, 9)
    assert check(x, np.zeros(8, int), reference=ref, sample_weight=weight).agreement == (1 + 2 + 7) / 36
    assert xent.evaluate(x[:3], [0] * 3, reference=x[:3].copy()).kl == 0


@each_dtype
@pytest.mark.parametrize("n", [3, 40, 200, 2100])
def test_strange_references(n, dtype):
    """Classes that cannot happen in one of the two, numbers of any size, and rows without probabilities."""
    with np.errstate(all="raise"):
        logits, labels, _ = problem((5, n), dtype=dtype)
        labels[:] = 1
        ref = problem((5, n), dtype=dtype, seed=1)[0]
        ref[0, 0] = -INF
        assert math.isfinite(check(logits, labels, reference=ref).kl)
        assert check(ref, labels, reference=logits).kl == INF
        assert check(ref, np.where(labels == 1, [-100, 1, 1, 1, 1], 0), reference=logits).kl < INF
        assert math.isfinite(check(logits, labels, reference=(ref[1:] * 1e30).astype(dtype)[[0, 1, 2, 3, 0]]).kl)
        assert math.isfinite(check((ref[1:] * 1e30).astype(dtype), labels[1:], reference=logits[1:]).kl)
        for value in (NAN, INF):
            ref[1, n - 1] = value
            result = xent.evaluate(logits, labels, reference=ref)
            assert math.isnan(result.kl)
            assert math.isfinite(result.loss)
            assert math.isfinite(xent.evaluate(logits, labels, reference=ref, sample_weight=[1, 0, 1, 1, 1]).kl)
        ref[1] = -INF
        assert math.isnan(xent.evaluate(logits, labels, reference=ref).kl)


BAD_REFERENCES = [
    (np.zeros((3, 5)), ValueError, "reference has shape (3, 5); it must have shape (3, 4), as logits"),
    ([0, 1, 2], ValueError, "reference has shape (3,); it must have shape (3, 4), as logits"),
    (np.zeros((3, 4), complex), TypeError,
     "reference has dtype complex128; it must be real numbers, float16, bfloat16, float32 or float64"),
    (np.zeros((3, 4), bool), TypeError,
     "reference has dtype bool; it must be real numbers, float16, bfloat16, float32 or float64"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_REFERENCES, ids=range(len(BAD_REFERENCES)))
def test_bad_references(bad, error, message):
    stream = xent.StreamingLoss().update(X, [0, 1, 2], reference=X)
    before = pickle.dumps(stream)
    fails(error, message, stream.update, X, [0, 1, 2], reference=bad)
    assert pickle.dumps(stream) == before
    fails(error, message, xent.evaluate, X, [0, 1, 2], reference=bad)


def test_all_batches_have_a_reference_or_none():
    with_one, without = (xent.StreamingLoss().update(X, [0, 1, 2], reference=ref) for ref in (X, None))
    before = [pickle.dumps(stream) for stream in (with_one, without)]
    message = "reference is missing; the batches before had one: all must have one, or none"
    fails(ValueError, message, with_one.update, X, [0, 1, 2])
    fails(ValueError, message, pickle.loads(before[0]).update, X[:0], [])
    message = "reference is given; the batches before had none: all must have one, or none"
    fails(ValueError, message, without.update, X, [0, 1, 2], reference=X)
    message = "other has seen a reference, and this object none; both must, or neither"
    fails(ValueError, message, without.merge, with_one)
    message = "this object has seen a reference, and other none; both must, or neither"
    fails(ValueError, message, with_one.merge, without)
    assert [pickle.dumps(stream) for stream in (with_one, without)] == before
    for empty in (xent.StreamingLoss().merge(with_one), with_one.merge(xent.StreamingLoss())):
        assert_equal(empty.result(), xent.evaluate(X, [0, 1, 2], reference=X))


# --- what is left out ------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 255, 2**70])
def test_ignored_rows(ignored, dtype):
    """They, and rows of weight 0, count nothing, whatever their logits."""
    logits, labels, weight = problem((40, 3), dtype=dtype)
    keep = labels != ignored
    if ignored < 2**63:
        keep[::5] = False
        labels[::5] = ignored
    logits[~keep] = NAN
    for options in ({}, {"sample_weight": weight}):
        used = keep if not options else keep & (weight > 0)
        result = check(logits, labels, ignore_index=ignored, **options)
        rest = {name: w[used] for name, w in options.items()}
        assert_equal(result, xent.evaluate(logits[used], labels[used], **rest))
        assert result.weight == (weight[used].sum() if options else used.sum())


@each_dtype
def test_nothing_left(dtype):
    with np.errstate(all="raise"):
        for x in (np.zeros((3, 4), dtype), np.full((3, 4), NAN, dtype), np.full((3, 4), INF, dtype)):
            assert_equal(xent.evaluate(x, [-100] * 3), NOTHING)
            assert_equal(xent.evaluate(x, [0, 1, 2], sample_weight=0), NOTHING)
            assert_equal(xent.evaluate(x, [0, -100, 2], sample_weight=[0, 1, 0]), NOTHING)
        for shape in ((0, 4), (0, 0), (0, 5, 4), (5, 0, 4)):
            assert_equal(xent.evaluate(np.zeros(shape, dtype), np.zeros(shape[:-1], int)), NOTHING)
        assert_equal(xent.evaluate(np.zeros((4, 0), dtype), [], axis=0), NOTHING)
        assert_equal(xent.StreamingLoss().result(), NOTHING)
    stream = xent.StreamingLoss().update(np.zeros((2, 4), dtype), [1, 2])
    before = stream.result()
    assert_equal(stream.update(np.zeros((0, 4), dtype), []).merge(xent.StreamingLoss()).result(), before)


# --- errors ----------------------------------------------------------------------------------------------------------

X = np.zeros((3, 4))
NO_LABELS = "target is a distribution; it must be labels, integers of shape (3,)"
RANGE = "labels must be in [0, 4) or be ignore_index, -100"
NO_AXIS = "axis is -1; logits is a number and has no axis: it must have at least one"
BAD_UPDATES = {
    "distribution": (TypeError, NO_LABELS, X, X, None),
    "sparse": (TypeError, NO_LABELS, X, ([[1]] * 3, [[1.0]] * 3), None),
    "floats": (TypeError, "target has dtype float64; labels must be integers", X, [0.0, 1.0, 2.0], None),
    "bools": (TypeError, "target has dtype bool; labels must be integers", X, [True, False, True], None),
    "too large": (ValueError, f"target[2] is 4; {RANGE}", X, [0, 1, 4], None),
    "negative": (ValueError, f"target[1] is -1; {RANGE}", X, [0, -1, 9], None),
    "without weight": (ValueError, f"target[1] is 7; {RANGE}", X, [0, 7, 1], [1, 0, 1]),
    "weight": (ValueError, "sample_weight[1] is -1.0; weights must be at least 0", X, [0, 1, 2], [1.0, -1.0, 0.0]),
    "axis": (np.exceptions.AxisError, NO_AXIS, 1.0, 0, None),
}


@pytest.mark.parametrize("bad", BAD_UPDATES)
def test_bad_updates_add_nothing(bad):
    error, message, logits, target, weight = BAD_UPDATES[bad]
    fails(error, message, xent.evaluate, logits, target, sample_weight=weight)
    stream = xent.StreamingLoss().update(X + np.arange(4), [0, 1, 2])
    before = pickle.dumps(stream)
    fails(error, message, stream.update, logits, target, sample_weight=weight)
    assert pickle.dumps(stream) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"topk": 0}, ValueError, "topk is 0; it must be at least 1"),
        ({"topk": (1, -2)}, ValueError, "topk[1] is -2; it must be at least 1"),
        ({"topk": 1.5}, TypeError, "topk is 1.5; it must be an integer, or a tuple of integers"),
        ({"topk": [True]}, TypeError, "topk[0] is True; it must be an integer"),
        ({"topk": None}, TypeError, "topk is None; it must be an integer, or a tuple of integers"),
        ({"topk": "15"}, TypeError, "topk is '15'; it must be an integer, or a tuple of integers"),
        ({"axis": None}, TypeError, "axis is None; it must be an integer"),
        ({"ignore_index": None}, TypeError, "ignore_index is None; it must be an integer"),
        ({"n_threads": 0}, ValueError, "n_threads is 0; it must be at least 1"),
    ],
)
def test_bad_options(options, error, message):
    fails(error, message, xent.StreamingLoss, **options)
    fails(error, message, xent.evaluate, X, [0, 1, 2], **options)


def test_merge_takes_its_like():
    stream = xent.StreamingLoss().update(X, [0, 1, 2])
    before = pickle.dumps(stream)
    for other, kind in ((stream.result(), "Evaluation"), (None, "NoneType"), (3, "int")):
        fails(TypeError, f"other is a {kind}; it must be a StreamingLoss", stream.merge, other)
    for topk in (1, (5, 1), (1, 5, 10)):
        other = xent.StreamingLoss(topk=topk)
        fails(ValueError, f"other has topk {other.topk}; it must be (1, 5), as in this object", stream.merge, other)
    other = xent.StreamingLoss(axis=1)
    fails(ValueError, "other has axis 1; it must be -1, as in this object", stream.merge, other.update(X, [0, 1, 2]))
    other = xent.StreamingLoss(ignore_index=-1)
    fails(ValueError, "other has ignore_index -1; it must be -100, as in this object", stream.merge, other)
    other = xent.StreamingLoss().update(X[:, :3], [0, 1, 2])
    fails(ValueError, "other has seen logits of 3 classes; this object has seen 4", stream.merge, other)
    assert pickle.dumps(stream) == before
    fails(ValueError, "other has seen logits of 4 classes; this object has seen 3", other.merge, stream)


def test_batches_have_the_classes_of_those_before():
    stream = xent.StreamingLoss().update(X, [0, 1, 2])
    before = pickle.dumps(stream)
    message = "logits have 2 classes; it must be 4, as in the batches before"
    for shape in ((3, 2), (0, 2), (2, 3, 2)):
        fails(ValueError, message, stream.update, np.zeros(shape), np.zeros(shape[:-1], int))
    assert pickle.dumps(stream) == before
    for merged in (xent.StreamingLoss().merge(stream), stream.merge(xent.StreamingLoss())):     # one has seen nothing
        fails(ValueError, message, merged.update, X[:, :2], [0, 1, 0])
        fails(ValueError, message, pickle.loads(pickle.dumps(merged)).update, X[:, :2], [0, 1, 0])


# --- batch by batch, to the last bit ---------------------------------------------------------------------------------


def test_update_and_merge_return_the_object():
    logits, labels, weight = problem((20, 7))
    first, second = xent.StreamingLoss(), xent.StreamingLoss(n_threads=1)
    assert first.update(logits[:12], labels[:12], sample_weight=weight[:12]) is first
    assert second.update(logits[12:], labels[12:], sample_weight=weight[12:]) is second
    before = pickle.dumps(second)
    assert first.merge(second) is first
    assert pickle.dumps(second) == before
    assert_equal(first.result(), xent.evaluate(logits, labels, sample_weight=weight))
    second.update(logits, labels)       # and first has nothing of it
    assert_equal(first.result(), xent.evaluate(logits, labels, sample_weight=weight))
    twice = xent.evaluate(np.tile(logits, (2, 1)), np.tile(labels, 2), sample_weight=np.tile(weight, 2))
    assert_equal(first.merge(first).result(), twice)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("compares", [False, True])
def test_copies(compares, again):
    """Copies continue where the object was, independently of it."""
    logits, labels, _ = problem((20, 7))
    ref = problem((20, 7), seed=1)[0] if compares else None
    first, last, every = (None if ref is None else ref[rows].T for rows in (slice(9), slice(9, None), slice(None)))
    options = {"topk": (2, 3), "axis": 0, "ignore_index": 4, "n_threads": 2}
    stream = xent.StreamingLoss(**options).update(logits[:9].T, labels[:9], reference=first)
    other = again(stream)
    assert repr(other) == repr(stream)
    assert other.n_threads == 2
    result = other.update(logits[9:].T, labels[9:], reference=last).result()
    assert_equal(result, xent.evaluate(logits.T, labels, reference=every, **options))
    assert_equal(stream.result(), xent.evaluate(logits[:9].T, labels[:9], reference=first, **options))
    assert_equal(again(stream.result()), stream.result())


@each_dtype
def test_number_of_threads(dtype):
    for shape in [(6000, 100), (100, 6000)]:
        assert threads.cut(*shape, 4).threads == 4
        logits, labels, weight = problem(shape, dtype=dtype)
        options = {"sample_weight": weight, "reference": logits[::-1]}
        serial = xent.evaluate(logits, labels, n_threads=1, **options)
        for n_threads in (2, 3, 4, None):
            assert_equal(xent.evaluate(logits, labels, n_threads=n_threads, **options), serial)


def pieces(logits, labels, weight, ref, rng, **options):
    """Shards of several batches, merged in any order and grouping, some of them after pickling."""
    n_shards = rng.integers(1, 6)
    shards = [xent.StreamingLoss(n_threads=int(rng.integers(1, 4)), **options) for _ in range(n_shards)]
    order = rng.permutation(len(logits))
    for batch in np.split(order, np.sort(rng.integers(0, len(order) + 1, rng.integers(0, 12)))):
        given = {"sample_weight": weight[batch], "reference": None if ref is None else ref[batch]}
        shards[rng.integers(n_shards)].update(logits[batch], labels[batch], **given)
    while len(shards) > 1:
        one, other = (shards.pop(rng.integers(len(shards))) for _ in range(2))
        shards.append(one.merge(pickle.loads(pickle.dumps(other)) if rng.integers(2) else other))
    return shards[0].result()


@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 80),
    classes=st.integers(1, 12),
    scale=st.sampled_from([1e-3, 1, 30, 1e4]),
    strange=st.sampled_from([(), (-INF,), (NAN, INF, -INF)]),
    compares=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_merged_shards_are_one_pass(dtype, rows, classes, scale, strange, compares, seed):
    """Weights of very different size, and of 0, and ignored rows; work in many blocks, for several threads."""
    rng = np.random.default_rng(seed)
    logits, labels, _ = problem((rows, classes), dtype=dtype, seed=seed, scale=scale)
    ref = logits + rng.normal(size=logits.shape).astype(dtype) if compares else None
    for value in strange:
        logits[rng.integers(rows), rng.integers(classes)] = value
    weight = 10 ** rng.uniform(-8, 8, rows) * (rng.random(rows) < 0.9)
    labels[rng.random(rows) < 0.1] = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "BLOCK_ELEMENTS", 40)
        patch.setattr(threads, "THREAD_ELEMENTS", 80)
        whole = xent.evaluate(logits, labels, topk=(1, 3), sample_weight=weight, reference=ref)
        for _ in range(3):
            assert_equal(pieces(logits, labels, weight, ref, rng, topk=(1, 3)), whole)


@pytest.mark.parametrize("weight", [[2**53, 1, 2**-54], [1, 2**-53, 2**-107], [2**90, 2**37, 1], [2**53, 3, 2**-52, 1]])
def test_no_bit_is_lost(weight):
    """A sum just above the midpoint of two neighbouring numbers; the excess is too small to be kept in two doubles."""
    weight = np.array(weight, float)
    x = np.zeros((len(weight), 2))
    whole = xent.evaluate(x, np.zeros(len(weight), int), sample_weight=weight)
    parts = [xent.StreamingLoss().update([[0, 0]], [0], sample_weight=w) for w in weight]
    assert_equal(reduce(xent.StreamingLoss.merge, parts).result(), whole)
    assert whole.weight == math.fsum(weight)
