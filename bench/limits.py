"""The limits of this machine, and how close xent comes to them.

Memory limits how fast large arrays are read, copied and updated; arithmetic limits how fast exponentials in cache are
summed. The bare loops of loops.c measure both, in turn with xent. A sweep over row lengths at constant total size
follows, with PyTorch beside xent if it is installed.

Usage:

    python bench/limits.py [--quick] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import loops
import numpy as np
from harness import report
from harness.cases import ARRAYS, Case, Floats, Labels, as_arrays, compute_answer, find_fault, make_inputs
from harness.peers import make_torch, make_xent, use_threads
from harness.timing import Candidate, Result, Spread, check_and_time, time_in_turn

import xent

LEAST_BYTES = 256_000_000  # of an array that is larger than any cache
LONG, SHORT, ROWS_IN_CACHE = 32_000, 1024, 256  # row lengths out of cache and in cache; number of the latter
DISTINCT = 1 << 18  # random logits; larger arrays repeat them
REPEATS = 20  # per call of a loop in cache
LENGTHS = (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 32_000, 64_000, 128_256)
QUICK_LENGTHS = (10, 1000, 32_000)
SWEPT = ("loss", "loss+gradient", "softmax")


@dataclass(frozen=True)
class Loop:
    """A loop of loops.c, and the operations that cannot be faster than it."""

    name: str
    title: str
    operations: tuple[str, ...]
    in_cache: bool = False
    in_place: bool = False


LOOPS = (
    Loop("read_all", "read", ("loss", "logsumexp")),
    Loop("copy", "copy, ordinary stores", ()),
    Loop("copy_around", "copy, stores around the cache", ("loss+gradient", "softmax", "log_softmax")),
    Loop("update", "update in place", ("loss+gradient", "softmax"), in_place=True),
    Loop("exp_sum", "exp, sum", ("loss", "logsumexp"), in_cache=True),
    Loop("exp_sum_multiply", "exp, sum, multiply", ("loss+gradient", "softmax"), in_cache=True),
)


@dataclass(frozen=True)
class Inputs:
    """Logits that repeat after the first `distinct` rows, so that checking an answer takes little memory."""

    logits: Floats
    labels: Labels
    distinct: int

    def expected(self, operation: str) -> tuple[Floats, ...]:
        """The right answer: the loss of all rows, and arrays for the distinct rows."""
        answer = compute_answer(operation, self.logits[: self.distinct], self.labels[: self.distinct])
        if operation != "loss+gradient":
            return answer
        loss, gradient = answer
        return loss, gradient * (self.distinct / len(self.logits))


@dataclass(frozen=True)
class Limit:
    """The fastest build of a loop, and how many elements one call of it processes."""

    loop: Loop
    dtype: str
    threads: int
    elements: int
    seconds: Spread


@dataclass(frozen=True)
class Share:
    """An operation of xent that was timed in turn with the loop that limits it."""

    case: Case
    limit: Limit
    result: Result

    @property
    def of_the_limit(self) -> Spread | None:
        """Throughput relative to the loop's: 1 if the operation is as fast."""
        return self.result.ratio and invert(self.result.ratio, count_elements(self.case) / self.limit.elements)


def invert(spread: Spread, factor: float) -> Spread:
    return Spread(factor / spread.median, factor / spread.high, factor / spread.low)


def count_elements(case: Case) -> int:
    return case.shape[0] * case.shape[1]


