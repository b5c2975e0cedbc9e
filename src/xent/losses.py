"""The losses: how wrong logits or probabilities are, and in which direction."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import arguments as check
from xent._calls import threads
from xent._calls.dispatch import kernels
from xent._calls.threads import Blocks, cut

Reduction = Literal["mean", "sum", "none"]
Array = NDArray[Any]
Number = float | np.longdouble


def reduced(reduction: str, sums: Array, total_weight: Number, loss: Array | None) -> Any:
    if loss is not None:
        return loss[()]
    if reduction == "sum":
        return kernels.total(sums.tolist())
    if not total_weight:
        return math.nan
    with np.errstate(all="ignore"):
        return float(kernels.total(sums.tolist()) / total_weight)


def divisor_of(reduction: str, total_weight: Number) -> float:
    """What the gradient of the sum is divided by; infinity makes it 0."""
    return float(total_weight or math.inf) if reduction == "mean" else 1.0


def _unit(weights: Array | None) -> float:
    """A power of two near the largest weight: divided by it, weights of any size fit any type, and lose nothing."""
    largest = 0.0 if weights is None else float(weights.max(initial=0.0))
    return math.ldexp(1.0, min(1000, max(-1000, math.frexp(largest)[1]))) if largest < math.inf else 1.0


def _sum(weight: Array, unit: float) -> float:
    """The sum of weights times a power of two. Repeated elements are read once, and nothing is copied but where weights
    overflow or vanish."""
    once = weight[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in weight.strides)]
    repeats = weight.size // max(once.size, 1)
    with np.errstate(over="ignore", under="ignore"):
        result = float(once.sum(dtype=np.float64))
        if not 1e-290 < result < math.inf:
            return repeats * float(np.multiply(once, unit, dtype=np.float64).sum())
    return repeats * (result * unit)


def _weight_of_losses(weight: Array | None, number: int, unit: float) -> float:
    return float(number) if weight is None else _sum(weight, unit)


def _mean_unit(reduction: str, sample_weight: Array | None) -> float:
    """What sample weights are multiplied by; a mean does not depend on it."""
    return 1 / _unit(sample_weight) if reduction == "mean" else 1.0


def _is_extreme(weights: Array | None, largest: float) -> bool:
    """Whether some weight, not 0, is above the largest that is usual, or below its inverse."""
    if weights is None or not weights.size:
        return False
    most, least = float(weights.max()), float(weights.min())
    if least == 0:
        least = float(weights.min(where=weights > 0, initial=math.inf))
    return most > 0 and not 1 / largest <= least <= most <= largest


def weigh(batch: check.Batch, options: check.Options, blocks: Blocks, allowed: str) -> tuple[Number, int]:
    """The sum of weight times target mass, and the exponent of two of its unit. Raises for a label out of range."""
    rows = blocks.units
    blocks = cut(rows, batch.target.size // max(rows, 1), blocks.threads)   # a label is much less work than a row
    sums = np.zeros((blocks.number, 3))
    bad = blocks.run(kernels.target_weight, batch, options, sums)
    if bad >= 0:
        check.bad_label(batch, bad, allowed)
    exponent = 0
    if options.extreme:
        exponents = sums[sums[:, 0] != 0, 2]
        exponent = int(exponents.max(initial=-4096))
        with np.errstate(under="ignore"):
            sums[:, :2] = np.ldexp(sums[:, :2], (sums[:, 2:] - exponent).astype(np.int32))
    numbers = sums[:, :2].ravel().tolist()
    total = kernels.total(numbers)
    lost = kernels.total([*numbers, -total])
    # Rounded to a float64, what a mean divides by would be half of what the mean may be off.
    return total if lost == 0 or not math.isfinite(lost) else np.longdouble(total) + lost, exponent


def prepared(
    reduction: str, batch: check.Batch, options: check.Options, blocks: Blocks, allowed: str
) -> tuple[check.Options, int, Number]:
    """The options, which know whether weights are extreme; the exponent of the unit of losses; and what a mean divides
    by, in the same unit. Raises for a label out of range: before anything is written.

    Sums of usual weights neither overflow nor vanish, even in float32. Of others a mean is computed in units of two to
    an exponent, near the weight of all rows together.
    """
    extreme = _is_extreme(batch.class_weight, 2.0**30) or _is_extreme(batch.sample_weight, 2.0**300)
    options = options._replace(extreme=extreme)
    if reduction != "mean" and check.is_dense(batch):
        return options, 0, 1.0      # neither a mean nor labels
    total, exponent = weigh(batch, options, blocks, allowed)
    return options, exponent if reduction == "mean" else 0, total


def label_range(classes: int, ignore_index: int) -> str:
    return f"[0, {classes}) or be ignore_index, {ignore_index}"


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    where: ArrayLike | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    grad_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy between logits and a target, and its gradient in the same pass.

    Parameters
    ----------
    logits : array_like
        Real numbers, C of them along `axis`. float32 and float64 keep their type; integers become float64. float16 and
        bfloat16 (of ``ml_dtypes``) are read as they are and computed in float32.
    target : array_like, or tuple of two
        Labels: integers in [0, C) or `ignore_index`, of the shape of `logits` without `axis`. Or a distribution over
        the classes, of the shape of `logits`. Or a sparse distribution, a tuple ``(indices, probabilities)``, both of
        the shape of labels and a last axis of k more: repeated indices add up, and an index that is `ignore_index` is
        padding. Distributions are used as they are, neither checked nor normalised; dense ones are read in the type of
        the computation.
    axis : int, default -1
        The class axis of `logits`.
    class_weight : array_like of shape (C,), optional
        Multiplies the target mass of each class, after smoothing; at least 0.
    sample_weight : array_like, optional
        Multiplies each loss; at least 0, broadcast to the shape of the unreduced loss. Where it is 0 the loss and the
        gradient are 0, whatever the logits.
    label_smoothing : float, default 0.0
        In [0, 1]: a target t becomes (1 - label_smoothing) t + label_smoothing / C, over the C classes that `where`
        leaves.
    ignore_index : int, default -100
        A label whose loss and gradient are 0; so are those of a sparse distribution that is all padding.
    where : array_like of bool, optional
        The classes that can happen, broadcast to the shape of `logits`; elsewhere a logit counts as -inf, whatever it
        is.
    logit_scale : float, default 1.0
        Multiplies the logits (an inverse temperature).
    softcap : float, optional
        Above 0: logits become ``softcap * tanh(logit_scale * logits / softcap)``. A logit of -inf stays -inf.
    z_loss : float, default 0.0
        At least 0: ``z_loss * logsumexp(logits) ** 2`` is added to each loss, under its sample weight alone.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the total weight: the sum of sample weight times the (class-weighted) target mass
        before smoothing. Without any weight it is nan, and the gradient 0.
    return_grad : bool, default False
        Also return the gradient of the result (of the sum, if ``reduction="none"``) with respect to `logits`.
    grad_out : ndarray, optional
        Where to put the gradient: of the shape and type of `logits`, which it may be; or of float32 for logits of half
        precision. Implies `return_grad`.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array of the type of `logits` (float32 for
        half precision).
    grad : ndarray
        Of the shape and type of `logits`, or `grad_out`; only if asked for. The gradient of a mean over many rows
        underflows in float16 (at 65,536 rows most of it does): give a float32 `grad_out`, or take the sum.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, a label out of range among them. No output is written then.

    Notes
    -----
    With m the maximum of a row x, r the sum of exp(x - m) over everything else, t the target mass and T its sum, the
    loss is sum(t (m - x)) + T log1p(r), a sum of terms that are all >= 0, and its gradient T softmax(x) - t [1]_. At a
    label that gradient is formed as minus the probability of the other classes. So a confident row keeps its digits:
    losses of 1e-18 come out as such. Smoothing is from [2]_, the squared logsumexp from [3]_, the cap from [4]_.

    A logit of -inf is a class that cannot happen; a NaN, or a logit of +inf without a cap, makes the loss and gradient
    of its row NaN. Finite logits, scales and weights may have any size and ratio: a row whose scaled logits overflow
    float32 is computed in float64, and weights are summed with their exponents. Beside its results a call allocates at
    most 1 MiB with up to two threads, however long a row is (and up to 56 bytes a point of a sparse row).

    A loss is within 2 units in the last place; the gradient of a label or one-hot target within 4, of
    other targets within 4 of the larger of T softmax(x) and t, whose difference may cancel.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.
    .. [2] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
    .. [3] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24 (2023), section 5.
    .. [4] Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, section 2.

    Examples
    --------
    >>> import xent
    >>> round(xent.cross_entropy([[2.0, 4.0, 0.5]], [1]), 6)
    0.153178
    >>> loss, grad = xent.cross_entropy([[2.0, 4.0, 0.5]], [1], return_grad=True)
    >>> grad.round(4)
    array([[ 0.1161, -0.142 ,  0.0259]])

    Three quarters of the mass on class 1 and a quarter on class 0, without the dense distribution:

    >>> round(xent.cross_entropy([[2.0, 4.0, 0.5]], ([[1, 0]], [[0.75, 0.25]])), 6)
    0.653178
    """
    result = kernels.plain_cross_entropy(
        logits, target, axis, class_weight, sample_weight, label_smoothing, ignore_index, where, logit_scale, softcap,
        z_loss, reduction, return_grad, grad_out, n_threads, threads.THREAD_ELEMENTS, threads.BLOCK_ELEMENTS,
    )
    if isinstance(result, kernels.PlainCall):
        return threads.run_checked_call(result, n_threads)
    if result is not None:
        return result
    batch = check.targets("logits", logits, target, axis, class_weight, sample_weight, where)
    ignored = check.ignored_label(ignore_index, batch.target)
    options = check.options(ignored, logit_scale, softcap, label_smoothing, z_loss)
    check.choice("reduction", reduction, check.REDUCTIONS)
    blocks = cut(math.prod(batch.logits.shape[:-1]), batch.logits.shape[-1], check.thread_count(n_threads))
    grad = check.gradient("logits", "class_weight", batch, return_grad, grad_out)
    allowed = label_range(batch.logits.shape[-1], ignore_index)
    options, exponent, total_weight = prepared(reduction, batch, options, blocks, allowed)
    if reduction == "mean" and total_weight == 0:
        if grad is not None:
            grad.fill(0)
        return math.nan if grad is None else (math.nan, grad)
    loss = np.empty(batch.logits.shape[:-1], check.wide(batch.logits.dtype)) if reduction == "none" else None
    sums = np.empty(blocks.number)
    divisor = divisor_of(reduction, total_weight)
    grad_rows = None if grad is None else check.last(grad, batch.axis)
    blocks.run(kernels.cross_entropy, batch, options, exponent, divisor, loss, grad_rows, sums)
    result = reduced(reduction, sums, total_weight, loss)
    return result if grad is None else (result, grad)


