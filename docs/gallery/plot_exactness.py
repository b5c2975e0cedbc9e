"""
Exactness in one picture
========================

A row whose right class leads by 20 has a loss of about 2e-9 for each other class. How many digits of that do the usual
formulas find? Fewer the larger the lead, until none is left.
"""

from decimal import Decimal, getcontext

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# The usual formulas
# ------------------
# Most code uses one of three, and each has the same flaw: sooner or later the sum of the exponentials, 1 + r with a
# small r, is rounded to 1. Each returns the loss, and the gradient at the label.


def softmax_then_log(x):
    """NumPy, as it is written down."""
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return -np.log(p[:, 0]), p[:, 0] - 1


def shifted_softmax(x):
    """With the shift: log_softmax of PyTorch and JAX."""
    shifted = x - x.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -log_p[:, 0], np.exp(log_p[:, 0]) - 1


def logsumexp_minus_logit(x):
    """From a logsumexp that is right to the last digit by itself."""
    lse = xent.logsumexp(x)
    return lse - x[:, 0], np.exp(x[:, 0] - lse) - 1


def with_xent(x):
    labels = np.zeros(len(x), int)
    loss, grad = xent.cross_entropy(x, labels, reduction="none", return_grad=True)
    return loss, grad[:, 0]


FORMULAS = {
    "-log(exp(x) / sum(exp(x)))": softmax_then_log,
    "x - max - log(sum(exp(x - max)))": shifted_softmax,
    "logsumexp(x) - x": logsumexp_minus_logit,
    "xent": with_xent,
}

# %%
# Right answers
# -------------
# Python's decimal numbers, with 50 digits. The class at index 0 is right. Its logit is as large as its lead over the
# next one; the others are random.

getcontext().prec = 50


def exact(row):
    """Loss, and gradient at the label, of a row whose class 0 is right."""
    others = sum((Decimal(float(x)) - Decimal(float(row[0]))).exp() for x in row[1:])
    return float((1 + others).ln()), float(-others / (1 + others))


def make_rows(lead, dtype, rng, n=20, classes=10):
    others = -rng.exponential(size=(n, classes - 1))
    others[:, 0] = 0
    return np.column_stack([np.full(n, lead), others]).astype(dtype)


# %%
# The picture
# -----------
# A relative error of 1 means that no digit is right: the result is 0. One of 1e-7 in float32, or 1e-16 in float64, is
# the rounding of a result, and cannot be avoided.

leads = np.arange(0, 61.5, 1.5)
figure, axes = plt.subplots(
    2, 2, figsize=(8.5, 6.5), sharex=True, sharey="col", layout="constrained"
)
styles = [("C2", ":", 2), ("C1", "-", 2), ("C3", "--", 2), ("C0", "-", 3)]
for column, dtype in enumerate((np.float32, np.float64)):
    rng = np.random.default_rng(0)
    batches = [make_rows(lead, dtype, rng) for lead in leads]
    truths = [np.transpose([exact(row) for row in rows]) for rows in batches]
    least = np.finfo(dtype).eps / 4
    for (name, formula), (color, line, width) in zip(
        FORMULAS.items(), styles, strict=True
    ):
        with np.errstate(all="ignore"):
            found = [formula(rows) for rows in batches]
        for i in range(2):
            errors = [
                np.abs(f[i] / t[i] - 1).max()
                for f, t in zip(found, truths, strict=True)
            ]
            style = {"color": color, "linestyle": line, "linewidth": width}
            axes[i, column].semilogy(
                leads, np.maximum(errors, least), label=name, **style
            )
            if i == 0:
                print(f"{np.dtype(dtype)}, lead 15: {errors[10]:.0e}, by {name}")
    axes[0, column].set_title(f"Loss, {np.dtype(dtype)}")
    axes[1, column].set_title(f"Gradient at the label, {np.dtype(dtype)}")
    axes[1, column].set_xlabel("lead of the right class")
for axis in axes.flat:
    axis.axhline(1, color="grey", linewidth=1)
    axis.set(xlim=(0, 60))
    axis.set_ylim(top=300)
    axis.text(59, 4, "all digits lost", color="grey", ha="right")
for axis in axes[:, 0]:
    axis.set_ylabel("largest relative error")
handles, labels = axes[0, 0].get_legend_handles_labels()
figure.legend(handles, labels, loc="outside lower center", ncols=2)

# %%
# Does it matter?
# ---------------
# Not for whether a prediction is right. It does for what is computed from many good predictions: the mean loss of a
# model that has learned its data, the steps of boosting, and the gradient of the last rows that a fit still has to
# separate. :doc:`/accuracy` says what xent does instead, and which bounds hold.

plt.show()
