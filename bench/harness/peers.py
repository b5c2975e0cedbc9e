"""The libraries that xent is compared with, each called as its own users would call it for speed.

A peer that is not installed is left out. Inputs are converted before the clock starts. Where a case gives the output
array, the library writes to it by its own means, or is left out of that case. Where the classes are not side by side in
memory, it reads them where they are, or is left out.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import xent
from harness import numpy_ops
from harness.cases import Case, Floats, Labels
from harness.timing import Candidate

Calls = dict[str, Callable[..., Any]]
Prepare = Callable[[Case, Floats, Labels], Candidate | None]


@dataclass(frozen=True)
class Peer:
    """A library. `prepare` turns a case and its inputs into a candidate, or None if the library lacks the operation,
    cannot read such an array or cannot write to a given one. `failures` lists cases that raised an error, by its
    message."""

    name: str
    version: str
    how: str
    prepare: Prepare
    failures: dict[str, list[Case]] = field(default_factory=dict)


@contextmanager
def use_threads(get: Callable[[], int], put: Callable[[int], object], threads: int) -> Iterator[None]:
    """Set a library's number of threads, and restore it."""
    before = get()
    put(threads)
    try:
        yield
    finally:
        put(before)


def make_xent(name: str = "xent", package: Any = xent) -> Peer:
    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        out = np.empty_like(logits) if case.given else None
        axis = {} if logits.ndim == 2 else {"axis": 1}
        calls: Calls = {
            "loss": partial(package.cross_entropy, logits, labels, **axis),
            "loss+gradient": partial(package.cross_entropy, logits, labels, return_grad=True, grad_out=out, **axis),
            "logsumexp": partial(package.logsumexp, logits, **axis),
            "softmax": partial(package.softmax, logits, out=out, **axis),
            "log_softmax": partial(package.log_softmax, logits, out=out, **axis),
        }
        scope = partial(use_threads, package.get_num_threads, package.set_num_threads, case.threads)
        return Candidate(name, calls[case.operation], scope)

    how = "cross_entropy(return_grad=True), softmax, ...; given: out=, grad_out="
    return Peer(name, package.__version__, how, prepare)


def make_numpy() -> Peer:
    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        out = np.empty_like(logits) if case.given else None
        calls: Calls = {
            "loss": partial(numpy_ops.loss, logits, labels),
            "loss+gradient": partial(numpy_ops.loss_gradient, logits, labels, out),
            "logsumexp": partial(numpy_ops.logsumexp, logits),
            "softmax": partial(numpy_ops.softmax, logits, out),
            "log_softmax": partial(numpy_ops.log_softmax, logits, out),
        }
        return Candidate("numpy", calls[case.operation])

    return Peer("numpy", np.__version__, "plain formula, stable, in place; always 1 thread", prepare)


def make_scipy() -> Peer:
    import scipy
    from scipy import special

    functions: Calls = {"logsumexp": special.logsumexp, "softmax": special.softmax, "log_softmax": special.log_softmax}

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        if case.operation not in functions or case.given:
            return None
        return Candidate("scipy", partial(functions[case.operation], logits, axis=1))

    return Peer("scipy", scipy.__version__, "scipy.special; always 1 thread", prepare)


def use_torch(threads: int, mode: Callable[[], AbstractContextManager[Any]] = nullcontext) -> ExitStack:
    """Set PyTorch's number of threads, and a mode such as inference_mode."""
    import torch

    stack = ExitStack()
    stack.enter_context(use_threads(torch.get_num_threads, torch.set_num_threads, threads))
    stack.enter_context(mode())
    return stack


