"""The measures of `evaluate` from rows of features and an output layer, without all the logits in memory.

A block of many rows meets one chunk of classes after the other: the logits of the chunk (and of the reference) are
multiplied out, measured, and added to what is known of each row so far. So every element of `weight` is read, and
widened from half precision, once per block of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent._calls.dispatch import kernels
from xent._calls.evaluation import Measures, clip_topk, list_sums, new_sums, no_measures
from xent._calls.linear_losses import SLACK_BYTES, RowData
from xent._calls.matmul_blocks import OPERAND_NAMES, Products, check_operands, split
from xent._calls.options import GivenOptions, Options, check_options
from xent._calls.scalars import check_n_threads, check_positive_integer
from xent._calls.targets import check_batch, check_ignore_index, refuse_distribution
from xent._calls.threads import cut
from xent._calls.weights import sum_target_weights

Array = NDArray[Any]
Operands = tuple[ArrayLike, ArrayLike, ArrayLike | None]

LARGEST_CHUNK = 2048            # classes
KERNEL_BYTES = 208 << 10        # the most scratch of each thread of a kernel


class _Task(NamedTuple):
    """What to measure, from checked arguments."""

    heads: list[Products]       # of the model and, if there is one, of the reference
    data: RowData
    options: Options
    topk: NDArray[np.int64]
    n_threads: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        *lead, classes = self.data.batch.logits.shape
        return math.prod(lead), classes

    @property
    def most(self) -> int:
        """The largest logits to keep for each row."""
        return int(self.topk.max())


class _Plan(NamedTuple):
    rows: int       # of a block
    chunk: int      # classes
    threads: int    # of the kernels


def linear_evaluate(
    operands: Operands,
    target: ArrayLike,
    given: GivenOptions,
    ignore_index: int,
    topk: tuple[int, ...],
    reference: Sequence[ArrayLike] | None,
    max_scratch: int,
    n_threads: int | None,
) -> Measures:
    """`xent.linear_evaluate`; `operands` are X, weight and bias."""
    X, weight, bias, dtype = check_operands(operands)
    heads = [Products(X, weight, bias, dtype, False)]
    like = np.broadcast_to(np.zeros((), dtype), (*X.shape[:-1], len(weight)))       # of the shape of the logits
    batch = check_batch("X @ weight.T", like, target, sample_weight=given.sample_weight)
    refuse_distribution(batch)
    options = check_options(given, check_ignore_index(ignore_index, batch.target))
    if reference is not None:
        heads.append(_check_reference(reference, like.shape))
    check_positive_integer("max_scratch", max_scratch)
    blocks = cut(math.prod(like.shape[:-1]), len(weight), check_n_threads(n_threads))
    sum_target_weights(batch, options, blocks, ignore_index)        # checks the labels
    task = _Task(heads, RowData(batch, ignore_index), options, clip_topk(topk, len(weight)), n_threads)
    plan = _choose(task, max_scratch)
    measures = no_measures(topk)
    with np.errstate(all="ignore"):
        for sums in _measure_blocks(task, plan):
            measures = measures.add(Measures(len(weight), reference is not None, list_sums(sums)))
    return measures


def _check_reference(reference: Sequence[ArrayLike], shape: tuple[int, ...]) -> Products:
    """The products of another model for the same rows and classes; `shape` is that of the logits."""
    if not isinstance(reference, tuple) or len(reference) not in (2, 3):
        found = f"a tuple of {len(reference)}" if isinstance(reference, tuple) else f"a {type(reference).__name__}"
        raise TypeError(f"reference is {found}; it must be a tuple (X, weight) or (X, weight, bias)")
    names = tuple(f"reference[{i}]" for i in range(len(OPERAND_NAMES)))
    X, weight, bias, dtype = check_operands((reference[0], reference[1], (*reference, None)[2]), names)
    if X.shape[:-1] != shape[:-1]:
        raise ValueError(f"reference[0] has shape {X.shape}; its rows must have shape {shape[:-1]}, as those of X")
    if len(weight) != shape[-1]:
        raise ValueError(f"reference[1] has {len(weight)} rows, one per class; it must have {shape[-1]}, as weight")
    return Products(X, weight, bias, dtype, False)


# --- the size of blocks ----------------------------------------------------------------------------------------------


def _choose(task: _Task, max_scratch: int) -> _Plan:
    """The plan with the least work beside the products' own, of those that fit the scratch."""
    n, classes = task.shape
    threads = max(1, min(cut(n, classes, task.n_threads).threads, max_scratch // 8 // KERNEL_BYTES))
    chunks = [LARGEST_CHUNK >> i for i in range(LARGEST_CHUNK.bit_length())]
    plans = [
        (_cost(rows, chunk), _Plan(rows, chunk, threads))
        for chunk in dict.fromkeys(min(chunk, classes) for chunk in chunks)
        if (rows := _count_rows(task, chunk, threads, max_scratch)) >= min(n, 1)
    ]
    if not plans:
        fixed, row = _count_bytes(task, 1, threads)
        raise ValueError(f"max_scratch is {max_scratch}, too small for these operands; {fixed + row} bytes are enough")
    return min(plans)[1]


def _cost(rows: int, chunk: int) -> float:
    """`weight` is read once per block of rows, and products of few classes are slow."""
    return 512 / max(rows, 1) + 64 / max(chunk, 1)


def _count_rows(task: _Task, chunk: int, threads: int, max_scratch: int) -> int:
    """Rows in each of the fewest blocks that fit the scratch; 0 if none does."""
    n, _ = task.shape
    fixed, row = _count_bytes(task, chunk, threads)
    most = min(n, max(0, max_scratch - fixed) // row)
    return -(-n // -(-n // most)) if most else 0


def _count_bytes(task: _Task, chunk: int, threads: int) -> tuple[int, int]:
    """Bytes that a plan needs: once, and for each row of a block."""
    fixed = SLACK_BYTES + threads * KERNEL_BYTES + sum(head.fixed_bytes(True) for head in task.heads)
    fixed += chunk * max(head.class_bytes() for head in task.heads)     # one chunk is widened at a time
    row = task.data.row_bytes + 8 * kernels.row_so_far_length(task.most)
    return fixed, row + sum(head.row_bytes() + chunk * head.dtype.itemsize for head in task.heads)


# --- through the blocks ----------------------------------------------------------------------------------------------


def _measure_blocks(task: _Task, plan: _Plan) -> Iterator[Array]:
    """The sums of each block of rows."""
    n, classes = task.shape
    buffers = [np.empty((plan.rows, plan.chunk), head.dtype) for head in task.heads]
    so_far = np.empty((plan.rows, kernels.row_so_far_length(task.most)))
    for head in task.heads:
        head.allocate(plan.rows, plan.chunk, True)
    for rows in split(n, plan.rows):
        count = rows.stop - rows.start
        for head in task.heads:
            head.open(rows, None)
        for chunk in split(classes, plan.chunk):
            logits, *reference = (buffer[:count, : chunk.stop - chunk.start] for buffer in buffers)
            for head, out in zip(task.heads, (logits, *reference), strict=True):
                head.logits(chunk, out)
            blocks = cut(count, len(task.heads) * logits.shape[1], task.n_threads)
            blocks._replace(threads=min(blocks.threads, plan.threads)).run(
                kernels.measure_chunk, task.data.at(rows, logits), reference[0] if reference else None, task.options,
                chunk.start, so_far, task.most,
            )
        blocks = cut(count, len(so_far[0]), 1)
        sums = new_sums(blocks, task.topk)
        blocks.run(
            kernels.sum_chunks, task.data.at(rows, buffers[0][:count]), len(task.heads) > 1, task.options, task.topk,
            so_far, task.most, sums,
        )
        yield sums
