"""xent.torch.cross_entropy against PyTorch's, forward and backward, and training steps of a small language model.

Usage:

    python bench/torch_loss.py [--quick] [--parts loss model] [--shapes 4096x1000 ...] [--dtypes ...]
                               [--threads 1 2 ...] [--compiled] [--json PATH]

The cells are those of ops.py. Compilation takes some seconds in each cell, so it is left out unless asked for.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from math import nan
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import ops
import torch
from harness import report
from harness.cases import LAYOUTS, Case, compute_answer, make_cases, make_inputs
from harness.timing import Candidate, Result, check_and_time
from linear import use_threads_everywhere
from torch.nn.functional import cross_entropy

import xent
import xent.torch

PARTS = ("loss", "model")
LOSSES: dict[str, Callable[..., Any]] = {"xent.torch": xent.torch.cross_entropy, "torch": cross_entropy}
SETTING = ("dtype", "shape", "threads")
TOKENS, CONTEXT, CLASSES, WIDTH = 1024, 64, 32_000, 256     # of the model
QUICK_TOKENS = 128

Cells = list[tuple[Case, list[Result]]]


# --- the loss alone --------------------------------------------------------------------------------------------------


def compute(loss: Callable[..., Any], leaf: Any, labels: Any) -> tuple[Any, Any]:
    value = loss(leaf, labels)
    return value, torch.autograd.grad(value, leaf)[0]


def make_candidates(case: Case, leaf: Any, labels: Any, compiled: bool) -> list[Candidate]:
    scope = partial(use_threads_everywhere, case.threads)
    found = [Candidate(name, partial(compute, loss, leaf, labels), scope) for name, loss in LOSSES.items()]
    for name, loss in LOSSES.items() if compiled else ():
        torch.compiler.reset()
        function = torch.compile(loss, dynamic=False)
        with scope():
            compute(function, leaf, labels)     # compiles
        found.append(Candidate(f"{name}, compiled", partial(compute, function, leaf, labels), scope))
    return found


def measure(cases: Sequence[Case], compiled: bool, **timing: Any) -> Cells:
    cells: Cells = []
    for case in report.show_progress(cases, "cells"):
        logits, labels = make_inputs(case.shape, case.dtype, case.step)
        leaf = torch.from_numpy(logits).requires_grad_()
        candidates = make_candidates(case, leaf, torch.from_numpy(labels), compiled)
        right = partial(ops.check, case, compute_answer(case.operation, logits, labels))
        cells.append((case, check_and_time(candidates, right, **timing)))
    return cells


def make_table(cells: Cells) -> str:
    names = [result.name for result in cells[0][1]]
    rows = []
    for case, results in cells:
        own = report.format_seconds(results[0].seconds.median) if results[0].seconds else "WRONG"
        ratios = [report.format_spread(result.ratio) for result in results[1:]]
        rows.append([case.dtype, str(case.layout), str(case.threads), own, *ratios])
    return report.format_table([*SETTING, *names], rows)


def make_summary(cells: Cells) -> str:
    """The geometric mean of the ratios of each candidate, and its smallest one."""
    lines = []
    for name in [result.name for result in cells[0][1]][1:]:
        found = [(r.ratio.median, case) for case, results in cells for r in results if r.name == name and r.ratio]
        if found:
            least, case = min(found, key=lambda pair: pair[0])
            mean = report.format_number(geometric_mean(ratio for ratio, _ in found))
            lines.append(f"{name}: geometric mean {mean}, least {report.format_number(least)} at {case}")
    return "\n".join(lines)


# --- a language model ------------------------------------------------------------------------------------------------


class Model(torch.nn.Module):  # type: ignore[misc]
    """An embedding, two layers with causal attention, and the weight of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(CLASSES, WIDTH)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.output = torch.nn.Linear(WIDTH, CLASSES, bias=False)
        self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, tokens: Any) -> Any:
        """The hidden states."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        return x.flatten(0, 1)


def loss_of_logits(loss: Callable[..., Any], model: Model, states: Any, labels: Any) -> Any:
    return loss(model.output(states), labels)


def loss_of_states(model: Model, states: Any, labels: Any) -> Any:
    return xent.torch.linear_cross_entropy(states, model.output.weight, labels)


WAYS: dict[str, Callable[[Model, Any, Any], Any]] = {
    "xent.torch.cross_entropy": partial(loss_of_logits, xent.torch.cross_entropy),
    "F.cross_entropy": partial(loss_of_logits, cross_entropy),
    "xent.torch.linear_cross_entropy": loss_of_states,
}


def make_step(way: Callable[..., Any], tokens: int) -> Callable[[], float]:
    """A training step on the same batch each time, without the optimizer; returns the loss."""
    torch.manual_seed(0)
    model = Model()
    batch = torch.randint(CLASSES, (tokens // CONTEXT, CONTEXT + 1))

    def step() -> float:
        model.zero_grad()
        loss = way(model, model(batch[:, :-1]), batch[:, 1:].reshape(-1))
        loss.backward()
        return float(loss.detach())

    return step


def measure_model(tokens: int, threads: int, **timing: Any) -> list[Result]:
    scope = partial(use_threads_everywhere, threads)
    candidates = [Candidate(name, make_step(way, tokens), scope) for name, way in WAYS.items()]
    with scope():
        expected = make_step(WAYS["F.cross_entropy"], tokens)()

    def check(loss: float) -> str | None:
        return None if abs(loss - expected) <= 1e-5 * expected else f"the loss is {loss}, not {expected}"

    return check_and_time(candidates, check, **timing)


def read_peak() -> float:
    """The largest memory of this process, in MiB, where Linux says so."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), nan)


