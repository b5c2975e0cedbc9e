"""`xent::linear_cross_entropy`, an operator for the loss of a linear layer.

The forward pass computes the gradients of all operands along with the loss, in one pass over blocks of logits. With the
reduction "none" the backward pass computes them, with the gradients of the losses as weights of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import linear

from xent._calls.arrays import widen
from xent.linear_losses import linear_cross_entropy
from xent.torch import _arrays, _eager
from xent.torch._arrays import Array, Loss, Options
from xent.torch._cross_entropy import cross_entropy

OPERANDS = "Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, Tensor? weight"
SCHEMA = (
    f"({OPERANDS}, str reduction, int ignore_index, float label_smoothing, ScalarType dtype, bool with_grad) -> "
    "(Tensor, Tensor, Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    f"({OPERANDS}, int ignore_index, float label_smoothing, Tensor loss_grad) -> (Tensor, Tensor, Tensor)"
)


class Operands(NamedTuple):
    """Tensors, or their arrays."""

    input: Any              # (N, D) or (D,)
    linear_weight: Any      # (C, ..., D)
    target: Any             # (N, ...), or (N, C, ...)
    linear_bias: Any        # (C, ...), or None
    weight: Any             # (C,), or None

    def differentiable(self) -> list[Any]:
        """Those with a gradient."""
        return [x for x in (self.input, self.linear_weight, self.linear_bias) if x is not None]


class Term(NamedTuple):
    """A loss that xent computes. There are several for K-dimensional losses, one for each place, and where weights have
    both signs."""

    place: tuple[int, ...]          # in the axes of linear_weight between classes and features
    sign: int
    class_weight: Array | None
    sample_weight: Any              # an array, a number or None


def compute(
    tensors: Operands, options: Options, with_grad: bool, loss_grad: torch.Tensor | None = None
) -> tuple[Loss, list[Array]]:
    """The loss, and the gradients of input, weight and bias: in the types of the operands, or in float32. If there are
    gradients of the losses, they multiply the rows."""
    arrays = Operands(*(None if x is None else _arrays.to_array(x) for x in tensors))
    if tensors.weight is not None:
        arrays = arrays._replace(weight=_arrays.to_weights(tensors.weight))
    soft = tensors.target.is_floating_point()
    if not soft:
        rows = arrays.input.shape[:-1] + arrays.linear_weight.shape[1:-1]
        arrays = arrays._replace(target=arrays.target.reshape(rows))
    places = list(np.ndindex(arrays.linear_weight.shape[1:-1]))
    terms = list(_list_terms(places, arrays.weight, None if loss_grad is None else loss_grad.to(torch.float64).numpy()))
    try:
        if len(terms) == 1 and tensors.input.dtype is not torch.float16 and arrays.input.size:
            return _compute_one(arrays, terms[0], options, soft, with_grad)
        return _add_up(arrays, terms, options, soft, with_grad)
    except ValueError as error:
        raise _arrays.translate(error) from None


def _list_terms(places: list[tuple[int, ...]], weight: Array | None, loss_grad: Any) -> Iterator[Term]:
    for place in places:
        for sign, class_weight in _split_signs(weight):
            for other, sample_weight in _split_signs(None if loss_grad is None else loss_grad[(..., *place)]):
                yield Term(place, sign * other, class_weight, sample_weight)


def _split_signs(weight: Array | None) -> list[tuple[int, Array | None]]:
    if weight is None or not (weight < 0).any():
        return [(1, weight)]
    return [(1, np.maximum(weight, 0)), (-1, np.maximum(-weight, 0))]


def _compute_one(
    arrays: Operands, term: Term, options: Options, soft: bool, with_grad: bool
) -> tuple[Loss, list[Array]]:
    reduction = options.reduction
    if reduction == "mean" and soft:
        reduction, term = "sum", term._replace(sample_weight=np.float64(1 / math.prod(arrays.input.shape[:-1])))
    loss, grads = _compute_term(arrays, term, options._replace(reduction=reduction), soft, with_grad)
    if reduction == "none":
        loss = np.reshape(loss, arrays.input.shape[:-1] + arrays.linear_weight.shape[1:-1])
    return loss, [grad.reshape(x.shape) for grad, x in zip(grads, arrays.differentiable(), strict=False)]


def _compute_term(
    arrays: Operands, term: Term, options: Options, soft: bool, with_grad: bool
) -> tuple[Loss, list[Array]]:
    of_class = (slice(None), *term.place)
    bias = None if arrays.linear_bias is None else arrays.linear_bias[of_class]
    result = linear_cross_entropy(
        arrays.input, arrays.linear_weight[of_class], arrays.target[(..., *([slice(None)] * soft), *term.place)],
        bias=bias, class_weight=term.class_weight, sample_weight=term.sample_weight, **options._asdict(),
        return_grad=with_grad, n_threads=_arrays.choose_n_threads(),
    )
    if not isinstance(result, tuple):
        return result, []
    return result[0], [grad for grad in result[1] if grad is not None]


def _add_up(
    arrays: Operands, terms: list[Term], options: Options, soft: bool, with_grad: bool
) -> tuple[Loss, list[Array]]:
    """The sum of all terms; gradients in half precision are summed in float32."""
    operands = arrays.differentiable() if with_grad else []
    grads = [np.zeros(x.shape, widen(x.dtype)) for x in operands]
    rows = arrays.input.shape[:-1] + arrays.linear_weight.shape[1:-1]
    total: Array = np.zeros(rows if options.reduction == "none" else (), np.float64)
    is_mean = options.reduction == "mean"
    for term in terms:
        reduction = "sum" if is_mean else options.reduction
        loss, parts = _compute_term(arrays, term, options._replace(reduction=reduction), soft, with_grad)
        total_index: Any = (..., *term.place) if options.reduction == "none" else ()
        total[total_index] += term.sign * np.asarray(loss)
        for i, part in enumerate(parts):
            index: Any = (slice(None), *term.place) if i else ()
            grads[i][index] += term.sign * part
    if is_mean:
        count = math.prod(rows) if soft else _arrays.sum_weights(arrays.target, arrays.weight, options.ignore_index)
        with np.errstate(all="ignore"):
            total = total / np.float64(count)
            grads = [grad / (count or math.inf) for grad in grads]
    return total, grads


# --- the operator ----------------------------------------------------------------------------------------------------


def _to_gradients(tensors: list[torch.Tensor], grads: list[Array]) -> list[torch.Tensor]:
    found = [_arrays.to_tensor(g, _arrays.gradient_type(x.dtype)) for g, x in zip(grads, tensors, strict=False)]
    return found + [tensors[0].new_empty(0) for _ in range(3 - len(found))]


def _linear_cross_entropy(
    input: torch.Tensor, linear_weight: torch.Tensor, target: torch.Tensor, linear_bias: torch.Tensor | None,
    weight: torch.Tensor | None, reduction: str, ignore_index: int, label_smoothing: float, dtype: torch.dtype,
    with_grad: bool,
) -> tuple[torch.Tensor, ...]:
    tensors = Operands(input, linear_weight, target, linear_bias, weight)
    with_grad = with_grad and reduction != "none"
    loss, grads = compute(tensors, Options(reduction, ignore_index, label_smoothing), with_grad)
    return _arrays.loss_to_tensor(loss, dtype), *_to_gradients(tensors.differentiable(), grads)


def _fake_linear_cross_entropy(
    input: torch.Tensor, linear_weight: torch.Tensor, target: torch.Tensor, linear_bias: torch.Tensor | None,
    weight: torch.Tensor | None, reduction: str, ignore_index: int, label_smoothing: float, dtype: torch.dtype,
    with_grad: bool,
) -> tuple[torch.Tensor, ...]:
    is_none = reduction == "none"
    loss = input.new_empty(input.shape[:-1] + linear_weight.shape[1:-1] if is_none else (), dtype=dtype)
    with_grad = with_grad and not is_none
    return loss, *_fake_gradients(Operands(input, linear_weight, target, linear_bias, weight), with_grad)


def _fake_gradients(tensors: Operands, with_grad: bool = True) -> list[torch.Tensor]:
    given = tensors.differentiable() if with_grad else []
    grads = [x.new_empty(x.shape, dtype=_arrays.gradient_type(x.dtype)) for x in given]
    return grads + [tensors.input.new_empty(0) for _ in range(3 - len(grads))]


def _differentiate(
    input: torch.Tensor, linear_weight: torch.Tensor, target: torch.Tensor, linear_bias: torch.Tensor | None,
    weight: torch.Tensor | None, ignore_index: int, label_smoothing: float, loss_grad: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    tensors = Operands(input, linear_weight, target, linear_bias, weight)
    _, grads = compute(tensors, Options("sum", ignore_index, label_smoothing), True, loss_grad)
    return tuple(_to_gradients(tensors.differentiable(), grads))


def _fake_differentiate(input: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
    return tuple(_fake_gradients(Operands(input, *others[:4])))


def compose(tensors: Operands, options: Options) -> torch.Tensor:
    """The loss by way of all logits, which can be differentiated as often as one likes."""
    input, weight, target, bias, class_weight = tensors
    shape = input.shape[:-1] + weight.shape[:-1]
    logits = linear(input, weight.reshape(-1, weight.shape[-1]), None if bias is None else bias.reshape(-1))
    return cross_entropy(
        logits.reshape(shape), target, class_weight, ignore_index=options.ignore_index, reduction=options.reduction,
        label_smoothing=options.label_smoothing,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = Options(*inputs[5:8])
    ctx.save_for_backward(*inputs[:5], *output[1:])


def _backward(ctx: Any, loss_grad: torch.Tensor | None, *_: None) -> tuple[Any, ...]:
    tensors, grads, options = Operands(*ctx.saved_tensors[:5]), ctx.saved_tensors[5:], ctx.options
    found: list[Any] = [None] * 10
    if loss_grad is None:
        return tuple(found)
    if torch.is_grad_enabled() and _eager.is_plain(tensors.input, loss_grad, None):
        places = [i for i in (0, 1, 2, 3) if ctx.needs_input_grad[i]]
        again = torch.autograd.grad(
            compose(tensors, options), [tensors[i] for i in places], loss_grad, create_graph=True
        )
        for i, grad in zip(places, again, strict=True):
            found[i] = grad
        return tuple(found)
    if options.reduction == "none":
        grads = differentiate(*tensors, *options[1:], loss_grad)
    else:
        grads = [_scale(grad, loss_grad) for grad in grads]
    for i, grad in zip((0, 1, 3), grads, strict=True):
        if ctx.needs_input_grad[i]:
            found[i] = grad.to(tensors[i].dtype)
    return tuple(found)


def _scale(grad: torch.Tensor, loss_grad: torch.Tensor) -> torch.Tensor:
    """The gradient times that of the loss: itself, if that is 1 and no other backward pass needs it."""
    if _eager.is_plain(grad, loss_grad, None) and not _eager.keeps_graph() and loss_grad.item() == 1:
        return grad
    return grad * loss_grad


operator = torch.library.custom_op(
    "xent::linear_cross_entropy", _linear_cross_entropy, mutates_args=(), schema=SCHEMA
)
operator.register_fake(_fake_linear_cross_entropy)
operator.register_autograd(_backward, setup_context=_save)

differentiate = torch.library.custom_op(
    "xent::linear_cross_entropy_backward", _differentiate, mutates_args=(), schema=BACKWARD_SCHEMA
)
differentiate.register_fake(_fake_differentiate)
