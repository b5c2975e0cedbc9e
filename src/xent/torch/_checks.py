"""Checks of tensors: the types of errors are PyTorch's, the messages name the argument, as everywhere in xent."""

from __future__ import annotations

from typing import Any

import torch

from xent.torch._arrays import Options

REDUCTIONS = ("mean", "sum", "none")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DEVICES = ("cpu", "meta")       # a meta tensor has a shape and no numbers, and so has its loss


def check_tensors(**tensors: Any) -> None:
    """Raise unless all of them are dense tensors on the CPU; None is an argument that is not given."""
    devices = set()
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a Tensor")
        device = tensor.device.type
        if device not in DEVICES:
            raise NotImplementedError(
                f"{name} is on the device {tensor.device}, and xent computes on the CPU: use torch.nn.functional there"
            )
        if tensor.layout is not torch.strided:
            raise NotImplementedError(f"{name} has the layout {tensor.layout}; it must be dense: use {name}.to_dense()")
        devices.add(device)
    if len(devices) > 1:
        raise RuntimeError(f"{', '.join(tensors)} are on several devices; all of them must be on the CPU")


def check_floats(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in FLOATS:
        raise NotImplementedError(
            f"{name} has dtype {tensor.dtype}; it must be float32, float64, bfloat16 or float16"
        )


def check_options(options: Options, soft: bool) -> None:
    if options.reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {options.reduction!r}; it must be one of {', '.join(map(repr, REDUCTIONS))}")
    if not 0 <= options.label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing is {options.label_smoothing}; it must be between 0 and 1")
    if soft and options.ignore_index >= 0:
        raise RuntimeError(f"ignore_index is {options.ignore_index}; with a target of probabilities none is ignored")


def check_target(target: torch.Tensor, shape: tuple[int, ...], name: str) -> bool:
    """Raise unless the target goes with logits of this shape, with classes on axis 1. Return whether it holds
    probabilities, and not class indices."""
    if not shape:
        raise RuntimeError(f"{name} is a number; it must have an axis of classes")
    if tuple(target.shape) == shape:
        if target.dtype not in FLOATS:
            raise RuntimeError(f"target has dtype {target.dtype}; probabilities must be floats")
        return True
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if tuple(target.shape) != rows and (rows or target.dim() > 1 or target.numel() != 1):
        error = ValueError if len(shape) == 2 else RuntimeError
        raise error(
            f"target has shape {tuple(target.shape)}; for {name} of shape {shape} it must have shape {rows} (class "
            f"indices) or {shape} (probabilities)"
        )
    if target.dtype not in INTEGERS:
        raise RuntimeError(f"target has dtype {target.dtype}; class indices must be integers, such as torch.int64")
    return False


def check_weight(weight: torch.Tensor | None, classes: int) -> None:
    if weight is None:
        return
    if tuple(weight.shape) != (classes,):
        raise RuntimeError(f"weight has shape {tuple(weight.shape)}; it must have shape ({classes},), one per class")
    if weight.dtype not in FLOATS:
        raise RuntimeError(f"weight has dtype {weight.dtype}; it must be floats")
    if weight.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("weight requires a gradient, which there is none of: use weight.detach()")


def check(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options) -> bool:
    """Check the arguments of `cross_entropy`. Return whether the target holds probabilities."""
    check_tensors(input=input, target=target, weight=weight)
    check_floats("input", input)
    shape = tuple(input.shape)
    soft = check_target(target, shape, "input")
    check_options(options, soft)
    check_weight(weight, shape[1 if len(shape) > 1 else 0])
    return soft


def choose_dtype(input: torch.Tensor, *others: torch.Tensor | None) -> torch.dtype:
    """The type of a loss: that of the input, promoted with those of the others (probabilities and their weights); under
    autocast at least float32, in which PyTorch computes losses there."""
    dtype: torch.dtype = input.dtype
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    return torch.promote_types(dtype, torch.float32) if torch.is_autocast_enabled("cpu") else dtype


def check_linear(tensors: Any, options: Options, ignores: bool) -> bool:
    """Check the arguments of `linear_cross_entropy`. Return whether the target holds probabilities."""
    input, linear_weight, target, linear_bias, weight = tensors
    named = {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}
    check_tensors(**named, target=target, weight=weight)
    for name, tensor in named.items():
        if tensor is not None:
            check_floats(name, tensor)
    shape, rows = tuple(linear_weight.shape), tuple(input.shape[:-1])
    if input.dim() not in (1, 2):
        raise RuntimeError(f"input has {input.dim()} dimensions; it must have 1, (in_features,), or 2")
    if len(shape) < 2:
        raise RuntimeError(f"linear_weight has {len(shape)} dimensions; it must have 2, (C, in_features), or more")
    if input.shape[-1] != shape[-1]:
        raise RuntimeError(
            f"linear_weight has shape {shape}; for input of shape {tuple(input.shape)} its last axis must be "
            f"{input.shape[-1]}"
        )
    if linear_bias is not None and tuple(linear_bias.shape) != shape[:-1]:
        raise RuntimeError(f"linear_bias has shape {tuple(linear_bias.shape)}; it must have shape {shape[:-1]}")
    if len(shape) > 2 and not rows:
        raise RuntimeError(f"input has shape {tuple(input.shape)}; for linear_weight of shape {shape} it must be 2-D")
    soft = check_target(target, rows + shape[:-1], "logits")
    if soft and ignores:
        raise RuntimeError(f"ignore_index is {options.ignore_index}; with a target of probabilities none is ignored")
    check_options(options, soft)
    check_weight(weight, shape[0])
    return soft
