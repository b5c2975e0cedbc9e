"""The logic of the benchmarks: cases, answers, tables, data sets."""

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import boosting
import builds
import covariance
import fit
import fit_data
import limits
import ops
import temperature
from harness import cases, numpy_ops, peers, report
from harness.cases import Layout
from harness.timing import Result, Spread, check_and_time

import xent

SMALL_LAYOUTS = (Layout((32, 10)), Layout((32, 20), step=2), Layout((2, 5, 3, 4)))


def test_only_operations_that_return_arrays_can_be_given_one():
    found = cases.make_cases(cases.OPERATIONS, [Layout((32, 10))], ["float32"], [1])
    assert [case.operation for case in found if case.given] == list(cases.ARRAYS)
    assert [case.operation for case in found if not case.given] == list(cases.OPERATIONS)


def test_layouts_are_written_as_indices():
    texts = {"4096x1000": "(4096, 1000)", "4096x1000::2": "(4096, 1000)[:, ::2]", "2x5x3x4": "(2, 5, 3, 4)"}
    assert {text: str(report.parse_layout(text)) for text in texts} == texts
    logits, labels = cases.make_inputs((32, 20), "float32", 2)
    assert (logits.shape, logits.strides, labels.shape) == ((32, 10), (80, 8), (32,))


@pytest.mark.parametrize("operation", cases.OPERATIONS)
def test_the_answer_for_images_is_that_for_their_pixels(operation):
    logits, labels = cases.make_inputs((2, 5, 3, 4), "float64")
    answers = cases.compute_answer(operation, logits, labels)
    rows = np.moveaxis(logits, 1, -1).reshape(-1, 5)
    for answer, of_rows in zip(answers, cases.compute_answer(operation, rows, labels.ravel()), strict=True):
        got = np.moveaxis(answer, 1, -1).reshape(-1, 5) if answer.ndim == 4 else answer.ravel()
        np.testing.assert_allclose(got, of_rows.reshape(got.shape), rtol=1e-14)


@pytest.mark.parametrize("layout", SMALL_LAYOUTS, ids=str)
def test_xent_is_called_right(layout):
    for case in cases.make_cases(cases.OPERATIONS, [layout], ["float32"], [1]):
        logits, labels = cases.make_inputs(case.shape, case.dtype, case.step)
        answer = peers.make_xent().prepare(case, logits, labels).call()
        assert ops.check(case, cases.compute_answer(case.operation, logits, labels), answer) is None


