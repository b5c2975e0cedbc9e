"""What a fit shows while it runs, and what it keeps when it is interrupted."""

import sys

import numpy as np
import pytest

import xent
from xent._fit.objective import Objective


def test_callback_and_first_loss(blobs):
    X, y = blobs
    seen = []
    model = xent.LogisticRegression().fit(X, y, callback=seen.append)
    assert seen[0].loss == pytest.approx(np.log(3), rel=1e-15)
    assert [p.iteration for p in seen] == list(range(int(model.n_iter_[0]) + 1))
    assert seen[-1].loss == model.objective_


@pytest.mark.parametrize("bar", [True, False])
def test_verbose(blobs, capsys, monkeypatch, bar):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: bar, raising=False)
    seen = []
    model = xent.LogisticRegression(verbose=1).fit(*blobs, callback=seen.append)
    out, err = capsys.readouterr()
    shown = err if bar else out
    for word in ("loss", "gradient", f"{model.objective_:.6f}", f"{model.grad_norm_:.{1 if bar else 2}e}"):
        assert word in shown
    assert (out == "") == bar
    assert (err == "") != bar
    assert len(seen) == model.n_iter_[0] + 1
    if bar:
        assert f"{model.n_iter_[0]}/{model.n_iter_[0]}" in err


def test_verbose_without_tqdm(blobs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    xent.LogisticRegression(verbose=1).fit(*blobs)
    assert "iteration 1: loss 0." in capsys.readouterr().out


class Stop:
    """Ctrl-C in an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration
        self.losses = []

    def __call__(self, progress):
        self.losses.append(progress.loss)
        if progress.iteration == self.iteration:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_best_so_far(blobs):
    X, y = blobs
    whole = xent.LogisticRegression(tol=1e-9, max_iter=200).fit(X, y)
    model, stop = xent.LogisticRegression(tol=1e-9, max_iter=200, warm_start=True), Stop(3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, callback=stop)
    assert not model.converged_
    assert model.n_iter_.tolist() == [3]
    assert model.objective_ <= min(stop.losses)
    loss = xent.cross_entropy(X @ model.coef_.T + model.intercept_, y) + (model.coef_**2).sum() / (2 * len(y))
    assert model.objective_ == pytest.approx(loss, rel=1e-12)
    assert model.score(X, y) > 0.5
    model.fit(X, y)
    assert model.converged_
    np.testing.assert_allclose(model.coef_, whole.coef_, atol=1e-6)
    assert model.n_iter_[0] < whole.n_iter_[0]


def test_ctrl_c_within_an_evaluation(blobs, monkeypatch):
    """Before the first one is done there is nothing to keep; later, what the last one found."""
    X, y = blobs
    model = xent.LogisticRegression(tol=1e-9)
    plain, calls = Objective.__call__, []

    def interrupted(self, x):
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return plain(self, x)

    monkeypatch.setattr(Objective, "__call__", interrupted)
    limit = 1
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
    calls.clear()
    limit = 5
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert np.abs(model.coef_).max() > 0.1
    before, curvature = model.coef_.copy(), model._curvature
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X * 2, y)
    assert (model.coef_ != before).any()
    assert curvature is None
    assert model._curvature is not None


def test_another_error_on_the_way_leaves_the_estimator_alone(blobs):
    X, y = blobs
    model = xent.LogisticRegression().fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ZeroDivisionError):
        model.fit(X * 2, y, callback=lambda progress: 1 / (2 - progress.iteration))
    assert vars(model) == before
