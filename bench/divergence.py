"""kl_divergence and evaluate against the same computed with PyTorch, JAX, SciPy and NumPy, in turn.

Usage:

    python bench/divergence.py [--quick] [--shapes 4096x1000 ...] [--dtypes ...] [--threads 1 2 ...] [--json PATH]
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import numpy as np
from harness import numpy_ops, report
from harness.cases import Floats, Labels, as_arrays
from harness.peers import use_threads, use_torch
from harness.timing import Candidate, Result, check_and_time

import xent
from xent._calls.cpus import available

SHAPES = ((65536, 10), (20000, 26), (2048, 100), (256, 1024), (4096, 1000), (512, 32000), (64, 128256))
QUICK_SHAPES = ((2048, 100), (4096, 1000))
KL, KL_GRADIENT, EVALUATE, COMPARE = "kl", "kl + gradient", "evaluate", "evaluate, reference"
OPERATIONS = (KL, KL_GRADIENT, EVALUATE, COMPARE)
TOP = 5
BINS = 15

Calls = dict[str, Callable[[], Any]]


@lru_cache(maxsize=1)
def make_inputs(shape: tuple[int, int], dtype: str) -> tuple[Floats, Floats, Labels]:
    """Logits from N(0, 3²), those of a reference that differ by N(0, 0.3²), and labels."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal(shape, dtype=np.dtype(dtype))
    ref = x + np.asarray(0.3, dtype) * rng.standard_normal(shape, dtype=np.dtype(dtype))
    return x, ref, rng.integers(0, shape[1], shape[0])


# --- the candidates --------------------------------------------------------------------------------------------------


def select(e: xent.Evaluation, operation: str) -> tuple[float, ...]:
    measures = (e.loss, e.accuracy, e.topk[TOP], e.entropy, e.brier, e.ece)
    return (*measures, e.kl, e.agreement) if operation == COMPARE else measures


def call_xent(operation: str, x: Floats, ref: Floats, labels: Labels, out: Floats) -> Any:
    if operation == KL:
        return xent.kl_divergence(x, ref)
    if operation == KL_GRADIENT:
        return xent.kl_divergence(x, ref, grad_out=out)
    reference = ref if operation == COMPARE else None
    return select(xent.evaluate(x, labels, topk=(TOP,), reference=reference), operation)


def call_numpy(operation: str, x: Floats, ref: Floats, labels: Labels) -> Any:
    log_p = numpy_ops.log_softmax(x)
    p = np.exp(log_p)
    if operation in (KL, KL_GRADIENT, COMPARE):
        log_q = numpy_ops.log_softmax(ref)
        q = np.exp(log_q)
        kl = np.mean((q * (log_q - log_p)).sum(axis=1))
        if operation == KL:
            return kl
        if operation == KL_GRADIENT:
            return kl, (p - q) / len(x)
    rows = np.arange(len(x))
    own, confidence = x[rows, labels], p.max(axis=1)
    ahead = (x > own[:, None]).sum(axis=1)
    bins = np.minimum(np.ceil(confidence * BINS).astype(int) - 1, BINS - 1)
    gaps = np.bincount(bins, (ahead == 0) - confidence, BINS)
    brier = np.mean((p * p).sum(axis=1) - 2 * p[rows, labels] + 1)
    loss, entropy = -np.mean(log_p[rows, labels]), -np.mean((p * log_p).sum(axis=1))
    measures = (loss, np.mean(ahead == 0), np.mean(ahead < TOP), entropy, brier, np.abs(gaps).sum() / len(x))
    if operation == EVALUATE:
        return measures
    return (*measures, kl, np.mean(x.argmax(axis=1) == ref.argmax(axis=1)))


def call_scipy(x: Floats, ref: Floats) -> Any:
    from scipy.special import rel_entr, softmax

    return np.mean(rel_entr(softmax(ref, axis=1), softmax(x, axis=1)).sum(axis=1))


def make_torch_calls(operation: str, x: Floats, ref: Floats, labels: Labels) -> Calls:
    import torch
    from torch.nn.functional import kl_div, log_softmax

    tensors = torch.from_numpy(x), torch.from_numpy(ref), torch.from_numpy(labels)

    def divergence(x: Any, ref: Any) -> Any:
        return kl_div(log_softmax(x, 1), log_softmax(ref, 1), log_target=True, reduction="batchmean")

    def measure(x: Any, ref: Any, y: Any) -> Any:
        log_p = log_softmax(x, 1)
        p = log_p.exp()
        confidence, found = p.max(1)
        top = x.topk(TOP, 1).indices == y[:, None]
        right = (found == y).to(x.dtype)
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        gaps = x.new_zeros(BINS).index_add(0, bins, right - confidence)
        own = y[:, None]
        brier = ((p * p).sum(1) - 2 * p.gather(1, own)[:, 0] + 1).mean()
        loss, entropy = -log_p.gather(1, own).mean(), -(p * log_p).sum(1).mean()
        measures = loss, right.mean(), top.any(1).to(x.dtype).mean(), entropy, brier, gaps.abs().sum() / len(x)
        if operation == EVALUATE:
            return measures
        return (*measures, divergence(x, ref), (found == ref.argmax(1)).to(x.dtype).mean())

    function: Callable[..., Any] = measure
    if operation == KL:
        function = lambda x, ref, y: divergence(x, ref)     # noqa: E731
    elif operation == KL_GRADIENT:
        gradient = torch.func.grad_and_value(divergence)
        function = lambda x, ref, y: gradient(x, ref)[::-1]     # noqa: E731
    calls: Calls = {"torch": partial(function, *tensors)}
    if operation == KL_GRADIENT:
        leaf = tensors[0].clone().requires_grad_()

        def through_autograd() -> Any:
            loss = divergence(leaf, tensors[1])
            return loss, torch.autograd.grad(loss, leaf)[0]

        calls["torch"] = through_autograd
    torch.compiler.reset()
    calls["torch.compile"] = partial(torch.compile(function, dynamic=False), *tensors)
    return calls


