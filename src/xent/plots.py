"""The picture of ``python -m xent``. Matplotlib is imported here alone, and only when a picture is wanted.

Figures are built without pyplot: no window opens, and no setting of the caller changes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import xent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_path", "demo_figure", "save"]

BLUE, ORANGE, GREY = "#1f5fa8", "#d1601f", "#666666"


def check_path(path: Path) -> None:
    """Check that a picture can be written to a path, without writing it.

    Parameters
    ----------
    path : Path
        Where the picture would go; an existing file there would be replaced.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    ValueError
        If the folder is missing or not writable, if the path is taken by something that is not a file, or if matplotlib
        has no format for its suffix.

    Examples
    --------
    >>> from pathlib import Path
    >>> check_path(Path("picture.doc"))  # doctest: +SKIP
    Traceback (most recent call last):
    ValueError: picture.doc: the suffix '.doc' is not one of a picture: .eps, .jpeg, .jpg, ...
    """
    from matplotlib.backend_bases import FigureCanvasBase

    suffixes = sorted(f".{name}" for name in FigureCanvasBase.get_supported_filetypes())
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"{path}: the folder {folder} does not exist")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: this is a folder or a device, not a file")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: the suffix {path.suffix!r} is not one of a picture: {', '.join(suffixes)}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path}: the folder {folder} is not writable")


def save(figure: Figure, path: Path) -> None:
    """Save a figure in the format of the path's suffix; the file appears complete or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : Path
        An existing file is replaced.

    Raises
    ------
    OSError
        If the file cannot be written. Whatever was there before is still there then.

    Examples
    --------
    >>> save(demo_figure([2.3, 0.9, 0.4], np.eye(10, dtype=int)), Path("picture.png"))  # doctest: +SKIP
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format=path.suffix[1:].lower())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def demo_figure(losses: Sequence[float], confusion: NDArray[Any]) -> Figure:
    """Draw what ``python -m xent`` found, and the binary losses, side by side.

    Parameters
    ----------
    losses : sequence of float
        The training objective, in nats, before the first iteration and after each one.
    confusion : ndarray of int, shape (C, C)
        How often row c was taken for column k.

    Returns
    -------
    matplotlib.figure.Figure
        1500 x 500 pixels.

    Examples
    --------
    >>> demo_figure([2.3, 0.9, 0.4], np.eye(10, dtype=int))  # doctest: +SKIP
    <Figure size 1500x500 with 3 Axes>
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, wspace=0.05)  # inches, inches, share of a panel
    figure = Figure(figsize=(15, 5), dpi=100, layout=layout)
    left, middle, right = figure.subplots(1, 3)
    _training_curve(left, losses, len(confusion))
    _confusion_matrix(middle, confusion)
    _binary_losses(right)
    return figure


def _training_curve(axes: Axes, losses: Sequence[float], n_classes: int) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    axes.axhline(np.log(n_classes), color=GREY, linestyle="--", label=f"even guess: -log(1/{n_classes})")
    axes.plot(losses, color=BLUE, linewidth=2, marker=".", label="cross-entropy + penalty")
    axes.set(title=f"Training: from {losses[0]:.3f} to {losses[-1]:.3f}", xlabel="iteration", yscale="log")
    axes.set_ylabel("mean objective (nats, log scale)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(frameon=False, loc="center right")
    _clean(axes)


def _confusion_matrix(axes: Axes, confusion: NDArray[Any]) -> None:
    shade = np.sqrt(confusion / max(1, confusion.max()))  # the square root lets a single mistake show
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.1)
    for row, column in np.argwhere(confusion):
        colour = "white" if shade[row, column] > 0.6 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour)
    ticks = range(len(confusion))
    axes.set(title=f"Held-out digits: {np.trace(confusion)} of {np.sum(confusion)} right", xticks=ticks, yticks=ticks)
    axes.set(xlabel="predicted digit", ylabel="true digit")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _binary_losses(axes: Axes) -> None:
    proba = np.linspace(0.0, 1.0, 1001)[1:-1]
    for target, colour, formula in ((1, BLUE, "-log(p)"), (0, ORANGE, "-log(1 - p)")):
        loss = xent.binary_cross_entropy(proba, np.full(len(proba), target), reduction="none")
        axes.plot(proba, loss, color=colour, linewidth=2, label=f"y = {target}: {formula}")
    axes.set(title="Binary cross-entropy", xlabel="p, the predicted probability that y = 1", ylabel="loss (nats)")
    axes.set(xlim=(0, 1), ylim=(0, 6))
    axes.legend(frameon=False, loc="upper center")
    _clean(axes)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.2)
