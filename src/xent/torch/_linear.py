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
    """Cross-entropy of the logits of a linear layer, of which only a block at a time is in memory.

    This is `torch.nn.functional.linear_cross_entropy` [1]_ (PyTorch 2.13 or later) for tensors on the CPU, under any
    version.

    Parameters
    ----------
    input : Tensor of shape (N, in_features) or (in_features,)
        float32, float64, bfloat16 or float16.
    linear_weight : Tensor of shape (C, in_features) or (C, d1, ..., in_features)
        Its type may differ from that of `input`: the products are computed in the wider one, in float32 at least.
    target : Tensor
        Class indices, of shape (), (N,) or (N, d1, ...); or probabilities, of the shape of the logits, (C,), (N, C) or
        (N, C, d1, ...). A target that requires a gradient makes all logits.
    linear_bias : Tensor of shape (C,) or (C, d1, ...), optional
        Added to the logits.
    weight : Tensor of shape (C,), optional
        Multiplies the target of each class.
    reduction, label_smoothing
        As in :func:`cross_entropy`.
    ignore_index : int, optional
        Rows with this class index have loss and gradient 0; -100 if not given. It cannot be given for probabilities.
    options : object, optional
        PyTorch's ``LinearCrossEntropyOptions``, which have no effect: blocks fill a scratch of 32 MiB.

    Returns
    -------
    Tensor
        The loss, in the type of the operands (float32 under ``torch.autocast`` for half precision).

    Raises
    ------
    IndexError, RuntimeError, TypeError, NotImplementedError
        As :func:`cross_entropy`.

    See Also
    --------
    xent.linear_cross_entropy : The same for arrays, with more options.

    Notes
    -----
    Second derivatives and transforms of ``torch.func`` are correct, and make all logits. The matrix products are
    NumPy's, with the threads of its BLAS.

    References
    ----------
    .. [1] PyTorch, "torch.nn.functional.linear_cross_entropy", in the documentation of version 2.13.

    Examples
    --------
    >>> import torch
    >>> import xent.torch
    >>> states, weight = torch.ones(2, 3), torch.zeros(5, 3, requires_grad=True)
    >>> loss = xent.torch.linear_cross_entropy(states, weight, torch.tensor([4, 4]))
    >>> loss.backward()
    >>> weight.grad[:, 0]
    tensor([ 0.2000,  0.2000,  0.2000,  0.2000, -0.8000])
    """
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