@pytest.mark.parametrize("layout", SMALL_LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("given", [False, True])
def test_plain_numpy_is_right(layout, dtype, given):
    logits, labels = cases.make_inputs(layout.shape, dtype, layout.step)
    kept = logits.copy()
    out = np.full_like(logits, np.nan) if given else None
    answers = {
        "softmax": numpy_ops.softmax(logits, out),
        "log_softmax": numpy_ops.log_softmax(logits, None if out is None else out.copy()),
        "loss+gradient": numpy_ops.loss_gradient(logits, labels, None if out is None else out.copy()),
        "loss": numpy_ops.loss(logits, labels),
        "logsumexp": numpy_ops.logsumexp(logits),
    }
    for operation, answer in answers.items():
        case = cases.Case(operation, layout.shape, dtype, 1, given, layout.step)
        assert cases.find_fault(case, cases.as_arrays(answer), cases.compute_answer(operation, logits, labels)) is None
    assert (answers["softmax"] is out) == given
    np.testing.assert_array_equal(logits, kept)


def make_cells():
    def result(name, ratio):
        return Result(name, Spread(1.0, 1.0, 1.0), Spread(ratio, ratio, ratio))

    small, large = (cases.Case("softmax", shape, "float32", 1, True) for shape in ((1, 10), (64, 128256)))
    return [
        (small, [result("xent", 1.0), result("numpy", 2.0), result("torch", 0.5)]),
        (large, [result("xent", 1.0), result("numpy", 8.0), Result("torch", fault="wrong")]),
    ]


def last_row(table):
    return [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]


def test_the_summary_names_the_worst_cell():
    assert last_row(ops.make_summary_table(make_cells(), ["numpy", "torch"])) == [
        "softmax", "4.00", "0.50", "2.00", "0.50: torch at (1, 10) float32 1 thread given",
    ]  # fmt: skip


def test_every_cell_in_which_a_peer_is_faster_is_listed():
    cells = make_cells()
    faster = ops.find_faster_peers(cells)
    assert [(case, name) for case, name, _ in faster] == [(cells[0][0], "torch")]
    assert last_row(ops.make_faster_table(faster)) == [
        "softmax", "float32", "(1, 10)", "1", "given", "torch", "0.50 (0.50-0.50)",
    ]  # fmt: skip
    assert ops.make_faster_table(ops.find_faster_peers(cells[1:])) == "No peer is faster than xent in any cell."


def test_two_builds_do_not_mix(tmp_path):
    shutil.copytree(Path(xent.__file__).parent, tmp_path / "xent", ignore=shutil.ignore_patterns("*.c", "__pycache__"))
    before = {name: module for name, module in sys.modules.items() if builds.is_of_xent(name)}
    other = builds.load(tmp_path)
    assert builds.find_obstacle(other) is None
    assert other.package.cross_entropy is not xent.cross_entropy
    with other.in_use():
        model = other.package.LogisticRegression        # imported when it is first asked for
    assert Path(sys.modules["xent"].__file__) == Path(xent.__file__)
    assert model is not xent.LogisticRegression
    assert "xent.logistic" in other.modules
    assert not other.find_strangers()
    assert before.items() <= {name: module for name, module in sys.modules.items() if builds.is_of_xent(name)}.items()

    case = cases.Case("loss+gradient", (32, 10), "float32", 1)
    inputs = cases.make_inputs(case.shape, case.dtype)
    candidates = [peer.prepare(case, *inputs) for peer in (peers.make_xent(), builds.make_peer("other", other))]
    right = partial(ops.check, case, cases.compute_answer(case.operation, *inputs))
    results = check_and_time(candidates, right, budget=0.0, **builds.TIMING)
    assert [(result.name, result.fault) for result in results] == [("xent", None), ("other", None)]
    assert last_row(builds.make_summary_table([(case, results)]))[0] == "loss+gradient"


def test_a_build_is_not_compared_with_itself():
    with pytest.raises(ImportError, match="is the build that is imported already"):
        builds.load(Path(xent.__file__).parents[1])


def test_repeated_rows_have_the_answer_of_the_distinct_ones(monkeypatch):
    monkeypatch.setattr(limits, "DISTINCT", 30)
    inputs = limits.make_rows(100, 10, "float64")
    assert (inputs.logits.shape, inputs.distinct) == ((12, 10), 3)
    whole, part = cases.compute_answer("loss+gradient", inputs.logits, inputs.labels), inputs.expected("loss+gradient")
    np.testing.assert_allclose(whole[0], part[0], rtol=1e-14)
    np.testing.assert_allclose(whole[1][-3:], part[1], rtol=1e-14)
    case = cases.Case("loss+gradient", inputs.logits.shape, "float64", 1, True)
    assert limits.check(case, inputs, part, whole) is None
    whole[1][-1, 0] *= 2
    assert "should be" in limits.check(case, inputs, part, whole)


def test_the_time_to_a_gap_is_between_two_runs():
    curve = fit.Curve("a solver", [2, 4, 8], [0.1, 1.0, 10.0], [1.1, 1.001, 1.00005])
    assert curve.time_to(0.2, 1.0) == 0.1
    np.testing.assert_allclose(curve.time_to(3e-3, 1.0), 0.1 * 10 ** (np.log(0.1 / 3e-3) / np.log(100)))
    overshot = fit.Curve("another", [2, 4], [1.0, 10.0], [1.001, 1.0])
    np.testing.assert_allclose(overshot.time_to(1e-4, 1.0), 10 ** (np.log(10) / np.log(40)), rtol=1e-6)
    assert curve.time_to(1e-6, 1.0) == np.inf


def test_made_sets_are_what_they_say():
    pytest.importorskip("scipy")
    images, text = fit_data.make_images(300), fit_data.make_text(200, 500)
    assert images.X.shape == (300, 784)
    assert 0 <= images.X.min() < images.X.max() <= 1
    assert 0.05 < (images.X > 0).mean() < 0.3
    assert text.X.shape == (200, 500)
    assert text.X.indices.dtype == text.X.indptr.dtype == np.int32  # scikit-learn's saga takes no others
    np.testing.assert_allclose(text.X.multiply(text.X).sum(axis=1), 1)
    model = xent.LogisticRegression(tol=1e-6, max_iter=1000).fit(images.X, images.y)
    value = fit_data.compute_objective(images.X, images.y, model.coef_, model.intercept_)
    np.testing.assert_allclose(value, model.objective_, rtol=1e-9)


def test_the_objective_is_as_exact_for_coefficients_of_float32():
    pytest.importorskip("scipy")
    text = fit_data.make_text(50, 20_000)
    coef = np.random.default_rng(0).normal(size=(20, 20_000)).astype(np.float32)
    intercept = np.zeros(20, np.float32)
    expected = fit_data.compute_objective(text.X, text.y, coef.astype(np.float64), intercept.astype(np.float64))
    assert fit_data.compute_objective(text.X, text.y, coef, intercept) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", boosting.TARGETS)
def test_objectives_of_boosting_are_right(kind):
    data = boosting.make_data((300, 5, 4))
    np.testing.assert_allclose(data.soft.sum(axis=1), 1, rtol=1e-6)
    rows = boosting.Labelled(data.labels.astype(np.float32))
    for library, factor, dtype, order in (("xgboost", 2, np.float32, "C"), ("lightgbm", 4 / 3, np.float64, "F")):
        scores, expected = data.scores.astype(dtype, order), boosting.compute_answer(data, kind, factor)
        for objective in boosting.make_objectives(data, kind).values():
            grad, hess = getattr(objective, library)(scores, rows)
            assert boosting.check_derivatives(expected, (grad, hess)) is None
            assert "Hessian is off" in boosting.check_derivatives(expected, (grad, 2 * hess))


def test_temperatures_are_checked():
    logits, labels = temperature.make_problem((500, 5), "float64")
    right = temperature.find_minimum(logits, labels)
    assert xent.fit_temperature(logits, labels) == pytest.approx(right, rel=1e-8)
    assert temperature.check(right, xent.fit_temperature(logits, labels)) is None
    assert temperature.check(right, 1.0).startswith("T is ")


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", covariance.KINDS)
def test_covariances_are_checked(kind, n_classes):
    X, y, model = covariance.make_problem((300, 4, n_classes), "float64")
    right = covariance.compute_covariance(X, y, covariance.to_parameters(model), kind)
    for call in covariance.make_calls(X, y, model, kind).values():
        assert covariance.check(right, call()) is None
    assert "squared standard errors" in covariance.check(right, 1.1 * right)


def test_losses_under_autograd_are_checked():
    pytest.importorskip("torch")
    import torch_loss

    case, = cases.make_cases(["loss+gradient"], [Layout((32, 20), step=2)], ["float32"], [1], [False])
    cells = torch_loss.measure([case], False, budget=0.0, sample_seconds=0.001, least=2)
    assert [(result.name, result.fault) for result in cells[0][1]] == [("xent.torch", None), ("torch", None)]
    assert last_row(torch_loss.make_table(cells))[:3] == ["float32", "(32, 20)[:, ::2]", "1"]
    losses = [torch_loss.make_step(way, torch_loss.CONTEXT)() for way in torch_loss.WAYS.values()]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
