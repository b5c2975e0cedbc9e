"""`xent.torch.linear_cross_entropy`."""

from __future__ import annotations

from typing import Any

import torch

from xent.torch import _checks, _eager, _layers
from xent.torch._arrays import Options
from xent.torch._layers import Operands


def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> torch.Tensor:
    """Cross-entropy of the logits of a linear layer."""
    tensors = Operands(input, linear_weight, target, linear_bias, weight)
    given = Options(reduction, -100 if ignore_index is None else ignore_index, label_smoothing)
    soft = _checks.check_linear(tensors, given, ignore_index is not None)
    others = (target, weight) if soft else ()
    dtype = _checks.choose_dtype(input, linear_weight, linear_bias, *others)
    if target.requires_grad or (not torch.compiler.is_compiling() and _eager.is_transformed()):
        return _layers.compose(tensors, given).to(dtype)
    with_grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors.differentiable())
    loss: torch.Tensor = _layers.operator(*tensors, *given, dtype, with_grad)[0]
    return loss
