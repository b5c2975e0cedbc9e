"""Pictures are written completely or not at all, and matplotlib's global state does not change."""

import os
import struct
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from xent import plots

LOSSES = [2.303, 1.1, 0.4, 0.25]
CONFUSION = np.diag([40, 41, 42]) + np.eye(3, k=1, dtype=int)


@pytest.fixture
def figure():
    return plots.demo_figure(LOSSES, CONFUSION)


def test_png(figure, tmp_path):
    path = tmp_path / "picture.png"
    plots.save(figure, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1500, 500)
    assert len(data) > 20_000
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("A.PNG", b"\x89PNG")])
def test_the_suffix_chooses_the_format(figure, tmp_path, name, start):
    plots.check_path(tmp_path / name)
    plots.save(figure, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_the_panels_show_the_data(figure):
    training, matrix, binary = figure.axes
    np.testing.assert_array_equal(training.lines[1].get_ydata(), LOSSES)
    assert sorted(text.get_text() for text in matrix.texts) == ["1", "1", "40", "41", "42"]
    assert matrix.get_title() == "Held-out digits: 123 of 125 right"
    for curve, formula in zip(binary.lines, (lambda p: -np.log(p), lambda p: -np.log1p(-p)), strict=True):
        proba, loss = curve.get_data()
        np.testing.assert_allclose(loss, formula(proba), rtol=1e-12)
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()


@pytest.mark.parametrize(
    ("losses", "confusion"), [([2.3], np.zeros((10, 10), int)), ([1.0, 1.0], np.eye(1, dtype=int))]
)
def test_little_data_still_draws(tmp_path, losses, confusion):
    plots.save(plots.demo_figure(losses, confusion), tmp_path / "a.png")


def test_a_failure_leaves_the_folder_as_it_was(figure, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")

    def half_way(target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half_way)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert os.listdir(tmp_path) == ["picture.png"]
    assert path.read_bytes() == b"before"


def test_pyplot_is_not_touched(figure, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    plots.save(plots.demo_figure(LOSSES, CONFUSION), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.doc", r"suffix '\.doc' is not one of a picture: .*\.png"),
        ("a", "suffix '' is not one of a picture"),
        ("missing/a.png", "the folder .*missing does not exist"),
        ("folder.png", "a folder or a device, not a file"),
    ],
)
def test_paths_that_cannot_be_saved(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=message):
        plots.check_path(tmp_path / name)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so the answer is made up
    with pytest.raises(ValueError, match="is not writable"):
        plots.check_path(tmp_path / "a.png")
