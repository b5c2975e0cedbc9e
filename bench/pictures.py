"""Draws the pictures of the README and the docs from the numbers that `python bench --json FOLDER` saved.

This is the only script that imports matplotlib.

Usage:

    python bench/pictures.py FOLDER [--threads N] [--to docs]
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from harness.cases import OPERATIONS
from harness.report import format_threads
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Report = dict[str, Any]

BLUE, ORANGE, GREY = "#1f5fa8", "#d1601f", "#666666"
NAMES = {
    "numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch", "torch.compile": "PyTorch, compiled", "jax": "JAX, jitted",
    "sklearn": "scikit-learn",
}       # fmt: skip
# For each operation of the sweep, the loop that memory limits and the one that arithmetic limits.
LIMITS = {
    "loss": ("read_all", "exp_sum"),
    "loss+gradient": ("copy_around", "exp_sum_multiply"),
    "softmax": ("copy_around", "exp_sum_multiply"),
}
ARITHMETIC = "arithmetic, in cache"
MEMORY = {"read_all": "memory: read", "copy_around": "memory: read + write"}


def clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.2)


def set_log_axis(axes: Axes, ticks: Sequence[float], **limits: float) -> None:
    """Make the x axis logarithmic, with these ticks written as plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(**limits)
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()


def collect_limits(report: Report, threads: int) -> dict[str, float]:
    """10⁹ elements per second of each loop, in float32."""
    return {
        limit["loop"]: limit["elements"] / limit["seconds"]["median"] / 1e9
        for limit in report["limits"]
        if limit["dtype"] == "float32" and limit["threads"] == threads
    }


def collect_sweep(report: Report, operation: str, threads: int, library: str) -> list[tuple[int, float]]:
    """Row lengths, and 10⁹ elements per second."""
    points = []
    for cell in report["sweep"]:
        seconds = cell["results"].get(library, {}).get("seconds")
        if (cell["operation"], cell["threads"]) == (operation, threads) and seconds:
            rows, length = cell["shape"]
            points.append((length, rows * length / seconds["median"] / 1e9))
    return points


def draw_throughput(report: Report, threads: int | None = None) -> Figure:
    """Throughput by row length, and the limits of the machine; with the most threads that were measured by default."""
    threads = threads or max(cell["threads"] for cell in report["sweep"])
    figure = Figure(figsize=(10, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(LIMITS), sharey=True)
    speeds = collect_limits(report, threads)
    for axes, (operation, limits) in zip(panels, LIMITS.items(), strict=True):
        for library, label, style in (
            ("torch", "PyTorch", {"color": ORANGE, "alpha": 0.6, "linewidth": 1.5, "markersize": 3}),
            ("xent", "xent", {"color": BLUE, "linewidth": 2.5, "markersize": 5}),
        ):
            points = collect_sweep(report, operation, threads, library)
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=label, **style)
        memory, arithmetic = limits
        draw_limits(axes, {MEMORY[memory]: speeds[memory], ARITHMETIC: speeds[arithmetic]})
        axes.set(title=operation, xlabel="classes: length of a row")
        set_log_axis(axes, [2, 10, 100, 1000, 10_000, 100_000], left=1.6, right=160_000)
        clean(axes)
    panels[0].set_ylabel("10⁹ logits per second")
    panels[0].set_ylim(0, 1.12 * max(speeds[limit] for pair in LIMITS.values() for limit in pair))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False)
    what = f"{report['bytes'] / 1e6:.0f} MB of float32 logits, {format_threads(threads)}"
    figure.suptitle(f"Throughput and the limits of the machine: {what}", fontsize=12, fontweight="bold")
    return figure


def draw_limits(axes: Axes, speeds: dict[str, float]) -> None:
    """Horizontal lines with a name at the left end, where no curve is near them."""
    (lower, low), (higher, high) = sorted(speeds.items(), key=lambda pair: pair[1])
    for name, speed, place, gap in ((lower, low, "top", -3), (higher, high, "bottom", 3)):
        axes.axhline(speed, color=GREY, linestyle=":" if name == ARITHMETIC else "--", linewidth=1.4)
        text = {"textcoords": "offset points", "va": place, "color": GREY, "fontsize": 9}
        axes.annotate(name, (1.8, speed), xytext=(0, gap), **text)