def count_peak(name: str, tokens: int) -> float:
    """MiB by which a step raises the peak of memory; to be run in a process of its own."""
    make_step(WAYS[name], CONTEXT)()        # imports and starts everything, with little memory
    before = read_peak()
    make_step(WAYS[name], tokens)()
    return read_peak() - before


def count_peaks(tokens: int) -> dict[str, float]:
    """The peak memory of a step, of each way in a process of its own."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in WAYS:
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(count_peak, (name, tokens))
    return peaks


def make_model_table(results: dict[int, list[Result]], peaks: dict[str, float]) -> str:
    rows = [
        [
            result.name, str(threads), report.format_seconds(result.seconds.median) if result.seconds else "WRONG",
            report.format_spread(result.ratio), f"{peaks[result.name]:.0f} MiB",
        ]
        for threads, found in results.items() for result in found
    ]       # fmt: skip
    return report.format_table(["loss", "threads", "step", "ratio", "peak"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    text = "Time the losses of xent.torch and PyTorch's in turn."
    parser = report.make_parser(text, quick="a few cells, in a minute")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", nargs="+", type=report.parse_layout, metavar="SHAPE", help="as those of ops.py")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile of both")
    options: argparse.Namespace = report.parse(parser, arguments)
    layouts = options.shapes or (ops.QUICK_LAYOUTS if options.quick else LAYOUTS)
    cases = make_cases(["loss+gradient"], layouts, options.dtypes, options.threads, [False])

    this = report.Report()
    cells = measure(cases, options.compiled, budget=0.5 if options.quick else 1.5) if "loss" in options.parts else []
    tokens, steps, peaks = QUICK_TOKENS if options.quick else TOKENS, {}, {}
    if "model" in options.parts:
        steps = {n: measure_model(tokens, n, least=5, budget=0.0 if options.quick else 20.0) for n in options.threads}
        peaks = count_peaks(tokens)
    this.print_head(
        "The loss under autograd",
        """Time / time of the first column: median of the rounds (quartiles); above 1, that one is faster. The loss is
        the mean over the rows, the gradient that of the mean with respect to a leaf, by torch.autograd.grad. A step of
        the model is a forward and a backward pass without the optimizer; its peak is the memory that it adds to a
        process.""",
    )
    print(f"torch {torch.__version__}, model: {tokens} tokens, {CLASSES} classes, width {WIDTH}, 2 layers\n")
    if cells:
        print(f"{make_table(cells)}\n\n{make_summary(cells)}\n")
    if steps:
        print(make_model_table(steps, peaks))
    found = [(case, result) for case, results in cells for result in results]
    found += [(f"model, {report.format_threads(n)}", result) for n, results in steps.items() for result in results]
    wrong = this.finish(
        options.json, found,
        cells=[{**asdict(case), "results": report.record(results)} for case, results in cells],
        model={n: report.record(results) for n, results in steps.items()}, peaks=peaks,
    )
    return int(any(name.startswith("xent") for name in wrong))


if __name__ == "__main__":
    sys.exit(main())
