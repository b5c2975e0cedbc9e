"""Loss and gradients of a linear layer: linear_cross_entropy against the bare matrix products, the layer and its loss
one after the other, and PyTorch's function of that name.

Usage:

    python bench/linear.py [--quick] [--shapes 2048x32000x256 ...] [--threads 1 2 ...] [--json PATH]
"""

import argparse
import importlib.util
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
from cases import Floats, Labels, as_arrays
from harness import Candidate, Result, check_and_time
from peers import thread_count, torch_scope

import xent

Shape = tuple[int, int, int]    # rows, classes, features

SHAPES: tuple[Shape, ...] = ((2048, 32000, 256), (4096, 128000, 512))
QUICK_SHAPES: tuple[Shape, ...] = ((512, 8000, 64),)
PRODUCTS = "products alone"


@dataclass(frozen=True)
class Layer:
    """Logits of about N(0, 2²), and room for all of them and for the gradients."""

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


def products(layer: Layer) -> None:
    """What no implementation can do without, in memory that is given."""
    np.matmul(layer.X, layer.weight.T, out=layer.logits)
    np.matmul(layer.logits, layer.weight, out=layer.grad_X)
    np.matmul(layer.logits.T, layer.X, out=layer.grad_weight)


def one_after_the_other(layer: Layer) -> tuple[float, Floats, Floats]:
    """The same with the loss and gradient of all logits between the products."""
    np.matmul(layer.X, layer.weight.T, out=layer.logits)
    loss, _ = xent.cross_entropy(layer.logits, layer.labels, grad_out=layer.logits)
    np.matmul(layer.logits, layer.weight, out=layer.grad_X)
    np.matmul(layer.logits.T, layer.X, out=layer.grad_weight)
    return loss, layer.grad_X, layer.grad_weight


def fused(layer: Layer) -> tuple[float, Floats, Floats]:
    loss, (grad_X, grad_weight, _) = xent.linear_cross_entropy(layer.X, layer.weight, layer.labels, return_grad=True)
    return loss, grad_X, grad_weight


def torch_calls(layer: Layer) -> dict[str, Callable[[], Any]]:
    """PyTorch's function as it is by default, and in chunks, where this version has it."""
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


def conditions(threads: int) -> ExitStack:
    """So many threads for xent, BLAS and PyTorch."""
    stack = torch_scope(threads) if importlib.util.find_spec("torch") else ExitStack()
    stack.enter_context(thread_count(xent.get_num_threads, xent.set_num_threads, threads))
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    return stack


def reference(layer: Layer, rows_at_once: int = 256) -> tuple[Floats, ...]:
    """The answer in plain float64."""
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
    """The bound is that of products in float32, relative to the largest element."""
    if answer is None:
        return None     # the products alone have no answer
    for name, got, want in zip(("loss", "grad_X", "grad_weight"), as_arrays(answer), expected, strict=True):
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if not error <= 1e-4:
            return f"{name} is {error:.1e} of the largest element off"
    return None


def scratch(layer: Layer) -> float:
    """The most MiB that xent allocates at a time beyond the gradients."""
    tracemalloc.start()
    try:
        grads = fused(layer)[1:]
        return (tracemalloc.get_traced_memory()[1] - sum(grad.nbytes for grad in grads)) / 2**20
    finally:
        tracemalloc.stop()


def measure(shape: Shape, thread_counts: Sequence[int], **timing: Any) -> tuple[float, dict[int, list[Result]]]:
    layer = make_layer(shape)
    expected = reference(layer)
    calls: dict[str, Callable[[], Any]] = {
        "xent": partial(fused, layer),
        PRODUCTS: partial(products, layer),
        "one after the other": partial(one_after_the_other, layer),
        **torch_calls(layer),
    }
    results = {}
    for threads in thread_counts:
        candidates = [Candidate(name, call, partial(conditions, threads)) for name, call in calls.items()]
        results[threads] = check_and_time(candidates, partial(check, expected), **timing)
    return scratch(layer), results


def main(arguments: Sequence[str] | None = None) -> int:
    def shape(text: str) -> Shape:
        rows, classes, features = map(int, text.split("x"))
        return rows, classes, features

    parser = argparse.ArgumentParser(description="Time the loss and gradients of a linear layer.")
    parser.add_argument("--quick", action="store_true", help="a small layer, in seconds")
    parser.add_argument("--shapes", nargs="+", type=shape, metavar="ROWSxCLASSESxFEATURES")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    options = parser.parse_args(arguments)
    every = xent.get_num_threads()
    threads = options.threads or ([1] if options.quick else sorted({1, every}))
    timing = {"budget": 1.0, "least": 3} if options.quick else {"budget": 30.0, "least": 3}

    neighbours = report.Neighbours()
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    measured = {shape: measure(shape, threads, **timing) for shape in report.progress(shapes, "linear")}

    environment = report.environment(neighbours)
    print(f"# Loss and gradients of a linear layer, float32\n\n{report.describe(environment)}\n")
    print("Time / xent's: median of the rounds (quartiles). Products alone: X @ weight.T, G @ weight and G.T @ X in")
    print("NumPy, in memory that is given. One after the other: with cross_entropy of all logits between them.")
    print("Scratch: what xent allocates beyond its results.\n")
    rows, cells, faults = [], [], []
    for shape, (most, by_threads) in measured.items():
        for count, results in by_threads.items():
            cells.append({"shape": shape, "threads": count, "scratch": most, "results": report.record(results)})
            for result in results:
                if result.fault:
                    faults.append(result)
                time = report.duration(result.seconds.median) if result.seconds else f"WRONG: {result.fault}"
                ratio = report.spread(result.ratio) if result.ratio else ""
                own = f"{report.number(most)} MiB" if result.name == "xent" else ""
                rows.append([" x ".join(map(str, shape)), str(count), result.name, time, ratio, own])
    print(report.table(["rows x classes x features", "threads", "what", "time", "ratio", "scratch"], rows))
    report.write_json(options.json, {"environment": environment, "cells": cells})
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
