"""How many times longer than xent every installed peer takes, by operation, dtype, shape, threads and output.

Usage:

    python bench/ops.py [--quick] [--ops ...] [--shapes 4096x1000 4096x1000::2 16x19x256x256 ...] [--dtypes ...]
                        [--threads 1 2 ...] [--outputs fresh given] [--json PATH]

4096x1000::2 is every second column of 4096x1000. The classes are on axis 1 of all shapes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import geometric_mean
from typing import Any

from harness import report
from harness.cases import (
    LAYOUTS,
    OPERATIONS,
    Case,
    Floats,
    Layout,
    as_arrays,
    compute_answer,
    find_fault,
    make_cases,
    make_inputs,
)
from harness.peers import Peer, list_installed
from harness.timing import Result, Spread, check_and_time

OUTPUTS = {"fresh": False, "given": True}
QUICK_LAYOUTS = (Layout((32, 10)), Layout((4096, 1000)))
SETTING = ("operation", "dtype", "shape", "threads", "output")

Cells = list[tuple[Case, list[Result]]]
Best = tuple[Case, str, Spread]     # a cell, its best peer, and the ratio of that


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose the cases."""
    parser.add_argument("--ops", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    text = "4096x1000, every second column of it as 4096x1000::2, or 16x19x256x256; the classes are on axis 1"
    parser.add_argument("--shapes", nargs="+", type=report.parse_layout, metavar="SHAPE", help=text)
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=list(OUTPUTS), help="default: both")


def choose_cases(options: argparse.Namespace) -> list[Case]:
    layouts = options.shapes or (QUICK_LAYOUTS if options.quick else LAYOUTS)
    given = [OUTPUTS[name] for name in options.outputs]
    return make_cases(options.ops, layouts, options.dtypes, options.threads, given)


def check(case: Case, expected: tuple[Floats, ...], answer: Any) -> str | None:
    return find_fault(case, as_arrays(answer), expected)


def measure(cases: Sequence[Case], peers: Sequence[Peer], **timing: Any) -> Cells:
    """Time every case, with every peer that has the operation."""
    cells: Cells = []
    for case in report.show_progress(cases, "operations"):
        logits, labels = make_inputs(case.shape, case.dtype, case.step)
        prepared = [peer.prepare(case, logits, labels) for peer in peers]
        candidates = [candidate for candidate in prepared if candidate is not None]
        expected = compute_answer(case.operation, logits, labels)
        cells.append((case, check_and_time(candidates, partial(check, case, expected), **timing)))
    return sorted(cells, key=lambda cell: OPERATIONS.index(cell[0].operation))


def describe(case: Case) -> list[str]:
    """What a case has in the columns SETTING."""
    return [case.operation, case.dtype, str(case.layout), str(case.threads), case.output]


def make_ratio_table(cells: Cells, names: Sequence[str]) -> str:
    """A row for each case: xent's time, and each peer's as a multiple of it."""
    rows = []
    for case, results in cells:
        by_name = {result.name: result for result in results}
        peers = [by_name.get(name) for name in names]
        own = report.format_seconds(results[0].seconds.median) if results[0].seconds else "WRONG"
        # A peer may lack the operation; or not be timed because xent's answer was wrong.
        ratios = ["" if r is None else report.format_spread(r.ratio) if r.ratio or r.fault else "-" for r in peers]
        rows.append([*describe(case), own, *ratios])
    return report.format_table([*SETTING, "xent", *names], rows)


def find_best_peers(cells: Cells) -> list[Best]:
    """The best peer of each cell in which any was timed: the one with the smallest ratio."""
    best = []
    for case, results in cells:
        ratios = [(result.name, result.ratio) for result in results[1:] if result.ratio]
        if ratios:
            best.append((case, *min(ratios, key=lambda pair: pair[1].median)))
    return best


def find_faster_peers(cells: Cells) -> list[Best]:
    """The best peers that take less time than xent."""
    return [(case, name, ratio) for case, name, ratio in find_best_peers(cells) if ratio.median < 1]


def make_faster_table(faster: Sequence[Best]) -> str:
    if not faster:
        return "No peer is faster than xent in any cell."
    rows = [[*describe(case), name, report.format_spread(ratio)] for case, name, ratio in faster]
    table = report.format_table([*SETTING, "best peer", "ratio"], rows)
    return f"A peer is faster than xent in these cells:\n\n{table}"


def make_summary_table(cells: Cells, names: Sequence[str]) -> str:
    """For each operation, the geometric means of each peer's ratios and of the best peer's; and the worst cell."""
    rows = []
    for operation in dict.fromkeys(case.operation for case, _ in cells):
        same = [(case, results) for case, results in cells if case.operation == operation]
        ratios = [(r.name, r.ratio.median) for _, results in same for r in results if r.ratio]
        best = [(ratio.median, name, case) for case, name, ratio in find_best_peers(same)]
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
    add_options(parser)
    options = report.parse(parser, arguments)
    cases = choose_cases(options)

    this, peers = report.Report(), list_installed(options.quick)
    cells = measure(cases, peers, budget=0.5 if options.quick else 3.0)
    faster = find_faster_peers(cells)

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
    print(f"\n{make_ratio_table(cells, names)}\n\n{make_summary_table(cells, names)}\n\n{make_faster_table(faster)}")
    wrong = this.finish(
        options.json,
        [(case, result) for case, results in cells for result in results],
        peers={peer.name: {"version": peer.version, "how": peer.how} for peer in peers},
        failures={p.name: {error: [*map(str, failed)] for error, failed in p.failures.items()} for p in peers},
        cells=[{**asdict(case), "results": report.record(results)} for case, results in cells],
        faster=[{**asdict(case), "peer": name, "ratio": asdict(ratio)} for case, name, ratio in faster],
    )
    return int("xent" in wrong)


if __name__ == "__main__":
    sys.exit(main())
