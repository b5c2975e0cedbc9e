"""What busy neighbours cost: loss and gradient with one thread and with all, beside processes that never pause.

A library whose threads wait for one another waits for the one that has lost its CPU to somebody else. The median does
not show that; the slowest calls do.

Usage:

    python bench/contention.py [--quick] [--neighbours N] [--calls N] [--json PATH]
"""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from time import sleep

import numpy as np
import report
from cases import Case, make_inputs, reference
from harness import Candidate, no_collection, sample
from ops import check
from peers import torch_eager

import xent

SHAPE = (1024, 1000)
PERCENTILES = (50, 90, 99)
WARM_UP = 20    # calls


@dataclass(frozen=True)
class Row:
    """Percentiles of the seconds a call, and how many times those with one thread."""

    neighbours: int
    library: str
    threads: int
    seconds: list[float]
    ratios: list[float]


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Processes that do nothing, without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        sleep(0.5)      # until they have started
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def contenders(threads: Sequence[int]) -> list[list[tuple[Case, Candidate]]]:
    """For each library, a candidate for each number of threads. xent fills a given array; PyTorch allocates its own."""
    logits, labels = make_inputs(SHAPE, "float32")
    grad = np.empty_like(logits)
    cases = [Case("loss+gradient", SHAPE, "float32", number) for number in threads]
    call = partial(xent.cross_entropy, logits, labels, grad_out=grad)
    libraries = [[(case, Candidate("xent", partial(call, n_threads=case.threads))) for case in cases]]
    if importlib.util.find_spec("torch") is not None:
        prepared = [(case, torch_eager().prepare(case, logits, labels)) for case in cases]
        libraries.append([(case, candidate) for case, candidate in prepared if candidate is not None])
    return libraries


def faults(libraries: Sequence[Sequence[tuple[Case, Candidate]]]) -> list[str]:
    """Wrong answers."""
    expected = reference("loss+gradient", *make_inputs(SHAPE, "float32"))
    found = []
    for case, candidate in (pair for library in libraries for pair in library):
        with candidate.scope():
            fault = check(case, expected, candidate.call())
        if fault:
            found.append(f"{candidate.name}, {case}: {fault}")
    return found


def time_calls(candidates: Sequence[Candidate], calls: int) -> list[list[float]]:
    """The seconds of so many calls of each candidate: call by call in turn."""
    seconds: list[list[float]] = [[] for _ in candidates]
    with no_collection():
        for _ in report.progress(range(WARM_UP + calls), "contention"):
            for candidate, values in zip(candidates, seconds, strict=True):
                values.append(sample(candidate, 1, warm_up_seconds=0))
    return [values[WARM_UP:] for values in seconds]


def measure(libraries: Sequence[Sequence[tuple[Case, Candidate]]], neighbours: int, calls: int) -> list[Row]:
    rows = []
    with busy_processes(neighbours):
        for library in libraries:
            serial: list[float] = []
            timed = time_calls([candidate for _, candidate in library], calls)
            for (case, candidate), values in zip(library, timed, strict=True):
                cuts = quantiles(values, n=100, method="inclusive")
                seconds = [cuts[percentile - 1] for percentile in PERCENTILES]
                serial = serial or seconds
                ratios = [value / base for value, base in zip(seconds, serial, strict=True)]
                rows.append(Row(neighbours, candidate.name, case.threads, seconds, ratios))
    return rows


def cells(row: Row) -> list[str]:
    times = [f"{report.duration(s)} ({report.number(r)})" for s, r in zip(row.seconds, row.ratios, strict=True)]
    return [str(row.neighbours), row.library, str(row.threads), *times]


def main(arguments: Sequence[str] | None = None) -> int:
    every = xent.get_num_threads()
    parser = argparse.ArgumentParser(description="Time calls with one thread and with all, beside busy processes.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--neighbours", type=int, default=every, metavar="N", help="default: one for each CPU")
    parser.add_argument("--calls", type=int, metavar="N", help="default: 3000, or 300 if quick")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    calls = options.calls or (300 if options.quick else 3000)

    libraries = contenders(sorted({1, every}))
    wrong = faults(libraries)
    for fault in wrong:
        print(f"WRONG: {fault}")
    if wrong:
        return 1
    others = report.Neighbours()
    rows = measure(libraries, 0, calls)
    environment = report.environment(others)    # before the neighbours, which it would count, too
    if options.neighbours:
        rows += measure(libraries, options.neighbours, calls)

    print(f"# Busy neighbours\n\n{report.describe(environment)}\n")
    print(f"Loss and gradient at {SHAPE[0]} x {SHAPE[1]}, float32: percentiles of {calls} calls with each number of")
    print("threads in turn, and in parentheses how many times those with one thread.\n")
    header = ["neighbours", "library", "threads", *("median" if p == 50 else f"{p}th percentile" for p in PERCENTILES)]
    print(report.table(header, [cells(row) for row in rows]))
    found = {"shape": SHAPE, "calls": calls, "percentiles": PERCENTILES, "rows": [asdict(row) for row in rows]}
    report.write_json(options.json, {"environment": environment, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
