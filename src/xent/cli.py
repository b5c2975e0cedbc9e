"""``python -m xent``: a worked example, then a classifier of handwritten digits; ``info``: versions and hardware.

The numbers come from xent; this module prints them, in ASCII.
"""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import xent
from xent import plots
from xent._estimator import progress
from xent._fit.solver import Progress
from xent.datasets import load_digits

__all__ = ["main"]

DEFAULT_PICTURE = Path("xent-demo.png")
TIMED_FITS = 3
TOLERANCES = 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7
SAME_OBJECTIVE = 1e-5  # relative

OK, FAILED, INTERRUPTED, READER_GONE = 0, 1, 130, 141  # the last two are what a shell reports for SIGINT and SIGPIPE

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


class Split(NamedTuple):
    """The digits, shuffled, with a quarter held out."""

    X: Matrix
    y: Labels
    X_held_out: Matrix
    y_held_out: Labels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 1 after a failure, 130 after Ctrl-C, 141 if the reader of the output has gone.

    Raises
    ------
    SystemExit
        With code 2 for arguments that make no sense and 0 for ``--help`` and ``--version``.

    Examples
    --------
    >>> from xent.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    xent             ...
    0
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may not fit the terminal's encoding
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "info" and (arguments.out or arguments.no_plot):
        parser.error("info draws no picture; leave out --out and --no-plot")
    try:
        xent.get_num_threads()
    except ValueError as error:     # of the environment variable
        parser.error(str(error))
    try:
        if arguments.command == "info":
            _info()
        else:
            _demo(_picture_path(parser, arguments), hint=not arguments.no_plot)
        print(end="", flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more on its way out; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return FAILED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xent",
        usage="%(prog)s [--out PATH | --no-plot]\n       %(prog)s info",
        description="Work through one cross-entropy by hand, then train a classifier on 1,797 handwritten digits and "
        "save a picture of the result.",
    )
    parser.add_argument("--version", action="version", version=f"xent {xent.__version__}")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--out", type=Path, metavar="PATH", help=f"the picture to save (default: {DEFAULT_PICTURE})")
    picture.add_argument("--no-plot", action="store_true", help="draw no picture")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    commands.add_parser("info", help="print the versions of xent, Python, NumPy and BLAS, the instruction set, threads")
    return parser