def draw_speed_up(report: Report) -> Figure:
    """How many times longer each peer takes: a small dot per cell of the grid, a large one for their geometric mean."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for cell in report["cells"]:
        for name, result in cell["results"].items():
            if name != "xent" and "ratio" in result:
                ratios.setdefault((cell["operation"], name), []).append(result["ratio"]["median"])
    names = [name for name in report["peers"] if any(name == peer for _, peer in ratios)]
    operations = [name for name in OPERATIONS if any(name == operation for operation, _ in ratios)]
    least, most = min(map(min, ratios.values())) / 1.5, max(map(max, ratios.values())) * 1.5
    ticks = [tick for tick in (0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300) if least <= tick <= most]

    figure = Figure(figsize=(10, 0.42 * len(names) + 1.5), dpi=200, layout="constrained")
    panels = figure.subplots(1, len(operations), sharex=True, sharey=True, squeeze=False)[0]
    for axes, operation in zip(panels, operations, strict=True):
        axes.axvspan(least, 1, color=ORANGE, alpha=0.08, linewidth=0)
        axes.axvline(1, color=GREY, linewidth=1)
        for place, name in enumerate(names):
            found = ratios.get((operation, name))
            if found:
                mean = geometric_mean(found)
                axes.scatter(found, [place] * len(found), s=14, color=GREY, alpha=0.45, linewidths=0)
                axes.scatter([mean], [place], s=55, color=BLUE, zorder=3)
                text = {"textcoords": "offset points", "ha": "center", "color": BLUE, "fontweight": "bold"}
                axes.annotate(format_ratio(mean), (mean, place), xytext=(0, 6), fontsize=9, **text)
        axes.set_title(operation.replace("+", " + "), fontsize=11)
        set_log_axis(axes, ticks, left=least, right=most)
        clean(axes)
    panels[0].set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.7)
    text = "time of the other library / time of xent: geometric mean, and each shape; xent is faster to the right of 1"
    figure.supxlabel(text, fontsize=10)
    return figure


def format_ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def draw_convergence(report: Report) -> Figure:
    """Distance from the least objective against time, a panel per data set and dtype."""
    cells = report["cells"]
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(10, 0.8 + 3 * lines), dpi=100, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(curve["solver"] for cell in cells for curve in cell["curves"]))
    colours = dict(zip(names[1:], colormaps["Dark2"].colors, strict=False))
    for axes, cell in zip(panels, cells, strict=False):
        for curve in reversed(cell["curves"]):
            gaps = [max((value - cell["least"]) / cell["least"], 1e-9) for value in curve["objectives"]]
            ours = curve["solver"] == names[0]
            style = {"color": BLUE if ours else colours[curve["solver"]], "linewidth": 2.5 if ours else 1.3}
            if gaps:
                axes.plot(curve["seconds"], gaps, marker="o", markersize=3, label=curve["solver"], **style)
        axes.set(xscale="log", yscale="log", xlabel=report["clock"], ylim=(5e-10, 30))
        axes.xaxis.set_minor_formatter("")
        axes.set_title(f"{cell['set']}, {cell['dtype']}")
        axes.axhline(1e-6 if cell["dtype"] == "float64" else 1e-5, color=GREY, linestyle=":", linewidth=1.2)
        clean(axes)
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("(f - f*) / f*")
    handles = {}
    for axes in panels:
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [name for name in names if name in handles]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=4, frameon=False)
    title = f"Logistic regression: distance from the least objective, {format_threads(report['fit threads'])}"
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the README's pictures from saved numbers.")
    text = "where limits.json, ops.json and fit.json are, or some of them"
    parser.add_argument("folder", type=Path, help=text)
    parser.add_argument("--threads", type=int, help="of the throughput; default: the most that were measured")
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "docs", metavar="FOLDER")
    options = parser.parse_args(arguments)
    draw: dict[str, tuple[str, Callable[[Report], Figure]]] = {
        "limits": ("throughput", lambda report: draw_throughput(report, options.threads)),
        "ops": ("speed-up", draw_speed_up),
        "fit": ("convergence", draw_convergence),
    }
    found = [name for name in draw if (options.folder / f"{name}.json").exists()]
    if not found:
        parser.error(f"{options.folder} has none of {', '.join(f'{name}.json' for name in draw)}")
    options.to.mkdir(parents=True, exist_ok=True)
    for name in found:
        picture, function = draw[name]
        path = options.to / f"{picture}.png"
        function(json.loads((options.folder / f"{name}.json").read_text("utf-8"))).savefig(path, facecolor="white")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
