"""`xent.torch.cross_entropy`."""

from __future__ import annotations

import torch
from torch.nn._reduction import legacy_get_string

from xent.torch import _checks, _eager, _operators
from xent.torch._arrays import Options


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`torch.nn.functional.cross_entropy`, for tensors on the CPU.

    Examples
    --------
    >>> import torch
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)     # warns
    options = Options(reduction, ignore_index, label_smoothing)
    is_plain = not torch.compiler.is_compiling() and _eager.is_plain(input, target, weight)
    if is_plain and weight is None and label_smoothing == 0:
        loss = _eager.compute_plain(input, target, options)
        if loss is not None:
            return loss
    soft = _checks.check(input, target, weight, options)
    dtype = _checks.choose_dtype(input, *((target, weight) if soft else ()))
    if is_plain and input.is_cpu and not target.requires_grad:
        return _eager.compute(input, target, weight, options, dtype)
    with_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    is_transformed = not torch.compiler.is_compiling() and _eager.is_transformed()
    call = _operators.Transformed.apply if is_transformed else _operators.cross_entropy
    loss, _ = call(input, target, weight, *options, dtype, with_grad)
    return loss
