"""What a fit records while it runs."""

import numpy as np
import pytest

from xent._estimator.progress import Recorder
from xent._fit.solver import CONVERGED, INTERRUPTED, Progress, Result

LOSSES = [3.0, 1.0, 2.0]


def solve(recorder, interrupted_after):
    """A solver whose loss goes up in the end."""
    for i, loss in enumerate(LOSSES):
        if i == interrupted_after:
            raise KeyboardInterrupt
        recorder.record(Progress(i, loss, 10 * loss), np.array([loss]))
    return Result(np.array([2.0]), 2.0, 20.0, 2, CONVERGED)


def test_a_result_that_is_not_interrupted_is_the_solvers():
    seen, kept = [], []
    recorder = Recorder(seen.append, lambda progress, x: kept.append(x[0]))
    result, interrupt = recorder.run(lambda: solve(recorder, None))
    assert interrupt is None
    assert (result.loss, result.reason) == (2.0, CONVERGED)
    assert [progress.loss for progress in seen] == LOSSES
    assert kept == [3.0, 1.0, 1.0]


@pytest.mark.parametrize(("after", "best"), [(1, 3.0), (2, 1.0)])
def test_an_interrupt_returns_the_best_point(after, best):
    recorder = Recorder()
    result, interrupt = recorder.run(lambda: solve(recorder, after))
    assert isinstance(interrupt, KeyboardInterrupt)
    assert (result.x[0], result.loss, result.grad_norm) == (best, best, 10 * best)
    assert (result.iterations, result.reason) == (after - 1, INTERRUPTED)


def test_an_interrupt_before_the_first_point_is_raised():
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        recorder.run(lambda: solve(recorder, 0))
