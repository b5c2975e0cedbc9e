"""Cross-entropy of a linear layer whose logits X @ weight.T are computed and discarded block by block.

By rows: for each block of rows, compute the logits, replace them by their gradient (with the kernel of
`cross_entropy`, which supports every option), and multiply that by the operands.

By classes: if the scratch holds only few rows of all classes, products would mostly read `weight` from memory. So take
many rows and one chunk of classes at a time. A first pass computes the logsumexp of each chunk; a second one computes
the logits again and their gradient. There, a chunk has one extra logit, the logsumexp of all other classes, which is
the label of rows whose label is in another chunk. The softmax of such a chunk is exactly that of the whole row, without
cancellation. This takes four products instead of three, but large ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.dispatch import kernels
from xent._calls.losses import Target, gradient_divisor, reduce_loss
from xent._calls.matmul_blocks import Products, Rows, check_operands, split
from xent._calls.options import GivenOptions, Options, check_options
from xent._calls.outputs import LossOutputs
from xent._calls.scalars import check_n_threads, check_positive_integer, check_reduction
from xent._calls.targets import Batch, check_batch, check_ignore_index, check_one_class
from xent._calls.threads import Blocks, cut
from xent._calls.weights import scale_weights

Array = NDArray[Any]

BLOCK_ELEMENTS = 1 << 18    # of X and the logits together: such a block stays in the cache
MIN_ROWS = 512              # products of fewer rows are slower
MIN_ROWS_WITH_GRAD = 112    # products of fewer rows take over a third longer; by classes needs one more product
CHUNK_CLASSES = 1024
SHARES = (10, 80, 1 << 60)  # 1/share of the scratch may go to buffers of products and, between products, to the kernels
SLACK_BYTES = 1 << 18       # for the buffers of NumPy's sums and small objects
ROW_SLACK_BYTES = 96
CLASS_SLACK_BYTES = 128     # additional bytes per row, by classes
MAX_THREADS = 32            # of the kernels, each of which needs scratch
MAX_SUMS = 4096             # sums of blocks to keep before adding them up


class RowData:
    """The arrays of a batch except its logits, by blocks of rows."""

    def __init__(self, batch: Batch, ignore_index: int) -> None:
        axes = batch.logits.ndim - 1
        names = ("target", "target_probs", "where", "sample_weight")
        given = {name: getattr(batch, name) for name in names}
        self.rows = {name: Rows(array, axes) for name, array in given.items() if array is not None}
        self.row_bytes = sum(rows.copied for rows in self.rows.values()) + ROW_SLACK_BYTES
        self.batch, self.ignore_index = batch, ignore_index

    def at(self, rows: slice, logits: Array) -> Batch:
        own = {name: array[rows] for name, array in self.rows.items()}
        return self.batch._replace(logits=logits, axis=-1, **own)

    def find_ignored(self, rows: slice) -> NDArray[np.bool_] | None:
        """The rows whose loss and gradient are 0 whatever the logits; None if there are none."""
        ignored = np.zeros(rows.stop - rows.start, bool)
        if "sample_weight" in self.rows:
            ignored |= self.rows["sample_weight"][rows] == 0
        if not self.batch.is_dense():
            labels = self.rows["target"][rows] == self.ignore_index
            ignored |= labels if labels.ndim == 1 else labels.all(axis=1) & (labels.shape[1] > 0)
        return ignored if ignored.any() else None


class _Task(NamedTuple):
    """What to compute, from checked arguments."""

    products: Products
    data: RowData
    options: Options
    exponent: int           # losses are in units of 2^exponent
    divisor: float          # of the gradient
    loss: Array | None      # of each row, flat
    n_threads: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        *lead, classes = self.data.batch.logits.shape
        return math.prod(lead), classes

    def may_go_by_classes(self) -> bool:
        """Whether the options allow it: labels, and only `ignore_index`, `z_loss` and a `logit_scale` that is a power
        of two (exact); class weights only without `z_loss`.
        """
        batch, scale, z_loss = self.data.batch, self.options.logit_scale, self.options.z_loss
        handled = Options(scale, z_loss=z_loss, ignore_index=self.options.ignore_index, extreme=self.options.extreme)
        return (
            batch.target.ndim < batch.logits.ndim and batch.where is None and self.options == handled
            and 1 / 64 <= scale <= 64 and math.frexp(scale)[0] == 0.5
            and (batch.class_weight is None or z_loss == 0)
        )


class _Plan(NamedTuple):
    by_classes: bool
    rows: int           # of a block
    chunk: int          # classes of a product that needs a buffer or a copy of `weight`
    threads: int        # of the kernels, each of which needs scratch
    kernel_rows: int    # of a block of the kernels


def linear_cross_entropy(
    operands: tuple[ArrayLike, ArrayLike, ArrayLike | None],
    target: Target,
    options: GivenOptions,
    ignore_index: int,
    reduction: str,
    return_grad: bool,
    max_scratch: int,
    n_threads: int | None,
) -> Any:
    """`xent.linear_cross_entropy`; `operands` are X, weight and bias."""
    X, weight, bias, dtype = check_operands(operands)
    like = np.broadcast_to(np.zeros((), dtype), (*X.shape[:-1], len(weight)))       # of the shape of the logits
    given = options.class_weight, options.sample_weight, options.where
    batch = check_batch("X @ weight.T", like, target, -1, *given)
    checked = check_options(options, check_ignore_index(ignore_index, batch.target))
    if checked.focal_gamma != 0:
        check_one_class(batch, ignore_index)
    check_reduction(reduction)
    n_threads = check_n_threads(n_threads)
    check_positive_integer("max_scratch", max_scratch)
    n = math.prod(like.shape[:-1])
    blocks = cut(n, len(weight), n_threads)
    # To sum the weights of distributions, each thread needs a scratch of less than 64 KiB.
    blocks = blocks._replace(threads=max(1, min(blocks.threads, max_scratch >> 16)))
    with np.errstate(all="ignore"):
        scale = scale_weights(reduction, batch, checked, blocks, ignore_index)
        loss = np.empty(like.shape[:-1], dtype) if reduction == "none" else None
        losses = None if loss is None else loss.reshape(-1)
        products, data = Products(X, weight, bias, dtype, return_grad), RowData(batch, ignore_index)
        divisor = gradient_divisor(reduction, scale.total)
        task = _Task(products, data, scale.options, scale.exponent, divisor, losses, n_threads)
        products.copies_X |= return_grad and _ignores_nan(task, max_scratch)
        plan = _choose(task, max_scratch)
        products.allocate(plan.rows, plan.chunk, plan.rows < n)
        sums: list[float] = []
        if reduction != "mean" or scale.total != 0:
            sums = _go_by_classes(task, plan) if plan.by_classes else _go_by_rows(task, plan)
        result = reduce_loss(reduction, np.array(sums), scale.total, loss)
        return (result, products.gradients()) if return_grad else result


def _ignores_nan(task: _Task, max_scratch: int) -> bool:
    """Whether an ignored row of X is not finite: it must not enter products, where 0 times NaN is NaN."""
    X = task.products.X
    size = max(1, min(MIN_ROWS, max_scratch // SHARES[0] // max(1, X.array.shape[-1] * X.array.itemsize)))
    for rows in split(task.shape[0], size):
        ignored = task.data.find_ignored(rows)
        if ignored is not None and not np.isfinite(X[rows].sum(axis=1)[ignored]).all():
            return True
    return False


# --- the size of blocks ----------------------------------------------------------------------------------------------


def _choose(task: _Task, max_scratch: int) -> _Plan:
    """The faster of the plans that fit the scratch."""
    needed = []
    rows, classes = task.shape
    enough = min(rows, MIN_ROWS_WITH_GRAD if task.products.with_grad else MIN_ROWS)
    ways = (False, True) if task.may_go_by_classes() and classes > CHUNK_CLASSES else (False,)
    for share in SHARES:
        plans = []
        for by_classes in ways:
            plan, need = _plan(task, by_classes, max_scratch, share)
            needed.append(need)
            if plan.rows >= min(rows, 1):
                plans.append(plan)
        if plans:
            first, last = plans[0], plans[-1]
            return last if first.rows < enough and last.rows > 2 * first.rows else first
    raise ValueError(
        f"max_scratch is {max_scratch}, too small for {classes} classes and {task.products.features} features; "
        f"{min(needed)} bytes are enough"
    )


def _plan(task: _Task, by_classes: bool, max_scratch: int, share: int) -> tuple[_Plan, int]:
    """The plan with the largest blocks that fit the scratch, and the bytes needed for blocks of one row."""
    products, batch = task.products, task.data.batch
    rows, classes = task.shape
    temporary = max_scratch // share
    chunk = max(1, min(CHUNK_CLASSES, classes, temporary // max(1, products.class_bytes())))
    if by_classes:
        width, row_bytes = _padded_width(chunk), 8 * -(-classes // chunk) + CLASS_SLACK_BYTES
        wanted = rows
    else:
        width, row_bytes = classes, 0
        wanted = min(rows, max(MIN_ROWS, BLOCK_ELEMENTS // max(1, classes + products.features)))
    row_bytes += width * products.dtype.itemsize + task.data.row_bytes + products.row_bytes()
    kernel_bytes = 8 * kernels.batch_scratch(width, 1 if batch.target_probs is None else batch.target_probs.shape[-1])
    threads = max(1, min(MAX_THREADS, temporary // kernel_bytes))
    temporary = max(threads * kernel_bytes, chunk * products.class_bytes())     # never both at once
    fixed = SLACK_BYTES + temporary + (16 * classes if batch.class_weight is not None else 0)
    for several_blocks in (False, True):
        need = fixed + products.fixed_bytes(several_blocks)
        most = min(wanted, (max_scratch - need) // row_bytes)
        if most >= rows:
            break
    size = cut(rows, width, 1).size     # as in cross_entropy: its sums have the same order
    if size < most < rows:
        even = -(-rows // -(-rows // most))     # so that the last block is not small
        most = min(even + -even % size, most - most % size)
    return _Plan(by_classes, most, chunk, threads, max(1, min(size, most))), need + row_bytes


def _padded_width(chunk: int) -> int:
    """Columns for a chunk of logits and one logit more, in whole cache lines."""
    return (chunk + 16) // 16 * 16


# --- both ways through the blocks ------------------------------------------------------------------------------------


def _compute_loss(task: _Task, plan: _Plan, batch: Batch, options: Options, outputs: LossOutputs) -> list[float]:
    """Compute the loss and gradient of a block of rows; return the sums of losses of the kernel's blocks."""
    n, classes = batch.logits.shape
    blocks = Blocks(n, plan.kernel_rows, min(cut(n, classes, task.n_threads).threads, plan.threads))
    sums = np.empty(blocks.number)
    blocks.run(kernels.cross_entropy, batch, options, outputs, sums)
    result: list[float] = sums.tolist()
    return result


