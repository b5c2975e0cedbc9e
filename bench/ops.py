"""How many times longer than xent every installed peer takes, by operation, dtype, shape, threads and output.

Usage:

    python bench/ops.py [--quick] [--ops ...] [--shapes 4096x1000 ...] [--dtypes ...] [--threads 1 2 ...]
                        [--outputs fresh given] [--json PATH]
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import geometric_mean
from typing import Any

from harness import report
from harness.cases import (
    OPERATIONS,
    SHAPES,
    Case,
    Floats,
    as_arrays,
    compute_answer,
    find_fault,
    make_cases,
    make_inputs,
)
from harness.peers import Peer, list_installed
from harness.timing import Result, check_and_time

OUTPUTS = {"fresh": False, "given": True}
QUICK_SHAPES = ((32, 10), (4096, 1000))

Cells = list[tuple[Case, list[Result]]]


def check(case: Case, expected: tuple[Floats, ...], answer: Any) -> str | None:
    return find_fault(case, as_arrays(answer), expected)


def measure(cases: Sequence[Case], peers: Sequence[Peer], budget: float) -> Cells:
    """Time every case, with every peer that has the operation."""
    cells: Cells = []
    for case in report.show_progress(cases, "operations"):
        logits, labels = make_inputs(case.shape, case.dtype)
        prepared = [peer.prepare(case, logits, labels) for peer in peers]
        candidates = [candidate for candidate in prepared if candidate is not None]
        expected = compute_answer(case.operation, logits, labels)
        cells.append((case, check_and_time(candidates, partial(check, case, expected), budget=budget)))
    return cells


def make_ratio_table(cells: Cells, names: Sequence[str]) -> str:
    """A row for each case: xent's time, and each peer's as a multiple of it."""
    rows = []
    for case, results in cells:
        by_name = {result.name: result for result in results}
        peers = [by_name.get(name) for name in names]
        own = report.format_seconds(results[0].seconds.median) if results[0].seconds else "WRONG"
        setting = [case.operation, case.dtype, f"({case.shape[0]}, {case.shape[1]})", str(case.threads), case.output]
        # A peer may lack the operation; or not be timed because xent's answer was wrong.
        ratios = ["" if r is None else report.format_spread(r.ratio) if r.ratio or r.fault else "-" for r in peers]
        rows.append([*setting, own, *ratios])
    return report.format_table(["operation", "dtype", "shape", "threads", "output", "xent", *names], rows)


def find_best_peer(results: Sequence[Result]) -> tuple[float, str] | None:
    """The smallest ratio of a cell, and the peer that has it."""
    return min(((r.ratio.median, r.name) for r in results[1:] if r.ratio), default=None)


def make_summary_table(cells: Cells, names: Sequence[str]) -> str:
    """For each operation, the geometric means of each peer's ratios and of the best peer's; and the worst cell."""
    rows = []
    for operation in dict.fromkeys(case.operation for case, _ in cells):
        same = [(case, results) for case, results in cells if case.operation == operation]
        ratios = [(r.name, r.ratio.median) for _, results in same for r in results if r.ratio]
        best = [(*peer, case) for case, results in same if (peer := find_best_peer(results))]
        columns = [[ratio for other, ratio in ratios if other == name] for name in names]
        columns.append([ratio for ratio, _, _ in best])
        worst = ""
        if best:
            ratio, name, case = min(best, key=lambda cell: cell[0])
            worst = f"{report.format_number(ratio)}: {name} at {str(case).removeprefix(operation).strip()}"
        rows.append([operation, *(report.format_number(geometric_mean(c)) if c else "" for c in columns), worst])
    return report.format_table(["geometric means", *names, "best peer of a cell", "worst cell"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time xent's operations and its peers' in turn.", quick="a few cells, in a minute")
    parser.add_argument("--ops", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxCLASSES")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=list(OUTPUTS), help="default: both")
    options = report.parse(parser, arguments)
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    given = [OUTPUTS[name] for name in options.outputs]
    cases = make_cases(options.ops, shapes, options.dtypes, options.threads, given)

    this, peers = report.Report(), list_installed(options.quick)
    cells = measure(cases, peers, budget=0.5 if options.quick else 3.0)
    cells.sort(key=lambda cell: OPERATIONS.index(cell[0].operation))

    this.print_head(
        "Operations",
        """Time of the peer / time of xent: median of the rounds (quartiles); above 1, xent is faster. Output: every
        call allocates the array that it returns (fresh), or writes to one that is given. The loss is the mean over the
        rows, the gradient that of the mean.""",
    )
    timed = {result.name for _, results in cells for result in results}
    names = [peer.name for peer in peers[1:] if peer.name in timed]
    print("\n".join(f"- {peer.name} {peer.version}: {peer.how}" for peer in peers))
    for peer in peers:
        for error, failed in peer.failures.items():
            print(f"\n{peer.name} is left out of {len(failed)} cases, the first {failed[0]}: {error}")
    print(f"\n{make_ratio_table(cells, names)}\n\n{make_summary_table(cells, names)}")
    wrong = this.finish(
        options.json,
        [(case, result) for case, results in cells for result in results],
        peers={peer.name: {"version": peer.version, "how": peer.how} for peer in peers},
        failures={p.name: {error: [*map(str, failed)] for error, failed in p.failures.items()} for p in peers},
        cells=[{**asdict(case), "results": report.record(results)} for case, results in cells],
    )
    return int("xent" in wrong)


if __name__ == "__main__":
    sys.exit(main())
