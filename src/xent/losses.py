"""The losses of logits and of probabilities, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import ArrayLike

from xent._calls import losses, threads
from xent._calls.dispatch import kernels
from xent._calls.losses import Array, Reduction, Scalar, Target
from xent._calls.options import (
    DEFAULTS,
    BinaryKeywords,
    BinaryProbaKeywords,
    GivenOptions,
    HessKeywords,
    KLKeywords,
    LossKeywords,
    ProbaKeywords,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "kl_divergence",
]


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[LossKeywords],
) -> float: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[LossKeywords],
) -> Array: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[LossKeywords],
) -> tuple[float, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[LossKeywords],
) -> tuple[Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array, **options: Unpack[LossKeywords],
) -> tuple[float, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array, **options: Unpack[LossKeywords],
) -> tuple[Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Reduction = ..., return_grad: bool = ..., grad_out: Array | None = ..., **options: Unpack[LossKeywords],
) -> float | Array | tuple[float | Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array | None = None,
    return_hess: Literal[True], hess_out: Array | None = None, **options: Unpack[HessKeywords],
) -> tuple[float, Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array | None = None,
    return_hess: Literal[True], hess_out: Array | None = None, **options: Unpack[HessKeywords],
) -> tuple[Array, Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array | None = None,
    return_hess: bool = ..., hess_out: Array, **options: Unpack[HessKeywords],
) -> tuple[float, Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array | None = None,
    return_hess: bool = ..., hess_out: Array, **options: Unpack[HessKeywords],
) -> tuple[Array, Array, Array]: ...


@overload
def cross_entropy(
    logits: ArrayLike, target: Target, *,
    reduction: Reduction = ..., return_grad: bool = ..., grad_out: Array | None = ...,
    return_hess: bool = ..., hess_out: Array | None = ..., **options: Unpack[HessKeywords],
) -> float | Array | tuple[float | Array, Array] | tuple[float | Array, Array, Array]: ...


def cross_entropy(
    logits: ArrayLike,
    target: Target,
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
    poly_epsilon: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    return_hess: bool = False,
    grad_out: Array | None = None,
    hess_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy between logits and a target; its gradient and the diagonal of its Hessian in the same pass.

    Parameters
    ----------
    logits : array_like
        Real numbers, C of them along `axis`. float32 and float64 keep their type; integers become float64. float16 and
        bfloat16 (of ``ml_dtypes``) are read as they are and computed in float32. A tensor of PyTorch or JAX is read in
        place, here and wherever an array may be; it must be on the CPU and require no gradient.
    target : array_like, or tuple of two
        Labels: integers in [0, C) or `ignore_index`, of the shape of `logits` without `axis`. Or a distribution over
        the classes, of the shape of `logits`. Or a sparse distribution, a tuple ``(indices, probabilities)``, both of
        the shape of labels with one more axis, of length k, at the end: repeated indices add up, and an index equal to
        `ignore_index` is padding. Distributions are neither checked nor normalised; dense ones are read in the type of
        the computation.
    axis : int, default -1
        The class axis of `logits`.
    class_weight : array_like of shape (C,), optional
        Multiplies the target mass of each class, after smoothing; at least 0.
    sample_weight : array_like, optional
        Multiplies each loss; at least 0, broadcast to the shape of the unreduced loss. Where it is 0 the loss, the
        gradient and the Hessian are 0, whatever the logits.
    label_smoothing : float, default 0.0
        In [0, 1]: a target t becomes (1 - label_smoothing) t + label_smoothing / C, over the C classes that `where`
        leaves.
    ignore_index : int, default -100
        Rows with this label have loss, gradient and Hessian 0, and so do sparse distributions that are all padding.
    where : array_like of bool, optional
        True for the classes that can occur, broadcast to the shape of `logits`; other logits count as -inf, whatever
        they are.
    logit_scale : float, default 1.0
        Multiplies the logits (an inverse temperature).
    softcap : float, optional
        Above 0: logits become ``softcap * tanh(logit_scale * logits / softcap)``. A logit of -inf stays -inf.
    z_loss : float, default 0.0
        At least 0: ``z_loss * logsumexp(logits) ** 2`` is added to each loss, times its sample weight but no class
        weight.
    poly_epsilon : float, default 0.0
        Adds ``poly_epsilon * (T - sum(t * softmax(logits)))`` to each loss, where t is the target and T its sum: for a
        label, `poly_epsilon` times the probability of the other classes.
    focal_gamma : float, default 0.0
        At least 0: multiplies the loss of a row by ``(1 - p) ** focal_gamma``, with p the probability of its class. All
        target mass of each row must be on one class; there can be neither smoothing nor a `z_loss`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the total weight: the sum of sample weight times the (class-weighted) target mass
        before smoothing. Without any weight it is nan, and its derivatives are 0.
    return_grad : bool, default False
        Also return the gradient of the result (of the sum, if ``reduction="none"``) with respect to `logits`.
    return_hess : bool, default False
        Also return the gradient and the diagonal of the Hessian: the second derivative with respect to each logit. Then
        `softcap`, `z_loss`, `poly_epsilon` and `focal_gamma` must have their defaults.
    grad_out : ndarray, optional
        Where to put the gradient: of the shape and type of `logits`, which it may be; or of float32 for logits of half
        precision. Implies `return_grad`.
    hess_out : ndarray, optional
        Where to put the diagonal of the Hessian: as `grad_out`, but with memory of its own. Implies `return_hess`.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array of the type of `logits` (float32 for
        half precision).
    grad : ndarray
        Of the shape and type of `logits`, or `grad_out`; only with `return_grad` or what implies it. The gradient of a
        mean over many rows underflows in float16 (at 65,536 rows most of it does): pass a float32 `grad_out`, or use
        ``reduction="sum"``.
    hess : ndarray
        Of the shape and type of `grad`, or `hess_out`; only with `return_hess` or `hess_out`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range. Nothing is written then.

    Notes
    -----
    With m the maximum of a row x, r the sum of exp(x - m) over everything else, t the target mass and T its sum, the
    loss is sum(t (m - x)) + T log1p(r), a sum of terms that are all >= 0, and its gradient T softmax(x) - t [1]_. At a
    label that gradient is formed as minus the probability of the other classes. So a confident row keeps its digits:
    losses of 1e-18 come out as such. The diagonal of the Hessian is T p (1 - p) with p = softmax(x) [1]_; at the
    maximum, 1 - p is formed as the probability of the other classes. Smoothing is from [2]_, the squared logsumexp from
    [3]_, the cap from [4]_, `poly_epsilon` from [5]_ and `focal_gamma` from [6]_.

    A logit of -inf is a class that cannot occur; a NaN, or a logit of +inf without a cap, makes the loss and the
    derivatives of its row NaN. Finite logits, scales and weights may have any size and ratio: a row whose scaled logits
    overflow float32 is computed in float64, and weights are summed with their exponents. Beside its results a call
    allocates at most 1 MiB with up to two threads, however long a row is (and up to 56 bytes a point of a sparse row).

    A loss is within 2 units in the last place (1 + `focal_gamma` times as many with that); the Hessian within 4; the
    gradient of a label or one-hot target within 4, of other targets within 4 of the larger of T softmax(x) and t, whose
    difference may cancel.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.
    .. [2] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
    .. [3] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24 (2023), section 5.
    .. [4] Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, section 2.
    .. [5] Z. Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", ICLR 2022.
    .. [6] T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.

    Examples
    --------
    >>> import xent
    >>> round(xent.cross_entropy([[2.0, 4.0, 0.5]], [1]), 6)
    0.153178
    >>> loss, grad = xent.cross_entropy([[2.0, 4.0, 0.5]], [1], return_grad=True)
    >>> grad.round(4)
    array([[ 0.1161, -0.142 ,  0.0259]])
    >>> loss, grad, hess = xent.cross_entropy([[2.0, 4.0, 0.5]], [1], return_hess=True)
    >>> hess.round(4)
    array([[0.1026, 0.1219, 0.0252]])

    Three quarters of the mass on class 1 and a quarter on class 0, without the dense distribution:

    >>> round(xent.cross_entropy([[2.0, 4.0, 0.5]], ([[1, 0]], [[0.75, 0.25]])), 6)
    0.653178
    """
    options = (     # in the order of GivenOptions
        class_weight, sample_weight, where, logit_scale, softcap, label_smoothing, z_loss, poly_epsilon, focal_gamma
    )
    result = kernels.plain_cross_entropy(
        logits, target, axis, ignore_index, options, DEFAULTS, reduction, return_grad, return_hess, grad_out, hess_out,
        n_threads, threads.THREAD_ELEMENTS, threads.BLOCK_ELEMENTS,
    )
    if isinstance(result, kernels.PlainCall):
        return threads.run_checked_call(result, n_threads)
    if result is not None:
        return result
    return losses.cross_entropy(
        logits, target, GivenOptions(*options), axis=axis, ignore_index=ignore_index, reduction=reduction,
        return_grad=return_grad, return_hess=return_hess, grad_out=grad_out, hess_out=hess_out, n_threads=n_threads,
    )


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[KLKeywords],
) -> float: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[KLKeywords],
) -> Array: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[KLKeywords],
) -> tuple[float, Array]: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[KLKeywords],
) -> tuple[Array, Array]: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array, **options: Unpack[KLKeywords],
) -> tuple[float, Array]: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array, **options: Unpack[KLKeywords],
) -> tuple[Array, Array]: ...


