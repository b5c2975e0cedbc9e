"""categorical_cross_entropy against the twin."""

import math

import numpy as np
import pytest
import reference
from loss_problems import INF, INTEGERS, REDUCTIONS, SHAPES, TWO, Problem, each_dtype
from reference import LAYOUTS, assert_close

import xent


def check_categorical(proba, target, reductions=REDUCTIONS, **options):
    dtype = np.asarray(proba).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss = xent.categorical_cross_entropy(proba, target, reduction=reduction, **options)
        exact = reference.categorical_cross_entropy(proba, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact, dtype)
        else:
            assert type(loss) is float
            np.testing.assert_allclose(loss, float(exact), rtol=32 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("kind", ["labels", "one-hot", "distribution", "sparse"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_categorical_cross_entropy(layout, kind, dtype):
    move = LAYOUTS[layout]
    for shape in [*SHAPES[1:], (3, 1), (0, 3), (3, 0)]:
        for axis in range(-len(shape) if layout == "C" else 0, len(shape)):
            p = Problem(shape, kind, dtype, axis, ignored=None)
            if shape[axis] == 0 and kind in ("labels", "sparse"):
                continue
            if kind == "sparse":
                p.target = np.maximum(p.target[0], 0), p.target[1]
            p.logits = reference.softmax(p.logits, axis).astype(dtype)
            moved = p.with_operands(move)
            weight = moved.options["sample_weight"]
            check_categorical(moved.logits, moved.target, TWO, axis=axis, sample_weight=weight)
            if layout == "C":
                check_categorical(p.logits, p.target, axis=axis)


@pytest.mark.parametrize("kind", INTEGERS)
def test_categorical_cross_entropy_label_types(kind):
    proba = [[0.25, 0.5, 0.25], [0.125, 0.75, 0.125]]
    check_categorical(proba, np.array([2, 1], kind))
    check_categorical(proba, np.array([[0, 0, 1], [0, 1, 0]], kind))
    check_categorical(proba, [2, 1], sample_weight=[[3, 0]][0])


@each_dtype
def test_categorical_cross_entropy_of_certainties(dtype):
    """Right is 0, wrong is inf; a mass or a weight of 0 hides both."""
    proba = np.array([[1, 0], [1, 0], [0, 1]], dtype)
    np.testing.assert_array_equal(xent.categorical_cross_entropy(proba, [0, 1, 1], reduction="none"), [0, INF, 0])
    np.testing.assert_array_equal(xent.categorical_cross_entropy(proba, proba, reduction="none"), [0, 0, 0])
    assert xent.categorical_cross_entropy(proba, [0, 1, 1]) == INF
    assert xent.categorical_cross_entropy(proba, [0, 1, 1], sample_weight=[1, 0, 1]) == 0
    assert math.isnan(xent.categorical_cross_entropy(proba, [0, 1, 1], sample_weight=0))
    assert not np.signbit(xent.categorical_cross_entropy(proba, [0, 0, 1], reduction="none")).any()


def test_categorical_cross_entropy_is_not_normalised():
    check_categorical([[0.5, 0.125, 0.125], [1, 1, 1]], [[2, 0, 1], [0.5, 0.25, 0]])
    check_categorical([[0, 1], [1, 1.0]], [1, 0])


@each_dtype
def test_one_axis_is_one_row(dtype):
    p = np.array([0.25, 0.5, 0.125], dtype)
    check_categorical(p, 1)
    check_categorical(p, p, sample_weight=2)
    check_categorical(p, ([2, 0], [0.5, 0.25]))
