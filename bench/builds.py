"""How many times longer another build of xent takes than the one that is imported, in turn in one process.

Usage:

    python bench/builds.py OTHER_CHECKOUT [--quick] [--ops ...] [--shapes 4096x1000 ...] [--dtypes ...]
                           [--threads 1 2 ...] [--outputs fresh given] [--json PATH]

The other checkout has its own compiled modules in place: `python setup.py build_ext --inplace` there.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import geometric_mean
from types import ModuleType
from typing import Any

from harness import report
from harness.cases import Case, Floats, Labels
from harness.peers import Peer, make_xent
from harness.timing import Candidate, Result
from ops import Cells, add_options, choose_cases, make_ratio_table, measure

import xent

OTHER = "other"
# Neither build has threads that spin for long. So nothing has to sleep between samples, and the clock rate stays up.
# Other processes interrupt few of the samples, because these are short.
TIMING = {"sample_seconds": 0.001, "settle_seconds": 0.0, "warm_up_seconds": 0.0005, "least": 15, "most": 1000}


def is_of_xent(name: str) -> bool:
    return name.partition(".")[0] == "xent"


@dataclass(frozen=True)
class Build:
    """The package xent of a folder. The modules of all builds have the same names."""

    folder: Path
    modules: dict[str, ModuleType] = field(default_factory=dict)

    @property
    def package(self) -> ModuleType:
        return self.modules["xent"]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Have the modules in sys.modules, so that what they import meanwhile is of this build, too."""
        others = {name: sys.modules.pop(name) for name in [*sys.modules] if is_of_xent(name)}
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            self.modules.update({name: sys.modules.pop(name) for name in [*sys.modules] if is_of_xent(name)})
            sys.modules.update(others)

    def find_strangers(self) -> list[str]:
        """Names of modules that are not from this folder."""
        files = {name: Path(str(module.__file__)).resolve() for name, module in self.modules.items()}
        return [name for name, file in files.items() if not file.is_relative_to(self.folder)]


def load(folder: Path) -> Build:
    """Import the package xent of a folder, beside the one that is imported."""
    build = Build(folder.resolve())
    file = build.folder / "xent" / "__init__.py"
    if file == Path(xent.__file__).resolve():
        raise ImportError(f"{file} is the build that is imported already")
    spec = spec_from_file_location("xent", file)
    assert spec is not None
    assert spec.loader is not None
    with build.in_use():
        sys.modules["xent"] = package = module_from_spec(spec)
        spec.loader.exec_module(package)
    return build


def find_obstacle(build: Build) -> str | None:
    """Why the two builds cannot be compared."""
    if strangers := build.find_strangers():
        return f"not from {build.folder}: {', '.join(strangers)}"
    if build.package.isa() != xent.isa():
        return f"{build.folder} uses {build.package.isa()}, this build {xent.isa()}"
    return None


def get_imported() -> Build:
    """The build that is imported."""
    modules = {name: module for name, module in sys.modules.items() if is_of_xent(name)}
    return Build(Path(xent.__file__).resolve().parents[1], modules)


def make_peer(name: str, build: Build) -> Peer:
    """A build, which is in use during each sample of it."""
    peer = make_xent(name, build.package)

    def use(scope: Any) -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(build.in_use())
        stack.enter_context(scope())
        return stack

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        candidate = peer.prepare(case, logits, labels)
        return candidate and replace(candidate, scope=partial(use, candidate.scope))

    return replace(peer, prepare=prepare)


def make_summary_table(cells: Cells) -> str:
    """For each operation, the geometric mean of the ratios, and the cells with the least and the greatest."""
    by_operation: dict[str, list[tuple[float, str]]] = {}
    for case, results in cells:
        where = str(case).removeprefix(case.operation).strip()
        pairs = [(result.ratio.median, where) for result in results[1:] if result.ratio]
        by_operation.setdefault(case.operation, []).extend(pairs)
    rows = [
        [
            operation,
            report.format_number(geometric_mean(ratio for ratio, _ in pairs)),
            *(f"{report.format_number(ratio)}: {where}" for ratio, where in (min(pairs), max(pairs))),
        ]
        for operation, pairs in by_operation.items()
        if pairs
    ]
    return report.format_table(["operation", "geometric mean", "least", "greatest"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time two builds of xent in turn.", quick="a few cells, in seconds")
    parser.add_argument("checkout", type=Path, metavar="OTHER_CHECKOUT", help="compiled in place; its src/xent is used")
    add_options(parser)
    options = report.parse(parser, arguments)
    try:
        other = load(options.checkout / "src")
    except (ImportError, OSError) as error:
        parser.error(f"{options.checkout} has no compiled xent to compare with: {error}")
    if obstacle := find_obstacle(other):
        parser.error(obstacle)

    this, peers = report.Report(), [make_peer("xent", get_imported()), make_peer(OTHER, other)]
    cells = measure(choose_cases(options), peers, budget=0.5 if options.quick else 2.0, **TIMING)

    this.print_head(
        "Two builds",
        """Time of the other build / time of this one: median of the rounds (quartiles); above 1, this one is faster.
        Output: every call allocates the array that it returns (fresh), or writes to one that is given.""",
    )
    files = {"this": xent.__file__, OTHER: other.package.__file__}
    print("\n".join(f"- {name}: {file}" for name, file in files.items()))
    print(f"\n{make_ratio_table(cells, [OTHER])}\n\n{make_summary_table(cells)}")
    found: list[tuple[Case, Result]] = [(case, result) for case, results in cells for result in results]
    records = [{**asdict(case), "results": report.record(results)} for case, results in cells]
    return int(bool(this.finish(options.json, found, files=files, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