def count_cache_bytes() -> int:
    """Total size of the last-level caches of this process's CPUs; 0 where Linux does not say."""
    sizes = {}
    for cpu in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        for index in sorted(Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"))[-1:]:
            sizes[(index / "shared_cpu_list").read_text()] = int((index / "size").read_text().strip().rstrip("K"))
    return 1024 * sum(sizes.values())


def make_rows(total: int, classes: int, dtype: str) -> Inputs:
    """Rows of `classes` logits, at least `total` elements altogether."""
    distinct = max(1, min(total, DISTINCT) // classes)
    times = -(-total // (distinct * classes))
    logits, labels = make_inputs((distinct, classes), dtype)
    repeated = loops.aligned((times * distinct, classes), dtype)
    repeated.reshape(times, distinct, classes)[:] = logits
    return Inputs(repeated, np.tile(labels, times), distinct)


def check(case: Case, inputs: Inputs, expected: tuple[Floats, ...], answer: Any) -> str | None:
    """What is wrong with the first or the last distinct rows of an answer. Loops return None; they were checked when
    they were compiled."""
    if answer is None:
        return None
    for rows in (slice(inputs.distinct), slice(-inputs.distinct, None)):
        part = tuple(array[rows] if array.ndim else array for array in as_arrays(answer))
        if wrong := find_fault(case, part, expected):
            return wrong
    return None


def make_loop_calls(
    loop: Loop, libraries: Sequence[loops.Library], logits: Floats, team: loops.Team
) -> Iterator[Callable[[], None]]:
    """One call for every build of a loop, all with the same output array."""
    dtype, threads = logits.dtype.name, team.threads
    shapes = {
        "read_all": (threads,),
        "exp_sum": (threads, len(logits), 2),
        "exp_sum_multiply": (threads, *logits.shape),
    }
    output = loops.aligned(shapes.get(loop.name, logits.shape), dtype)
    for library in libraries:
        if loop.in_cache:
            yield loops.bind_over_rows(library, loop.name, logits, output, REPEATS, team)
        else:
            yield loops.bind_over_memory(library, loop.name, logits, output, team)


def find_limit(
    loop: Loop, libraries: Sequence[loops.Library], logits: Floats, team: loops.Team, timing: dict[str, Any]
) -> tuple[Limit, Candidate]:
    """The fastest build of a loop, as a limit and to time in turn with xent."""
    candidates = [Candidate(loop.name, call) for call in make_loop_calls(loop, libraries, logits, team)]
    timed = zip(time_in_turn(candidates, **timing), candidates, strict=True)
    seconds, candidate = min(((r.seconds, c) for r, c in timed if r.seconds), key=lambda pair: pair[0].median)
    times = REPEATS * team.threads if loop.in_cache else 1
    return Limit(loop, logits.dtype.name, team.threads, times * logits.size, seconds), candidate


def prepare_in_place(case: Case, logits: Floats, labels: Labels) -> Candidate:
    """An operation that overwrites a copy of the logits. From the second call on it reads its own results, which does
    not change the time."""
    x = logits.copy()
    calls: dict[str, Callable[[], Any]] = {
        "loss+gradient": lambda: xent.cross_entropy(x, labels, grad_out=x),
        "softmax": lambda: xent.softmax(x, out=x),
    }
    scope = partial(use_threads, xent.get_num_threads, xent.set_num_threads, case.threads)
    return Candidate("xent", calls[case.operation], scope)


def measure(
    dtype: str, threads: int, libraries: Sequence[loops.Library], total: int, timing: dict[str, Any]
) -> tuple[list[Limit], list[Share]]:
    """All limits, and xent's shares of them. Shares of the limits in cache are for one thread: calls that short would
    otherwise measure how long threads take to start."""
    team = loops.Team(threads)
    far, near = make_rows(total, LONG, dtype), make_rows(ROWS_IN_CACHE * SHORT, SHORT, dtype)
    limits, shares = [], []
    for loop in LOOPS:
        inputs = near if loop.in_cache else far
        limit, candidate = find_limit(loop, libraries, inputs.logits, team, timing)
        limits.append(limit)
        prepare = prepare_in_place if loop.in_place else make_xent().prepare
        for operation in loop.operations if threads == 1 or not loop.in_cache else ():
            case = Case(operation, inputs.logits.shape, dtype, threads, operation in ARRAYS)
            own = prepare(case, inputs.logits, inputs.labels)
            assert own is not None
            right = partial(check, case, inputs, inputs.expected(operation))
            shares.append(Share(case, limit, check_and_time([candidate, own], right, **timing)[1]))
    return limits, shares


def sweep(
    total: int, lengths: Sequence[int], thread_counts: Sequence[int], timing: dict[str, Any]
) -> list[tuple[Case, list[Result]]]:
    """xent and PyTorch by row length, in float32, into given arrays."""
    peers = [make_xent()] + ([make_torch()] if importlib.util.find_spec("torch") else [])
    cells = []
    for length in report.show_progress(lengths, "lengths"):
        inputs = make_rows(total, length, "float32")
        for operation in SWEPT:
            expected = inputs.expected(operation)
            for threads in thread_counts:
                case = Case(operation, inputs.logits.shape, "float32", threads, operation in ARRAYS)
                candidates = [peer.prepare(case, inputs.logits, inputs.labels) for peer in peers]
                right = partial(check, case, inputs, expected)
                cells.append((case, check_and_time([c for c in candidates if c], right, **timing)))
    return cells


def compute_rate(count: int, seconds: Spread | None) -> Spread | None:
    """10⁹ elements per second."""
    return seconds and invert(seconds, count / 1e9)


def make_limits_table(limits: Sequence[Limit]) -> str:
    rows = [
        [
            limit.loop.title,
            "in cache" if limit.loop.in_cache else "out of cache",
            limit.dtype,
            str(limit.threads),
            report.format_spread(compute_rate(limit.elements, limit.seconds)),
        ]
        for limit in limits
    ]
    return report.format_table(["loop", "where", "dtype", "threads", "G elements/s"], rows)


def make_shares_table(shares: Sequence[Share]) -> str:
    rows = [
        [
            case.operation + (" in place" if share.limit.loop.in_place else ""),
            case.dtype,
            f"({case.shape[0]}, {case.shape[1]})",
            str(case.threads),
            report.format_spread(compute_rate(count_elements(case), share.result.seconds)),
            share.limit.loop.title,
            report.format_spread(share.of_the_limit),
        ]
        for share in shares
        for case in (share.case,)
    ]
    return report.format_table(["operation", "dtype", "shape", "threads", "G elements/s", "limit", "share of it"], rows)


def make_sweep_table(cells: Sequence[tuple[Case, list[Result]]]) -> str:
    """A row for each row length, a column for each operation, library and number of threads."""
    columns = dict.fromkeys(
        (case.operation, result.name, case.threads) for case, results in cells for result in results
    )
    rates: dict[tuple[int, int], dict[tuple[str, str, int], str]] = {}
    for case, results in cells:
        row = rates.setdefault(case.shape, {})
        for result in results:
            speed = compute_rate(count_elements(case), result.seconds)
            row[case.operation, result.name, case.threads] = report.format_number(speed.median) if speed else "WRONG"
    header = [f"{operation}, {name}, {threads}" for operation, name, threads in columns]
    return report.format_table(
        ["shape", *header], [[f"({s[0]}, {s[1]})", *(row[key] for key in columns)] for s, row in rates.items()]
    )


def record(
    limits: Sequence[Limit], shares: Sequence[Share], cells: Sequence[tuple[Case, list[Result]]]
) -> dict[str, Any]:
    """The numbers for JSON."""
    return {
        "limits": [
            {
                "loop": limit.loop.name,
                "in_cache": limit.loop.in_cache,
                "dtype": limit.dtype,
                "threads": limit.threads,
                "elements": limit.elements,
                "seconds": asdict(limit.seconds),
            }
            for limit in limits
        ],
        "shares": [
            {
                **asdict(share.case),
                "loop": share.limit.loop.name,
                "in_place": share.limit.loop.in_place,
                "results": report.record([share.result]),
                "share": share.of_the_limit and asdict(share.of_the_limit),
            }
            for share in shares
        ],
        "sweep": [{**asdict(case), "results": report.record(results)} for case, results in cells],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser(
        "Measure this machine's limits, and xent against them.", quick="float32 and all threads only, for less long"
    )
    options = report.parse(parser, arguments)
    timing = {"budget": 0.5, "least": 3} if options.quick else {"budget": 3.0, "least": 7}
    try:
        libraries = {dtype: loops.build(dtype, max(options.threads)) for dtype in options.dtypes}
    except (FileNotFoundError, RuntimeError) as error:
        print(f"No limits without the loops of loops.c: {error}", file=sys.stderr)
        return 2

    this = report.Report()
    total_bytes = max(LEAST_BYTES, 4 * count_cache_bytes())
    limits, shares = [], []
    for dtype, threads in report.show_progress([(d, t) for d in options.dtypes for t in options.threads], "limits"):
        found = measure(dtype, threads, libraries[dtype], total_bytes // np.dtype(dtype).itemsize, timing)
        limits += found[0]
        shares += found[1]
    cells = sweep(total_bytes // 4, QUICK_LENGTHS if options.quick else LENGTHS, options.threads, timing)

    this.print_head(
        "Limits",
        f"""Medians of the rounds (quartiles). Out of cache: arrays of {total_bytes / 1e6:.0f} MB; an operation in place
        starts from its own results. In cache: each thread has its own array.""",
    )
    print(make_limits_table(limits))
    print("\nxent into given arrays, and its throughput as a share of the limit (1: as fast as the bare loop):\n")
    print(make_shares_table(shares))
    print("\n10⁹ elements per second by shape, float32, into given arrays: operation, library, threads.\n")
    print(make_sweep_table(cells))
    results = [(share.case, share.result) for share in shares] + [(case, r) for case, results in cells for r in results]
    wrong = this.finish(options.json, results, bytes=total_bytes, **record(limits, shares, cells))
    return int("xent" in wrong)


if __name__ == "__main__":
    sys.exit(main())
