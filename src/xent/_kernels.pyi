from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

from xent._arguments import Batch, Options

Array = NDArray[Any]
Doubles = NDArray[float64]

BINARY_CHUNK: int
BINARY_SCRATCH: int

def row_scratch(classes: int) -> int: ...
def batch_scratch(classes: int, points: int) -> int: ...
def cpu_sets() -> list[str]: ...
def logsumexp(
    x: Array,
    weight: Array | None,
    out: Array,
    sign: Array | None,
    scratch: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> None: ...
def softmax(
    x: Array, out: Array, logarithm: bool, scratch: Doubles, count: int, size: int, first: int, last: int
) -> None: ...
def target_weight(
    problem: Batch,
    options: Options,
    weight_unit: float,
    scratch: Doubles,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> int: ...
def cross_entropy(
    problem: Batch,
    options: Options,
    weight_unit: float,
    divisor: float,
    loss: Array | None,
    grad: Array | None,
    scratch: Doubles,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> None: ...
def log_loss(
    problem: Batch,
    options: Options,
    weight_unit: float,
    loss: Array | None,
    scratch: Doubles,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> None: ...
def evaluate(
    problem: Batch,
    options: Options,
    topk: NDArray[int64],
    scratch: Doubles,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> None: ...
def binary_cross_entropy(
    x: Array,
    target: Array,
    pos_weight: Array | None,
    sample_weight: Array | None,
    weight_unit: float,
    label_smoothing: float,
    from_logits: bool,
    divisor: float,
    loss: Array | None,
    grad: Array | None,
    scratch: Doubles,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> None: ...
