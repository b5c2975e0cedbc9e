"""Sums of several folds in one pass, against those of each fold by itself."""

import numpy as np
import pytest
from fit_problems import HOLDERS, make_rows

from xent._fit import fold_sums
from xent._fit.fold_sums import FoldSums
from xent._fit.row_sums import RowSums


def make_fold_sums(n_classes, soft, hold, dtype=np.float64):
    X, target, weight = make_rows(n_classes, soft)
    folds = np.random.default_rng(3).integers(0, 4, (3, len(X)))
    return FoldSums(lambda w: RowSums(hold(X.astype(dtype)), target, n_classes, w, 1), weight * folds)


@pytest.mark.parametrize("n_classes", [2, 3, 40])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("blocks", ["one", "several"])
def test_each_fold_has_its_own_sums(n_classes, soft, hold, blocks, monkeypatch):
    if blocks == "several":
        monkeypatch.setattr(fold_sums, "MIN_BLOCK_ROWS", 32)
        monkeypatch.setattr(fold_sums, "BLOCK_ELEMENTS", 1)
    sums = make_fold_sums(n_classes, soft, hold)
    rng = np.random.default_rng(5)
    matrices = rng.normal(size=(3, *(sums.folds[0].n_coef_rows, sums.folds[0].n_features + 1)))
    for folds in ([0, 1, 2], [0, 2], [1]):
        found = sums.loss_gradients(folds, [matrices[i] for i in folds])
        rough = sums.loss_gradients(folds, [matrices[i] for i in folds], single=True)
        for i, of_fold, roughly in zip(folds, found, rough, strict=True):
            loss, gradient = sums.folds[i].loss_gradient(matrices[i])
            np.testing.assert_allclose(of_fold[0], loss, rtol=1e-12)
            np.testing.assert_allclose(of_fold[1], gradient, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(roughly[0], loss, rtol=1e-5)
            np.testing.assert_allclose(roughly[1], gradient, rtol=1e-4, atol=1e-3)


def test_rows_that_overflow_count_nothing_where_their_weight_is_0():
    X = np.ones((4, 1))
    X[0] = 1e300
    sums = FoldSums(lambda w: RowSums(X, np.array([0, 1, 2, 0]), 3, w, 1), np.array([[0.0, 1, 1, 1], [0.0, 2, 0, 1]]))
    matrices = [np.array([[1e10, 0.0], [2.0, 0.0], [0.0, 0.0]]) * scale for scale in (1, -1)]
    with np.errstate(all="ignore"):
        found = sums.loss_gradients([0, 1], matrices)
    for (loss, gradient), fold, matrix in zip(found, sums.folds, matrices, strict=True):
        with np.errstate(all="ignore"):
            expected = fold.loss_gradient(matrix)
        assert np.isfinite(loss)
        np.testing.assert_allclose(loss, expected[0])
        np.testing.assert_allclose(gradient, expected[1])
