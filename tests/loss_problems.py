"""Problems for the categorical losses, with every kind of target and every option; and checks of an answer."""

import numpy as np
import pytest
import reference
from reference import DTYPES, assert_close, assert_same_bits

import xent

REDUCTIONS = ["mean", "sum", "none"]
TWO = ["mean", "none"]      # for sweeps: a sum is a mean without its division
SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u8"]
KINDS = ["labels", "one-hot", "distribution", "sparse"]
INF, NAN = np.inf, np.nan
IGNORED = -7

WEIGHTS = ("class_weight", "sample_weight")
OPERANDS = (*WEIGHTS, "where")
NUMBERS = {"label_smoothing": 0.125, "logit_scale": 0.75, "softcap": 5.0, "z_loss": 0.01, "poly_epsilon": 1.5}
ALL = (*OPERANDS, *NUMBERS)
OPTION_SETS = [(), *((name,) for name in ALL), ALL]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_option_set = pytest.mark.parametrize(
    "names", OPTION_SETS, ids=lambda names: "all" if names == ALL else ", ".join(names) or "none"
)


class Problem:
    """Logits (random if only their shape is given), a target of some kind, and every option.

    Some rows are ignored or have a weight of 0, some classes are masked, but none that has target mass. Sparse targets
    have padding and a repeated class.
    """

    def __init__(self, logits, kind="labels", dtype=np.float64, axis=-1, seed=0, labels=None, ignored=IGNORED):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=logits, scale=3).astype(dtype) if isinstance(logits, tuple) else logits
        shape, self.axis = logits.shape, axis
        rows, n = tuple(np.delete(shape, axis)), shape[axis]
        labels, other = np.asarray(rng.integers(max(n, 1), size=(2, *rows)) if labels is None else [labels, labels])
        kept = labels = np.asarray(labels)
        if ignored is not None:
            labels = np.where(rng.random(rows) < 0.1, ignored, labels)
            labels.flat[:1] = kept.flat[:1]
        where = rng.random((*rows, n)) < 0.8
        if n:
            for place in (kept, other):
                np.put_along_axis(where, place[..., None], True, -1)
        self.logits, self.labels, self.target = logits, labels, labels
        if kind == "one-hot":
            self.target = self._move((kept[..., None] == np.arange(n)).astype(logits.dtype))
        elif kind == "distribution":
            self.target = self._move((rng.random((*rows, n)) * where).astype(logits.dtype))
        elif kind == "sparse":
            padding = np.full(rows, -100 if ignored is None else ignored)
            indices = np.stack([labels, padding, np.where(labels == ignored, padding, other), labels], -1)
            self.target = indices, rng.random(indices.shape).astype(logits.dtype)
        self.options = {
            "class_weight": rng.integers(0, 5, n) / 2,
            "sample_weight": np.asarray(rng.integers(0, 4, rows) / 2),
            "where": self._move(where),
            **NUMBERS,
        }
        # The first row counts, so that there is a mean.
        self.options["sample_weight"].flat[:1] = 1.5
        self.options["class_weight"][kept.flat[: min(n, 1)]] = 0.5
        self.always = {"axis": axis} | ({} if ignored is None else {"ignore_index": ignored})

    def _move(self, array):
        return np.moveaxis(array, -1, self.axis)

    def select(self, names=ALL):
        """The options of these names, and what every call needs."""
        return self.always | {name: self.options[name] for name in names}

    def operands(self):
        """Every array by the name that errors give it."""
        target = self.target if isinstance(self.target, tuple) else None
        targets = {"target[0]": target[0], "target[1]": target[1]} if target else {"target": self.target}
        return {"logits": self.logits, **targets, **{name: self.options[name] for name in OPERANDS}}

    def with_operands(self, move, names=OPERANDS):
        """The same problem, whose arrays have been moved to other places in memory."""
        moved = object.__new__(Problem)
        moved.__dict__.update(self.__dict__, logits=move(self.logits), target=move_target(move, self.target))
        moved.options = self.options | {name: move(self.options[name]) for name in names}
        return moved

    def with_rows(self, move):
        """The same problem with other rows, if the class axis is the last one."""
        return self.with_operands(move, ("sample_weight", "where"))


def move_target(move, target):
    return tuple(map(move, target)) if isinstance(target, tuple) else move(target)


def both(logits, target, reduction="none", **options):
    """The loss and the gradient."""
    return xent.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)


def check(logits, target, reductions=REDUCTIONS, **options):
    """Loss and gradient are the twin's, and the loss alone has the same bits; returns the last gradient."""
    dtype = np.asarray(logits).dtype.newbyteorder("=")
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    for reduction in reductions:
        loss, grad = both(logits, target, reduction, **options)
        exact_loss, exact_grad = reference.cross_entropy(logits, target, reduction=reduction, **options)
        assert_close(grad, exact_grad, dtype)
        alone = xent.cross_entropy(logits, target, reduction=reduction, **options)
        if reduction == "none":
            assert_close(loss, exact_loss, dtype)
            assert_same_bits(np.asarray(alone), np.asarray(loss))
        else:
            assert type(loss) is float
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(loss, float(exact_loss), rtol=8 * eps, atol=8 * eps)
            np.testing.assert_equal(alone, loss)
    return grad


def assert_same(first, second):
    """Loss and gradient have the same bits."""
    for a, b in zip(first, second, strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))
