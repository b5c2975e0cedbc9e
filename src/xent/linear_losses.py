"""Cross-entropy of a linear layer, without all its logits: X @ weight.T is made, used and forgotten in blocks.

By rows: the logits of a block of rows, their gradient in the same place, and its products. Every option of
`cross_entropy` goes with that, which does the middle part.

By classes, where so few rows of all classes fit in the scratch that their products would mostly move `weight` about:
many rows, and a chunk of classes after another. First the logsumexp of each chunk; then, once those of all chunks are
known, the logits again and their gradient. A chunk is then the logits of its classes and one logit more, the logsumexp
of all other classes, which is the label of rows whose own is elsewhere: exactly the softmax of the whole row, and still
without a difference that cancels. It takes a product more, of three, but large ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls import arguments as check
from xent._calls.dispatch import kernels
from xent._calls.matmul_blocks import Products, Rows, chunks
from xent._calls.threads import Blocks, cut
from xent.losses import Reduction, divisor_of, label_range, prepared, reduced

Array = NDArray[Any]

MAX_SCRATCH = 32 << 20
BLOCK_ELEMENTS = 1 << 18    # of X and the logits: a block of both stays near the processor
MIN_ROWS = 512              # of a block: products of fewer are slower
FEW_ROWS = 112              # products of fewer take more than a third longer
CLASSES = 1024              # in a chunk, by classes
PARTS = (8, 64, 1 << 60)    # of the scratch: one for a room for products, one and a half for those of the kernels
SLACK = 1 << 18             # bytes: NumPy buffers operands of a sum, and there is what is small
ROW_SLACK = 96              # and for each row
CLASS_SLACK = 128           # and more when it goes by classes
MAX_SUMS = 4096             # of blocks, kept until the end


class _Operands:
    """Those of a batch but for its logits, by blocks of rows."""

    def __init__(self, batch: check.Batch, ignore_index: int) -> None:
        axes = batch.logits.ndim - 1
        given = {"target": batch.target, "mass": batch.mass, "where": batch.where, "sample_weight": batch.sample_weight}
        self.rows = {name: Rows(array, axes) for name, array in given.items() if array is not None}
        self.row_bytes = sum(rows.copied for rows in self.rows.values()) + ROW_SLACK
        self.batch, self.ignore_index = batch, ignore_index

    def at(self, rows: slice, logits: Array) -> check.Batch:
        own = {name: array[rows] for name, array in self.rows.items()}
        return self.batch._replace(given=logits, axis=1, logits=logits, **own)

    def idle(self, rows: slice) -> NDArray[np.bool_] | None:
        """The rows whose loss and gradient are 0 whatever the logits; None if there are none."""
        idle = np.zeros(rows.stop - rows.start, bool)
        if "sample_weight" in self.rows:
            idle |= self.rows["sample_weight"][rows] == 0
        if not check.is_dense(self.batch):
            ignored = self.rows["target"][rows] == self.ignore_index
            idle |= ignored if ignored.ndim == 1 else ignored.all(axis=1) & (ignored.shape[1] > 0)
        return idle if idle.any() else None


class _Task(NamedTuple):
    """What is to be done; everything is checked."""

    products: Products
    operands: _Operands
    options: check.Options
    exponent: int           # losses are in units of two to it
    divisor: float          # of the gradient
    loss: Array | None      # one a row
    n_threads: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the logits."""
        *lead, classes = self.operands.batch.logits.shape
        return math.prod(lead), classes

    def goes_by_classes(self) -> bool:
        """Whether the options allow it: those that make the mass of a row its label, and its logits what they are, or
        such multiples of it as have no rounding error."""
        batch, options = self.operands.batch, self.options
        scale = options.logit_scale
        return (
            batch.target.ndim < batch.logits.ndim and batch.where is None and options.softcap == 0
            and options.label_smoothing == 0 and 1 / 64 <= scale <= 64 and math.frexp(scale)[0] == 0.5
            and (batch.class_weight is None or options.z_loss == 0)
        )


class _Plan(NamedTuple):
    rows: int           # of a block
    chunk: int          # classes
    piece: int          # rows of a product that needs room
    threads: int        # of the kernels, each of which needs a scratch
    size: int           # rows of a block of the kernels


