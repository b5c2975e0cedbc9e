from typing import Any

from numpy import float64
from numpy.typing import NDArray

Array = NDArray[Any]
Doubles = NDArray[float64]

BINARY_CHUNK: int

def cpu_sets() -> list[str]: ...
def logsumexp(x: Array, out: Array, scratch: Doubles, count: int, size: int, first: int, last: int) -> None: ...
def softmax(
    x: Array, out: Array, logarithm: bool, scratch: Doubles, count: int, size: int, first: int, last: int
) -> None: ...
def target_weight(
    logits: Array,
    target: Array,
    class_weight: Array | None,
    sample_weight: Array | None,
    weight_unit: float,
    ignore_index: int | None,
    sums: Doubles,
    count: int,
    size: int,
    first: int,
    last: int,
) -> int: ...
def cross_entropy(
    logits: Array,
    target: Array,
    class_weight: Array | None,
    sample_weight: Array | None,
    weight_unit: float,
    ignore_index: int | None,
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
    proba: Array,
    target: Array,
    sample_weight: Array | None,
    weight_unit: float,
    loss: Array | None,
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
