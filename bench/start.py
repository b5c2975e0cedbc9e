"""How long `import xent` takes beyond `import numpy`, in fresh interpreters, and the installed size.

Usage:

    python bench/start.py [--quick] [--json PATH]
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from harness import report
from harness.timing import Spread

import xent

STATEMENTS = ("import numpy", "import xent")

# Without byte code (of an editable install) every import would compile, which is not what users see.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def run_python(code: str) -> str:
    """What a fresh interpreter prints, in an empty folder, so that it imports what is installed."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.check_output([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, text=True)


def time_import(statement: str) -> float:
    """Seconds from the start to the exit of a fresh interpreter."""
    start = perf_counter()
    run_python(statement)
    return perf_counter() - start


def time_imports(rounds: int) -> dict[str, Spread]:
    """Import times, taken in turn, and their difference within each round."""
    for statement in STATEMENTS:
        run_python(statement)  # writes the byte code and fills the page cache
    pairs = []
    for i in report.show_progress(range(rounds), "imports"):
        times = {statement: time_import(statement) for statement in STATEMENTS[:: 1 if i % 2 else -1]}
        pairs.append([times[statement] for statement in STATEMENTS])
    return {
        **{statement: Spread.of([pair[i] for pair in pairs]) for i, statement in enumerate(STATEMENTS)},
        "difference": Spread.of([with_xent - numpy_only for numpy_only, with_xent in pairs]),
    }


def time_import_after_numpy(rounds: int) -> tuple[Spread, list[str]]:
    """Seconds of `import xent` after `import numpy`, by the interpreter's own clock, and the modules it loads."""
    code = """if True:
        import sys, time, numpy
        before, start = set(sys.modules), time.perf_counter()
        import xent
        print(time.perf_counter() - start, *sorted(set(sys.modules) - before))
    """
    printed = [run_python(code).split() for _ in range(rounds)]
    return Spread.of([float(words[0]) for words in printed]), printed[0][1:]


def measure_installed_size() -> tuple[int, str]:
    """Bytes of the package, and what they include: an editable package has sources that a wheel does not."""
    folder = Path(xent.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    kind = "installed"
    if (folder.parents[1] / "pyproject.toml").exists():
        files = [path for path in files if path.suffix not in {".c", ".pyx", ".pxd", ".h"}]
        kind = "in an editable installation, without C and Cython sources"
    return sum(path.stat().st_size for path in files), kind


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Measure how long importing xent takes, and its size."
    options = report.make_parser(description, quick="fewer interpreters", grid=False).parse_args(arguments)
    rounds = 15 if options.quick else 61

    this = report.Report()
    times = time_imports(rounds)
    times["import xent, after import numpy, inside"], added = time_import_after_numpy(rounds)
    size, kind = measure_installed_size()
    text = f"Milliseconds of a fresh interpreter: median of {rounds} (quartiles), the two in turn."
    this.print_head("Import and size", text)
    in_ms = {name: Spread(1e3 * time.median, 1e3 * time.low, 1e3 * time.high) for name, time in times.items()}
    print(report.format_table(["", "ms"], [[name, report.format_spread(spread)] for name, spread in in_ms.items()]))
    foreign = [name for name in added if not name.startswith("xent")]
    print(f"\nModules loaded beyond NumPy's: {len(added)}, of them not xent's own: {' '.join(foreign) or 'none'}")
    print(f"\nSize {kind}: {size / 1e6:.2f} MB")
    seconds = {name: asdict(time) for name, time in times.items()}
    this.finish(options.json, [], seconds=seconds, modules=added, bytes=size, measured=kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
