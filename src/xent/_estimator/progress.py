"""What a fit shows while it runs, and the best point that it has seen, for a fit that is interrupted."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xent._fit.solvers import INTERRUPTED, Function, Progress, Result, Vector

Callback = Callable[[Progress], object]


class _Best:
    """A function that remembers the point with its least value so far; all else about it is as it was."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.x: Vector | None = None
        self.loss = math.inf
        self.grad_norm = math.inf

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        loss, gradient = self.function(x)
        if loss < self.loss:
            # No copy: minimisers make a new array for each point.
            self.x, self.loss, self.grad_norm = x, loss, float(np.abs(gradient).max(initial=0.0))
        return loss, gradient

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


def run(
    minimise: Callable[..., Result],
    function: Function,
    start: Vector,
    *,
    callback: Callback | None = None,
    keep: Callable[[Progress, Vector], object] | None = None,
    **options: Any,
) -> tuple[Result, KeyboardInterrupt | None]:
    """What a minimiser finds; after Ctrl-C the best point it has seen, and the interrupt for the caller to raise.

    `keep` is called as `callback` is, with the best point so far.
    """
    best = _Best(function)
    iterations = 0

    def count(progress: Progress) -> None:
        nonlocal iterations
        iterations = progress.iteration
        if keep is not None and best.x is not None:
            keep(progress, best.x)
        if callback is not None:
            callback(progress)

    try:
        with np.errstate(all="ignore"):     # numbers that are too large end in a result that has not converged
            return minimise(best, start, callback=count, **options), None
    except KeyboardInterrupt as interrupt:
        if best.x is None:
            raise
        return Result(best.x, best.loss, best.grad_norm, iterations, INTERRUPTED), interrupt


@contextlib.contextmanager
def shown(verbose: int, max_iter: int, callback: Callback | None) -> Iterator[Callback | None]:
    """A callback for a minimiser that shows its progress, if wanted, and calls the given one, if there is one."""
    if not verbose:
        yield callback
        return
    with bar(max_iter, "fit") as drawn:

        def show_and_call(progress: Progress) -> None:
            i, loss, grad_norm = progress.iteration, progress.loss, progress.grad_norm
            if drawn is not None:
                drawn.set_postfix_str(f"loss {loss:.6f}, gradient {grad_norm:.1e}", refresh=False)
                drawn.update(i - drawn.n)
            else:
                print(f"iteration {i}: loss {loss:.8f}, gradient {grad_norm:.2e}")
            if callback is not None:
                callback(progress)

        yield show_and_call


@contextlib.contextmanager
def bar(max_iter: int, name: str) -> Iterator[Any]:
    """A bar of tqdm for iterations, or None without tqdm, or without a terminal or notebook to draw it in."""
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        tqdm = None
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if tqdm is None or not (terminal or "ipykernel" in sys.modules):
        yield None
        return
    with tqdm(total=max_iter, desc=name, unit=" iterations", dynamic_ncols=True) as drawn:
        yield drawn
        drawn.total = drawn.n       # fewer iterations than were allowed is still all of them
        drawn.refresh()