def make_torch() -> Peer:
    import torch
    from torch.nn.functional import cross_entropy

    operators = torch.ops.aten
    nll_loss = operators.nll_loss_forward, operators.nll_loss_backward
    nll_loss2d = operators.nll_loss2d_forward, operators.nll_loss2d_backward    # for images

    def loss_gradient(leaf: Any, y: Any) -> tuple[Any, Any]:
        loss = cross_entropy(leaf, y)
        return loss, torch.autograd.grad(loss, leaf)[0]

    def loss_gradient_into(
        forward: Any, backward: Any, x: Any, y: Any, log_p: Any, one: Any, out: Any
    ) -> tuple[Any, Any]:
        # The operators that autograd runs for the above. Autograd cannot be given an array; they can.
        operators._log_softmax.out(x, 1, False, out=log_p)
        loss, weight = forward(log_p, y, None, 1, -100)
        backward.grad_input(one, log_p, y, None, 1, -100, weight, grad_input=out)
        return loss, operators._log_softmax_backward_data.out(out, log_p, 1, x.dtype, out=out)

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate:
        x, y = torch.from_numpy(logits), torch.from_numpy(labels)
        out = torch.empty_like(x) if case.given else None
        if case.operation == "loss+gradient" and not case.given:
            call = partial(loss_gradient, x.detach().requires_grad_(), y)
            return Candidate("torch", call, partial(use_torch, case.threads))
        losses = nll_loss if x.ndim == 2 else nll_loss2d
        calls: Calls = {
            "loss": partial(cross_entropy, x, y),
            "loss+gradient": partial(loss_gradient_into, *losses, x, y, torch.empty_like(x), x.new_ones(()), out),
            "logsumexp": partial(torch.logsumexp, x, 1),
            "softmax": partial(torch.softmax, x, 1, out=out),
            "log_softmax": partial(torch.log_softmax, x, 1, out=out),
        }
        return Candidate("torch", calls[case.operation], partial(use_torch, case.threads, torch.inference_mode))

    how = (
        "eager: nn.functional.cross_entropy + autograd.grad on a leaf; inference_mode where forward only; given: out=, "
        "for the gradient that of each operator that autograd runs"
    )
    return Peer("torch", torch.__version__, how, prepare)


def make_compiled_torch() -> Peer:
    import torch
    from torch.nn.functional import cross_entropy

    gradient_loss = torch.func.grad_and_value(cross_entropy)
    functions: Calls = {
        "loss": cross_entropy,
        "loss+gradient": lambda x, y: gradient_loss(x, y)[::-1],
        "logsumexp": lambda x, y: torch.logsumexp(x, 1),
        "softmax": lambda x, y: torch.softmax(x, 1),
        "log_softmax": lambda x, y: torch.log_softmax(x, 1),
    }
    failures: dict[str, list[Case]] = {}

    def into(function: Callable[..., Any], x: Any, y: Any, out: Any) -> Any:
        # The compiler fuses this copy into the last loop.
        answer = function(x, y)
        return (answer[0], out.copy_(answer[1])) if isinstance(answer, tuple) else out.copy_(answer)

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        function, arguments = functions[case.operation], [torch.from_numpy(logits), torch.from_numpy(labels)]
        if case.given:
            function = partial(into, function)
            arguments.append(torch.empty_like(arguments[0]))
        mode = nullcontext if case.operation == "loss+gradient" else torch.inference_mode
        scope = partial(use_torch, case.threads, mode)
        torch.compiler.reset()  # there is a limit on how many shapes a function is compiled for
        call = partial(torch.compile(function, dynamic=False), *arguments)
        try:
            with scope():
                call()  # compiles
        except Exception as error:  # of many types; most often there is no C++ compiler
            failures.setdefault(str(error).strip().partition("\n")[0], []).append(case)
            return None
        return Candidate("torch.compile", call, scope)

    how = (
        "dynamic=False, compiled beforehand; loss+gradient is func.grad_and_value, compiled as a whole; given: a copy_ "
        "at the end of the compiled function"
    )
    return Peer("torch.compile", torch.__version__, how, prepare, failures)


