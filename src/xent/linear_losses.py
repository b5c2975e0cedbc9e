"""The loss and the measures of a linear layer, without all its logits in memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import ArrayLike

from xent._calls import linear_evaluation, linear_losses
from xent._calls.losses import Array, Reduction, Scalar, Target
from xent._calls.options import GivenOptions, LinearKeywords
from xent._calls.scalars import check_positive_integers
from xent.evaluation import Evaluation, make_evaluation

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["linear_cross_entropy", "linear_evaluate"]

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
) -> float | Array | tuple[float | Array, Gradients]: ...


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
    poly_epsilon: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    max_scratch: int = MAX_SCRATCH,
    n_threads: int | None = None,
) -> Any:
    """Cross-entropy of the logits ``X @ weight.T + bias``, and its gradients, without all the logits in memory at once.

    The result is that of :func:`cross_entropy` on these logits; all its options are explained there.

    Parameters
    ----------
    X : array_like of shape (..., D)
        Rows of D features: float32, float64, float16 or bfloat16 (of ``ml_dtypes``); integers become float64.
    weight : array_like of shape (C, D)
        One row for each of the C classes.
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
        Rows with this label have loss 0, and their row of `X` has no effect, even if it holds NaN.
    where : array_like of bool, optional
        True for the classes that can occur, broadcast to the shape of the logits.
    logit_scale : float, default 1.0
        Multiplies the logits.
    softcap : float, optional
        Above 0: logits become ``softcap * tanh(logit_scale * logits / softcap)``.
    z_loss : float, default 0.0
        At least 0: multiplies the squared logsumexp of each row.
    poly_epsilon, focal_gamma : float, default 0.0
        As in `cross_entropy`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"mean"`` divides the sum by the total weight.
    return_grad : bool, default False
        Also return the gradients of the result (of the sum, if ``reduction="none"``).
    max_scratch : int, default 32 MiB
        Maximum memory beside the results, in bytes. More memory allows larger and so faster matrix products, up to 512
        rows. Targets, masks and weights that have to be converted are not counted.
    n_threads : int, optional
        The largest number of threads, except for the matrix products, which use the threads of NumPy's BLAS. Results do
        not depend on it.

    Returns
    -------
    loss : float or ndarray
        A Python float, accumulated in float64; with ``reduction="none"`` an array in the type of the computation, which
        is the widest of the operands and at least float32.
    grads : tuple of ndarray
        ``(grad_X, grad_weight, grad_bias)``, each with the shape and type of its argument (float64 for integers);
        `grad_bias` is None without `bias`. Only with `return_grad`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range, or if `max_scratch` is too
        small; the message says how much is needed.

    Notes
    -----
    With G the gradient with respect to the logits, those with respect to `X`, `weight` and `bias` are G @ weight,
    G.T @ X and the sum of the rows of G [1]_. The matrix products are as exact as NumPy's, everything between them as
    exact as :func:`cross_entropy`. NaN and infinities propagate through the products, except from rows that are ignored
    or have weight 0: their gradient is 0, and they affect no other row.

    Logits are computed for a block of rows at a time. If only about a hundred rows or fewer fit in the scratch, as with
    100,000 classes, labels without smoothing, mask or cap are processed by chunks of classes instead: that computes the
    logits twice, but in larger and so faster products.

    The gradient of a half-precision `weight` is summed in a float32 array of shape (C, D), part of the scratch, unless
    all rows fit in one block.

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
        GivenOptions(
            class_weight, sample_weight, where, logit_scale, softcap, label_smoothing, z_loss, poly_epsilon, focal_gamma
        ),
        ignore_index, reduction, return_grad, max_scratch, n_threads,
    )


def linear_evaluate(
    X: ArrayLike,
    weight: ArrayLike,
    target: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    topk: int | Sequence[int] = (1, 5),
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reference: tuple[ArrayLike, ...] | None = None,
    max_scratch: int = MAX_SCRATCH,
    n_threads: int | None = None,
) -> Evaluation:
    """Loss, accuracy, calibration and divergence of the logits ``X @ weight.T + bias``, without all of them in memory.

    The result is that of :func:`evaluate` on these logits. So a compressed language model is compared with the original
    from the hidden states of both.

    Parameters
    ----------
    X : array_like of shape (..., D)
        Rows of D features (hidden states): float32, float64, float16 or bfloat16 (of ``ml_dtypes``); integers become
        float64.
    weight : array_like of shape (C, D)
        One row for each of the C classes. Half precision is widened to float32, a few classes at a time.
    target : array_like
        Labels: integers in [0, C) or `ignore_index`, of the shape of `X` without its last axis.
    bias : array_like of shape (C,), optional
        Added to the logits.
    topk : int or sequence of int, default (1, 5)
        The k of the top-k accuracies, as in :func:`evaluate`.
    sample_weight : array_like, optional
        Weights of the rows; at least 0, broadcast to the shape of `target`. A row of weight 0 is left out.
    ignore_index : int, default -100
        A label whose row is left out.
    logit_scale : float, default 1.0
        Multiplies the logits, also those of the reference.
    softcap : float, optional
        Above 0: logits become ``softcap * tanh(logit_scale * logits / softcap)``, also those of the reference. That
        does not make ties of them, even where they round alike.
    reference : tuple of array_like, optional
        Another model for the same rows and classes, ``(X, weight)`` or ``(X, weight, bias)``; its features may be more
        or fewer, and of another type.
    max_scratch : int, default 32 MiB
        Maximum memory, in bytes. More of it allows larger and so faster matrix products.
    n_threads : int, optional
        The largest number of threads, except for the matrix products, which use the threads of NumPy's BLAS. Results do
        not depend on it.

    Returns
    -------
    Evaluation
        A named tuple, as from :func:`evaluate`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or value, such as a label out of range, or if `max_scratch` is too
        small; the message says how much is needed.

    See Also
    --------
    evaluate : From logits, with an explanation of everything that is measured.
    linear_cross_entropy : The loss alone, with gradients.

    Notes
    -----
    Each block of rows meets the classes in chunks, and what is known of a row is updated by each of them: the largest
    logits so far, sums of exponentials relative to the largest one, and the divergence within the classes so far [1]_.
    The matrix products are as exact as NumPy's, everything after them as exact as :func:`evaluate`.

    References
    ----------
    .. [1] T. M. Cover, J. A. Thomas, "Elements of Information Theory", 2nd edition, Wiley 2006, theorem 2.5.3, the
       chain rule of relative entropy.

    Examples
    --------
    >>> import numpy as np
    >>> import xent
    >>> rng = np.random.default_rng(0)
    >>> X, weight, target = rng.normal(size=(100, 16)), rng.normal(size=(50, 16)), rng.integers(50, size=100)
    >>> rounded = weight.astype(np.float16)
    >>> result = xent.linear_evaluate(X, rounded, target, reference=(X, weight))
    >>> result.agreement, bool(result.kl < 1e-6)
    (1.0, True)
    """
    ks = check_positive_integers("topk", topk)
    given = GivenOptions(sample_weight=sample_weight, logit_scale=logit_scale, softcap=softcap)
    measures = linear_evaluation.linear_evaluate(
        (X, weight, bias), target, given, ignore_index, ks, reference, max_scratch, n_threads
    )
    return make_evaluation(measures, ks)