def categorical_cross_entropy(
    proba: ArrayLike,
    target: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy between probabilities and a target: minus the logarithm of the probability of the target.

    Nothing is clipped or normalised. :func:`cross_entropy` is exact: use it where there are logits.

    Parameters
    ----------
    proba : array_like
        Probabilities in [0, 1], floats, of C classes along `axis`: float32, float64, float16 or bfloat16 (of
        ``ml_dtypes``).
    target : array_like, or tuple of two
        Labels, a distribution or a sparse distribution, as in :func:`cross_entropy`.
    axis : int, default -1
        The class axis of `proba`.
    sample_weight : array_like, optional
        Multiplies each loss; at least 0, broadcast to the shape of the unreduced loss.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the total weight.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array of the type of `proba` (float32 for
        half precision). A target of probability 0 has loss inf.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value; probabilities outside [0, 1] and NaN among them.

    See Also
    --------
    log_loss : scikit-learn's metric, with labels of any type, which come first.
    binary_cross_entropy : For independent yes/no targets.

    Notes
    -----
    -sum(t log p) [1]_.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import xent
    >>> round(xent.categorical_cross_entropy([[0.25, 0.75], [0.5, 0.5]], [1, 0]), 6)
    0.490415
    """
    array = check.probabilities("proba", proba)
    batch = check.targets("proba", array, target, axis, sample_weight=sample_weight)
    check.choice("reduction", reduction, check.REDUCTIONS)
    check.in_unit_interval("proba", array)
    return of_probabilities(batch, reduction, check.thread_count(n_threads))


def of_probabilities(batch: check.Batch, reduction: str, n_threads: int | None, *, by_mass: bool = True) -> Any:
    """The loss of checked probabilities. A mean is one by target mass, or by rows: whatever their mass."""
    blocks = cut(math.prod(batch.logits.shape[:-1]), batch.logits.shape[-1], n_threads)
    options, exponent, total_weight = prepared(
        reduction, batch, check.Options(), blocks, f"[0, {batch.logits.shape[-1]})"
    )
    if reduction == "mean" and not by_mass:
        exponent = math.frexp(_unit(batch.sample_weight))[1] if options.extreme else 0
        total_weight = _weight_of_losses(batch.sample_weight, blocks.units, math.ldexp(1.0, -exponent))
    loss = np.empty(batch.logits.shape[:-1], check.wide(batch.logits.dtype)) if reduction == "none" else None
    sums = np.empty(blocks.number)
    blocks.run(kernels.log_loss, batch, options, exponent, loss, sums)
    return reduced(reduction, sums, total_weight, loss)


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    grad_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy of independent yes/no targets, from logits, and its gradient in the same pass.

    Parameters
    ----------
    logits : array_like
        Real numbers of any shape. float32 and float64 keep their type; integers become float64. float16 and bfloat16
        (of ``ml_dtypes``) are read as they are and computed in float32.
    target : array_like
        The probability of yes, of the shape of `logits`: floats in [0, 1], booleans, or integers 0 and 1.
    pos_weight : array_like, optional
        Multiplies the target mass of yes; at least 0, broadcast to the shape of `logits`.
    sample_weight : array_like, optional
        Multiplies each loss; at least 0, broadcast to the shape of `logits`. Where it is 0 the loss and the gradient
        are 0, whatever the logit.
    label_smoothing : float, default 0.0
        In [0, 1]: a target y becomes (1 - label_smoothing) y + label_smoothing / 2.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the sum of the sample weights.
    return_grad : bool, default False
        Also return the gradient of the result (of the sum, if ``reduction="none"``) with respect to `logits`.
    grad_out : ndarray, optional
        Where to put the gradient: of the shape and type of `logits`, which it may be; or of float32 for logits of half
        precision. Implies `return_grad`.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array of the type of `logits` (float32 for
        half precision).
    grad : ndarray
        Of the shape and type of `logits`, or `grad_out`; only if asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value. No output is written then.

    Notes
    -----
    y w softplus(-x) + (1 - y) softplus(x) for a target y with positive weight w [1]_. Infinite logits have their
    limits: x = -inf with y = 0 is loss 0.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import xent
    >>> round(xent.binary_cross_entropy_with_logits([0.0, 40.0], [0, 1]), 6)
    0.346574
    """
    return _binary(
        "logits", logits, target, pos_weight, sample_weight, label_smoothing, reduction, return_grad, grad_out,
        n_threads,
    )


def binary_cross_entropy(
    proba: ArrayLike,
    target: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    grad_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy of independent yes/no targets, from probabilities, and its gradient in the same pass.

    Parameters
    ----------
    proba : array_like
        The predicted probability of yes, floats in [0, 1] of any shape: float32, float64, float16 or bfloat16 (of
        ``ml_dtypes``); nothing is clipped. :func:`binary_cross_entropy_with_logits` is exact: use it where there are
        logits.
    target : array_like
        The probability of yes, of the shape of `proba`: floats in [0, 1], booleans, or integers 0 and 1.
    sample_weight : array_like, optional
        Multiplies each loss; at least 0, broadcast to the shape of `proba`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the sum of the sample weights.
    return_grad : bool, default False
        Also return the gradient of the result (of the sum, if ``reduction="none"``) with respect to `proba`.
    grad_out : ndarray, optional
        Where to put the gradient: of the shape and type of `proba`, which it may be; or of float32 for half precision.
        Implies `return_grad`.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array of the type of `proba` (float32 for
        half precision). Certain and right is 0, certain and wrong is inf.
    grad : ndarray
        Of the shape and type of `proba`, or `grad_out`; only if asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value; probabilities outside [0, 1] and NaN among them. No output is
        written then.

    Notes
    -----
    -y log(p) - (1 - y) log1p(-p) [1]_; gradient (1 - y) / (1 - p) - y / p.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import xent
    >>> round(xent.binary_cross_entropy([0.5, 1.0], [0, 1]), 6)
    0.346574
    """
    return _binary("proba", proba, target, None, sample_weight, 0.0, reduction, return_grad, grad_out, n_threads)


def _binary(
    name: Literal["logits", "proba"],
    x: ArrayLike,
    target: ArrayLike,
    pos_weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    label_smoothing: float,
    reduction: str,
    return_grad: bool,
    grad_out: Array | None,
    n_threads: int | None,
) -> Any:
    array = check.floating("logits", x) if name == "logits" else check.probabilities("proba", x)
    batch = check.elements(name, array, target, pos_weight, sample_weight)
    epsilon = check.smoothing(label_smoothing)
    check.choice("reduction", reduction, check.REDUCTIONS)
    if name == "proba":
        check.in_unit_interval("proba", array)
    n_threads = check.thread_count(n_threads)
    grad = check.gradient(name, "pos_weight", batch, return_grad, grad_out)
    result = of_elements(batch, epsilon, name == "logits", reduction, grad, n_threads)
    return result if grad is None else (result, grad)


def of_elements(
    batch: check.Batch, epsilon: float, from_logits: bool, reduction: str, grad: Array | None, n_threads: int | None
) -> Any:
    """The loss of checked elements, each a binary problem of its own; the gradient is written to `grad`."""
    loss = np.empty(batch.logits.shape, check.wide(batch.logits.dtype)) if reduction == "none" else None
    unit = _mean_unit(reduction, batch.sample_weight)
    total_weight = _weight_of_losses(batch.sample_weight, batch.logits.size, unit) if reduction == "mean" else 1.0
    divisor = divisor_of(reduction, total_weight)
    logits, y, positive, weights, losses, slopes = check.flat(
        batch.logits, batch.target, batch.class_weight, batch.sample_weight, loss, grad
    )
    rows, columns = math.prod(logits.shape[:-1]), logits.shape[-1]
    blocks = cut(rows * -(-columns // kernels.BINARY_CHUNK), min(columns, kernels.BINARY_CHUNK), n_threads)
    sums = np.empty(blocks.number)
    blocks.run(
        kernels.binary_cross_entropy, logits, y, positive, weights, unit, epsilon, from_logits, divisor, losses, slopes,
        sums,
    )
    return reduced(reduction, sums, total_weight, loss)
