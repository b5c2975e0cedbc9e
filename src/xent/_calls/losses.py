"""The losses, from checked arguments to a result."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.arrays import check_unit_interval, flatten, move_axis_last, to_floats, to_probabilities, widen
from xent._calls.dispatch import kernels
from xent._calls.options import GivenOptions, Options, check_option, check_options, refuse_with_hess
from xent._calls.outputs import LossOutputs, choose_grad, choose_hess
from xent._calls.scalars import check_n_threads, check_reduction
from xent._calls.targets import Batch, check_batch, check_binary_batch, check_ignore_index, check_one_class, check_pair
from xent._calls.threads import cut
from xent._calls.weights import Number, scale_weights, sum_sample_weights, unit_exponent
from xent._core import memory

Scalar = Literal["mean", "sum"]      # the reductions to a float
Reduction = Literal["mean", "sum", "none"]
Array = NDArray[Any]
Target = ArrayLike | tuple[ArrayLike, ArrayLike]


def reduce_loss(reduction: str, sums: Array, total_weight: Number, loss: Array | None) -> Any:
    """The result of a loss: the losses of the rows if there is an array of them, else what the sums of blocks say."""
    if loss is not None:
        return loss[()]
    if reduction == "sum":
        return kernels.total(sums.tolist())
    if not total_weight:
        return math.nan
    with np.errstate(all="ignore"):
        return float(kernels.total(sums.tolist()) / total_weight)


def gradient_divisor(reduction: str, total_weight: Number) -> float:
    """What the gradient of the sum is divided by; infinity, where there is no weight, makes it 0."""
    return float(total_weight or math.inf) if reduction == "mean" else 1.0


def new_loss(reduction: str, shape: tuple[int, ...], logits: Array) -> Array | None:
    """An array for the losses of the rows, if they are asked for."""
    return memory.empty_of(shape, widen(logits.dtype)) if reduction == "none" else None


def cross_entropy(
    logits: ArrayLike,
    target: Target,
    options: GivenOptions,
    *,
    axis: int = -1,
    ignore_index: int = -100,
    reduction: str = "mean",
    return_grad: bool = False,
    return_hess: bool = False,
    grad_out: Array | None = None,
    hess_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """`xent.cross_entropy`."""
    wants_hess = bool(return_hess) or hess_out is not None
    batch = check_batch("logits", logits, target, axis, options.class_weight, options.sample_weight, options.where)
    checked = check_options(options, check_ignore_index(ignore_index, batch.target))
    if wants_hess:
        refuse_with_hess(checked)
    if checked.focal_gamma != 0:
        check_one_class(batch, ignore_index)
    check_reduction(reduction)
    *shape, classes = batch.logits.shape
    blocks = cut(math.prod(shape), classes, check_n_threads(n_threads))
    grad = choose_grad("logits", batch, return_grad or wants_hess, grad_out)
    hess = choose_hess(batch, grad, hess_out) if grad is not None and wants_hess else None
    derivatives = [array for array in (grad, hess) if array is not None]
    scale = scale_weights(reduction, batch, checked, blocks, ignore_index)
    if reduction == "mean" and scale.total == 0:
        for array in derivatives:
            array.fill(0)
        return (math.nan, *derivatives) if derivatives else math.nan
    loss = new_loss(reduction, tuple(shape), batch.logits)
    sums = np.empty(blocks.number)
    grad_rows, hess_rows = (None if array is None else move_axis_last(array, batch.axis) for array in (grad, hess))
    divisor = gradient_divisor(reduction, scale.total)
    outputs = LossOutputs(loss, grad_rows, hess_rows, scale.exponent, divisor)
    blocks.run(kernels.cross_entropy, batch, scale.options, outputs, sums)
    result = reduce_loss(reduction, sums, scale.total, loss)
    return (result, *derivatives) if derivatives else result


class KLOptions(NamedTuple):
    """How the kernels compute divergences; `weight_unit` multiplies every sample weight."""

    logit_scale: float
    weight_unit: float


def kl_divergence(
    logits: ArrayLike,
    ref_logits: ArrayLike,
    *,
    axis: int,
    sample_weight: ArrayLike | None,
    where: ArrayLike | None,
    logit_scale: float,
    reduction: str,
    return_grad: bool,
    grad_out: Array | None,
    n_threads: int | None,
) -> Any:
    """`xent.kl_divergence`."""
    batch = check_pair("logits", logits, "ref_logits", ref_logits, axis, sample_weight, where)
    scale = check_option("logit_scale", logit_scale)
    check_reduction(reduction)
    *shape, classes = batch.logits.shape
    blocks = cut(math.prod(shape), classes, check_n_threads(n_threads))
    grad = choose_grad("logits", batch, return_grad, grad_out, target_name="ref_logits")
    loss = new_loss(reduction, tuple(shape), batch.logits)
    unit, total_weight = weigh_losses(reduction, batch.sample_weight, blocks.units)
    sums = np.empty(blocks.number)
    grad_rows = None if grad is None else move_axis_last(grad, batch.axis)
    divisor = gradient_divisor(reduction, total_weight)
    blocks.run(kernels.kl_divergence, batch, KLOptions(scale, unit), divisor, loss, grad_rows, sums)
    result = reduce_loss(reduction, sums, total_weight, loss)
    return result if grad is None else (result, grad)


def weigh_losses(reduction: str, sample_weight: Array | None, count: int) -> tuple[float, float]:
    """A factor for the sample weights, which keeps them in range and on which a mean does not depend, and their sum."""
    if reduction != "mean":
        return 1.0, 1.0
    unit = math.ldexp(1.0, -unit_exponent(sample_weight))
    return unit, sum_sample_weights(sample_weight, count, unit)


def categorical_cross_entropy(
    proba: ArrayLike, target: Target, axis: int, sample_weight: ArrayLike | None, reduction: str, n_threads: int | None
) -> Any:
    """`xent.categorical_cross_entropy`."""
    array = to_probabilities("proba", proba)
    batch = check_batch("proba", array, target, axis, sample_weight=sample_weight)
    check_reduction(reduction)
    check_unit_interval("proba", array)
    return categorical_loss(batch, reduction, check_n_threads(n_threads))


def categorical_loss(batch: Batch, reduction: str, n_threads: int | None, *, by_mass: bool = True) -> Any:
    """The loss of checked probabilities. A mean divides by the target mass, or by the weight of the rows alone."""
    *shape, classes = batch.logits.shape
    blocks = cut(math.prod(shape), classes, n_threads)
    options, exponent, total_weight = scale_weights(reduction, batch, Options(), blocks, None)
    if reduction == "mean" and not by_mass:
        exponent = unit_exponent(batch.sample_weight) if options.extreme else 0
        total_weight = sum_sample_weights(batch.sample_weight, blocks.units, math.ldexp(1.0, -exponent))
    loss = new_loss(reduction, tuple(shape), batch.logits)
    sums = np.empty(blocks.number)
    blocks.run(kernels.log_loss, batch, options, exponent, loss, sums)
    return reduce_loss(reduction, sums, total_weight, loss)


class GivenBinaryOptions(NamedTuple):
    """The options of a binary loss, as given."""

    pos_weight: ArrayLike | None = None
    sample_weight: ArrayLike | None = None
    label_smoothing: float = 0.0


class BinaryOptions(NamedTuple):
    """How the kernels compute a binary loss; `weight_unit` multiplies every sample weight."""

    from_logits: bool
    label_smoothing: float
    weight_unit: float


def binary_cross_entropy(
    name: Literal["logits", "proba"],
    x: ArrayLike,
    target: ArrayLike,
    options: GivenBinaryOptions,
    reduction: str,
    return_grad: bool,
    grad_out: Array | None,
    n_threads: int | None,
) -> Any:
    """Both binary losses."""
    array = to_floats("logits", x) if name == "logits" else to_probabilities("proba", x)
    batch = check_binary_batch(name, array, target, options.pos_weight, options.sample_weight)
    smoothing = check_option("label_smoothing", options.label_smoothing)
    check_reduction(reduction)
    if name == "proba":
        check_unit_interval("proba", array)
    n_threads = check_n_threads(n_threads)
    grad = choose_grad(name, batch, return_grad, grad_out, "pos_weight")
    result = binary_loss(batch, smoothing, name == "logits", reduction, grad, n_threads)
    return result if grad is None else (result, grad)


def binary_loss(
    batch: Batch, smoothing: float, from_logits: bool, reduction: str, grad: Array | None, n_threads: int | None
) -> Any:
    """The loss of checked elements, each a binary problem of its own; the gradient is written to `grad`."""
    loss = new_loss(reduction, batch.logits.shape, batch.logits)
    unit, total_weight = weigh_losses(reduction, batch.sample_weight, batch.logits.size)
    x, target, pos_weight, sample_weight, flat_loss, flat_grad = flatten(
        batch.logits, batch.target, batch.class_weight, batch.sample_weight, loss, grad
    )
    chunk = kernels.BINARY_CHUNK
    blocks = cut(-(-x.size // chunk), min(x.size, chunk), n_threads)
    sums = np.empty(blocks.number)
    flat = Batch(x, target, class_weight=pos_weight, sample_weight=sample_weight)
    options = BinaryOptions(from_logits, smoothing, unit)
    divisor = gradient_divisor(reduction, total_weight)
    blocks.run(kernels.binary_cross_entropy, flat, options, divisor, flat_loss, flat_grad, sums)
    return reduce_loss(reduction, sums, total_weight, loss)
