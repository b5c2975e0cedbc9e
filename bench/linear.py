"""Loss and gradients of a linear layer: linear_cross_entropy against the matrix products alone, against products and
cross_entropy one after the other, and against PyTorch's function of that name.

Usage:

    python bench/linear.py [--quick] [--shapes 2048x32000x256 ...] [--threads 1 2 ...] [--json PATH]
"""

import importlib.util
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from harness import report
from harness.cases import Floats, Labels, as_arrays
from harness.peers import use_threads, use_torch
from harness.timing import Candidate, Result, check_and_time

import xent

Shape = tuple[int, int, int]    # rows, classes, features

SHAPES: tuple[Shape, ...] = ((2048, 32000, 256), (4096, 128000, 512))
QUICK_SHAPES: tuple[Shape, ...] = ((512, 8000, 64),)
PRODUCTS = "products alone"


@dataclass(frozen=True)
class Layer:
    """A problem with logits of about N(0, 2²), and arrays for the logits and the gradients."""

    X: Floats
    weight: Floats
    labels: Labels
    logits: Floats
    grad_X: Floats
    grad_weight: Floats


def make_layer(shape: Shape) -> Layer:
    rows, classes, features = shape
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, features), dtype=np.float32)
    weight = rng.standard_normal((classes, features), dtype=np.float32) * np.float32(2 / features**0.5)
    logits = np.zeros((rows, classes), np.float32)
    return Layer(X, weight, rng.integers(0, classes, rows), logits, np.zeros_like(X), np.zeros_like(weight))


def multiply(layer: Layer) -> None:
    """The matrix products alone, which every implementation must compute; into given arrays."""
    np.matmul(layer.X, layer.weight.T, out=layer.logits)
    np.matmul(layer.logits, layer.weight, out=layer.grad_X)
    np.matmul(layer.logits.T, layer.X, out=layer.grad_weight)


def multiply_and_call(layer: Layer) -> tuple[float, Floats, Floats]:
    """The products, with cross_entropy of all logits between them."""
    np.matmul(layer.X, layer.weight.T, out=layer.logits)
    loss, _ = xent.cross_entropy(layer.logits, layer.labels, grad_out=layer.logits)
    np.matmul(layer.logits, layer.weight, out=layer.grad_X)
    np.matmul(layer.logits.T, layer.X, out=layer.grad_weight)
    return loss, layer.grad_X, layer.grad_weight


def call_fused(layer: Layer) -> tuple[float, Floats, Floats]:
    loss, (grad_X, grad_weight, _) = xent.linear_cross_entropy(layer.X, layer.weight, layer.labels, return_grad=True)
    return loss, grad_X, grad_weight


