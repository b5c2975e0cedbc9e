"""The loss of plain tensors, by a function of autograd: a registered operator takes 60 microseconds longer for each
call, several times as long as a small loss takes.

The forward pass computes the gradient along with the loss. The backward pass hands that out, multiplied in place if the
gradient of the loss is not 1. Where the graph is kept for another backward pass, a product in new memory is handed out:
the first array may have become the `.grad` of a tensor, which users change. (For the same reason it is not saved by
`save_for_backward`, which holds on to the memory of what it gives back.)

The input is saved for second derivatives, which are those of the operator. That does not raise the peak of memory: the
input is there when the gradient is computed, and the backward pass allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from xent.losses import cross_entropy
from xent.torch import _arrays, _operators
from xent.torch._arrays import Options

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_NUMPY_TYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}

# Not public in PyTorch: whether something is watching that has to see operators; whether there are transforms of
# torch.func; whether the graph of the current backward pass is kept.
_count_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_has_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def is_transformed() -> bool:
    """Whether there are transforms of torch.func, or tensors with tangents (forward mode)."""
    return _has_transforms() or forward_ad._current_level >= 0


def is_plain(input: Any, target: Any, *others: Any) -> bool:
    """Whether these are tensors with numbers, and nothing (a transform of torch.func, a tracer) is watching."""
    return (
        type(input) in _PLAIN_TYPES and type(target) in _PLAIN_TYPES
        and not _count_modes() and not is_transformed()
        and all(other is None or type(other) in _PLAIN_TYPES for other in others)
    )       # fmt: skip


class Loss(torch.autograd.Function):  # type: ignore[misc]
    """A checked call whose target requires no gradient; `dtype` is that of the result."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        loss, ctx.grad = _arrays.compute(input, target, weight, options, with_grad=True)
        ctx.save_for_backward(input, target, weight)
        ctx.options, ctx.dtypes = options, (input.dtype, dtype)
        return _arrays.loss_to_tensor(loss, dtype)

    @staticmethod
    def backward(ctx: Any, loss_grad: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled() or is_transformed():       # create_graph, is_grads_batched
            _, grad = _operators.cross_entropy(*ctx.saved_tensors, *ctx.options, ctx.dtypes[1], True)
            kept = True
        else:
            grad, kept = ctx.grad, keeps_graph()
        if grad is None:
            ctx.saved_tensors       # raises the error of a graph that is gone  # noqa: B018
        if not kept:
            ctx.grad = None
        if ctx.options.reduction == "none":
            loss_grad = loss_grad.unsqueeze(1 if grad.dim() > 1 else 0)
        elif not kept and loss_grad.item() == 1:
            return grad.to(ctx.dtypes[0]), None, None, None, None
        grad = grad * loss_grad if kept or grad.dtype != loss_grad.dtype else grad.mul_(loss_grad)
        return grad.to(ctx.dtypes[0]), None, None, None, None


class PlainLoss(Loss):
    """A call without options on float32 or float64 and labels, checked by the kernels alone."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, target: torch.Tensor, options: Options) -> torch.Tensor:
        loss, grad = cross_entropy(
            input.numpy(force=True), target.numpy(), ignore_index=options.ignore_index, reduction=options.reduction,
            return_grad=True, n_threads=_arrays.choose_n_threads(),
        )
        dtype = input.dtype
        ctx.grad, ctx.options, ctx.dtypes = torch.from_numpy(grad), options, (dtype, dtype)
        ctx.save_for_backward(input, target, None)
        return torch.from_numpy(np.array(loss, _NUMPY_TYPES[dtype]))


# What `apply` adds to this is for transforms of torch.func, of which there are none, and takes five microseconds.
_apply = super(torch.autograd.Function, Loss).apply
_apply_plain = super(torch.autograd.Function, PlainLoss).apply


def compute_plain(input: torch.Tensor, target: torch.Tensor, options: Options) -> torch.Tensor | None:
    """The loss of rows with labels, without options; None if it is something else, or wrong in any respect."""
    dtype = input.dtype
    if not (dtype in _NUMPY_TYPES and input.is_cpu and input.dim() == 2 and target.dim() == 1 and target.is_cpu):
        return None
    try:
        if input.requires_grad and torch.is_grad_enabled():
            loss: torch.Tensor = _apply_plain(input, target, options)
            return loss
        value = cross_entropy(
            input.numpy(force=True), target.numpy(), ignore_index=options.ignore_index, reduction=options.reduction,
            n_threads=_arrays.choose_n_threads(),
        )
        return torch.from_numpy(np.array(value, _NUMPY_TYPES[dtype]))
    except (IndexError, RuntimeError, TypeError, ValueError):       # told by the other checks
        return None


def compute(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options, dtype: torch.dtype
) -> torch.Tensor:
    """The loss of a checked call whose target requires no gradient."""
    if input.requires_grad and torch.is_grad_enabled():
        loss: torch.Tensor = _apply(input, target, weight, options, dtype)
        return loss
    return _arrays.loss_to_tensor(_arrays.compute(input, target, weight, options, False)[0], dtype)
