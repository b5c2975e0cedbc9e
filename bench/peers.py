"""The libraries that xent is compared with, each called the way its own users would call it to go fast.

A peer that is not installed is left out. Inputs are converted before the clock starts; every call allocates its output.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy_ops
from cases import Case, Floats, Labels
from harness import Candidate

import xent

Calls = dict[str, Callable[..., Any]]
Prepare = Callable[[Case, Floats, Labels], Candidate | None]


@dataclass(frozen=True)
class Peer:
    """A library: `prepare` turns a case and its inputs into a candidate, or None where it has no such operation."""

    name: str
    version: str
    how: str
    prepare: Prepare


@contextmanager
def thread_count(get: Callable[[], int], put: Callable[[int], object], threads: int) -> Iterator[None]:
    """A library's number of threads, set and restored."""
    before = get()
    put(threads)
    try:
        yield
    finally:
        put(before)


def xent_itself() -> Peer:
    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        calls: Calls = {
            "loss": partial(xent.cross_entropy, logits, labels),
            "loss+gradient": partial(xent.cross_entropy, logits, labels, return_grad=True),
            "logsumexp": partial(xent.logsumexp, logits),
            "softmax": partial(xent.softmax, logits),
            "log_softmax": partial(xent.log_softmax, logits),
        }
        scope = partial(thread_count, xent.get_num_threads, xent.set_num_threads, case.threads)
        return Candidate("xent", calls[case.operation], scope)

    return Peer("xent", xent.__version__, "cross_entropy(return_grad=True) and its kin", prepare)


def numpy_plain() -> Peer:
    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        calls: Calls = {
            "loss": partial(numpy_ops.loss, logits, labels),
            "loss+gradient": partial(numpy_ops.loss_gradient, logits, labels),
            "logsumexp": partial(numpy_ops.logsumexp, logits),
            "softmax": partial(numpy_ops.softmax, logits),
            "log_softmax": partial(numpy_ops.log_softmax, logits),
        }
        return Candidate("numpy", calls[case.operation])

    return Peer("numpy", np.__version__, "plain formula, stable, in place; always 1 thread", prepare)


def scipy_special() -> Peer:
    import scipy
    from scipy import special

    functions: Calls = {"logsumexp": special.logsumexp, "softmax": special.softmax, "log_softmax": special.log_softmax}

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        if case.operation not in functions:
            return None
        return Candidate("scipy", partial(functions[case.operation], logits, axis=1))

    return Peer("scipy", scipy.__version__, "scipy.special; always 1 thread", prepare)


def torch_eager() -> Peer:
    import torch
    from torch.nn.functional import cross_entropy

    def forward_only(threads: int) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(thread_count(torch.get_num_threads, torch.set_num_threads, threads))
        stack.enter_context(torch.inference_mode())
        return stack

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        x, y = torch.from_numpy(logits), torch.from_numpy(labels)
        if case.operation == "loss+gradient":
            leaf = x.detach().requires_grad_()

            def loss_gradient() -> tuple[Any, Any]:
                loss = cross_entropy(leaf, y)
                return loss, torch.autograd.grad(loss, leaf)[0]

            scope = partial(thread_count, torch.get_num_threads, torch.set_num_threads, case.threads)
            return Candidate("torch", loss_gradient, scope)
        calls: Calls = {
            "loss": partial(cross_entropy, x, y),
            "logsumexp": partial(torch.logsumexp, x, 1),
            "softmax": partial(torch.softmax, x, 1),
            "log_softmax": partial(torch.log_softmax, x, 1),
        }
        return Candidate("torch", calls[case.operation], partial(forward_only, case.threads))

    how = "eager: nn.functional.cross_entropy + autograd.grad on a leaf; inference_mode where forward only"
    return Peer("torch", torch.__version__, how, prepare)


def jax_jitted() -> Peer:
    import jax
    from jax import numpy as jnp
    from jax.extend.backend import clear_backends

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        # About twice as fast on a CPU as picking the label from log_softmax or multiplying by a one-hot.
        return jnp.mean(jax.nn.logsumexp(x, axis=1) - jnp.take_along_axis(x, y[:, None], axis=1)[:, 0])

    functions: Calls = {
        "loss": loss,
        "loss+gradient": jax.value_and_grad(loss),
        "logsumexp": lambda x, y: jax.nn.logsumexp(x, axis=1),
        "softmax": lambda x, y: jax.nn.softmax(x, axis=1),
        "log_softmax": lambda x, y: jax.nn.log_softmax(x, axis=1),
    }
    client_threads = 0

    def use_threads(threads: int) -> None:
        # XLA sizes its pool once, when the client is made, and reads only this variable for it.
        nonlocal client_threads
        if threads != client_threads:
            before = os.environ.get("NPROC")
            os.environ["NPROC"] = str(threads)
            clear_backends()
            jax.devices()
            del os.environ["NPROC"]
            if before is not None:
                os.environ["NPROC"] = before
            client_threads = threads

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        use_threads(case.threads)
        scope = partial(jax.enable_x64, case.dtype == "float64")
        with scope():
            function = jax.jit(functions[case.operation])
            x, y = jax.device_put(logits), jax.device_put(labels)
            function(x, y)  # compiles
        return Candidate("jax", lambda: jax.block_until_ready(function(x, y)), scope)

    how = "jit(value_and_grad), compiled before, arrays on the device, block_until_ready"
    return Peer("jax", jax.__version__, how, prepare)


def sklearn_loss() -> Peer | None:
    import sklearn

    try:
        from sklearn._loss import HalfMultinomialLoss
    except ImportError:  # private, so it may move
        return None

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        rows, classes = case.shape
        loss = HalfMultinomialLoss(n_classes=classes)
        # Labels are floats there; weights of 1/N make the gradient that of the mean in the same pass.
        arguments = {
            "y_true": labels.astype(logits.dtype),
            "raw_prediction": logits,
            "sample_weight": np.full(rows, 1 / rows, logits.dtype),
            "n_threads": case.threads,
        }

        def loss_gradient() -> tuple[Any, Any]:
            losses, gradient = loss.loss_gradient(**arguments)
            return losses.sum(), gradient

        calls: Calls = {"loss": lambda: loss.loss(**arguments).sum(), "loss+gradient": loss_gradient}
        return Candidate("sklearn", calls[case.operation]) if case.operation in calls else None

    return Peer("sklearn", sklearn.__version__, "_loss.HalfMultinomialLoss, weights 1/N", prepare)


PEERS: tuple[tuple[str, Callable[[], Peer | None]], ...] = (
    ("numpy", numpy_plain),
    ("scipy", scipy_special),
    ("torch", torch_eager),
    ("jax", jax_jitted),
    ("sklearn", sklearn_loss),
)


def installed() -> list[Peer]:
    """xent, then the peers that can be imported here."""
    found = [make() for package, make in PEERS if importlib.util.find_spec(package)]
    return [xent_itself(), *(peer for peer in found if peer is not None)]