def _go_by_rows(task: _Task, plan: _Plan) -> list[float]:
    products = task.products
    n, classes = task.shape
    buffer = np.empty((plan.rows, classes), products.dtype)
    step = plan.chunk if products.copies_weight else classes
    sums: list[float] = []
    for rows in split(n, plan.rows):
        logits = buffer[: rows.stop - rows.start]
        batch = task.data.at(rows, logits)
        products.open(rows, task.data.find_ignored(rows))
        for chunk in split(classes, step):
            products.logits(chunk, logits[:, chunk])
        loss = None if task.loss is None else task.loss[rows]
        grad = logits if products.with_grad else None
        outputs = LossOutputs(loss, grad, exponent=task.exponent, divisor=task.divisor)
        sums += _compute_loss(task, plan, batch, task.options, outputs)
        if len(sums) > MAX_SUMS:
            sums = [kernels.total(sums)]
        if products.with_grad:
            for chunk in split(classes, step):
                products.backward(chunk, logits[:, chunk])
        products.close()
    return sums


def _go_by_classes(task: _Task, plan: _Plan) -> list[float]:
    n, classes = task.shape
    chunks = list(split(classes, plan.chunk))
    buffer = np.empty((plan.rows, _padded_width(plan.chunk)), task.products.dtype)
    sums = []
    for rows in split(n, plan.rows):
        ignored = task.data.find_ignored(rows)
        label = task.data.rows["target"][rows].astype(np.int64)
        if ignored is not None:
            label[ignored] = -1
        label[(label < 0) | (label >= classes)] = -1        # what another thread has changed since it was checked
        weight = _weigh_rows(task, rows, label)
        block = _ClassBlock(task, plan, buffer[: len(label)], chunks, label, weight)
        task.products.open(rows, ignored)
        sums += block.forward(None if task.loss is None else task.loss[rows])
        if task.products.with_grad:
            block.backward()
        task.products.close()
    return sums


