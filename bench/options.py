"""What each option of cross_entropy costs: loss and gradient with it, as a multiple of the plain loss and gradient.

Usage:

    python bench/options.py [--quick] [--shape 4096x1000] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
from cases import DTYPES, Floats, make_inputs
from harness import Candidate, Result, check_and_time

import xent

K = 8       # classes of a row of a sparse distribution
LONG = (512, 32000)


def problems(logits: Floats, labels: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A target and options for each name; the first is what the others are compared with."""
    rng = np.random.default_rng(1)
    rows, classes = logits.shape
    where = rng.random(logits.shape) < 0.9
    where[np.arange(rows), labels] = True
    dense = rng.random(logits.shape, dtype=np.float32).astype(logits.dtype)
    dense /= dense.sum(axis=1, keepdims=True)
    indices, mass = rng.integers(classes, size=(rows, K)), rng.dirichlet(np.ones(K), rows)
    given = {
        "plain": {},
        "class_weight": {"class_weight": rng.random(classes)},
        "sample_weight": {"sample_weight": rng.random(rows)},
        "label_smoothing": {"label_smoothing": 0.1},
        "ignore_index": {"ignore_index": 0},
        "where": {"where": where},
        "logit_scale": {"logit_scale": 0.7},
        "softcap": {"softcap": 30.0},
        "z_loss": {"z_loss": 1e-4},
        "reduction='sum'": {"reduction": "sum"},
        "reduction='none'": {"reduction": "none"},
    }
    return {
        **{name: (labels, options) for name, options in given.items()},
        f"sparse, k = {K}": ((indices, mass), {}),
        "distribution": (dense, {}),
    }


def expected(logits: Floats, target: Any, options: dict[str, Any]) -> tuple[Any, Floats]:
    """The answer in plain float64."""
    rows, classes = logits.shape
    x = logits.astype(np.float64) * options.get("logit_scale", 1.0)
    slope = np.full(x.shape, options.get("logit_scale", 1.0))
    if "softcap" in options:
        x = np.tanh(x / options["softcap"])
        slope *= 1 - x * x
        x *= options["softcap"]
    x[~np.broadcast_to(options.get("where", True), x.shape)] = -np.inf
    t = np.zeros(x.shape)
    if isinstance(target, tuple):
        np.add.at(t, (np.arange(rows)[:, None], target[0]), target[1])
    elif target.ndim == 1:
        t[np.arange(rows), target] = target != options.get("ignore_index", -100)
    else:
        t[:] = target
    w, s = options.get("class_weight", np.ones(classes)), options.get("sample_weight", np.ones(rows))
    weight = s @ (t @ w)
    smoothing = options.get("label_smoothing", 0.0)
    t = ((1 - smoothing) * t + smoothing / classes) * w
    m = x.max(axis=1, keepdims=True)
    e = np.exp(x - m)
    log_sums = m + np.log(e.sum(axis=1, keepdims=True))
    mass = t.sum(axis=1, keepdims=True)
    z = options.get("z_loss", 0.0)
    losses = s * (mass * log_sums - (t * np.where(t == 0, 0, x)).sum(axis=1, keepdims=True) + z * log_sums**2)[:, 0]
    grad = s[:, None] * slope * ((mass + 2 * z * log_sums) * np.exp(x - log_sums) - t)
    reduction = options.get("reduction", "mean")
    if reduction == "mean":
        return losses.sum() / weight, grad / weight
    return (losses.sum() if reduction == "sum" else losses), grad


def check(right: dict[str, tuple[Any, Floats]], dtype: str, answer: tuple[str, Any, Floats]) -> str | None:
    name, loss, grad = answer
    eps = float(np.finfo(dtype).eps)
    for what, got, want in zip(("loss", "gradient"), (loss, grad), right[name], strict=True):
        scale = np.abs(want).max()
        error = float(np.max(np.abs(got - want)) / (scale or 1))
        if not error <= 300 * eps:
            return f"{what} is {error / eps:.0f} eps of the largest off"
    return None


def measure(shape: tuple[int, int], dtype: str, threads: int, names: set[str] | None, budget: float) -> list[Result]:
    logits, labels = make_inputs(shape, dtype)
    chosen = {name: p for name, p in problems(logits, labels).items() if names is None or name in names}
    right = {name: expected(logits, target, options) for name, (target, options) in chosen.items()}
    grad = np.empty_like(logits)

    def call(name: str, target: Any, options: dict[str, Any]) -> tuple[str, Any, Floats]:
        return name, *xent.cross_entropy(logits, target, grad_out=grad, n_threads=threads, **options)

    candidates = [Candidate(name, partial(call, name, *problem)) for name, problem in chosen.items()]
    return check_and_time(candidates, partial(check, right, dtype), budget=budget)


def main(arguments: Sequence[str] | None = None) -> int:
    def shape(text: str) -> tuple[int, int]:
        rows, classes = text.split("x")
        return int(rows), int(classes)

    parser = argparse.ArgumentParser(description="Time each option of cross_entropy against none.")
    parser.add_argument("--quick", action="store_true", help="float32 and all threads only, for less long")
    parser.add_argument("--shape", type=shape, default=(4096, 1000), metavar="ROWSxCLASSES")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save every number there")
    given = parser.parse_args(arguments)
    every = xent.get_num_threads()
    threads = given.threads or ([every] if given.quick else sorted({1, every}))
    dtypes = given.dtypes or (DTYPES[:1] if given.quick else DTYPES)
    budget = 3.0 if given.quick else 10.0

    neighbours = report.Neighbours()
    cells = [(dtype, t) for dtype in dtypes for t in threads]
    columns = [measure(given.shape, dtype, t, None, budget) for dtype, t in report.progress(cells, "options")]
    long = [measure(LONG, dtype, t, {"plain", f"sparse, k = {K}"}, budget) for dtype, t in cells]

    environment = report.environment(neighbours)
    print(f"# Options of cross_entropy\n\n{report.describe(environment)}\n")
    print("Loss and gradient into a given array: how many times longer than without the option, median (quartiles).\n")
    header = [f"{given.shape[0]} x {given.shape[1]}", *(f"{dtype}, {t} thread{'s' * (t > 1)}" for dtype, t in cells)]
    rows = [[results[0].name, *map(cell, results)] for results in zip(*columns, strict=True)]
    rows.append([f"sparse, k = {K}, at {LONG[0]} x {LONG[1]}", *(cell(column[1]) for column in long)])
    print(report.table(header, rows))
    faults = [result for column in (*columns, *long) for result in column if result.fault]
    for result in faults:
        print(f"\nWRONG: {result.name}: {result.fault}")
    results = {f"{dtype} {t}": report.record(column) for (dtype, t), column in zip(cells, columns, strict=True)}
    report.write_json(given.json, {"environment": environment, "shape": given.shape, "cells": results})
    return int(bool(faults))


def cell(result: Result) -> str:
    """The plain time, or a ratio."""
    if result.fault or result.seconds is None or result.ratio is None:
        return "WRONG"
    return report.duration(result.seconds.median) if result.name == "plain" else report.spread(result.ratio)


if __name__ == "__main__":
    sys.exit(main())
