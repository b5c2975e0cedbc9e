"""Shared by all scripts: options, progress, a description of the machine, tables and JSON."""

import argparse
import importlib.util
import json
import os
import platform
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

import xent
from harness.cases import DTYPES, Layout
from harness.timing import Result, Spread

T = TypeVar("T")


# --- options ---------------------------------------------------------------------------------------------------------


def make_parser(description: str, *, quick: str, grid: bool = True) -> argparse.ArgumentParser:
    """The options of every script: --quick and --json, and of those that measure a `grid`, --dtypes and --threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    if grid:
        parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: both; float32 if quick")
        parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all; all if quick")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options given, with the defaults of a grid."""
    options = parser.parse_args(arguments)
    all_threads = xent.get_num_threads()
    if getattr(options, "threads", 0) is None:
        options.threads = [all_threads] if options.quick else sorted({1, all_threads})
    if getattr(options, "dtypes", 0) is None:
        options.dtypes = DTYPES[:1] if options.quick else DTYPES
    return options


def parse_shape(text: str) -> tuple[int, ...]:
    """(4096, 1000) from 4096x1000."""
    return tuple(map(int, text.split("x")))


def parse_layout(text: str) -> Layout:
    """Layout((4096, 1000), step=2) from 4096x1000::2."""
    shape, _, step = text.partition("::")
    return Layout(parse_shape(shape), int(step or 1))


def show_progress(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, behind a progress bar where tqdm is installed and the output is a terminal."""
    if importlib.util.find_spec("tqdm") is None:
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=label, leave=False, disable=None)
    return bar


# --- text ------------------------------------------------------------------------------------------------------------


def format_number(value: float) -> str:
    """Two decimals below 10, one below 100, none above."""
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def format_seconds(seconds: float) -> str:
    """In s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{format_number(seconds / size)} {unit}"
    return f"{format_number(seconds / 1e-6)} µs"


def format_spread(value: Spread | None) -> str:
    """A median and its quartiles; WRONG for a wrong answer, which was not timed."""
    if value is None:
        return "WRONG"
    return f"{format_number(value.median)} ({format_number(value.low)}-{format_number(value.high)})"


def format_threads(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


# --- the report ------------------------------------------------------------------------------------------------------


def count_cpu_seconds_of_others() -> float:
    """CPU seconds that other processes have used since the machine started, where Linux says so."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return nan
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


class Report:
    """Make it before the measurements: it says how many cores other processes kept busy during them. Anything much
    above 0 spoils the numbers, most of all those of libraries whose threads wait for one another."""

    def __init__(self) -> None:
        self.start, self.others = perf_counter(), count_cpu_seconds_of_others()
        self.environment: dict[str, Any] = {}

    def print_head(self, title: str, text: str) -> None:
        """Print what the numbers depend on, and how to read them."""
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        busy = (count_cpu_seconds_of_others() - self.others) / (perf_counter() - self.start)
        self.environment = {
            "cpu": models[0] if models else platform.processor() or platform.machine(),
            "cores busy elsewhere": round(busy, 2),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "xent": xent.__version__,
            "isa": xent.isa(),
            "threads": xent.get_num_threads(),
        }
        print(f"# {title}\n\n{', '.join(f'{key} {value}' for key, value in self.environment.items())}\n")
        print(f"{textwrap.fill(' '.join(text.split()), 120)}\n")

    def finish(self, path: Path | None, results: Iterable[tuple[Any, Result]], **numbers: Any) -> set[str]:
        """Print which results were wrong, and where; save the numbers if a path is given. Returns the names of those
        that were wrong."""
        wrong = [(where, result) for where, result in results if result.fault]
        for where, result in wrong:
            print(f"\nWRONG: {result.name}, {where}: {result.fault}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"environment": self.environment, **numbers}, indent=1)
            path.write_text(f"{text}\n", encoding="utf-8")
        return {result.name for _, result in wrong}


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Results by name, without what is absent, for JSON."""
    return {
        result.name: {key: value for key, value in asdict(result).items() if key != "name" and value is not None}
        for result in results
    }
