"""Time callables in turn (A B C, B C A, C A B, ...) in one process, after checking their answers.

Other processes, the clock rate and page caches change over seconds. So a ratio is formed within each round, from
samples taken milliseconds apart, and only the ratios are summarised, by their median and quartiles.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter, process_time, sleep
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A callable to time. `scope` is entered around each sample, before the clock starts: thread counts, modes."""

    name: str
    call: Callable[[], Any]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Result:
    """Seconds per call, and their ratio to the first candidate's; or what was wrong with the answer, and no times."""

    name: str
    seconds: Spread | None = None
    ratio: Spread | None = None
    fault: str | None = None


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector from running within a sample."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle(seconds: float, most: float = 0.2) -> None:
    """Sleep until this process is idle: worker threads of other libraries spin after their last call (OpenMP's for a
    few milliseconds, onnxruntime's for fifty), on a core that the next candidate needs."""
    end = perf_counter() + most
    while perf_counter() < end:
        before = process_time()
        sleep(seconds)
        if process_time() - before < seconds / 10:
            return


WARM_UP_SECONDS = 0.02  # a core that has slept may start at half its clock rate, and takes some 15 ms to raise it


def warm_up(call: Callable[[], Any], seconds: float = WARM_UP_SECONDS) -> None:
    """Call until the clock rate is up and the caches hold this candidate's data again."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        call()


def sample(candidate: Candidate, loops: int, warm_up_seconds: float = WARM_UP_SECONDS) -> float:
    """Seconds per call, over `loops` calls, after a warm-up."""
    call = candidate.call
    with candidate.scope():
        warm_up(call, warm_up_seconds)
        start = perf_counter()
        for _ in range(loops):
            call()
        return (perf_counter() - start) / loops


def calibrate(candidate: Candidate, seconds: float, warm_up_seconds: float = WARM_UP_SECONDS) -> int:
    """The number of calls that take about `seconds`."""
    loops, elapsed = 1, sample(candidate, 1, warm_up_seconds)
    if elapsed > 10 * seconds:
        return 1
    while elapsed < seconds / 4:
        loops *= 4
        # One interruption must not decide.
        elapsed = loops * min(sample(candidate, loops, warm_up_seconds) for _ in range(3))
    return max(1, round(loops * seconds / elapsed))


def time_in_turn(
    candidates: Sequence[Candidate],
    *,
    budget: float = 3.0,
    sample_seconds: float = 0.01,
    settle_seconds: float = 0.004,
    warm_up_seconds: float = WARM_UP_SECONDS,
    least: int = 7,
    most: int = 61,
) -> list[Result]:
    """Time candidates against the first one, for about `budget` seconds, in `least` to `most` rounds. Without a time to
    settle, nothing sleeps between samples."""
    with without_garbage_collection():
        loops = [calibrate(candidate, sample_seconds, warm_up_seconds) for candidate in candidates]
        start = perf_counter()
        rounds: list[list[float]] = []
        while len(rounds) < most and (len(rounds) < least or perf_counter() - start < budget):
            seconds = [0.0] * len(candidates)
            for i in range(len(candidates)):
                k = (i + len(rounds)) % len(candidates)
                if settle_seconds:
                    settle(settle_seconds)
                seconds[k] = sample(candidates[k], loops[k], warm_up_seconds)
            rounds.append(seconds)
    return [
        Result(candidate.name, Spread.of([r[i] for r in rounds]), Spread.of([r[i] / r[0] for r in rounds]))
        for i, candidate in enumerate(candidates)
    ]


def check_and_time(candidates: Sequence[Candidate], check: Callable[[Any], str | None], **timing: Any) -> list[Result]:
    """Check every candidate's answer, then time the right ones. If the first is wrong, nothing is timed."""
    faults = []
    for candidate in candidates:
        with candidate.scope():
            faults.append(check(candidate.call()))
    right = [] if faults[0] else [c for c, fault in zip(candidates, faults, strict=True) if not fault]
    timed = {result.name: result for result in time_in_turn(right, **timing)} if right else {}
    return [
        timed.get(candidate.name, Result(candidate.name, fault=fault))
        for candidate, fault in zip(candidates, faults, strict=True)
    ]