def make_torch_calls(layer: Layer) -> dict[str, Callable[[], Any]]:
    """PyTorch's function with default options and in chunks, if the installed version has it."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    function = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if function is None:
        return {}
    X, weight = (torch.from_numpy(array).requires_grad_() for array in (layer.X, layer.weight))
    labels = torch.from_numpy(layer.labels)

    def call(options: Any) -> tuple[Any, Any, Any]:
        loss = function(X, weight, labels, options=options)
        return loss, *torch.autograd.grad(loss, (X, weight))

    chunked = torch.nn.LinearCrossEntropyOptions()
    return {"torch": partial(call, None), "torch, chunked": partial(call, chunked)}


def use_threads_everywhere(threads: int) -> ExitStack:
    """Set the number of threads of xent, BLAS and PyTorch."""
    stack = use_torch(threads) if importlib.util.find_spec("torch") else ExitStack()
    stack.enter_context(use_threads(xent.get_num_threads, xent.set_num_threads, threads))
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def compute_answer(layer: Layer, rows_at_once: int = 256) -> tuple[Floats, ...]:
    """The right answer, by plain NumPy in float64."""
    weight = layer.weight.astype(np.float64)
    total, grad_X, grad_weight = 0.0, np.empty(layer.X.shape), np.zeros(weight.shape)
    for start in range(0, len(layer.X), rows_at_once):
        part = slice(start, start + rows_at_once)
        X, labels = layer.X[part].astype(np.float64), layer.labels[part]
        logits = X @ weight.T
        maximum = logits.max(axis=1)
        own = logits[range(len(X)), labels]
        p = np.exp(logits - maximum[:, None], out=logits)
        sums = p.sum(axis=1)
        total += float((maximum + np.log(sums) - own).sum())
        p /= sums[:, None]
        p[range(len(X)), labels] -= 1
        p /= len(layer.X)
        grad_X[part] = p @ weight
        grad_weight += p.T @ X
    return np.float64(total / len(layer.X)), grad_X, grad_weight


def check(expected: tuple[Floats, ...], answer: Any) -> str | None:
    """What is wrong. The tolerance is that of float32 matrix products, relative to the largest element."""
    if answer is None:
        return None     # of the products alone
    for name, got, want in zip(("loss", "grad_X", "grad_weight"), as_arrays(answer), expected, strict=True):
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if not error <= 1e-4:
            return f"{name} is {error:.1e} of the largest element off"
    return None


def measure_scratch(layer: Layer) -> float:
    """Peak MiB that xent allocates beyond the gradients."""
    tracemalloc.start()
    try:
        grads = call_fused(layer)[1:]
        return (tracemalloc.get_traced_memory()[1] - sum(grad.nbytes for grad in grads)) / 2**20
    finally:
        tracemalloc.stop()


def measure(shape: Shape, thread_counts: Sequence[int], **timing: Any) -> tuple[float, dict[int, list[Result]]]:
    layer = make_layer(shape)
    expected = compute_answer(layer)
    calls: dict[str, Callable[[], Any]] = {
        "xent": partial(call_fused, layer),
        PRODUCTS: partial(multiply, layer),
        "one after the other": partial(multiply_and_call, layer),
        **make_torch_calls(layer),
    }
    results = {}
    for threads in thread_counts:
        candidates = [Candidate(name, call, partial(use_threads_everywhere, threads)) for name, call in calls.items()]
        results[threads] = check_and_time(candidates, partial(check, expected), **timing)
    return measure_scratch(layer), results


Measured = dict[Shape, tuple[float, dict[int, list[Result]]]]      # scratch in MiB, and results by threads


def make_table(measured: Measured) -> str:
    rows = []
    for shape, (scratch, by_threads) in measured.items():
        for count, results in by_threads.items():
            for result in results:
                seconds = report.format_seconds(result.seconds.median) if result.seconds else "WRONG"
                own = f"{report.format_number(scratch)} MiB" if result.name == "xent" else ""
                size = " x ".join(map(str, shape))
                rows.append([size, str(count), result.name, seconds, report.format_spread(result.ratio), own])
    return report.format_table(["rows x classes x features", "threads", "what", "time", "ratio", "scratch"], rows)


def record(measured: Measured) -> tuple[list[dict[str, Any]], list[tuple[str, Result]]]:
    """What goes to the JSON file, and every result with its setting."""
    cells, found = [], []
    for shape, (scratch, by_threads) in measured.items():
        for count, results in by_threads.items():
            cells.append({"shape": shape, "threads": count, "scratch": scratch, "results": report.record(results)})
            found += [(f"{shape} {report.format_threads(count)}", result) for result in results]
    return cells, found


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Time the loss and gradients of a linear layer."
    parser = report.make_parser(description, quick="a small layer on one thread, in seconds", grid=False)
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxCLASSESxFEATURES")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all; 1 if quick")
    options = parser.parse_args(arguments)
    threads = options.threads or ([1] if options.quick else sorted({1, xent.get_num_threads()}))
    timing = {"budget": 1.0 if options.quick else 30.0, "least": 3}

    this = report.Report()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    measured = {shape: measure(shape, threads, **timing) for shape in report.show_progress(shapes, "linear")}

    this.print_head(
        "Loss and gradients of a linear layer, float32",
        """Time / time of xent: median of the rounds (quartiles). Products alone: X @ weight.T, G @ weight and G.T @ X
        in NumPy, into given arrays. One after the other: with cross_entropy of all logits between them. Scratch: what
        xent allocates beyond its results.""",
    )
    print(make_table(measured))
    cells, found = record(measured)
    return int(bool(this.finish(options.json, found, cells=cells)))


if __name__ == "__main__":
    sys.exit(main())
