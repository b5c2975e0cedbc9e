"""How reports look: numbers, tables, the machine they are from, progress."""

import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from harness import Result, Spread

import xent

T = TypeVar("T")


def progress(items: Sequence[T], label: str) -> Iterable[T]:
    """The items behind a progress bar, where tqdm is installed and somebody is looking."""
    if importlib.util.find_spec("tqdm") is None:
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=label, leave=False, disable=None)
    return bar


def number(value: float) -> str:
    """Two decimals below 10, one below 100, none above."""
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / 1e-6)} µs"


def spread(value: Spread) -> str:
    """A median and its quartiles."""
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


class Neighbours:
    """How many cores other processes kept busy since this was made, where Linux says so. Anything much over 0 spoils
    the numbers, first those of libraries whose threads wait for one another."""

    def __init__(self) -> None:
        self.start = perf_counter()
        self.others = self._cpu_seconds_of_others()

    @staticmethod
    def _cpu_seconds_of_others() -> float:
        stat = Path("/proc/stat")
        if not stat.exists():
            return nan
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        everyone = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return everyone - sum(os.times()[:4])

    def busy_cores(self) -> float:
        return (self._cpu_seconds_of_others() - self.others) / (perf_counter() - self.start)


def environment(neighbours: Neighbours) -> dict[str, Any]:
    """What the numbers depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores busy elsewhere": round(neighbours.busy_cores(), 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "xent": xent.__version__,
        "isa": xent.isa(),
        "threads": xent.get_num_threads(),
    }


def describe(report: dict[str, Any]) -> str:
    """The environment on a line."""
    return ", ".join(f"{key} {value}" for key, value in report.items())


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Results as JSON holds them: by name, without what is absent."""
    return {
        result.name: {key: value for key, value in asdict(result).items() if key != "name" and value is not None}
        for result in results
    }


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Save a report, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
