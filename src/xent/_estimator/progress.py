"""The progress of a fit, and its best point if Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._fit.solver import INTERRUPTED, Progress, Result

Vector = NDArray[np.float64]
Callback = Callable[[Progress], object]


class Recorder:
    """Records the best point that a solver reports, and passes its progress on.

    Parameters
    ----------
    callback : callable, optional
        Called with each `Progress`.
    keep : callable, optional
        Called with each `Progress` and the best point so far.
    """

    def __init__(
        self, callback: Callback | None = None, keep: Callable[[Progress, Vector], object] | None = None
    ) -> None:
        self.callback = callback
        self.keep = keep
        self.x: Vector | None = None
        self.loss = self.grad_norm = math.inf
        self.iterations = 0

    def record(self, progress: Progress, x: Vector) -> None:
        """The callback of a solver's `Settings`."""
        self.iterations = progress.iteration
        if progress.loss < self.loss:
            self.x, self.loss, self.grad_norm = x, progress.loss, progress.grad_norm
        if self.keep is not None and self.x is not None:
            self.keep(progress, self.x)
        if self.callback is not None:
            self.callback(progress)

    def run(self, solve: Callable[[], Result]) -> tuple[Result, KeyboardInterrupt | None]:
        """Run a solver that reports to `record`. After Ctrl-C, return the best point and the interrupt, for the caller
        to raise."""
        try:
            with np.errstate(all="ignore"):     # overflow leads to a result that has not converged
                return solve(), None
        except KeyboardInterrupt as interrupt:
            if self.x is None:
                raise
            return Result(self.x, self.loss, self.grad_norm, self.iterations, INTERRUPTED), interrupt


@contextlib.contextmanager
def show_progress(verbose: int, max_iter: int, callback: Callback | None) -> Iterator[Callback | None]:
    """A callback for a solver that shows its progress, if wanted, and calls the given one, if there is one."""
    if not verbose:
        yield callback
        return
    with open_bar(max_iter, "fit") as bar:

        def show_and_call(progress: Progress) -> None:
            i, loss, grad_norm = progress.iteration, progress.loss, progress.grad_norm
            if bar is not None:
                bar.set_postfix_str(f"loss {loss:.6f}, gradient {grad_norm:.1e}", refresh=False)
                bar.update(i - bar.n)
            else:
                print(f"iteration {i}: loss {loss:.8f}, gradient {grad_norm:.2e}")
            if callback is not None:
                callback(progress)

        yield show_and_call


@contextlib.contextmanager
def open_bar(max_iter: int, name: str) -> Iterator[Any]:
    """A bar of tqdm for iterations, or None without tqdm, or without a terminal or notebook to draw it in."""
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        tqdm = None
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if tqdm is None or not (terminal or "ipykernel" in sys.modules):
        yield None
        return
    with tqdm(total=max_iter, desc=name, unit=" iterations", dynamic_ncols=True) as bar:
        yield bar
        bar.total = bar.n       # a fit that ended early is complete
        bar.refresh()
