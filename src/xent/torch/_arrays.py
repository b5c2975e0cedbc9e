"""From tensors to arrays and back in the same memory, and the losses as PyTorch defines them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from xent._calls.threads import get_num_threads
from xent.losses import cross_entropy
from xent.primitives import log_softmax

try:
    from ml_dtypes import bfloat16
except ImportError:     # NumPy alone has no such type
    bfloat16 = None

Array = NDArray[Any]
Loss = float | Array        # a scalar, or the losses of the rows


class Options(NamedTuple):
    """The options that both losses have."""

    reduction: str
    ignore_index: int
    label_smoothing: float


def choose_n_threads() -> int:
    """The smaller one of the two libraries' numbers of threads: who sets either to 1 gets one."""
    threads: int = min(get_num_threads(), torch.get_num_threads())
    return threads


def to_array(tensor: torch.Tensor) -> Array:
    """The numbers of a tensor in place, bfloat16 through a view of its bits. Without ml_dtypes that is copied to
    float32, which has all its numbers."""
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype is not torch.bfloat16:
        array: Array = tensor.numpy()
        return array
    if bfloat16 is None:
        widened: Array = tensor.float().numpy()
        return widened
    bits: Array = tensor.view(torch.int16).numpy()
    return bits.view(bfloat16)


def to_tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """An array as a tensor, in place if it has this type already."""
    if bfloat16 is not None and array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array).to(dtype)


def loss_to_tensor(loss: Loss, dtype: torch.dtype) -> torch.Tensor:
    """A loss in the type of the result. It comes in float64, or in the type of the computation."""
    return to_tensor(np.asarray(loss), dtype)


def gradient_type(dtype: torch.dtype) -> torch.dtype:
    """In which type the gradient is kept until the backward pass: float32 for float16, where that of a mean over many
    rows would underflow before the scale of the loss (`torch.amp.GradScaler`) multiplies it."""
    return torch.float32 if dtype is torch.float16 else dtype


# --- cross-entropy ---------------------------------------------------------------------------------------------------


def compute(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options, with_grad: bool
) -> tuple[Loss, torch.Tensor | None]:
    """The loss of checked tensors and, if wanted, its gradient (of the sum, with the reduction "none")."""
    axis = 1 if input.dim() > 1 else 0
    x, t = to_array(input), to_array(target)
    if axis == 0 and not target.is_floating_point():
        t = t.reshape(())       # PyTorch takes one label in an axis of its own, too
    keywords: dict[str, Any] = {
        "axis": axis, "ignore_index": options.ignore_index, "label_smoothing": options.label_smoothing,
        "reduction": options.reduction, "return_grad": with_grad, "n_threads": choose_n_threads(),
    }       # fmt: skip
    if with_grad:
        keywords["grad_out"] = _choose_grad_out(input)
    if t.ndim == x.ndim and options.reduction == "mean" and x.size:
        # PyTorch divides by the number of rows, xent by the sum of the target.
        keywords |= {"reduction": "sum", "sample_weight": np.float64(x.shape[axis] / x.size)}
    try:
        loss, grad = _weigh(x, t, None if weight is None else to_weights(weight), keywords)
    except ValueError as error:
        raise translate(error) from None
    return loss, None if grad is None else to_tensor(grad, gradient_type(input.dtype))


def _choose_grad_out(input: torch.Tensor) -> Array | None:
    """An array for the gradient where xent would choose one of another type or order than `torch.empty_like`."""
    if input.dtype is torch.float16 or 0 in input.stride():
        out: Array = torch.empty_like(input, dtype=gradient_type(input.dtype), requires_grad=False).numpy()
        return out
    return None


def to_weights(weight: torch.Tensor) -> Array:
    weights: Array = weight.detach().to(torch.float64).numpy()
    return weights


def translate(error: ValueError) -> Exception:
    """An error in the type that PyTorch has for it. The tensors are checked: what is left are labels out of range and
    weights that are NaN."""
    text = str(error)
    return IndexError(text) if text.startswith("target") else ValueError(text.removeprefix("class_"))


def _weigh(x: Array, t: Array, weight: Array | None, keywords: dict[str, Any]) -> tuple[Loss, Array | None]:
    """Loss and gradient with class weights of any sign: xent's are at least 0, and the loss is linear in them."""
    if weight is None or not (weight < 0).any():
        result = cross_entropy(x, t, class_weight=weight, **keywords)
        return result if isinstance(result, tuple) else (result, None)
    is_mean = keywords["reduction"] == "mean"
    keywords = {**keywords, "reduction": "sum" if is_mean else keywords["reduction"], "grad_out": None}
    above, below = (
        cross_entropy(x, t, class_weight=part, **keywords) for part in (np.maximum(weight, 0), np.maximum(-weight, 0))
    )
    divisor = np.float64(sum_weights(t, weight, keywords["ignore_index"]) if is_mean else 1)
    with np.errstate(all="ignore"):
        if not isinstance(above, tuple):
            return (above - below) / divisor, None
        return (above[0] - below[0]) / divisor, ((above[1] - below[1]) / float(divisor)).astype(x.dtype)


def sum_weights(labels: Array, weight: Array | None, ignore_index: int) -> float:
    """What a mean over labels divides by."""
    kept = labels[labels != ignore_index]
    return float(kept.size if weight is None else weight[kept].sum())


def compute_log_softmax(input: torch.Tensor) -> torch.Tensor:
    """xent.log_softmax along PyTorch's class axis, in the type of the input."""
    out: Array = log_softmax(to_array(input), 1 if input.dim() > 1 else 0, n_threads=choose_n_threads())
    return to_tensor(out, input.dtype)
