"""log_loss against the twin."""

import math

import numpy as np
import pytest
import reference
from loss_problems import INF, INTEGERS, REDUCTIONS, SHAPES, TWO, Problem, each_dtype, each_target
from reference import LAYOUTS, assert_close

import xent


def check_log_loss(proba, target, reductions=REDUCTIONS, **options):
    dtype = np.asarray(proba).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss = xent.log_loss(proba, target, reduction=reduction, **options)
        exact = reference.log_loss(proba, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact, dtype)
        else:
            assert type(loss) is float
            np.testing.assert_allclose(loss, float(exact), rtol=32 * np.finfo(dtype).eps)


@each_dtype
@each_target
@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_loss(layout, kind, dtype):
    move = LAYOUTS[layout]
    for shape in [*SHAPES[1:], (3, 1), (0, 3), (3, 0)]:
        for axis in range(-len(shape) if layout == "C" else 0, len(shape)):
            p = Problem(shape, axis, dtype, kind)
            if shape[axis] == 0 and kind == "labels":
                continue
            proba = reference.softmax(p.logits, axis).astype(dtype)
            check_log_loss(move(proba), move(p.target), TWO, axis=axis, sample_weight=move(p.weights["sample_weight"]))
            if layout == "C":
                check_log_loss(proba, p.target, axis=axis)


@pytest.mark.parametrize("kind", INTEGERS)
def test_log_loss_label_types(kind):
    proba = [[0.25, 0.5, 0.25], [0.125, 0.75, 0.125]]
    check_log_loss(proba, np.array([2, 1], kind))
    check_log_loss(proba, np.array([[0, 0, 1], [0, 1, 0]], kind))
    check_log_loss(proba, [2, 1], sample_weight=[[3, 0]][0])


@each_dtype
def test_log_loss_of_certainties(dtype):
    """Right is 0, wrong is inf; a mass or a weight of 0 hides both."""
    proba = np.array([[1, 0], [1, 0], [0, 1]], dtype)
    np.testing.assert_array_equal(xent.log_loss(proba, [0, 1, 1], reduction="none"), [0, INF, 0])
    np.testing.assert_array_equal(xent.log_loss(proba, proba, reduction="none"), [0, 0, 0])
    assert xent.log_loss(proba, [0, 1, 1]) == INF
    assert xent.log_loss(proba, [0, 1, 1], sample_weight=[1, 0, 1]) == 0
    assert math.isnan(xent.log_loss(proba, [0, 1, 1], sample_weight=0))
    assert not np.signbit(xent.log_loss(proba, [0, 0, 1], reduction="none")).any()


def test_log_loss_is_not_normalised():
    check_log_loss([[0.5, 0.125, 0.125], [1, 1, 1]], [[2, 0, 1], [0.5, 0.25, 0]])
    check_log_loss([[0, 1], [1, 1]], [1, 0])
