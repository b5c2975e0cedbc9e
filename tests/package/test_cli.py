"""The command line: what it prints, checked against plain NumPy, and its exit codes."""

import contextlib
import io
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

import xent
from xent import cli
from xent.datasets import load_digits


def run(argv):
    """Run in this process; returns the exit code and the output."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        code = cli.main(argv)
    return code, stdout.getvalue()


def hide(monkeypatch, package):
    """Make importing a package fail as if it were not installed."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def alone(monkeypatch):
    """Leave out the slow peer."""
    hide(monkeypatch, "sklearn")
    monkeypatch.setattr(cli, "TIMED_FITS", 1)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The output of ``python -m xent --no-plot`` in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-m", "xent", "--no-plot"]
    # Without threads, so that a busy machine does not make the peer's fits take minutes.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(folder) == []
    assert done.stdout.isascii()
    return done.stdout


@pytest.fixture(scope="module")
def exact():
    """Objective, held-out log loss and accuracy at the minimum, from accelerated gradient descent in NumPy."""
    X, y = load_digits()
    order = np.random.default_rng(0).permutation(len(y))
    held_out, rest = order[: len(y) // 4], order[len(y) // 4 :]
    X = (X - X[rest].mean(axis=0)) / 16  # centred, which moves only the intercept and saves iterations
    X = np.column_stack([X, np.ones(len(X))])
    one_hot = np.eye(10)[y]
    penalised = np.append(np.ones(64), 0) / len(rest)

    def log_softmax(weight, rows):
        logits = X[rows] @ weight
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    step = 2 / np.linalg.norm(X[rest], 2) ** 2 * len(rest)  # the Hessian of a row is at most x x' / 2
    weight = ahead = np.zeros((65, 10))
    for _ in range(300):
        slope = X[rest].T @ (np.exp(log_softmax(ahead, rest)) - one_hot[rest]) / len(rest) + penalised[:, None] * ahead
        previous, weight = weight, ahead - step * slope
        ahead = weight + 0.95 * (weight - previous)
    assert np.abs(slope).max() < 1e-5

    log_proba = log_softmax(weight, held_out)
    return {
        "objective": -np.sum(one_hot[rest] * log_softmax(weight, rest)) / len(rest)
        + penalised @ (weight**2).sum(1) / 2,
        "log loss": -np.sum(one_hot[held_out] * log_proba) / len(held_out),
        "accuracy": np.mean(log_proba.argmax(axis=1) == y[held_out]),
    }


def numbers(text, label):
    """The numbers on the line that starts with a label."""
    (line,) = re.findall(rf"^ *{re.escape(label)}(.*)$", text, re.MULTILINE)
    return np.array(re.findall(r"-?\d+\.\d+", line), dtype=float)


def section(text, start):
    """The rows of numbers that follow a heading."""
    lines = text[text.index(start) :].splitlines()[1:]
    rows = []
    for line in lines:
        if re.fullmatch(r"[-+.e\d ]+", line):
            rows.append([float(cell) for cell in line.replace(" .", " 0").split()])
        elif rows:
            break
    return rows


def test_worked_example(printed):
    shifted = np.array([2, 4, 0.5]) - 4
    exponentials = np.exp(shifted)
    softmax = exponentials / exponentials.sum()

    def close(label, expected):
        np.testing.assert_allclose(numbers(printed, label), expected, rtol=0, atol=5.1e-5)

    close("shifted: logit - 4", shifted)
    close("exponential", [*exponentials, exponentials.sum()])
    close("softmax ", [*softmax, 1])
    close("loss: -log(softmax)", -np.log(softmax))
    for label, one_hot in enumerate(np.eye(3), start=1):
        close(f"where the label is {label}", [*(softmax - one_hot), 0])


def test_the_loss_falls_from_its_expected_value_to_the_minimum(printed, exact):
    assert numbers(printed, "loss before training") == pytest.approx(np.log(10), abs=1e-6)
    assert numbers(printed, "expected, -log(1/10)") == pytest.approx(np.log(10), abs=1e-6)
    iteration, objective, gradient = np.array(section(printed, "iteration   objective")).T
    assert iteration[0] == 0
    assert objective[0] == pytest.approx(np.log(10), abs=1e-6)
    assert (np.diff(iteration) > 0).all()
    assert (np.diff(objective) < 0).all()
    assert gradient[-1] < gradient[0]
    assert objective[-1] == pytest.approx(exact["objective"], rel=1e-3)
    assert f"converged after {iteration[-1]:.0f} iterations" in printed


def test_held_out_quarter(printed, exact):
    assert "1348 images to train on, 449 held out" in printed
    assert numbers(printed, "held-out log loss") == pytest.approx(exact["log loss"], rel=1e-2)
    assert numbers(printed, "held-out accuracy") / 100 == pytest.approx(exact["accuracy"], abs=1e-2)


def test_confusion_matrix(printed):
    header, *rows = section(printed, "true digit down")
    assert header == list(range(10))
    confusion = np.array(rows)
    assert confusion[:, 0].tolist() == list(range(10))
    y = load_digits()[1][np.random.default_rng(0).permutation(1797)[:449]]
    np.testing.assert_array_equal(confusion[:, 1:].sum(axis=1), np.bincount(y))
    assert f"({np.trace(confusion[:, 1:]):.0f} of 449)" in printed


def test_time_without_scikit_learn(alone):
    code, text = run(["--no-plot"])
    assert code == 0
    assert re.search(rf"xent {re.escape(xent.__version__)} +\d+\.\d ms   objective 0\.\d+", text)
    assert "scikit-learn is not installed" in text


def test_time_beside_scikit_learn(monkeypatch):
    sklearn = pytest.importorskip("sklearn")
    monkeypatch.setattr(cli, "TIMED_FITS", 1)
    monkeypatch.setattr(cli, "TOLERANCES", (1e-4,))
    code, text = run(["--no-plot"])
    assert code == 0
    (ours,) = re.findall(r"  xent .* ms   objective (\S+)", text)
    (theirs,) = re.findall(rf"  scikit-learn {re.escape(sklearn.__version__)} .* ms   objective (\S+)", text)
    assert float(theirs) == pytest.approx(float(ours), rel=2e-3)
    assert re.search(r"scikit-learn takes \d+\.\d times as long", text)


def test_plain_lines_without_tqdm(alone, monkeypatch, capsys):
    hide(monkeypatch, "tqdm")
    assert cli.main(["--no-plot"]) == 0
    text, errors = capsys.readouterr()
    assert len(section(text, "iteration   objective")) >= 3
    assert errors == ""


def test_progress_bar_on_a_terminal(alone, monkeypatch):
    pytest.importorskip("tqdm")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    code, text = run(["--no-plot"])
    assert code == 0
    assert "100%" in terminal.getvalue()
    assert len(section(text, "iteration   objective")) >= 3


def test_info():
    code, text = run(["info"])
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())
    assert code == 0
    assert list(facts) == ["xent", "instruction set", "threads", "Python", "NumPy", "BLAS"]
    assert facts["xent"] == xent.__version__
    assert facts["instruction set"] == xent.isa()
    assert facts["threads"] == str(xent.get_num_threads())
    assert facts["Python"].startswith(platform.python_version())
    assert facts["NumPy"] == np.__version__