def _picture_path(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path | None:
    """Where to save the picture, or None for no picture. Raises here, before any work, if it cannot be saved."""
    if arguments.no_plot:
        return None
    path: Path = arguments.out or DEFAULT_PICTURE
    try:
        plots.check_path(path)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        if arguments.out:
            parser.error("--out needs matplotlib; pip install 'xent-numpy[demo]'")
        return None
    except ValueError as error:
        parser.error(f"cannot save the picture: {error} (--out PATH saves it elsewhere, --no-plot draws none)")
    return path


def _info() -> None:
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    facts = {
        "xent": xent.__version__,
        "instruction set": xent.isa(),
        "threads": str(xent.get_num_threads()),
        "Python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "NumPy": np.__version__,
        "BLAS": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".rstrip(),
    }
    for name, value in facts.items():
        print(f"{name:<{max(map(len, facts))}}  {value}")


def _demo(picture: Path | None, *, hint: bool) -> None:
    _worked_example()
    split = _split_digits()
    model = xent.LogisticRegression()
    losses = _train(model, split)
    confusion = _held_out(model, split)
    _compare_times(model, split)
    print()
    if picture:
        plots.save(plots.demo_figure(losses, confusion), picture)
        print(f"Picture: {picture.absolute()}")
    elif hint:
        print("No picture was drawn: that needs matplotlib (pip install 'xent-numpy[demo]').")


def _worked_example() -> None:
    logits = np.array([2.0, 4.0, 0.5])
    shifted = logits - logits.max()
    exponentials = np.exp(shifted)
    softmax = xent.softmax(logits)
    loss, gradient = xent.cross_entropy(np.tile(logits, (3, 1)), [0, 1, 2], reduction="none", return_grad=True)

    print("Cross-entropy by hand: three classes, logits [2, 4, 0.5]\n")
    print(f"  {'label':<22}{1:>9}{2:>9}{3:>9}{'sum':>9}")
    _row("logit", logits)
    _row("shifted: logit - 4", shifted)
    _row("exponential", exponentials, exponentials.sum())
    _row("softmax", softmax, softmax.sum())
    _row("loss: -log(softmax)", loss)
    print("\n  gradient: softmax, less 1 at the label")
    for label, row in enumerate(gradient, start=1):
        _row(f"where the label is {label}", row, row.sum())
    print(flush=True)


def _row(name: str, *values: Any) -> None:
    cells = (f"{round(value, 4) + 0.0:9.4f}" for value in np.hstack(values))  # + 0.0 turns -0 into 0
    print(f"  {name:<22}{''.join(cells)}")


def _split_digits() -> Split:
    X, y = load_digits()
    X /= 16  # ink from 0 to 1
    held_out, rest = np.split(np.random.default_rng(0).permutation(len(y)), [len(y) // 4])
    return Split(X[rest], y[rest], X[held_out], y[held_out])


def _train(model: xent.LogisticRegression, split: Split) -> list[float]:
    """Fit, and show and return the objective before the first iteration and after each one."""
    n_classes = len(np.unique(split.y))
    print(f"Handwritten digits, 8 x 8 pixels: multinomial logistic regression, C = {model.C:g}")
    print(f"{len(split.y)} images to train on, {len(split.y_held_out)} held out\n")
    print(f"  loss before training          {xent.cross_entropy(np.zeros((len(split.y), n_classes)), split.y):.6f}")
    print(f"  expected, -log(1/{n_classes})           {-math.log(1 / n_classes):.6f}\n")
    print("  iteration   objective    gradient")
    history: list[Progress] = []
    with progress.open_bar(model.max_iter, "  training") as bar:
        write: Callable[[str], object] = print if bar is None else bar.write

        def watch(progress: Progress) -> None:
            history.append(progress)
            if _is_milestone(progress.iteration):
                write(_progress_line(progress))
            if bar is not None:
                bar.update(progress.iteration - bar.n)

        model.fit(split.X, split.y, callback=watch)
        last = history[-1]
        if not _is_milestone(last.iteration):
            write(_progress_line(last))
    print(f"  {'converged' if model.converged_ else 'stopped'} after {last.iteration} iterations\n", flush=True)
    return [progress.loss for progress in history]


def _is_milestone(iteration: int) -> bool:
    return iteration & (iteration - 1) == 0  # 0 and the powers of two


def _progress_line(progress: Progress) -> str:
    return f"  {progress.iteration:9}   {progress.loss:9.6f}   {progress.grad_norm:9.1e}"


def _held_out(model: xent.LogisticRegression, split: Split) -> Labels:
    """Print how the model does on the held-out digits, and return the confusion matrix."""
    loss = xent.log_loss(split.y_held_out, model.predict_proba(split.X_held_out), labels=model.classes_)
    n_classes = len(model.classes_)
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (split.y_held_out, model.predict(split.X_held_out)), 1)
    right, total = np.trace(confusion), np.sum(confusion)

    print(f"  held-out log loss             {loss:.6f}")
    print(f"  held-out accuracy             {right / total:.2%} ({right} of {total})\n")
    print("Held-out digits: true digit down, predicted digit across\n")
    print("      " + "".join(f"{label:>5}" for label in model.classes_))
    for label, counts in zip(model.classes_, confusion, strict=True):
        print(f"  {label:>4}" + "".join(f"{count or '.':>5}" for count in counts))
    print(flush=True)
    return confusion


def _compare_times(model: xent.LogisticRegression, split: Split) -> None:
    """Time the fit, beside scikit-learn's where it is installed: same data, same objective, in turn."""
    print(f"Time to fit: the same images, objective and C; median of {TIMED_FITS} fits, in turn\n", flush=True)
    contenders: dict[str, Any] = {f"xent {xent.__version__}": model}
    sklearn = _optional("sklearn")
    with warnings.catch_warnings():
        if sklearn:
            _ignore_convergence_warning()
            contenders[f"scikit-learn {sklearn.__version__}"] = _scikit_learn(split, _objective(model, split))
        # Each has been fitted before: nothing below is a first call.
        rounds = [[_seconds_to_fit(peer, split) for peer in contenders.values()] for _ in range(TIMED_FITS)]
    medians = [median(times) for times in zip(*rounds, strict=True)]
    for (name, peer), seconds in zip(contenders.items(), medians, strict=True):
        print(f"  {name:<22}{seconds * 1e3:9.1f} ms   objective {_objective(peer, split):.6f}   tol {peer.tol:.0e}")
    if sklearn:
        print(f"\n  scikit-learn takes {medians[1] / medians[0]:.1f} times as long")
    else:
        print("  scikit-learn is not installed; pip install scikit-learn to compare")


def _scikit_learn(split: Split, objective: float) -> Any:
    """Fit scikit-learn's classifier with the loosest tolerance that brings it to an objective."""
    linear_model = importlib.import_module("sklearn.linear_model")
    for tol in TOLERANCES:
        peer = linear_model.LogisticRegression(tol=tol, max_iter=100_000).fit(split.X, split.y)
        if _objective(peer, split) <= objective * (1 + SAME_OBJECTIVE):
            break
    return peer


def _ignore_convergence_warning() -> None:
    """scikit-learn's line search gives up at the tightest tolerances; the objective is printed anyway."""
    warnings.simplefilter("ignore", importlib.import_module("sklearn.exceptions").ConvergenceWarning)


def _objective(model: Any, split: Split) -> float:
    """The mean objective that both libraries minimise, computed in one way for both."""
    loss = xent.cross_entropy(model.decision_function(split.X), split.y)
    return float(loss + np.sum(model.coef_**2) / (2 * model.C * len(split.y)))


def _seconds_to_fit(model: Any, split: Split) -> float:
    start = time.perf_counter()
    model.fit(split.X, split.y)
    return time.perf_counter() - start


def _optional(name: str) -> Any:
    """Import a module that may be missing; None then."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