@overload
def kl_divergence(
    logits: ArrayLike, ref_logits: ArrayLike, *,
    reduction: Reduction = ..., return_grad: bool = ..., grad_out: Array | None = ..., **options: Unpack[KLKeywords],
) -> float | Array | tuple[float | Array, Array]: ...


def kl_divergence(
    logits: ArrayLike,
    ref_logits: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
    logit_scale: float = 1.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    grad_out: Array | None = None,
    n_threads: int | None = None,
) -> Any:
    """Kullback-Leibler divergence KL(q || p) of q = softmax(ref_logits) from p = softmax(logits), and its gradient.

    How far the model that gave `logits` is from a reference: a teacher, or the model before it was compressed. Both
    arguments are logits; probabilities (rows in [0, 1] that sum to 1) go in as their logarithms.

    Parameters
    ----------
    logits : array_like
        Real numbers, C of them along `axis`, as in :func:`cross_entropy`.
    ref_logits : array_like
        The logits of the reference, of the shape of `logits`. Types may differ: the wider one is computed in.
    axis : int, default -1
        The class axis of both.
    sample_weight : array_like, optional
        Multiplies each divergence; at least 0, broadcast to the shape of the unreduced result. Where it is 0 the
        divergence and the gradient are 0, whatever the logits.
    where : array_like of bool, optional
        True for the classes that can occur, broadcast to the shape of `logits`; others count as -inf in both.
    logit_scale : float, default 1.0
        Multiplies the logits of both (an inverse temperature, as in distillation).
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the sum of the sample weights, or by the number of rows. If that is 0 it is nan,
        and the gradient 0.
    return_grad : bool, default False
        Also return the gradient of the result (of the sum, if ``reduction="none"``) with respect to `logits`.
    grad_out : ndarray, optional
        Where to put the gradient: of the shape and type of `logits`, which it may be; or of float32 for logits of half
        precision. Implies `return_grad`.
    n_threads : int, optional
        The largest number of threads; :func:`get_num_threads` if not given. Results do not depend on it.

    Returns
    -------
    divergence : float or ndarray
        In nats, at least 0, and exactly 0 for equal rows: a Python float, accumulated in float64; with
        ``reduction="none"`` an array of the type of `logits` (float32 for half precision).
    grad : ndarray
        logit_scale (p - q), weighted and divided as the result is; of the shape and type of `logits`, or `grad_out`.
        Only with `return_grad` or `grad_out`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value. Nothing is written then.

    See Also
    --------
    cross_entropy : With ``softmax(ref_logits)`` as the target it is the divergence plus the entropy of q.

    Notes
    -----
    With d = logits - ref_logits, c = logsumexp(logits) - logsumexp(ref_logits) and delta = d - c, the result is
    sum(q (exp(delta) - 1 - delta)), a sum of terms that are all >= 0 [1]_. The usual sum(q (log q - log p)) cancels:
    for rows that differ by 1e-4 it loses all digits in float32, and may be negative [2]_.

    A class of -inf in the reference alone adds its p; in the logits alone it makes the result inf. A NaN or +inf, or
    nothing but -inf, in either row makes the result and the gradient of that row NaN.

    The result is within 16 units in the last place for differences from 1e-3 on, also under a common shift; the
    gradient within 8 of the larger of p and q. Finite logits above 1e7 (in float64, 1e15) may cost digits, and above
    1e14 (1e30) all of them, where the others matter beside them.

    References
    ----------
    .. [1] I. Csiszár, P. C. Shields, "Information Theory and Statistics: A Tutorial", 2004, section 4 (f-divergences:
       any multiple of (t - 1) may be added to f).
    .. [2] J. Schulman, "Approximating KL Divergence", 2020 (the same terms, for samples).

    Examples
    --------
    >>> import xent
    >>> round(xent.kl_divergence([[2.0, 4.0, 0.5]], [[2.0, 3.0, 0.5]]), 6)
    0.091967
    >>> xent.kl_divergence([[2.0, 4.0, 0.5]], [[2.0, 4.0, 0.5]])
    0.0
    """
    return losses.kl_divergence(
        logits, ref_logits, axis=axis, sample_weight=sample_weight, where=where, logit_scale=logit_scale,
        reduction=reduction, return_grad=return_grad, grad_out=grad_out, n_threads=n_threads,
    )