def make_jax() -> Peer:
    import jax
    from jax import numpy as jnp
    from jax.extend.backend import clear_backends

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        # On a CPU, about twice as fast as taking the label from log_softmax or multiplying by a one-hot array.
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
        # XLA sets the size of its thread pool when the client is made, from this variable alone.
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
        operation = functions[case.operation]
        stored = logits
        if case.step > 1:       # JAX has no strided arrays; the compiled function reads the columns where they are
            stored = np.zeros(case.shape, logits.dtype)
            stored[:, :: case.step] = logits
        with scope():
            function = jax.jit(
                lambda x, y, donated: operation(x[:, :: case.step], y), donate_argnums=2, keep_unused=True
            )
            x, y = jax.device_put(stored), jax.device_put(labels)
            donated = jnp.empty(logits.shape, x.dtype) if case.given else None

        def call() -> Any:
            nonlocal donated
            answer = jax.block_until_ready(function(x, y, donated))
            if case.given:
                donated = answer[1] if isinstance(answer, tuple) else answer
            return answer

        with scope():
            call()  # compiles
        return Candidate("jax", call, scope)

    how = (
        "jit(value_and_grad), compiled beforehand, on device arrays, block_until_ready; given: the last one, donated; "
        "every second column: taken in the compiled function"
    )
    return Peer("jax", jax.__version__, how, prepare)


def make_sklearn() -> Peer | None:
    import sklearn

    try:
        from sklearn._loss import HalfMultinomialLoss
    except ImportError:  # it is private and may move
        return None

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        if logits.ndim > 2:
            return None
        rows, classes = logits.shape
        loss = HalfMultinomialLoss(n_classes=classes)
        # It takes labels as floats. Weights of 1/N give the gradient of the mean in the same pass.
        arguments = {
            "y_true": labels.astype(logits.dtype),
            "raw_prediction": logits,
            "sample_weight": np.full(rows, 1 / rows, logits.dtype),
            "n_threads": case.threads,
        }

        if case.given:
            arguments |= {"loss_out": np.empty(rows, logits.dtype), "gradient_out": np.empty_like(logits)}

        def loss_gradient() -> tuple[Any, Any]:
            losses, gradient = loss.loss_gradient(**arguments)
            return losses.sum(), gradient

        calls: Calls = {"loss": lambda: loss.loss(**arguments).sum(), "loss+gradient": loss_gradient}
        return Candidate("sklearn", calls[case.operation]) if case.operation in calls else None

    how = "_loss.HalfMultinomialLoss, weights 1/N; given: loss_out=, gradient_out="
    return Peer("sklearn", sklearn.__version__, how, prepare)


def make_onnxruntime() -> Peer | None:
    if importlib.util.find_spec("onnx") is None:
        return None
    import onnxruntime
    from onnx import helper

    operators = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}

    def session(operator: str, dtype: str, axes: int, threads: int) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        names = ["rows", "classes", "height", "width"][:axes]
        x, y = (helper.make_tensor_value_info(name, kind, names) for name in "xy")
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=1)], operator, [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def prepare(case: Case, logits: Floats, labels: Labels) -> Candidate | None:
        if case.operation not in operators or case.step > 1:    # its tensors have no strides
            return None
        run = session(operators[case.operation], case.dtype, logits.ndim, case.threads)
        if not case.given:
            return Candidate("onnxruntime", lambda: run.run(None, {"x": logits})[0])
        out, binding = np.empty_like(logits), run.io_binding()
        binding.bind_input("x", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        binding.bind_output("y", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

        def call() -> Floats:
            run.run_with_iobinding(binding)
            return out

        return Candidate("onnxruntime", call)

    how = (
        "a model of one node, a session with that many threads, which spin by default; session.run; given: IO binding"
    )
    return Peer("onnxruntime", onnxruntime.__version__, how, prepare)


PEERS: tuple[tuple[str, Callable[[], Peer | None]], ...] = (
    ("numpy", make_numpy),
    ("scipy", make_scipy),
    ("torch", make_torch),
    ("torch", make_compiled_torch),
    ("jax", make_jax),
    ("sklearn", make_sklearn),
    ("onnxruntime", make_onnxruntime),
)
SLOW = (make_compiled_torch,)  # takes seconds to compile each case


def list_installed(quick: bool = False) -> list[Peer]:
    """xent, then the peers that are installed; without the slow ones if `quick`."""
    makers = [make for package, make in PEERS if importlib.util.find_spec(package) and not (quick and make in SLOW)]
    return [make_xent(), *(peer for make in makers if (peer := make()) is not None)]
