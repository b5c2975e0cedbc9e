"""The cross-entropy of a linear layer, without all its logits in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import ArrayLike

from xent._calls import linear_losses
from xent._calls.losses import Array, Reduction, Scalar, Target
from xent._calls.options import GivenOptions, LinearKeywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

Gradients = tuple[Array, Array, Array | None]
MAX_SCRATCH = 32 << 20


@overload
def linear_cross_entropy(
    X: ArrayLike, weight: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: Literal[False] = False, **options: Unpack[LinearKeywords],
) -> float: ...


@overload
def linear_cross_entropy(
    X: ArrayLike, weight: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: Literal[False] = False, **options: Unpack[LinearKeywords],
) -> Array: ...


@overload
def linear_cross_entropy(
    X: ArrayLike, weight: ArrayLike, target: Target, *,
    reduction: Scalar = "mean", return_grad: Literal[True], **options: Unpack[LinearKeywords],
) -> tuple[float, Gradients]: ...


@overload
def linear_cross_entropy(
    X: ArrayLike, weight: ArrayLike, target: Target, *,
    reduction: Literal["none"], return_grad: Literal[True], **options: Unpack[LinearKeywords],
) -> tuple[Array, Gradients]: ...


@overload
def linear_cross_entropy(
    X: ArrayLike, weight: ArrayLike, target: Target, *,
    reduction: Reduction = ..., return_grad: bool = ..., **options: Unpack[LinearKeywords],
) -> Any: ...


def linear_cross_entropy(
    X: ArrayLike,
    weight: ArrayLike,
    target: Target,
    *,
    bias: ArrayLike | None = None,
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
    max_scratch: int = MAX_SCRATCH,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy of the logits ``X @ weight.T + bias``, and its gradients, without all the logits in memory at once.

    What :func:`cross_entropy` would say of them, with all its options; see there for what they mean.

    Parameters
    ----------
    X : array_like of shape (..., D)
        Rows of features. float32, float64, float16 and bfloat16 (of ``ml_dtypes``); integers are computed with as
        float64.
    weight : array_like of shape (C, D)
        A row for each class.
    target : array_like, or tuple of two
        Labels of the shape of `X` without its last axis; a distribution, of the shape of the logits, (..., C); or a
        sparse distribution, a tuple ``(indices, probabilities)``.
    bias : array_like of shape (C,), optional
        Added to the logits.
    class_weight : array_like of shape (C,), optional
        Multiplies the target mass of each class.
    sample_weight : array_like, optional
        Multiplies each loss; broadcast to the shape of the unreduced loss.
    label_smoothing : float, default 0.0
        In [0, 1].
    ignore_index : int, default -100
        A label whose loss is 0; nothing in its row of `X` has any effect then, NaN included.
    where : array_like of bool, optional
        The classes that can happen, broadcast to the shape of the logits.
    logit_scale : float, default 1.0
        Multiplies the logits.
    softcap : float, optional
        Above 0: logits become ``softcap * tanh(logit_scale * logits / softcap)``.
    z_loss : float, default 0.0
        At least 0: multiplies the squared logsumexp of each row.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the total weight.
    return_grad : bool, default False
        Also return the gradients of the result (of the sum, if ``reduction="none"``).
    max_scratch : int, default 32 MiB
        The largest number of bytes to allocate at a time beside what is returned. More memory makes larger blocks and
        larger matrix products of them, up to 512 rows. Targets, masks and weights that :func:`cross_entropy` would
        convert first are, and are not counted.
    n_threads : int, optional
        The largest number of threads, but for the matrix products: those use as many as NumPy's BLAS is set to. Results
        do not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array in the type of the computation, which
        is the widest of the operands and at least float32.
    grads : tuple of ndarray
        ``(grad_X, grad_weight, grad_bias)``, each of the shape and type of what it is the gradient for (float64 for
        integers), and None without `bias`. Only if asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, a label out of range among them, or if nothing can be computed
        within `max_scratch`; the message says how much is needed.

    Notes
    -----
    Of the logits G = dloss/dlogits, the gradients are G @ weight, G.T @ X and the sum of the rows of G [1]_. Logits and
    products are as exact as NumPy's matrix products, and what is in between as exact as :func:`cross_entropy`. NaN and
    infinities spread as products spread them, but for rows that are ignored or have no weight: their gradient is 0, and
    they change no other. Rows are taken in blocks; where fewer than a hundred or so fit in the scratch, as with
    100,000 classes, `weight` also is, which for labels without smoothing, mask or cap takes less time (the logits are
    then computed twice).

    A `weight` of half precision needs room for the sum of its gradient in float32, C x D, unless all rows fit in one
    block.

    References
    ----------
    .. [1] C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> import xent
    >>> X = np.array([[1.0, 0.0], [0.5, -1.0]])
    >>> weight = np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    >>> loss, (grad_X, grad_weight, _) = xent.linear_cross_entropy(X, weight, [0, 2], return_grad=True)
    >>> bool(np.isclose(loss, xent.cross_entropy(X @ weight.T, [0, 2])))
    True
    >>> grad_weight.shape
    (3, 2)
    """
    return linear_losses.linear_cross_entropy(
        (X, weight, bias), target,
        GivenOptions(class_weight, sample_weight, where, logit_scale, softcap, label_smoothing, z_loss),
        ignore_index, reduction, return_grad, max_scratch, n_threads,
    )
