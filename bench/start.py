"""What xent costs to import over NumPy, in fresh interpreters, and how big it is when installed.

Usage:

    python bench/start.py [--quick] [--json PATH]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import report
from harness import Spread

import xent

STATEMENTS = ("import numpy", "import xent")

# Without byte code next to the source (an editable install) every import would compile: not what users see.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def interpreter(code: str) -> str:
    """What a fresh interpreter prints, run where no checkout can be imported by accident."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.check_output([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, text=True)


def seconds(statement: str) -> float:
    """Seconds from start to exit of a fresh interpreter."""
    start = perf_counter()
    interpreter(statement)
    return perf_counter() - start


def import_times(rounds: int) -> dict[str, Spread]:
    """Import times in turn, and the difference formed round by round."""
    for statement in STATEMENTS:
        interpreter(statement)  # writes the byte code, fills the page cache
    pairs = []
    for i in report.progress(range(rounds), "imports"):
        turn = STATEMENTS if i % 2 else STATEMENTS[::-1]
        times = {statement: seconds(statement) for statement in turn}
        pairs.append([times[statement] for statement in STATEMENTS])
    return {
        **{statement: Spread.of([pair[i] for pair in pairs]) for i, statement in enumerate(STATEMENTS)},
        "difference": Spread.of([with_xent - numpy_only for numpy_only, with_xent in pairs]),
    }


def after_numpy(rounds: int) -> tuple[Spread, list[str]]:
    """Seconds of `import xent` once NumPy is loaded, by the interpreter's own clock, and the modules it loads."""
    code = """if True:
        import sys, time, numpy
        before, start = set(sys.modules), time.perf_counter()
        import xent
        print(time.perf_counter() - start, *sorted(set(sys.modules) - before))
    """
    printed = [interpreter(code).split() for _ in range(rounds)]
    return Spread.of([float(words[0]) for words in printed]), printed[0][1:]


def installed_size() -> tuple[int, str]:
    """Bytes of the package, and what was counted: beside an editable package lie sources that no wheel has."""
    folder = Path(xent.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    kind = "installed"
    if (folder.parents[1] / "pyproject.toml").exists():
        files = [path for path in files if path.suffix not in {".c", ".pyx", ".pxd", ".h"}]
        kind = "in an editable installation, without C and Cython sources"
    return sum(path.stat().st_size for path in files), kind


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the cost of importing xent, and its size.")
    parser.add_argument("--quick", action="store_true", help="fewer interpreters")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    rounds = 15 if options.quick else 61

    neighbours = report.Neighbours()
    times = import_times(rounds)
    times["import xent, after import numpy, inside"], added = after_numpy(rounds)
    size, kind = installed_size()
    environment = report.environment(neighbours)
    print(f"# Import and size\n\n{report.describe(environment)}\n")
    print(f"Milliseconds of a fresh interpreter: median of {rounds} (quartiles), the two in turn.\n")
    in_ms = {name: Spread(1e3 * time.median, 1e3 * time.low, 1e3 * time.high) for name, time in times.items()}
    print(report.table(["", "ms"], [[name, report.spread(spread)] for name, spread in in_ms.items()]))
    foreign = [name for name in added if not name.startswith("xent")]
    print(f"\nLoaded beyond NumPy's modules: {len(added)}, of them not xent's own: {' '.join(foreign) or 'none'}")
    print(f"\nSize {kind}: {size / 1e6:.2f} MB")
    report.write_json(
        options.json,
        {
            "environment": environment,
            "seconds": {name: asdict(time) for name, time in times.items()},
            "modules": added,
            "bytes": size,
            "measured": kind,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
