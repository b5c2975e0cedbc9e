"""The state of a fit in a file, so that a fit survives its process: coefficients, and the number of iterations."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent._estimator import persistence
from xent._fit.solver import Progress

Array = NDArray[Any]

_KIND, _VERSION = "xent checkpoint", 1


class Checkpoint:
    """A file with the coefficients of a fit, written atomically.

    It does not hold what a solver remembers of its last steps: a resumed fit learns that again.

    Parameters
    ----------
    path : path-like
    every : int
        Iterations between two writes.
    problem : dict
        What the resumed fit must have in common with the saved one: numbers, bools, strings and None.
    """

    def __init__(self, path: str | os.PathLike[str], every: int, problem: dict[str, Any]) -> None:
        self.path = path
        self.every = every
        self.problem = problem
        self._done = 0

    def resume(self, start: Array, classes: Array) -> tuple[Array, int]:
        """Coefficients to start from and the number of iterations done: from the file, if it exists."""
        self.problem = {**self.problem, "classes": [str(c) for c in classes.tolist()]}
        if not os.path.exists(self.path):
            return start, 0
        content, arrays = persistence.read(self.path, _KIND, _VERSION)
        saved = arrays.get("coefficients", np.zeros(0))
        problem, iterations = content.get("problem"), content.get("iterations")
        if not isinstance(problem, dict) or type(iterations) is not int or iterations < 0:
            raise ValueError(f"checkpoint {os.fspath(self.path)!r} is damaged; remove the file, or use another path")
        differing = [name for name in self.problem if problem.get(name) != self.problem[name]]
        if differing or saved.shape != start.shape or saved.dtype != np.float64:
            what = ", ".join(differing) or f"the shape of the coefficients, {saved.shape} and not {start.shape}"
            raise ValueError(
                f"checkpoint {os.fspath(self.path)!r} is of another fit, which differs in {what}; remove the file, or "
                "use another path"
            )
        if not np.isfinite(saved).all():
            raise ValueError(f"checkpoint {os.fspath(self.path)!r} has coefficients that are not finite; remove it")
        self._done = iterations
        return saved, self._done

    def keep(self, progress: Progress, coefficients: Array) -> None:
        """Write the coefficients if it is time."""
        if progress.iteration and progress.iteration % self.every == 0:
            self.write(self._done + progress.iteration, coefficients)

    def write(self, iterations: int, coefficients: Array) -> None:
        content = {"problem": self.problem, "iterations": iterations}
        persistence.write(self.path, _KIND, _VERSION, content, {"coefficients": np.ascontiguousarray(coefficients)})