def _plan(task: _Task, by_classes: bool, max_scratch: int, part: int = PARTS[0]) -> tuple[_Plan, int]:
    """The largest blocks for a scratch, 1/`part` of it for each of the rooms; and what one row needs, in bytes."""
    products, batch = task.products, task.operands.batch
    rows, classes = task.shape
    feature_bytes = max(1, products.features * products.dtype.itemsize)
    fit = max(1, max_scratch // part // feature_bytes)
    chunk, piece = min(CLASSES if by_classes else classes, fit), min(MIN_ROWS, fit, rows)
    if by_classes:
        width, per_row = _width(chunk), 8 * -(-classes // chunk) + CLASS_SLACK
    else:
        width, per_row = classes, 0
    per_row += width * products.dtype.itemsize + task.operands.row_bytes + products.row_bytes()
    kernel = 8 * kernels.batch_scratch(width, 1 if batch.mass is None else batch.mass.shape[-1])
    threads = max(1, 3 * max_scratch // (2 * part) // kernel)
    if by_classes:
        threads = min(threads, 32)
    fixed = SLACK + threads * kernel + (16 * classes if batch.class_weight is not None else 0)
    wanted = rows
    if not by_classes:
        wanted = min(rows, max(MIN_ROWS, BLOCK_ELEMENTS // max(1, classes + products.features)))
    most = 0
    for several in (False, True):
        need = fixed + products.fixed_bytes(chunk, piece, several)
        most = min(wanted, (max_scratch - need) // per_row)
        if most >= rows:
            break
    size = cut(rows, width, 1).size     # as in cross_entropy, for the same sums
    if size < most < rows:
        even = -(-rows // -(-rows // most))     # the last block is not to be small
        most = min(even + -even % size, most - most % size)
    return _Plan(most, chunk, piece, threads, max(1, min(size, most))), need + per_row


def _width(chunk: int) -> int:
    """Of a chunk of logits and another one, in whole cache lines."""
    return (chunk + 16) // 16 * 16


def _choose(task: _Task, max_scratch: int) -> tuple[bool, _Plan]:
    """Whether to go by classes, and how."""
    needed = []
    rows, classes = task.shape
    enough = min(rows, FEW_ROWS if task.products.with_grad else MIN_ROWS)
    for part in PARTS:
        plans = {}
        for by_classes in (False, True) if task.goes_by_classes() and classes > CLASSES else (False,):
            plan, need = _plan(task, by_classes, max_scratch, part)
            needed.append(need)
            if plan.rows >= min(rows, 1):
                plans[by_classes] = plan
        if False in plans and (plans[False].rows >= enough or True not in plans):
            return False, plans[False]
        if True in plans:
            by_classes = False not in plans or plans[True].rows > 2 * plans[False].rows
            return by_classes, plans[by_classes]
    raise ValueError(
        f"max_scratch is {max_scratch}, too little for {classes} classes and {task.products.features} features; "
        f"{min(needed)} bytes are enough"
    )


def _hides_nan(task: _Task, max_scratch: int) -> bool:
    """Whether rows that have no effect are not all finite: in products, 0 times NaN would be NaN."""
    X = task.products.X
    size = max(1, min(MIN_ROWS, max_scratch // PARTS[0] // max(1, X.array.shape[-1] * X.array.itemsize)))
    for rows in chunks(task.shape[0], size):
        idle = task.operands.idle(rows)
        if idle is not None and not np.isfinite(X[rows].sum(axis=1)[idle]).all():
            return True
    return False


def _kernel(
    task: _Task, plan: _Plan, batch: check.Batch, options: check.Options, exponent: int, divisor: float,
    loss: Array | None, grad: Array | None,
) -> list[float]:
    """The loss and gradient of a block of rows; returns what the losses of its parts add up to."""
    n, classes = batch.logits.shape
    blocks = Blocks(n, plan.size, min(cut(n, classes, task.n_threads).threads, plan.threads))
    sums = np.empty(blocks.number)
    blocks.run(kernels.cross_entropy, batch, options, exponent, divisor, loss, grad, sums)
    result: list[float] = sums.tolist()
    return result


def _by_rows(task: _Task, plan: _Plan) -> list[float]:
    products = task.products
    n, classes = task.shape
    room = np.empty((plan.rows, classes), products.dtype)
    step = plan.chunk if products.copies_weight else classes
    sums: list[float] = []
    for rows in chunks(n, plan.rows):
        logits = room[: rows.stop - rows.start]
        batch = task.operands.at(rows, logits)
        products.open(rows, task.operands.idle(rows))
        for chunk in chunks(classes, step):
            products.logits(chunk, logits[:, chunk])
        loss = None if task.loss is None else task.loss[rows]
        grad = logits if products.with_grad else None
        sums += _kernel(task, plan, batch, task.options, task.exponent, task.divisor, loss, grad)
        if len(sums) > MAX_SUMS:
            sums = [kernels.total(sums)]
        if products.with_grad:
            for chunk in chunks(classes, step):
                products.backward(chunk, logits[:, chunk])
        products.close()
    return sums


def _by_classes(task: _Task, plan: _Plan) -> list[float]:
    products, operands = task.products, task.operands
    n, classes = task.shape
    parts = list(chunks(classes, plan.chunk))
    room = np.empty((plan.rows, _width(plan.chunk)), products.dtype)
    scale = task.options.logit_scale
    options = check.Options(ignore_index=-1, z_loss=task.options.z_loss)
    sums = []

    def logits_of(chunk: slice, count: int) -> Array:
        logits = room[:count, : chunk.stop - chunk.start]
        products.logits(chunk, logits)
        if scale != 1:
            logits *= logits.dtype.type(scale)
        return logits

    for rows in chunks(n, plan.rows):
        count = rows.stop - rows.start
        idle = operands.idle(rows)
        given = operands.rows["target"][rows]
        label = given.astype(np.int64)
        if idle is not None:
            label[idle] = -1
        weight = _weights(task, rows, label)
        products.open(rows, idle)

        # The logsumexp of each part but for the label, whose logit is set aside.
        apart = np.full(count, -np.inf)
        of_part = np.empty((count, len(parts)))
        for i, chunk in enumerate(parts):
            logits = logits_of(chunk, count)
            here = np.flatnonzero((label >= chunk.start) & (label < chunk.stop))
            place = here, label[here] - chunk.start
            apart[here] = logits[place]
            logits[place] = -np.inf
            _logsumexp(logits, of_part[:, i], task, plan)
        pair = np.stack([apart, np.empty(count)], axis=1)
        _logsumexp(of_part, pair[:, 1], task, plan)
        batch = check.Batch(pair, 1, pair, np.minimum(label, 0), None, None, None, weight)
        loss = None if task.loss is None else task.loss[rows]
        sums += _kernel(task, plan, batch, options, 0, 1.0, loss, None)
        if not products.with_grad:
            continue

        counted = np.flatnonzero(label >= 0)
        place = counted, label[counted] // plan.chunk
        of_part[place] = np.logaddexp(of_part[place], apart[counted])
        for i, chunk in enumerate(parts):
            width = chunk.stop - chunk.start
            slopes = room[:count, : width + 1]
            logits_of(chunk, count)
            own = of_part[:, i].copy()
            of_part[:, i] = -np.inf
            _logsumexp(of_part, slopes[:, width], task, plan)
            of_part[:, i] = own
            here = (label >= chunk.start) & (label < chunk.stop)
            part_label = np.where(here, label - chunk.start, np.where(label < 0, -1, width))
            batch = check.Batch(slopes, 1, slopes, part_label, None, None, None, weight)
            _kernel(task, plan, batch, options, 0, task.divisor / scale, None, slopes)
            products.backward(chunk, slopes[:, :width])
        products.close()
    return sums


def _weights(task: _Task, rows: slice, label: Array) -> Array:
    """Sample weight times class weight of each row, in the unit of its loss."""
    mantissa, exponent = np.frexp(np.full(len(label), 1.0))
    for weight in (
        task.operands.rows["sample_weight"][rows] if "sample_weight" in task.operands.rows else None,
        None if task.operands.batch.class_weight is None else task.operands.batch.class_weight[label],
    ):
        if weight is not None:
            more, power = np.frexp(np.asarray(weight, np.float64))
            mantissa, exponent = mantissa * more, exponent + power
    result: Array = np.ldexp(mantissa, exponent - task.exponent)
    return result


def _logsumexp(x: Array, out: Array, task: _Task, plan: _Plan) -> None:
    """Of the rows, in the type of `out`."""
    blocks = cut(len(x), x.shape[1], task.n_threads)
    blocks._replace(threads=min(blocks.threads, plan.threads)).run(kernels.logsumexp, x, None, out, None, 1)


def linear_cross_entropy(
    X: ArrayLike,
    weight: ArrayLike,
    target: ArrayLike | tuple[ArrayLike, ArrayLike],
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
    x, w, b, dtype = check.linear_operands(X, weight, bias)
    like = np.broadcast_to(np.zeros((), dtype), (*x.shape[:-1], len(w)))
    batch = check.targets("X @ weight.T", like, target, -1, class_weight, sample_weight, where)
    ignored = check.ignored_label(ignore_index, batch.target)
    options = check.options(ignored, logit_scale, softcap, label_smoothing, z_loss)
    check.choice("reduction", reduction, check.REDUCTIONS)
    threads = check.thread_count(n_threads)
    check.positive_integer("max_scratch", max_scratch)
    n, classes = math.prod(like.shape[:-1]), len(w)
    blocks = cut(n, classes, threads)
    # Each has a scratch of its own, of less than 64 KiB, while it weighs a distribution.
    blocks = blocks._replace(threads=max(1, min(blocks.threads, max_scratch >> 16)))
    with np.errstate(all="ignore"):
        options, exponent, total_weight = prepared(
            reduction, batch, options, blocks, label_range(classes, ignore_index)
        )
        loss = np.empty(like.shape[:-1], dtype) if reduction == "none" else None
        losses = None if loss is None else loss.reshape(-1)
        products, operands = Products(x, w, b, dtype, return_grad), _Operands(batch, ignore_index)
        task = _Task(products, operands, options, exponent, divisor_of(reduction, total_weight), losses, threads)
        products.copies_X |= return_grad and _hides_nan(task, max_scratch)
        by_classes, plan = _choose(task, max_scratch)
        products.allocate(plan.rows, plan.chunk, plan.piece, plan.rows < n)
        sums: list[float] = []
        if reduction != "mean" or total_weight != 0:
            sums = _by_classes(task, plan) if by_classes else _by_rows(task, plan)
        result = reduced(reduction, np.array(sums), total_weight, loss)
        return (result, products.gradients()) if return_grad else result
