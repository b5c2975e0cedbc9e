from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

from xent._calls.losses import BinaryOptions, KLOptions
from xent._calls.options import Options
from xent._calls.outputs import LossOutputs
from xent._calls.targets import Batch
from xent._core.scheduler import Work
from xent._fit.column_descent import ColumnOperands
from xent._fit.hessian import ExpansionOperands, ExpansionSums
from xent._fit.row_pass import LinearOperands, LinearSums

Array = NDArray[Any]
Doubles = NDArray[float64]

BINARY_CHUNK: int
LARGEST_USUAL_WEIGHT: float

class PlainCall:
    @property
    def rows(self) -> int: ...
    @property
    def classes(self) -> int: ...
    def compute(self, work: Work) -> None: ...
    def result(self) -> Any: ...

def total(values: list[float]) -> float: ...
def add_each_exactly(sums: Doubles, x: Doubles) -> None: ...
def plain_softmax(
    x: object,
    axis: object,
    where: object,
    out: object,
    logarithm: bool,
    n_threads: object,
    thread_elements: int,
) -> Any: ...
def plain_logsumexp(
    x: object,
    axis: object,
    b: object,
    where: object,
    keepdims: object,
    return_sign: object,
    n_threads: object,
    thread_elements: int,
) -> Any: ...
def plain_cross_entropy(
    logits: object,
    target: object,
    axis: object,
    ignore_index: object,
    options: tuple[object, ...],
    defaults: tuple[object, ...],
    reduction: object,
    return_grad: object,
    return_hess: object,
    grad_out: object,
    hess_out: object,
    n_threads: object,
    thread_elements: int,
    block_elements: int,
) -> Any: ...
def batch_scratch(classes: int, points: int) -> int: ...
def cpu_sets() -> list[str]: ...
def logsumexp(
    x: Array,
    where: Array | None,
    weight: Array | None,
    out: Array,
    sign: Array | None,
    row_axes: int,
    work: Work,
) -> None: ...
def softmax(
    x: Array, where: Array | None, out: Array, logarithm: bool, row_axes: int, work: Work
) -> None: ...
def target_weight(
    problem: Batch,
    options: Options,
    sums: Doubles,
    work: Work,
) -> int: ...
def cross_entropy(
    problem: Batch,
    options: Options,
    outputs: LossOutputs,
    sums: Doubles,
    work: Work,
) -> None: ...
def log_loss(
    problem: Batch,
    options: Options,
    weight_exponent: int,
    loss: Array | None,
    sums: Doubles,
    work: Work,
) -> None: ...
def kl_divergence(
    problem: Batch,
    options: KLOptions,
    divisor: float,
    loss: Array | None,
    grad: Array | None,
    sums: Doubles,
    work: Work,
) -> None: ...
def evaluate(
    problem: Batch,
    reference: Array | None,
    options: Options,
    topk: NDArray[int64],
    sums: Doubles,
    work: Work,
) -> None: ...
def row_so_far_length(most: int) -> int: ...
def measure_chunk(
    problem: Batch,
    reference: Array | None,
    options: Options,
    first_class: int,
    rows: Doubles,
    most: int,
    work: Work,
) -> None: ...
def sum_chunks(
    problem: Batch,
    compares: bool,
    options: Options,
    topk: NDArray[int64],
    rows: Doubles,
    most: int,
    sums: Doubles,
    work: Work,
) -> None: ...
def temperature(
    problem: Batch,
    options: Options,
    sums: Doubles,
    work: Work,
) -> None: ...
def binary_cross_entropy(
    problem: Batch,
    options: BinaryOptions,
    divisor: float,
    loss: Array | None,
    grad: Array | None,
    sums: Doubles,
    work: Work,
) -> None: ...
def lanes_of(itemsize: int) -> int: ...
def descend_hessian(
    hessian: Doubles,
    x: Doubles,
    gradient: Doubles,
    kinks: Doubles,
    sweeps: int,
    enough: float,
) -> float: ...
def descend_columns(operands: ColumnOperands, sweeps: int) -> float: ...
def dual_sweep(operands: LinearOperands, strength: float, scratch: Array, stride: int) -> float: ...
def expand_rows(
    problem: Batch,
    options: Options,
    operands: ExpansionOperands,
    sums: ExpansionSums,
    work: Work,
) -> None: ...
def linear_sums(
    problem: Batch,
    options: Options,
    task: int,
    operands: LinearOperands,
    sums: LinearSums,
    work: Work,
) -> None: ...