class _ClassBlock:
    """A block of rows, with the logits of one chunk of classes at a time in `buffer`; `label` is -1 if ignored."""

    def __init__(
        self, task: _Task, plan: _Plan, buffer: Array, chunks: list[slice], label: Array, weight: Array
    ) -> None:
        self.task, self.plan, self.buffer, self.chunks = task, plan, buffer, chunks
        self.label, self.weight = label, weight
        self.options = Options(ignore_index=-1, z_loss=task.options.z_loss)
        self.chunk_lse = np.empty((len(label), len(chunks)))    # logsumexp of each chunk

    def forward(self, loss: Array | None) -> list[float]:
        """Compute the losses and `chunk_lse`; return the sums of the losses."""
        label_logit = np.full(len(self.label), -np.inf)
        for i, chunk in enumerate(self.chunks):
            logits = self._logits(chunk)
            rows = np.flatnonzero((self.label >= chunk.start) & (self.label < chunk.stop))
            place = rows, self.label[rows] - chunk.start
            label_logit[rows] = logits[place]
            logits[place] = -np.inf         # the logsumexp is that of all others
            self._logsumexp(logits, self.chunk_lse[:, i])
        pair = np.stack([label_logit, np.empty(len(self.label))], axis=1)       # the label against all others
        self._logsumexp(self.chunk_lse, pair[:, 1])
        batch = Batch(pair, np.minimum(self.label, 0), sample_weight=self.weight)
        sums = _compute_loss(self.task, self.plan, batch, self.options, LossOutputs(loss))
        rows = np.flatnonzero(self.label >= 0)
        place = rows, self.label[rows] // self.plan.chunk
        self.chunk_lse[place] = np.logaddexp(self.chunk_lse[place], label_logit[rows])
        return sums

    def backward(self) -> None:
        divisor = self.task.divisor / self.task.options.logit_scale
        for i, chunk in enumerate(self.chunks):
            width = chunk.stop - chunk.start
            logits = self.buffer[:, : width + 1]
            self._logits(chunk)
            own = self.chunk_lse[:, i].copy()
            self.chunk_lse[:, i] = -np.inf
            self._logsumexp(self.chunk_lse, logits[:, width])
            self.chunk_lse[:, i] = own
            inside = (self.label >= chunk.start) & (self.label < chunk.stop)
            label = np.where(inside, self.label - chunk.start, np.where(self.label < 0, -1, width))
            batch = Batch(logits, label, sample_weight=self.weight)
            _compute_loss(self.task, self.plan, batch, self.options, LossOutputs(grad=logits, divisor=divisor))
            self.task.products.backward(chunk, logits[:, :width])

    def _logits(self, chunk: slice) -> Array:
        logits = self.buffer[:, : chunk.stop - chunk.start]
        self.task.products.logits(chunk, logits)
        scale = self.task.options.logit_scale
        if scale != 1:
            logits *= logits.dtype.type(scale)
        return logits

    def _logsumexp(self, x: Array, out: Array) -> None:
        """out = logsumexp of the rows of x."""
        blocks = cut(len(x), x.shape[1], self.task.n_threads)
        blocks = blocks._replace(threads=min(blocks.threads, self.plan.threads))
        blocks.run(kernels.logsumexp, x, None, None, out, None, 1)


def _weigh_rows(task: _Task, rows: slice, label: Array) -> Array:
    """Sample weight times class weight of each row, in the unit of its loss.

    Mantissas and exponents are multiplied separately: the product may overflow even if the result does not.
    """
    mantissa, exponent = np.frexp(np.full(len(label), 1.0))
    for weight in (
        task.data.rows["sample_weight"][rows] if "sample_weight" in task.data.rows else None,
        None if task.data.batch.class_weight is None else task.data.batch.class_weight[label],
    ):
        if weight is not None:
            more, power = np.frexp(np.asarray(weight, np.float64))
            mantissa, exponent = mantissa * more, exponent + power
    result: Array = np.ldexp(mantissa, exponent - task.exponent)
    return result
