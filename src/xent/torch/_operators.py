"""`xent::cross_entropy` and `xent::log_softmax`, operators for torch.compile, torch.export, torch.func and subclasses
of tensors.

The operator of the loss returns the gradient as well, which the backward pass multiplies by that of the loss. It is
differentiable too, by a product with the Hessian: that is the second derivative. With p = softmax(input), the mass T of
a row of the target and its divisor d, the Hessian of a row is T (diag(p) - p p^T) / d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from xent.torch import _arrays
from xent.torch._arrays import Options

SCHEMA = (
    "(Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index, float label_smoothing, "
    "ScalarType dtype, bool with_grad) -> (Tensor, Tensor)"
)


def _cross_entropy(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: str, ignore_index: int,
    label_smoothing: float, dtype: torch.dtype, with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    options = Options(reduction, ignore_index, label_smoothing)
    loss, grad = _arrays.compute(input, target, weight, options, with_grad)
    return _arrays.loss_to_tensor(loss, dtype), input.new_empty(0) if grad is None else grad


def _fake_cross_entropy(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: str, ignore_index: int,
    label_smoothing: float, dtype: torch.dtype, with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
    loss = input.new_empty(shape if reduction == "none" else (), dtype=dtype)
    if not with_grad:
        return loss, input.new_empty(0)
    return loss, torch.empty_like(input, dtype=_arrays.gradient_type(input.dtype))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    input, target, weight, reduction, ignore_index, label_smoothing, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.options = Options(reduction, ignore_index, label_smoothing)
    ctx.save_for_backward(input, target, weight, output[1])


def _backward(ctx: Any, loss_grad: torch.Tensor | None, grad_grad: torch.Tensor | None) -> tuple[Any, ...]:
    input, target, weight, grad = ctx.saved_tensors
    options = ctx.options
    row = Row(input, target, weight, options)
    input_grad = target_grad = None
    if loss_grad is not None:
        scale = loss_grad.unsqueeze(row.axis) if options.reduction == "none" else loss_grad
        if ctx.needs_input_grad[0]:
            input_grad = (scale * grad).to(input.dtype)
        if ctx.needs_input_grad[1]:
            target_grad = -scale / row.divisor() * row.target_slope() * LogSoftmax.apply(input)
    if grad_grad is not None:
        p = torch.softmax(input, row.axis)
        change = p * (grad_grad - (p * grad_grad).sum(row.axis, keepdim=True))
        if ctx.needs_input_grad[0]:
            product = (row.mass() / row.divisor() * change).to(input.dtype)
            input_grad = product if input_grad is None else input_grad + product
        if ctx.needs_input_grad[1]:
            mean = (p * grad_grad).sum(row.axis, keepdim=True)
            product = row.target_slope() * (mean - grad_grad) / row.divisor()
            target_grad = product if target_grad is None else target_grad + product
    if target_grad is not None:
        target_grad = target_grad.to(target.dtype)
    return input_grad, target_grad, None, None, None, None, None, None


class Row(NamedTuple):
    """What the derivatives need to know of the rows of a batch, as tensors that autograd can differentiate again."""

    input: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None
    options: Options

    @property
    def axis(self) -> int:
        return 1 if self.input.dim() > 1 else 0

    @property
    def classes(self) -> int:
        size: int = self.input.shape[self.axis]
        return size

    def weights(self) -> torch.Tensor:
        """Class weights, along the class axis of the input."""
        weight = self.input.new_ones(self.classes) if self.weight is None else self.weight
        return weight.reshape(self.classes, *[1] * (self.input.dim() - 1 - self.axis))

    def label_weights(self) -> torch.Tensor:
        """The class weight of each label, 0 where it is ignored."""
        labels = self.target.to(torch.int64).reshape(self.input.shape[: self.axis] + self.input.shape[self.axis + 1 :])
        ignored = labels == self.options.ignore_index
        return torch.take(self.weights(), labels.masked_fill(ignored, 0)).masked_fill(ignored, 0)

    def mass(self) -> torch.Tensor:
        """The sum of the target of each row, smoothed and under the class weights."""
        smoothing, weights = self.options.label_smoothing, self.weights()
        if self.target.is_floating_point():
            smoothed = (1 - smoothing) * self.target + smoothing / self.classes
            return (smoothed * weights).sum(self.axis, keepdim=True)
        mass = (1 - smoothing) * self.label_weights()
        if smoothing:
            kept = self.target.reshape(mass.shape) != self.options.ignore_index
            mass = mass + kept * (smoothing / self.classes * weights.sum())
        return mass.unsqueeze(self.axis)

    def divisor(self) -> torch.Tensor | float:
        if self.options.reduction != "mean":
            return 1.0
        if self.target.is_floating_point():
            return self.input.numel() / self.classes
        return self.label_weights().sum()

    def target_slope(self) -> torch.Tensor:
        """By how much the mass of each class changes with the target."""
        return (1 - self.options.label_smoothing) * self.weights()


def _call_each(function: Callable[..., Any], info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    """A vmap rule: one call for each element of the batch, whose results are stacked."""
    calls = (
        [x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)]
        for i in range(info.batch_size)
    )
    results = [function(*call) for call in calls]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])


cross_entropy = torch.library.custom_op("xent::cross_entropy", _cross_entropy, mutates_args=(), schema=SCHEMA)
cross_entropy.register_fake(_fake_cross_entropy)
cross_entropy.register_autograd(_backward, setup_context=_save)

log_softmax = torch.library.custom_op(
    "xent::log_softmax", _arrays.compute_log_softmax, mutates_args=(), schema="(Tensor input) -> Tensor"
)
log_softmax.register_fake(torch.empty_like)


# --- for torch.func: its transforms take no operator that has a derivative -------------------------------------------


class Transformed(torch.autograd.Function):  # type: ignore[misc]
    """The operator `cross_entropy`."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return cross_entropy(*arguments)

    setup_context = staticmethod(_save)
    backward = staticmethod(_backward)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return _call_each(Transformed.apply, info, in_dims, arguments)


class LogSoftmax(torch.autograd.Function):  # type: ignore[misc]
    """The operator `log_softmax`."""

    @staticmethod
    def forward(input: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = log_softmax(input)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, out_grad: torch.Tensor) -> torch.Tensor:
        (out,) = ctx.saved_tensors
        return out_grad - out.exp() * out_grad.sum(1 if out.dim() > 1 else 0, keepdim=True)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], input: torch.Tensor) -> Any:
        return _call_each(LogSoftmax.apply, info, in_dims, (input,))
