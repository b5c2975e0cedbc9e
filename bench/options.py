"""The cost of each option of cross_entropy: the time of loss and gradient, relative to no options.

Usage:

    python bench/options.py [--quick] [--shape 4096x1000] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from harness import report
from harness.cases import Floats, make_inputs
from harness.timing import Candidate, Result, check_and_time

import xent

K = 8       # classes per row of a sparse distribution
SPARSE = f"sparse, k = {K}"
LONG = (512, 32000)


def make_problems(logits: Floats, labels: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A target and options for each name. The others are compared with the first."""
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
        "poly_epsilon": {"poly_epsilon": 1.0},
        "focal_gamma": {"focal_gamma": 2.0},
        "reduction='sum'": {"reduction": "sum"},
        "reduction='none'": {"reduction": "none"},
        "return_hess": {"hess_out": np.empty_like(logits)},
    }
    return {
        **{name: (labels, options) for name, options in given.items()},
        SPARSE: ((indices, mass), {}),
        "distribution": (dense, {}),
    }


def compute_answer(logits: Floats, target: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    """The right answer, by plain NumPy in float64: loss, gradient and, if it is asked for, Hessian."""
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
    p = np.exp(x - log_sums)
    grad = s[:, None] * slope * ((mass + 2 * z * log_sums) * p - t)
    poly, gamma = options.get("poly_epsilon", 0.0), options.get("focal_gamma", 0.0)
    predicted = (t * p).sum(axis=1, keepdims=True)
    losses = losses + s * poly * (mass - predicted)[:, 0]
    grad = grad + s[:, None] * slope * poly * p * (predicted - t)
    if gamma:       # of labels: with one class y, `predicted` is p_y
        q = 1 - predicted
        grad *= q**gamma + gamma * q ** (gamma - 1) * predicted * losses[:, None]
        losses = losses * (q**gamma)[:, 0]
    derivatives = [grad, s[:, None] * slope**2 * mass * p * (1 - p)] if "hess_out" in options else [grad]
    reduction = options.get("reduction", "mean")
    if reduction == "mean":
        return losses.sum() / weight, *(array / weight for array in derivatives)
    return (losses.sum() if reduction == "sum" else losses), *derivatives


def check(right: dict[str, tuple[Any, ...]], dtype: str, answer: tuple[Any, ...]) -> str | None:
    name, *results = answer
    eps = float(np.finfo(dtype).eps)
    for what, got, want in zip(("loss", "gradient", "Hessian")[: len(results)], results, right[name], strict=True):
        scale = np.abs(want).max()
        error = float(np.max(np.abs(got - want)) / (scale or 1))
        if not error <= 300 * eps:
            return f"{what} is {error / eps:.0f} eps of the largest off"
    return None


def measure(shape: tuple[int, int], dtype: str, threads: int, names: set[str] | None, budget: float) -> list[Result]:
    logits, labels = make_inputs(shape, dtype)
    chosen = {name: p for name, p in make_problems(logits, labels).items() if names is None or name in names}
    right = {name: compute_answer(logits, target, options) for name, (target, options) in chosen.items()}
    grad = np.empty_like(logits)

    def call(name: str, target: Any, options: dict[str, Any]) -> tuple[Any, ...]:
        return name, *xent.cross_entropy(logits, target, grad_out=grad, n_threads=threads, **options)

    candidates = [Candidate(name, partial(call, name, *problem)) for name, problem in chosen.items()]
    return check_and_time(candidates, partial(check, right, dtype), budget=budget)


def main(arguments: Sequence[str] | None = None) -> int:
    quick = "float32 and all threads only, for less long"
    parser = report.make_parser("Time each option of cross_entropy against none.", quick=quick)
    parser.add_argument("--shape", type=report.parse_shape, default=(4096, 1000), metavar="ROWSxCLASSES")
    given = report.parse(parser, arguments)
    budget = 3.0 if given.quick else 10.0

    this = report.Report()
    cells = [(dtype, threads) for dtype in given.dtypes for threads in given.threads]
    columns = [measure(given.shape, *cell, None, budget) for cell in report.show_progress(cells, "options")]
    long = [measure(LONG, *cell, {"plain", SPARSE}, budget) for cell in cells]

    text = "Loss and gradient into a given array: how many times longer than without the option, median (quartiles)."
    this.print_head("Options of cross_entropy", text)
    header = [f"{given.shape[0]} x {given.shape[1]}", *(f"{d}, {report.format_threads(t)}" for d, t in cells)]
    plain = [report.format_seconds(column[0].seconds.median) if column[0].seconds else "WRONG" for column in columns]
    rows = [["plain", *plain]]
    for results in list(zip(*columns, strict=True))[1:]:
        rows.append([results[0].name, *(report.format_spread(result.ratio) for result in results)])
    of_long = [report.format_spread(column[1].ratio) for column in long]
    rows.append([f"{SPARSE}, at {LONG[0]} x {LONG[1]}", *of_long])
    print(report.format_table(header, rows))
    found = [(cell, result) for cell, column in zip(2 * cells, columns + long, strict=True) for result in column]
    results = {f"{d} {t}": report.record(column) for (d, t), column in zip(cells, columns, strict=True)}
    return int(bool(this.finish(given.json, found, shape=given.shape, cells=results)))


if __name__ == "__main__":
    sys.exit(main())
