"""Operations by dtypes by shapes by threads: how many times longer every installed peer takes than xent.

Usage:

    python bench/ops.py [--quick] [--ops ...] [--shapes 4096x1000 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import report
from cases import DTYPES, OPERATIONS, SHAPES, Case, Floats, fault, make_inputs, reference
from harness import Result, check_and_time
from peers import Peer, installed

import xent

QUICK_SHAPES = ((32, 10), (4096, 1000))

Cells = list[tuple[Case, list[Result]]]


def as_arrays(answer: Any) -> tuple[Any, ...]:
    """What a peer returned, as a tuple of NumPy arrays."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return tuple(np.asarray(part.detach() if hasattr(part, "detach") else part) for part in parts)


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
                report.duration(own.median) if own else "WRONG",
                *ratios,
            ]
        )
    return report.table(["operation", "dtype", "shape", "threads", "xent", *names], rows)


def summary_table(cells: Cells, names: Sequence[str]) -> str:
    """Geometric means of the ratios by operation, and the worst cell against the best peer in it."""
    rows = []
    for operation in dict.fromkeys(case.operation for case, _ in cells):
        same = [results[1:] for case, results in cells if case.operation == operation]
        chosen = [{r.name: r.ratio.median for r in results if r.ratio} for results in same]
        best = [min(ratios.values()) for ratios in chosen if ratios]
        columns = [[ratios[name] for ratios in chosen if name in ratios] for name in names]
        rows.append(
            [
                operation,
                *(report.number(geometric_mean(column)) if column else "" for column in (*columns, best)),
                report.number(min(best)) if best else "",
            ]
        )
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
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    every = xent.get_num_threads()
    threads = options.threads or ([every] if options.quick else sorted({1, every}))
    dtypes = options.dtypes or (DTYPES[:1] if options.quick else DTYPES)
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    # Threads change slowest: JAX starts anew for each count.
    cases = [Case(o, s, d, t) for t in threads for d in dtypes for s in shapes for o in options.ops]

    neighbours, peers = report.Neighbours(), installed()
    cells = measure(cases, peers, budget=1.0 if options.quick else 3.0)
    cells.sort(key=lambda cell: OPERATIONS.index(cell[0].operation))

    environment = report.environment(neighbours)
    names = [peer.name for peer in peers[1:]]
    print(f"# Operations\n\n{report.describe(environment)}\n")
    print("Peer's time / xent's: median of the rounds (quartiles); above 1, xent is faster. Every call allocates its")
    print("output; the loss is the mean, the gradient that of the mean.\n")
    print("\n".join(f"- {peer.name} {peer.version}: {peer.how}" for peer in peers))
    print(f"\n{ratio_table(cells, names)}\n\n{summary_table(cells, names)}")
    faults = [(case, result) for case, results in cells for result in results if result.fault]
    for case, result in faults:
        print(f"\nWRONG: {result.name}, {case}: {result.fault}")
    report.write_json(
        options.json,
        {
            "environment": environment,
            "allocation": "every call allocates its output",
            "peers": {peer.name: {"version": peer.version, "how": peer.how} for peer in peers},
            "cells": [{**asdict(case), "results": report.record(results)} for case, results in cells],
        },
    )
    return int(any(result.name == "xent" for _, result in faults))


if __name__ == "__main__":
    sys.exit(main())
