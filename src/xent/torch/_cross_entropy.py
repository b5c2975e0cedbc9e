"""`xent.torch.cross_entropy`."""

from __future__ import annotations

from typing import Any

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
    """Cross-entropy between logits and a target: `torch.nn.functional.cross_entropy` [1]_ for tensors on the CPU.

    Parameters
    ----------
    input : Tensor of shape (C,), (N, C) or (N, C, d1, ...)
        Logits: float32, float64, bfloat16 or float16, in any memory order. They are read in place.
    target : Tensor
        Class indices in [0, C), or `ignore_index`, of the shape of `input` without its class axis; of any integer type.
        Or probabilities, of the shape of `input`; they are neither checked nor normalised.
    weight : Tensor of shape (C,), optional
        Multiplies the target of each class; of any sign.
    size_average, reduce : bool, optional
        Deprecated in PyTorch: they choose a `reduction`, with its warning.
    ignore_index : int, default -100
        Rows with this class index have loss and gradient 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the weights of the labels; with probabilities by the number of rows, whatever they
        sum to.
    label_smoothing : float, default 0.0
        In [0, 1]: a target t becomes (1 - label_smoothing) t + label_smoothing / C.

    Returns
    -------
    Tensor
        The loss, in the type of `input`; of the rows, with ``reduction="none"``. Under ``torch.autocast`` it is float32
        for inputs of half precision. It can be differentiated twice and more, by `input` and by probabilities.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError
        As PyTorch's: an IndexError for a class index out of range, a ValueError where the rows of an (N, C) input are
        not those of the target, a RuntimeError for other shapes and types.
    NotImplementedError
        For tensors on a GPU, sparse ones, those of integers, and in forward-mode differentiation.

    See Also
    --------
    xent.cross_entropy : The same for arrays, with more options. Its mean divides by the sum of the probabilities.

    Notes
    -----
    Results differ from PyTorch's by their rounding errors, which are those of :func:`xent.cross_entropy`, and where a
    logit is -inf: probability 0 there counts nothing, and is not NaN. The gradient is computed along with the loss. The
    threads are as many as the smaller one of ``torch.get_num_threads()`` and :func:`xent.get_num_threads`.

    References
    ----------
    .. [1] PyTorch, "torch.nn.functional.cross_entropy", in the documentation of version 2.13.

    Examples
    --------
    >>> import torch
    >>> import xent.torch
    >>> logits = torch.tensor([[2.0, 4.0, 0.5], [1.0, 1.0, 1.0]], requires_grad=True)
    >>> loss = xent.torch.cross_entropy(logits, torch.tensor([1, 0]))
    >>> loss.backward()
    >>> round(loss.item(), 6)
    0.625895
    >>> logits.grad
    tensor([[ 0.0581, -0.0710,  0.0130],
            [-0.3333,  0.1667,  0.1667]])
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)     # warns
    is_compiling = torch.compiler.is_compiling()
    if weight is None and label_smoothing == 0 and not is_compiling and _eager.is_plain_loss(input, target):
        loss = _eager.compute_plain(input, target, reduction, ignore_index)
        if loss is not None:
            return loss
    options = Options(reduction, ignore_index, label_smoothing)
    soft = _checks.check(input, target, weight, options)
    dtype = _checks.choose_dtype(input, *((target, weight) if soft else ()))
    if not is_compiling and _eager.is_plain(input, target, weight) and input.is_cpu and not target.requires_grad:
        return _eager.compute(input, target, weight, options, dtype)
    with_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    is_transformed = not is_compiling and _eager.is_transformed()
    call: Any = _operators.Transformed.apply if is_transformed else _operators.cross_entropy
    result: tuple[torch.Tensor, torch.Tensor] = call(input, target, weight, *options, dtype, with_grad)
    return result[0]
