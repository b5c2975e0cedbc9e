"""Cross-entropy for NumPy: fast, exact kernels and a multinomial logistic regression."""

from xent import datasets
from xent._dispatch import isa
from xent._parallel import get_num_threads, set_num_threads
from xent.blocks import Blocks
from xent.evaluation import Evaluation, StreamingLoss, evaluate, log_loss
from xent.linear_losses import linear_cross_entropy
from xent.logistic import ConvergenceWarning, LogisticRegression, NotFittedError
from xent.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
)
from xent.primitives import log_softmax, logsumexp, softmax

__version__ = "0.1.0"

__all__ = [
    "Blocks",
    "ConvergenceWarning",
    "Evaluation",
    "LogisticRegression",
    "NotFittedError",
    "StreamingLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "datasets",
    "evaluate",
    "get_num_threads",
    "isa",
    "linear_cross_entropy",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "set_num_threads",
    "softmax",
]