@pytest.mark.parametrize(("argv", "words"), [(["--help"], "--no-plot"), (["--version"], f"xent {xent.__version__}")])
def test_help_and_version(argv, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["--nonsense"], ["nonsense"], ["--out"], ["--out", "a.png", "--no-plot"], ["info", "x"]]
)
def test_bad_arguments(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("usage: python -m xent")


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing/a.png", "does not exist"), ("", "not a file"), ("a.doc", "not one of a picture: ")],
)
def test_bad_picture_paths_are_found_before_any_work(name, words, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--out", str(tmp_path / name)])
    assert exit_.value.code == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert words in errors


def test_picture(alone, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, text = run([])
    assert code == 0
    assert f"Picture: {tmp_path / 'xent-demo.png'}" in text
    assert os.listdir(tmp_path) == ["xent-demo.png"]
    assert (tmp_path / "xent-demo.png").read_bytes().startswith(b"\x89PNG")


def test_out_moves_the_picture_and_prints_any_name(alone, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}.svg"
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["--out", str(path)]) == 0
    assert path.exists()
    assert rb"caf\xe9.svg" in terminal.buffer.getvalue()


def test_without_matplotlib_no_picture_is_drawn(alone, tmp_path, monkeypatch):
    hide(monkeypatch, "matplotlib")
    monkeypatch.chdir(tmp_path)
    code, text = run([])
    assert code == 0
    assert "No picture was drawn" in text
    assert "pip install 'xent-numpy[demo]'" in text
    assert os.listdir(tmp_path) == []


def test_without_matplotlib_out_is_an_error(tmp_path, monkeypatch, capsys):
    hide(monkeypatch, "matplotlib")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--out", str(tmp_path / "a.png")])
    assert exit_.value.code == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert "pip install 'xent-numpy[demo]'" in errors


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError("disk full"), 1, "python -m xent: disk full")],
)
def test_exit_codes(error, code, words, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli, "_worked_example", fail)
    assert cli.main(["--no-plot"]) == code
    assert capsys.readouterr().err.strip() == words


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE")
def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = [sys.executable, "-m", "xent", "--no-plot"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline().startswith(b"Cross-entropy by hand")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["--no-plot", "info"], ["--out", "a.png", "info"]])
def test_info_draws_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "info draws no picture" in capsys.readouterr().err


def test_bad_environment_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.setenv("XENT_NUM_THREADS", "none")
    monkeypatch.setattr("xent._calls.threads._num_threads", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["info"])
    assert caught.value.code == 2
    assert "XENT_NUM_THREADS is 'none'" in capsys.readouterr().err
