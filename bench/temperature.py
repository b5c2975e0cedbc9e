"""Temperature scaling: fit_temperature against scikit-learn's, and L-BFGS in PyTorch.

Usage:

    python bench/temperature.py [--quick] [--shapes 100000x100 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from harness import report
from harness.cases import Floats, Labels
from harness.peers import use_threads, use_torch
from harness.timing import Candidate, Result, check_and_time

import xent

Shape = tuple[int, int]     # rows, classes
Call = Callable[[], float]

SHAPES: tuple[Shape, ...] = ((65536, 10), (100_000, 100), (4096, 1000))
QUICK_SHAPES: tuple[Shape, ...] = ((4096, 10),)
SURE = 2.5                  # the temperature at which the logits are too large


def make_problem(shape: Shape, dtype: str) -> tuple[Floats, Labels]:
    """Logits of a classifier that is too sure of itself, and labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=shape, scale=2.0)
    labels = np.argmax(logits + rng.gumbel(size=shape), axis=1)     # drawn from the softmax
    return (SURE * logits).astype(dtype), labels


def make_scikit_learn(logits: Floats, labels: Labels) -> Call | None:
    """What CalibratedClassifierCV(method="temperature") fits."""
    if not importlib.util.find_spec("sklearn"):
        return None
    from sklearn import calibration

    scaling = getattr(calibration, "_TemperatureScaling", None)
    return scaling and (lambda: float(1 / scaling().fit(logits, labels).beta_))


def fit_torch(x: Any, y: Any) -> float:
    """The usual recipe; a step of its usual length, 0.01, would need hundreds of iterations without a line search."""
    import torch

    temperature = torch.nn.Parameter(torch.ones(1, dtype=x.dtype) * 1.5)
    optimizer = torch.optim.LBFGS([temperature], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x / temperature, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(temperature.detach())


def make_calls(logits: Floats, labels: Labels) -> dict[str, Call]:
    calls: dict[str, Call | None] = {
        "xent": partial(xent.fit_temperature, logits, labels),
        "scikit-learn": make_scikit_learn(logits, labels),
    }
    if importlib.util.find_spec("torch"):
        import torch

        x, y = torch.from_numpy(logits), torch.from_numpy(labels)
        calls["torch, L-BFGS"] = partial(fit_torch, x, y)
    return {name: call for name, call in calls.items() if call is not None}


def find_minimum(logits: Floats, labels: Labels) -> float:
    """The right answer: bisection of log T, by plain NumPy in float64."""
    d = np.asarray(logits, np.float64)
    d = d.max(axis=1, keepdims=True) - d
    own = d[np.arange(len(d)), labels].mean()
    low, high = -5.0, 5.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        p = np.exp(d * -np.exp(-middle))
        is_above = np.mean((p * d).sum(axis=1) / p.sum(axis=1)) > own
        low, high = (low, middle) if is_above else (middle, high)
    return float(np.exp(low))


def check(right: float, answer: float) -> str | None:
    """The others stop when the loss hardly falls any more."""
    distance = abs(answer / right - 1)
    return f"T is {distance:.1e} off" if not distance < 0.02 else None


def use_threads_everywhere(threads: int) -> ExitStack:
    stack = use_torch(threads) if importlib.util.find_spec("torch") else ExitStack()
    stack.enter_context(use_threads(xent.get_num_threads, xent.set_num_threads, threads))
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def measure(shape: Shape, dtype: str, threads: int, **timing: Any) -> tuple[list[float], list[Result]]:
    """How far each answer is from the minimum, and the times."""
    logits, labels = make_problem(shape, dtype)
    right = find_minimum(logits, labels)
    scope = partial(use_threads_everywhere, threads)
    calls = make_calls(logits, labels)
    results = check_and_time([Candidate(*pair, scope) for pair in calls.items()], partial(check, right), **timing)
    return [abs(call() / right - 1) for call in calls.values()], results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time temperature scaling.", quick="a small problem, in seconds")
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxCLASSES")
    options = report.parse(parser, arguments)
    timing = {"budget": 1.0 if options.quick else 20.0, "least": 3}

    this = report.Report()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    cells = [(shape, dtype, threads) for shape in shapes for dtype in options.dtypes for threads in options.threads]
    measured = [measure(*cell, **timing) for cell in report.show_progress(cells, "temperature")]

    this.print_head(
        "Temperature scaling",
        """Time / time of xent: median of the rounds (quartiles). Distance: of the temperature from that of the least
        loss, relative.""",
    )
    rows, found, records = [], [], []
    for (shape, dtype, threads), (distances, results) in zip(cells, measured, strict=True):
        for distance, result in zip(distances, results, strict=True):
            seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
            ratio = report.format_spread(result.ratio)
            rows.append([str(shape), dtype, str(threads), result.name, seconds, ratio, f"{distance:.0e}"])
            found.append(((shape, dtype, threads), result))
        records.append({"shape": shape, "dtype": dtype, "threads": threads, "results": report.record(results)})
    print(report.format_table(["rows, classes", "dtype", "threads", "what", "time", "ratio", "distance"], rows))
    return int(bool(this.finish(options.json, found, cells=records)))


if __name__ == "__main__":
    sys.exit(main())
