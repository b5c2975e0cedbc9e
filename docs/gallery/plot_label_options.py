"""
What the options do to the loss of a row
========================================

Label smoothing, focal loss, z-loss and class weights all change the same curve: the loss of a row as a function of how
far its right class leads.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# One curve
# ---------
# Three classes, with logits x, 0 and 0; the first is right. Each x is a row of the batch, and ``reduction="none"``
# returns the loss of each row.

x = np.linspace(-6, 10, 321)
logits = np.column_stack([x, np.zeros_like(x), np.zeros_like(x)])
labels = np.zeros(len(x), int)


def curve(**options):
    return xent.cross_entropy(logits, labels, reduction="none", **options)


# %%
# Four options
# ------------
# *Label smoothing* takes a part of the target away from the label, and gives it to all classes. The loss then has a
# minimum at a finite lead (the dots), which is where a model stops becoming surer.
#
# *focal_gamma* multiplies the loss by (1 - p)^gamma, so that rows that are right already count little.
#
# *z_loss* adds a multiple of logsumexp². It draws the logits of a row to where the sum of their exponentials is 1,
# without changing which class leads.
#
# *Class weights* multiply the whole curve. In a mean, the weight is also divided by: a mean over rows of one class does
# not change.

figure, axes = plt.subplots(
    2, 2, figsize=(8.5, 7), sharex=True, sharey=True, layout="constrained"
)
panels = {
    "label_smoothing": [{"label_smoothing": e} for e in (0.1, 0.3)],
    "focal_gamma": [{"focal_gamma": g} for g in (1, 4)],
    "z_loss": [{"z_loss": z} for z in (0.01, 0.05)],
    "class_weight": [{"class_weight": [w, 1, 1]} for w in (0.5, 2)],
}
for axis, (name, options) in zip(axes.flat, panels.items(), strict=True):
    axis.plot(x, curve(), color="C2", linestyle="--", label="plain")
    for option, color in zip(options, ("C0", "C1"), strict=True):
        loss = curve(**option)
        axis.plot(x, loss, color=color, label=f"{name} = {option[name]}")
        least = loss.argmin()
        if 0 < least < len(x) - 1:
            axis.plot(x[least], loss[least], "o", color=color)
            print(
                f"{name} = {option[name]}: least loss {loss[least]:.3f}, at x = {x[least]:.2f}"
            )
    axis.set(title=name, ylim=(0, 7))
    axis.legend(loc="upper right")
for axis in axes[1]:
    axis.set_xlabel("lead of the right class")
for axis in axes[:, 0]:
    axis.set_ylabel("loss, nats")

# %%
# What a step sees
# ----------------
# The gradient at the label is how much a row pulls. With focal loss, rows that are right pull less; smoothed rows pull
# back once they lead too far.

figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
cases = ({}, {"label_smoothing": 0.3}, {"focal_gamma": 4}, {"z_loss": 0.05})
for options, color, line in zip(
    cases, ("C2", "C0", "C1", "C3"), ("--", "-", "-", "-"), strict=True
):
    _, grad = curve(**options, return_grad=True)
    name = (
        ", ".join(f"{option} = {value}" for option, value in options.items()) or "plain"
    )
    axis.plot(x, grad[:, 0], line, color=color, label=name)
axis.axhline(0, color="grey", linewidth=1)
axis.set(xlabel="lead of the right class", ylabel="gradient at the label")
axis.legend(loc="upper left")

# %%
# All options may be combined, and each can be given to :func:`xent.linear_cross_entropy` as well.

print(
    "smoothed, weighted, with z-loss:",
    xent.cross_entropy(
        [[2.0, 4.0, 0.5]],
        [1],
        label_smoothing=0.1,
        class_weight=[1, 2, 1],
        z_loss=1e-4,
    ),
)
plt.show()
