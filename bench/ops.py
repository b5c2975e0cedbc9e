"""Operations by dtypes by shapes by threads: how many times longer every installed peer takes than xent.

Usage:

    python bench/ops.py [--quick] [--ops ...] [--shapes 4096x1000 ...] [--dtypes ...] [--threads 1 2 ...]
                        [--outputs fresh given] [--json PATH]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import report
from cases import DTYPES, OPERATIONS, SHAPES, Case, Floats, as_arrays, fault, make_cases, make_inputs, reference
from harness import Result, check_and_time
from peers import Peer, installed

import xent

OUTPUTS = {"fresh": False, "given": True}
QUICK_SHAPES = ((32, 10), (4096, 1000))

Cells = list[tuple[Case, list[Result]]]


def check(case: Case, expected: tuple[Floats, ...], answer: Any) -> str | None:
    return fault(case, as_arrays(answer), expected)


def measure(cases: Sequence[Case], peers: Sequence[Peer], budget: float) -> Cells:
    """Time every case with every peer that has the operation."""
    cells: Cells = []
    for case in report.progress(cases, "operations"):
        logits, labels = make_inputs(case.shape, case.dtype)
        prepared = [peer.prepare(case, logits, labels) for peer in peers]
        candidates = [candidate for candidate in prepared if candidate is not None]
        expected = reference(case.operation, logits, labels)
        cells.append((case, check_and_time(candidates, partial(check, case, expected), budget=budget)))
    return cells


def ratio_table(cells: Cells, names: Sequence[str]) -> str:
    """A row a case: xent's time, and each peer's as a multiple of it."""
    rows = []
    for case, results in cells:
        by_name = {result.name: result for result in results}
        shown = [by_name.get(name) for name in names]
        ratios = [
            "" if r is None else "WRONG" if r.fault else report.spread(r.ratio) if r.ratio else "-" for r in shown
        ]
        own = results[0].seconds
        rows.append(
            [
                case.operation,
                case.dtype,
                f"({case.shape[0]}, {case.shape[1]})",
                str(case.threads),
                case.output,
                report.duration(own.median) if own else "WRONG",
                *ratios,
            ]
        )
    return report.table(["operation", "dtype", "shape", "threads", "output", "xent", *names], rows)


def best_peer(results: Sequence[Result]) -> tuple[float, str] | None:
    """The least ratio of a cell, whose peers all had the same threads and outputs, and whose it is."""
    return min(((r.ratio.median, r.name) for r in results[1:] if r.ratio), default=None)


def summary_table(cells: Cells, names: Sequence[str]) -> str:
    """Geometric means of the ratios by operation, of each peer and of the best one in each cell; and the worst cell."""
    rows = []
    for operation in dict.fromkeys(case.operation for case, _ in cells):
        same = [(case, results) for case, results in cells if case.operation == operation]
        ratios = [(r.name, r.ratio.median) for _, results in same for r in results if r.ratio]
        best = [(*peer, case) for case, results in same if (peer := best_peer(results))]
        columns = [[ratio for other, ratio in ratios if other == name] for name in names]
        columns.append([ratio for ratio, _, _ in best])
        worst = ""
        if best:
            ratio, name, case = min(best, key=lambda cell: cell[0])
            worst = f"{report.number(ratio)}: {name} at {str(case).removeprefix(operation).strip()}"
        rows.append([operation, *(report.number(geometric_mean(c)) if c else "" for c in columns), worst])
    return report.table(["geometric means", *names, "best peer a cell", "worst cell"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def shape(text: str) -> tuple[int, int]:
        rows, classes = text.split("x")
        return int(rows), int(classes)

    parser = argparse.ArgumentParser(description="Time xent's operations and its peers' in turn.")
    parser.add_argument("--quick", action="store_true", help="a few cells, in under a minute")
    parser.add_argument("--ops", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--shapes", nargs="+", type=shape, metavar="ROWSxCLASSES")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=list(OUTPUTS), help="default: both")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    every = xent.get_num_threads()
    threads = options.threads or ([every] if options.quick else sorted({1, every}))
    dtypes = options.dtypes or (DTYPES[:1] if options.quick else DTYPES)
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    cases = make_cases(options.ops, shapes, dtypes, threads, [OUTPUTS[name] for name in options.outputs])

    neighbours, peers = report.Neighbours(), installed(options.quick)
    cells = measure(cases, peers, budget=0.5 if options.quick else 3.0)
    cells.sort(key=lambda cell: OPERATIONS.index(cell[0].operation))

    environment = report.environment(neighbours)
    timed = {result.name for _, results in cells for result in results}
    names = [peer.name for peer in peers[1:] if peer.name in timed]
    print(f"# Operations\n\n{report.describe(environment)}\n")
    print(
        "Peer's time / xent's: median of the rounds (quartiles); above 1, xent is faster. Output: every call allocates"
    )
    print(
        "the array that it returns (fresh), or writes to one that is given. The loss is the mean, the gradient that of"
    )
    print("the mean.\n")
    print("\n".join(f"- {peer.name} {peer.version}: {peer.how}" for peer in peers))
    for peer in peers:
        for error, failed in peer.failures.items():
            print(f"\n{peer.name} is left out of {len(failed)} cases, the first {failed[0]}: {error}")
    print(f"\n{ratio_table(cells, names)}\n\n{summary_table(cells, names)}")
    faults = [(case, result) for case, results in cells for result in results if result.fault]
    for case, result in faults:
        print(f"\nWRONG: {result.name}, {case}: {result.fault}")
    report.write_json(
        options.json,
        {
            "environment": environment,
            "peers": {peer.name: {"version": peer.version, "how": peer.how} for peer in peers},
            "failures": {
                peer.name: {e: [str(c) for c in failed] for e, failed in peer.failures.items()} for peer in peers
            },
            "cells": [{**asdict(case), "results": report.record(results)} for case, results in cells],
        },
    )
    return int(any(result.name == "xent" for _, result in faults))


if __name__ == "__main__":
    sys.exit(main())