@overload
def categorical_cross_entropy(
    proba: ArrayLike, target: Target, *, reduction: Scalar = "mean", **options: Unpack[ProbaKeywords],
) -> float: ...


@overload
def categorical_cross_entropy(
    proba: ArrayLike, target: Target, *, reduction: Literal["none"], **options: Unpack[ProbaKeywords],
) -> Array: ...


@overload
def categorical_cross_entropy(
    proba: ArrayLike, target: Target, *, reduction: Reduction = ..., **options: Unpack[ProbaKeywords],
) -> float | Array: ...


def categorical_cross_entropy(
    proba: ArrayLike,
    target: Target,
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
        If an argument has a wrong type, shape or value, such as a probability that is NaN or outside [0, 1].

    See Also
    --------
    log_loss : scikit-learn's metric, with labels of any type, which come first.
    binary_cross_entropy : For independent yes/no targets.

    Notes
    -----
    The loss of a row with target distribution t is -sum(t log p) [1]_.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import xent
    >>> round(xent.categorical_cross_entropy([[0.25, 0.75], [0.5, 0.5]], [1, 0]), 6)
    0.490415
    """
    return losses.categorical_cross_entropy(proba, target, axis, sample_weight, reduction, n_threads)


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[BinaryKeywords],
) -> float: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[BinaryKeywords],
) -> Array: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[BinaryKeywords],
) -> tuple[float, Array]: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[BinaryKeywords],
) -> tuple[Array, Array]: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array, **options: Unpack[BinaryKeywords],
) -> tuple[float, Array]: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array, **options: Unpack[BinaryKeywords],
) -> tuple[Array, Array]: ...


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *,
    reduction: Reduction = ..., return_grad: bool = ..., grad_out: Array | None = ...,
    **options: Unpack[BinaryKeywords],
) -> float | Array | tuple[float | Array, Array]: ...


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
        Of the shape and type of `logits`, or `grad_out`; only with `return_grad` or `grad_out`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value. Nothing is written then.

    Notes
    -----
    The loss of a logit x with target y and `pos_weight` w is y w softplus(-x) + (1 - y) softplus(x) [1]_. At infinite
    logits it takes its limits: x = -inf with y = 0 has loss 0.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import xent
    >>> round(xent.binary_cross_entropy_with_logits([0.0, 40.0], [0, 1]), 6)
    0.346574
    """
    return losses.binary_cross_entropy(
        "logits", logits, target, losses.GivenBinaryOptions(pos_weight, sample_weight, label_smoothing), reduction,
        return_grad, grad_out, n_threads,
    )


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[BinaryProbaKeywords],
) -> float: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[False] = False, grad_out: None = None,
    **options: Unpack[BinaryProbaKeywords],
) -> Array: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[BinaryProbaKeywords],
) -> tuple[float, Array]: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: Literal[True], grad_out: Array | None = None,
    **options: Unpack[BinaryProbaKeywords],
) -> tuple[Array, Array]: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Scalar = "mean", return_grad: bool = ..., grad_out: Array, **options: Unpack[BinaryProbaKeywords],
) -> tuple[float, Array]: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Literal["none"], return_grad: bool = ..., grad_out: Array, **options: Unpack[BinaryProbaKeywords],
) -> tuple[Array, Array]: ...


@overload
def binary_cross_entropy(
    proba: ArrayLike, target: ArrayLike, *,
    reduction: Reduction = ..., return_grad: bool = ..., grad_out: Array | None = ...,
    **options: Unpack[BinaryProbaKeywords],
) -> float | Array | tuple[float | Array, Array]: ...


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
        Of the shape and type of `proba`, or `grad_out`; only with `return_grad` or `grad_out`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a probability that is NaN or outside [0, 1]. Nothing
        is written then.

    Notes
    -----
    The loss is -y log(p) - (1 - y) log1p(-p) [1]_, and its gradient (1 - y) / (1 - p) - y / p.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import xent
    >>> round(xent.binary_cross_entropy([0.5, 1.0], [0, 1]), 6)
    0.346574
    """
    return losses.binary_cross_entropy(
        "proba", proba, target, losses.GivenBinaryOptions(sample_weight=sample_weight), reduction, return_grad,
        grad_out, n_threads,
    )
