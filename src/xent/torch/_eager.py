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

from xent._calls.threads import THREAD_ELEMENTS
from xent.losses import cross_entropy
from xent.torch import _arrays, _operators
from xent.torch._arrays import Options

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_PLAIN_DTYPES = (torch.float32, torch.float64)

# Not public in PyTorch: whether something is watching that has to see operators; whether there are transforms of
# torch.func; whether the graph of the current backward pass is kept.
_count_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_has_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def is_transformed() -> bool:
    """Whether there are transforms of torch.func, or tensors with tangents (forward mode)."""
    return _has_transforms() or forward_ad._current_level >= 0


def is_plain(input: Any, target: Any, weight: Any) -> bool:
    """Whether these are tensors with numbers, and nothing (a transform of torch.func, a tracer) is watching."""
    return (
        type(input) in _PLAIN_TYPES and type(target) in _PLAIN_TYPES
        and (weight is None or type(weight) in _PLAIN_TYPES)
        and not _count_modes() and not _has_transforms() and forward_ad._current_level < 0
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
        ctx.options = options
        return _arrays.loss_to_tensor(loss, dtype)

    @staticmethod
    def backward(ctx: Any, loss_grad: torch.Tensor) -> tuple[Any, ...]:
        return _differentiate(ctx, ctx.saved_tensors, loss_grad)


def _differentiate(ctx: Any, saved: tuple[Any, ...], loss_grad: torch.Tensor) -> tuple[Any, ...]:
    """The gradient times that of the loss; with a graph of its own for create_graph and is_grads_batched."""
    if torch.is_grad_enabled() or _has_transforms():
        _, grad = _operators.cross_entropy(*saved, *ctx.options, loss_grad.dtype, True)
        kept = True
    else:
        grad, kept = ctx.grad, keeps_graph()
    if not kept:
        ctx.grad = None
    if ctx.options.reduction == "none":
        loss_grad = loss_grad.unsqueeze(1 if grad.dim() > 1 else 0)
    elif not kept and loss_grad.item() == 1:
        return grad.to(saved[0].dtype), None, None, None, None
    grad = grad * loss_grad if kept or grad.dtype != loss_grad.dtype else grad.mul_(loss_grad)
    return grad.to(saved[0].dtype), None, None, None, None


class PlainLoss(torch.autograd.Function):  # type: ignore[misc]
    """A call without options on float32 or float64 and labels, checked by the kernels alone."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, target: torch.Tensor, reduction: Any, ignore_index: int) -> torch.Tensor:
        loss, grad = cross_entropy(
            input.numpy(force=True), target.numpy(), ignore_index=ignore_index, reduction=reduction, return_grad=True,
            n_threads=_choose_n_threads(input),
        )
        ctx.grad, ctx.plain = torch.from_numpy(grad), (reduction, ignore_index)
        ctx.save_for_backward(input, target)
        return torch.from_numpy(np.array(loss, grad.dtype))

    @staticmethod
    def backward(ctx: Any, loss_grad: torch.Tensor) -> tuple[Any, ...]:
        grad, (reduction, ignore_index) = ctx.grad, ctx.plain
        if grad is None or reduction == "none" or torch.is_grad_enabled() or _has_transforms() or keeps_graph():
            ctx.options = Options(reduction, ignore_index, 0.0)
            return _differentiate(ctx, (*ctx.saved_tensors, None), loss_grad)
        ctx.grad = None
        return (grad if loss_grad.item() == 1 else grad.mul_(loss_grad)), None, None, None


# What `apply` adds to this is for transforms of torch.func, of which there are none, and takes five microseconds.
_apply: Callable[..., torch.Tensor] = super(torch.autograd.Function, Loss).apply
_apply_plain: Callable[..., torch.Tensor] = super(torch.autograd.Function, PlainLoss).apply


def _choose_n_threads(input: torch.Tensor) -> int:
    """One thread for what takes 200 microseconds: in a training loop workers sleep between two losses, and one that
    wakes up late competes for the GIL with the backward pass."""
    return 1 if input.numel() < 4 * THREAD_ELEMENTS else _arrays.choose_n_threads()


def is_plain_loss(input: Any, target: Any) -> bool:
    """Whether `compute_plain` may do."""
    return (
        type(input) in _PLAIN_TYPES and type(target) in _PLAIN_TYPES
        and input.dtype in _PLAIN_DTYPES and input.dim() == 2 and target.dim() == 1 and input.is_cpu and target.is_cpu
        and not _count_modes() and not _has_transforms() and forward_ad._current_level < 0
    )       # fmt: skip


def compute_plain(input: torch.Tensor, target: torch.Tensor, reduction: Any, ignore_index: int) -> torch.Tensor | None:
    """The loss of rows with labels, without options; None if something is wrong with them."""
    try:
        if input.requires_grad and torch.is_grad_enabled():
            return _apply_plain(input, target, reduction, ignore_index)
        loss: Any = cross_entropy(
            input.numpy(force=True), target.numpy(), ignore_index=ignore_index, reduction=reduction,
            n_threads=_choose_n_threads(input),
        )
        return torch.from_numpy(np.asarray(loss)).to(input.dtype)
    except (IndexError, RuntimeError, TypeError, ValueError):       # the general way tells which
        return None


def compute(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options, dtype: torch.dtype
) -> torch.Tensor:
    """The loss of a checked call whose target requires no gradient."""
    if input.requires_grad and torch.is_grad_enabled():
        loss: torch.Tensor = _apply(input, target, weight, options, dtype)
        return loss
    return _arrays.loss_to_tensor(_arrays.compute(input, target, weight, options, False)[0], dtype)
