"""The cost of competing processes: loss and gradient with one thread and with all, beside processes that never pause.

If threads wait for each other, all wait for the one that another process has preempted. The slowest calls show that;
the median does not.

Usage:

    python bench/contention.py [--quick] [--neighbours N] [--calls N] [--json PATH]
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import quantiles
from time import sleep

import numpy as np
from harness import report
from harness.cases import Case, compute_answer, make_inputs
from harness.peers import make_torch
from harness.timing import Candidate, sample, without_garbage_collection
from ops import check

import xent

SHAPE = (1024, 1000)
PERCENTILES = (50, 90, 99)
WARM_UP = 20    # calls


@dataclass(frozen=True)
class Row:
    """Percentiles of the seconds per call, and their ratios to those with one thread."""

    neighbours: int
    library: str
    threads: int
    seconds: list[float]
    ratios: list[float]


@contextmanager
def run_busy_processes(number: int) -> Iterator[None]:
    """Keep `number` CPUs busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        sleep(0.5)      # until they have started
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def make_candidates(threads: Sequence[int]) -> list[list[tuple[Case, Candidate]]]:
    """For each library, a candidate per number of threads. xent writes to a given array; PyTorch allocates its own."""
    logits, labels = make_inputs(SHAPE, "float32")
    grad = np.empty_like(logits)
    cases = [Case("loss+gradient", SHAPE, "float32", number) for number in threads]
    call = partial(xent.cross_entropy, logits, labels, grad_out=grad)
    libraries = [[(case, Candidate("xent", partial(call, n_threads=case.threads))) for case in cases]]
    if importlib.util.find_spec("torch") is not None:
        prepared = [(case, make_torch().prepare(case, logits, labels)) for case in cases]
        libraries.append([(case, candidate) for case, candidate in prepared if candidate is not None])
    return libraries


def find_faults(libraries: Sequence[Sequence[tuple[Case, Candidate]]]) -> list[str]:
    """Descriptions of the answers that are wrong."""
    expected = compute_answer("loss+gradient", *make_inputs(SHAPE, "float32"))
    found = []
    for case, candidate in (pair for library in libraries for pair in library):
        with candidate.scope():
            fault = check(case, expected, candidate.call())
        if fault:
            found.append(f"{candidate.name}, {case}: {fault}")
    return found


def time_calls(candidates: Sequence[Candidate], calls: int) -> list[list[float]]:
    """Seconds of each call; the candidates take turns, call by call."""
    seconds: list[list[float]] = [[] for _ in candidates]
    with without_garbage_collection():
        for _ in report.show_progress(range(WARM_UP + calls), "contention"):
            for candidate, values in zip(candidates, seconds, strict=True):
                values.append(sample(candidate, 1, warm_up_seconds=0))
    return [values[WARM_UP:] for values in seconds]


def measure(libraries: Sequence[Sequence[tuple[Case, Candidate]]], neighbours: int, calls: int) -> list[Row]:
    rows = []
    with run_busy_processes(neighbours):
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


def format_row(row: Row) -> list[str]:
    pairs = zip(row.seconds, row.ratios, strict=True)
    times = [f"{report.format_seconds(seconds)} ({report.format_number(ratio)})" for seconds, ratio in pairs]
    return [str(row.neighbours), row.library, str(row.threads), *times]


def main(arguments: Sequence[str] | None = None) -> int:
    all_threads = xent.get_num_threads()
    description = "Time calls with one thread and with all, beside busy processes."
    parser = report.make_parser(description, quick="a tenth of the calls", grid=False)
    parser.add_argument("--neighbours", type=int, default=all_threads, metavar="N", help="default: one for each CPU")
    parser.add_argument("--calls", type=int, metavar="N", help="default: 3000, or 300 if quick")
    options = parser.parse_args(arguments)
    calls = options.calls or (300 if options.quick else 3000)

    libraries = make_candidates(sorted({1, all_threads}))
    if wrong := find_faults(libraries):
        print(*(f"WRONG: {fault}" for fault in wrong), sep="\n")
        return 1
    this = report.Report()
    rows = measure(libraries, 0, calls)
    this.print_head(        # before the busy processes start, or it would count them
        "Busy neighbours",
        f"""Loss and gradient at {SHAPE[0]} x {SHAPE[1]}, float32: percentiles of {calls} calls with each number of
        threads in turn, and in parentheses their ratio to those with one thread.""",
    )
    if options.neighbours:
        rows += measure(libraries, options.neighbours, calls)
    header = ["neighbours", "library", "threads", *("median" if p == 50 else f"{p}th percentile" for p in PERCENTILES)]
    print(report.format_table(header, [format_row(row) for row in rows]))
    found = {"shape": SHAPE, "calls": calls, "percentiles": PERCENTILES, "rows": [asdict(row) for row in rows]}
    this.finish(options.json, [], **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