def make_jax_calls(operation: str, x: Floats, ref: Floats) -> Calls:
    import jax

    @jax.jit
    def divergence(x: Any, ref: Any) -> Any:
        log_p, log_q = jax.nn.log_softmax(x, 1), jax.nn.log_softmax(ref, 1)
        return jax.numpy.mean((jax.numpy.exp(log_q) * (log_q - log_p)).sum(1))

    function = divergence if operation == KL else jax.jit(jax.value_and_grad(divergence))
    arrays = jax.device_put(x), jax.device_put(ref)
    return {"jax": lambda: jax.block_until_ready(function(*arrays))}


def make_candidates(operation: str, inputs: tuple[Floats, Floats, Labels], threads: int) -> list[Candidate]:
    x, ref, labels = inputs
    scope = partial(use_threads, xent.get_num_threads, xent.set_num_threads, threads)
    candidates = [Candidate("xent", partial(call_xent, operation, x, ref, labels, np.empty_like(x)), scope)]
    candidates.append(Candidate("numpy", partial(call_numpy, operation, x, ref, labels)))
    if operation == KL and importlib.util.find_spec("scipy"):
        candidates.append(Candidate("scipy", partial(call_scipy, x, ref)))
    if importlib.util.find_spec("torch"):
        from torch import inference_mode

        mode = nullcontext if operation == KL_GRADIENT else inference_mode
        for name, call in make_torch_calls(operation, x, ref, labels).items():
            candidates.append(Candidate(name, call, partial(use_torch, threads, mode)))
    # JAX takes as many threads as there are CPUs.
    if importlib.util.find_spec("jax") and operation in (KL, KL_GRADIENT) and threads == available():
        import jax

        if x.dtype == np.float32 or jax.config.jax_enable_x64:
            candidates += [Candidate(name, call) for name, call in make_jax_calls(operation, x, ref).items()]
    return candidates


# --- the table -------------------------------------------------------------------------------------------------------


def check(expected: tuple[Any, ...], eps: float, answer: Any) -> str | None:
    """A divergence of 0.05 that is computed with cancellation has lost some digits."""
    for got, want in zip(as_arrays(answer), expected, strict=True):
        error = float(np.max(np.abs(got - want))) / float(np.max(np.abs(want)) or 1)
        if not error <= 3e4 * eps:
            return f"{error / eps:.0f} eps off"
    return None


def measure(operation: str, shape: tuple[int, int], dtype: str, threads: int, budget: float) -> list[Result]:
    inputs = make_inputs(shape, dtype)
    x, ref, labels = inputs
    expected = as_arrays(call_numpy(operation, x.astype(np.float64), ref.astype(np.float64), labels))
    candidates = make_candidates(operation, inputs, threads)
    return check_and_time(candidates, partial(check, expected, float(np.finfo(dtype).eps)), budget=budget)


def make_table(cells: Iterable[tuple[tuple[Any, ...], list[Result]]]) -> str:
    names = ("numpy", "scipy", "torch", "torch.compile", "jax")
    rows = []
    for (operation, shape, dtype, threads), results in cells:
        by_name = {result.name: result for result in results}
        own = report.format_seconds(results[0].seconds.median) if results[0].seconds else "WRONG"
        ratios = [report.format_spread(by_name[name].ratio) if name in by_name else "" for name in names]
        rows.append([operation, dtype, str(shape), str(threads), own, *ratios])
    return report.format_table(["operation", "dtype", "shape", "threads", "xent", *names], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = report.make_parser("Time divergences and measures.", quick="two shapes, for less long")
    parser.add_argument("--ops", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxCLASSES")
    given = report.parse(parser, arguments)
    shapes = given.shapes or (QUICK_SHAPES if given.quick else SHAPES)
    settings = [
        (operation, shape, dtype, threads)
        for threads in given.threads for operation in given.ops for dtype in given.dtypes for shape in shapes
    ]
    this = report.Report()
    cells = [
        (setting, measure(*setting, 0.5 if given.quick else 2.0))
        for setting in report.show_progress(settings, "divergences")
    ]
    text = "Time of the peer / time of xent: median of the rounds (quartiles); above 1, xent is faster."
    this.print_head("kl_divergence and evaluate", text)
    print(make_table(cells))
    found = [(setting, result) for setting, results in cells for result in results]
    recorded = [{"setting": [*map(str, setting)], "results": report.record(results)} for setting, results in cells]
    return int("xent" in this.finish(given.json, found, cells=recorded))


if __name__ == "__main__":
    sys.exit(main())
