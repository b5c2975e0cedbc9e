"""Cross-entropy for NumPy: fast, exact kernels and a multinomial logistic regression."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xent._calls.dispatch import isa
from xent._calls.threads import get_num_threads, set_num_threads
from xent.evaluation import Evaluation, StreamingLoss, evaluate, fit_temperature, log_loss
from xent.linear_losses import linear_cross_entropy, linear_evaluate
from xent.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
    kl_divergence,
)
from xent.primitives import log_softmax, logsumexp, softmax

if TYPE_CHECKING:
    from xent import datasets
    from xent.blocks import Blocks
    from xent.logistic import ConvergenceWarning, LogisticRegression, NotFittedError
    from xent.logistic_cv import LogisticRegressionCV

__version__ = "0.1.0"

__all__ = [
    "Blocks",
    "ConvergenceWarning",
    "Evaluation",
    "LogisticRegression",
    "LogisticRegressionCV",
    "NotFittedError",
    "StreamingLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "datasets",
    "evaluate",
    "fit_temperature",
    "get_num_threads",
    "isa",
    "kl_divergence",
    "linear_cross_entropy",
    "linear_evaluate",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "set_num_threads",
    "softmax",
]

# What the losses do not need is imported when it is first asked for: it takes longer than all the rest.
_LATER = {
    "Blocks": "blocks",
    "ConvergenceWarning": "logistic",
    "LogisticRegression": "logistic",
    "LogisticRegressionCV": "logistic_cv",
    "NotFittedError": "logistic",
}
_LATER_MODULES = {*_LATER.values(), "datasets"}
_EXPLICIT = {"boosting", "dask", "onnx", "sklearn", "torch"}     # modules that are there once they are imported


if not TYPE_CHECKING:       # to a type checker, any name would be there

    def __getattr__(name: str) -> Any:
        if name in _LATER_MODULES:
            return import_module(f"xent.{name}")
        if name not in _LATER:
            hint = f": import xent.{name} first" if name in _EXPLICIT else ""
            raise AttributeError(f"module 'xent' has no attribute {name!r}{hint}")
        value = globals()[name] = getattr(import_module(f"xent.{_LATER[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_LATER_MODULES})
