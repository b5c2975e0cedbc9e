"""
The gradient: p - y
===================

How should the logits change, so that the loss falls? The derivative of the cross-entropy with respect to the logits is
as simple as it gets: the predicted probabilities minus the target ones. That is why softmax and cross-entropy go
together.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# Three bars minus one
# --------------------
# The worked example: logits 2, 4 and 0.5. This time the first class is right, which the model thinks unlikely. A step
# down the gradient lifts its logit, and lowers the others by as much in all: the gradient sums to 0.

logits, label = np.array([2.0, 4.0, 0.5]), 0
loss, grad = xent.cross_entropy(logits, label, return_grad=True)
p, y = xent.softmax(logits), np.eye(3)[label]
print("p    ", p.round(4))
print("y    ", y)
print("p - y", (p - y).round(4))
print("xent ", grad.round(4), " sum", grad.sum().round(12))

figure, axes = plt.subplots(1, 3, figsize=(8.5, 3.4), sharey=True, layout="constrained")
titles = "p: predicted", "y: true", "p - y: the gradient"
for axis, values, title in zip(axes, (p, y, grad), titles, strict=True):
    bars = axis.bar(["1", "2", "3"], values, color=["C1", "C0", "C0"], width=0.55)
    axis.bar_label(bars, [f"{v:.3f}" for v in values], padding=3)
    axis.axhline(0, color="grey", linewidth=1)
    axis.set(title=title, xlabel="class", ylim=(-1.2, 1.35))
    axis.tick_params(axis="x", length=0)
for c, slope in enumerate(grad):  # a step goes against the gradient
    start, end = (
        (0.15, 0.85) if slope < 0 else (-0.15, -0.15 - 0.7 * slope / np.abs(grad).max())
    )
    axes[2].annotate(
        "",
        (c, end),
        (c, start),
        arrowprops={"arrowstyle": "-|>", "color": "grey", "linewidth": 2},
    )
axes[2].text(2.45, 1.17, "arrows: a step down", color="grey", ha="right")

# %%
# Down the gradient
# -----------------
# Repeated, such steps lead to the right class. They get shorter as p gets closer to y.

x, steps = logits.copy(), []
for _ in range(31):
    loss, grad = xent.cross_entropy(x, label, return_grad=True)
    steps.append((loss, *xent.softmax(x)))
    x -= grad
steps = np.array(steps)

figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
left.plot(steps[:, 0], "o-", color="C0", markersize=4)
left.set(title="Loss", xlabel="steps of length 1", ylabel="nats", ylim=(0, None))
for c, (color, style) in enumerate((("C1", "-"), ("C0", "-"), ("C2", "--"))):
    right.plot(
        steps[:, 1 + c],
        style,
        color=color,
        label=f"class {c + 1}" + (", the right one" if c == label else ""),
    )
right.set(title="Probabilities", xlabel="steps of length 1", ylim=(0, 1))
right.legend(loc="center right")

# %%
# Finite differences agree
# ------------------------
# The slope can be measured without any formula: move one logit by h both ways, and divide the change of the loss by 2h.
# The smaller h, the closer it comes to p - y, in proportion to h², until the roundings of the two losses are all that
# is left of their difference. A gradient by formula has no such limit.


def finite_differences(h):
    return np.array(
        [
            (
                xent.cross_entropy(logits + h * e, label)
                - xent.cross_entropy(logits - h * e, label)
            )
            / (2 * h)
            for e in np.eye(3)
        ]
    )


_, grad = xent.cross_entropy(logits, label, return_grad=True)
widths = np.geomspace(1e-10, 1, 61)
errors = [np.abs(finite_differences(h) - grad).max() for h in widths]
figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
axis.loglog(widths, errors, "o-", color="C0", markersize=3, linewidth=1)
axis.set(xlabel="h", ylabel="difference from the gradient")
axis.text(2e-1, 1e-6, "from h²", ha="center", color="grey")
axis.text(1e-8, 1e-10, "from rounding", ha="center", color="grey")
best = int(np.argmin(errors))
print(f"closest at h = {widths[best]:.1e}")
print("finite differences:", finite_differences(widths[best]))
print("xent:              ", grad)
plt.show()
