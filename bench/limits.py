"""What this machine can do at most, and how near to it xent comes.

Memory limits how fast large arrays are read, copied and updated, arithmetic how fast exponentials are summed in cache.
Both are measured with the bare loops of loops.c, in turn with xent. Then the length of the rows varies, at the same
total size, with PyTorch beside xent where it is installed.

Usage:

    python bench/limits.py [--quick] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import argparse
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
import report
from cases import ARRAYS, DTYPES, Case, Floats, Labels, as_arrays, fault, make_inputs, reference
from harness import Candidate, Result, Spread, check_and_time, time_in_turn
from peers import thread_count, torch_eager, xent_itself

import xent

LEAST_BYTES = 256_000_000  # of an array that no cache holds
LONG, SHORT, ROWS_IN_CACHE = 32_000, 1024, 256  # rows out of cache and in cache
DISTINCT = 1 << 18  # logits drawn at random, at most; larger arrays repeat them
REPEATS = 20  # of a loop in cache, each call
LENGTHS = (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 32_000, 64_000, 128_256)
QUICK_LENGTHS = (10, 1000, 32_000)
SWEPT = ("loss", "loss+gradient", "softmax")


@dataclass(frozen=True)
class Loop:
    """A loop of loops.c, and the operations that it limits: those that only read, those that write to another array,
    those that write to the logits."""

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
    """Rows that repeat after the first `distinct` ones, so that checking an answer takes little memory."""

    logits: Floats
    labels: Labels
    distinct: int

    def expected(self, operation: str) -> tuple[Floats, ...]:
        """The answer, of arrays the part for the distinct rows."""
        answer = reference(operation, self.logits[: self.distinct], self.labels[: self.distinct])
        if operation != "loss+gradient":
            return answer
        loss, gradient = answer
        return loss, gradient * (self.distinct / len(self.logits))


@dataclass(frozen=True)
class Limit:
    """A loop where it is fastest, and how many elements a call of it goes through."""

    loop: Loop
    dtype: str
    threads: int
    elements: int
    seconds: Spread


@dataclass(frozen=True)
class Share:
    """An operation of xent, timed in turn with the loop that limits it."""

    case: Case
    limit: Limit
    result: Result

    @property
    def of_the_limit(self) -> Spread | None:
        """1 where the operation is as fast as the loop."""
        return self.result.ratio and inverse(self.result.ratio, elements(self.case) / self.limit.elements)


def inverse(spread: Spread, factor: float) -> Spread:
    return Spread(factor / spread.median, factor / spread.high, factor / spread.low)


def elements(case: Case) -> int:
    return case.shape[0] * case.shape[1]


def cache_bytes() -> int:
    """The size of the last caches of this process's CPUs, all together, where Linux says so; 0 elsewhere."""
    sizes = {}
    for cpu in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        for index in sorted(Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"))[-1:]:
            sizes[(index / "shared_cpu_list").read_text()] = int((index / "size").read_text().strip().rstrip("K"))
    return 1024 * sum(sizes.values())


def make_rows(total: int, classes: int, dtype: str) -> Inputs:
    """Rows with at least so many elements in all."""
    distinct = max(1, min(total, DISTINCT) // classes)
    times = -(-total // (distinct * classes))
    logits, labels = make_inputs((distinct, classes), dtype)
    repeated = loops.aligned((times * distinct, classes), dtype)
    repeated.reshape(times, distinct, classes)[:] = logits
    return Inputs(repeated, np.tile(labels, times), distinct)


def check(case: Case, inputs: Inputs, expected: tuple[Floats, ...], answer: Any) -> str | None:
    """What is wrong with the first or the last distinct rows of an answer. Loops, which return None, were checked when
    they were compiled."""
    if answer is None:
        return None
    for rows in (slice(inputs.distinct), slice(-inputs.distinct, None)):
        part = tuple(array[rows] if array.ndim else array for array in as_arrays(answer))
        if wrong := fault(case, part, expected):
            return wrong
    return None


def loop_calls(
    loop: Loop, libraries: Sequence[loops.Library], logits: Floats, team: loops.Team
) -> Iterator[Callable[[], None]]:
    """A call of every build of a loop, all with the same output."""
    dtype, threads = logits.dtype.name, team.threads
    shapes = {
        "read_all": (threads,),
        "exp_sum": (threads, len(logits), 2),
        "exp_sum_multiply": (threads, *logits.shape),
    }
    output = loops.aligned(shapes.get(loop.name, logits.shape), dtype)
    for library in libraries:
        if loop.in_cache:
            yield loops.over_rows(library, loop.name, logits, output, REPEATS, team)
        else:
            yield loops.over_memory(library, loop.name, logits, output, team)


def find_limit(
    loop: Loop, libraries: Sequence[loops.Library], logits: Floats, team: loops.Team, timing: dict[str, Any]
) -> tuple[Limit, Candidate]:
    """The build of a loop that is fastest."""
    candidates = [Candidate(loop.name, call) for call in loop_calls(loop, libraries, logits, team)]
    timed = zip(time_in_turn(candidates, **timing), candidates, strict=True)
    seconds, candidate = min(((r.seconds, c) for r, c in timed if r.seconds), key=lambda pair: pair[0].median)
    times = REPEATS * team.threads if loop.in_cache else 1
    return Limit(loop, logits.dtype.name, team.threads, times * logits.size, seconds), candidate


def overwriting(case: Case, logits: Floats, labels: Labels) -> Candidate:
    """The operation on a copy of the logits, which it replaces: after the first call by functions of themselves, on
    which the time does not depend."""
    x = logits.copy()
    calls: dict[str, Callable[[], Any]] = {
        "loss+gradient": lambda: xent.cross_entropy(x, labels, grad_out=x),
        "softmax": lambda: xent.softmax(x, out=x),
    }
    scope = partial(thread_count, xent.get_num_threads, xent.set_num_threads, case.threads)
    return Candidate("xent", calls[case.operation], scope)


def measure(
    dtype: str, threads: int, libraries: Sequence[loops.Library], total: int, timing: dict[str, Any]
) -> tuple[list[Limit], list[Share]]:
    """All limits, and the shares of them: of those in cache on one thread, where starting others is no part of it."""
    team = loops.Team(threads)
    far, near = make_rows(total, LONG, dtype), make_rows(ROWS_IN_CACHE * SHORT, SHORT, dtype)
    limits, shares = [], []
    for loop in LOOPS:
        inputs = near if loop.in_cache else far
        limit, candidate = find_limit(loop, libraries, inputs.logits, team, timing)
        limits.append(limit)
        prepare = overwriting if loop.in_place else xent_itself().prepare
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
    """xent and PyTorch by length of the rows, in float32, into given arrays."""
    peers = [xent_itself()] + ([torch_eager()] if importlib.util.find_spec("torch") else [])
    cells = []
    for length in report.progress(lengths, "lengths"):
        inputs = make_rows(total, length, "float32")
        for operation in SWEPT:
            expected = inputs.expected(operation)
            for threads in thread_counts:
                case = Case(operation, inputs.logits.shape, "float32", threads, operation in ARRAYS)
                candidates = [peer.prepare(case, inputs.logits, inputs.labels) for peer in peers]
                right = partial(check, case, inputs, expected)
                cells.append((case, check_and_time([c for c in candidates if c], right, **timing)))
    return cells


def rate(count: int, seconds: Spread | None) -> Spread | None:
    """Thousands of millions of elements a second, from their number."""
    return seconds and inverse(seconds, count / 1e9)


def shown(spread: Spread | None) -> str:
    return report.spread(spread) if spread else "WRONG"


def limits_table(limits: Sequence[Limit]) -> str:
    rows = [
        [
            limit.loop.title,
            "in cache" if limit.loop.in_cache else "out of cache",
            limit.dtype,
            str(limit.threads),
            shown(rate(limit.elements, limit.seconds)),
        ]
        for limit in limits
    ]
    return report.table(["loop", "where", "dtype", "threads", "G elements/s"], rows)


def shares_table(shares: Sequence[Share]) -> str:
    rows = [
        [
            case.operation + (" in place" if share.limit.loop.in_place else ""),
            case.dtype,
            f"({case.shape[0]}, {case.shape[1]})",
            str(case.threads),
            shown(rate(elements(case), share.result.seconds)),
            share.limit.loop.title,
            shown(share.of_the_limit),
        ]
        for share in shares
        for case in (share.case,)
    ]
    return report.table(["operation", "dtype", "shape", "threads", "G elements/s", "limit", "share of it"], rows)


def sweep_table(cells: Sequence[tuple[Case, list[Result]]]) -> str:
    """A row for each length, a column for each operation, library and number of threads."""
    columns = dict.fromkeys(
        (case.operation, result.name, case.threads) for case, results in cells for result in results
    )
    rates: dict[tuple[int, int], dict[tuple[str, str, int], str]] = {}
    for case, results in cells:
        row = rates.setdefault(case.shape, {})
        for result in results:
            speed = rate(elements(case), result.seconds)
            row[case.operation, result.name, case.threads] = report.number(speed.median) if speed else "WRONG"
    header = [f"{operation}, {name}, {threads}" for operation, name, threads in columns]
    return report.table(
        ["shape", *header], [[f"({s[0]}, {s[1]})", *(row[key] for key in columns)] for s, row in rates.items()]
    )


def record(
    limits: Sequence[Limit], shares: Sequence[Share], cells: Sequence[tuple[Case, list[Result]]]
) -> dict[str, Any]:
    """What JSON holds."""
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
    parser = argparse.ArgumentParser(description="Measure the limits of this machine, and xent against them.")
    parser.add_argument("--quick", action="store_true", help="float32 and all threads only, for less long")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    every = xent.get_num_threads()
    threads = options.threads or ([every] if options.quick else sorted({1, every}))
    dtypes = options.dtypes or (DTYPES[:1] if options.quick else DTYPES)
    timing = {"budget": 0.5, "least": 3} if options.quick else {"budget": 3.0, "least": 7}
    try:
        libraries = {dtype: loops.build(dtype, max(threads)) for dtype in dtypes}
    except (FileNotFoundError, RuntimeError) as error:
        print(f"No limits without the loops of loops.c: {error}", file=sys.stderr)
        return 2

    neighbours = report.Neighbours()
    total_bytes = max(LEAST_BYTES, 4 * cache_bytes())
    limits, shares = [], []
    for dtype, t in report.progress([(d, t) for d in dtypes for t in threads], "limits"):
        found = measure(dtype, t, libraries[dtype], total_bytes // np.dtype(dtype).itemsize, timing)
        limits += found[0]
        shares += found[1]
    cells = sweep(total_bytes // 4, QUICK_LENGTHS if options.quick else LENGTHS, threads, timing)

    environment = report.environment(neighbours)
    print(f"# Limits\n\n{report.describe(environment)}\n")
    print(f"Medians of the rounds (quartiles). Out of cache: arrays of {total_bytes / 1e6:.0f} MB, after an in-place")
    print("operation not refreshed. In cache: each thread has its own array.\n")
    print(limits_table(limits))
    print("\nxent with outputs that are given, and its share of the limit, 1 being as fast as the bare loop:\n")
    print(shares_table(shares))
    print("\nG elements/s by shape, float32, with outputs that are given: operation, library, threads.\n")
    print(sweep_table(cells))
    faults = [(share.case, share.result) for share in shares] + [
        (c, result) for c, results in cells for result in results
    ]
    for case, result in faults:
        if result.fault:
            print(f"\nWRONG: {result.name}, {case}: {result.fault}")
    found = record(limits, shares, cells)
    report.write_json(options.json, {"environment": environment, "bytes": total_bytes, **found})
    return int(any(result.fault and result.name == "xent" for _, result in faults))


if __name__ == "__main__":
    sys.exit(main())
