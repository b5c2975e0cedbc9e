"""
From logits to a loss, step by step
===================================

A model gives one number for each class, the logits: here 2, 4 and 0.5. The label says that the second class is right.
Four steps lead to the loss.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

logits, label = np.array([2.0, 4.0, 0.5]), 1  # classes are counted from 0

# %%
# The steps, in NumPy
# -------------------
# Subtracting the largest logit changes nothing about the probabilities, and keeps exp from overflowing:
# :doc:`plot_shift` shows why. exp makes every number positive; divided by their sum, they are
# probabilities. The loss is minus the logarithm of one of them: that of the right class.

shifted = logits - logits.max()
exps = np.exp(shifted)
softmax = exps / exps.sum()
surprise = -np.log(softmax)
loss = surprise[label]

# %%
# As one picture
# --------------

steps = {
    "logits": logits,
    "minus the\nlargest": shifted,
    "exp": exps,
    "softmax: divided\nby the sum": softmax,
    "-log": surprise,
}
figure, axes = plt.subplots(1, len(steps), figsize=(8, 3.1), layout="constrained")
for axis, (name, values) in zip(axes, steps.items(), strict=True):
    colors = ["C1" if c == label else "C0" for c in range(3)]
    bars = axis.bar(["1", "2", "3"], values, color=colors, width=0.6)
    texts = [f"{v:g}" if v == round(v, 1) else f"{v:.3f}" for v in values]
    axis.bar_label(bars, texts, padding=2)
    axis.axhline(0, color="grey", linewidth=1)
    axis.set(title=name, yticks=[], xlabel="class")
    span = np.ptp([0, *values])
    low, high = min(values.min(), 0), max(values.max(), 0)
    axis.set_ylim(low - 0.13 * span, high + 0.13 * span)
    axis.spines[["left", "top", "right", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    axis.grid(visible=False)
axes[-1].text(1, loss + 0.75, "the loss", color="C1", ha="center", fontweight="bold")
figure.suptitle("Logits 2, 4 and 0.5; class 2 is right", fontweight="bold")

# %%
# The same in one call
# --------------------
# The functions of xent do these steps in one pass, for as many rows as there are, and without the roundings of the
# steps in between.

for name, values in steps.items():
    print(f"{' '.join(name.split()):27}", values.round(4))
print("xent.softmax:              ", xent.softmax(logits).round(4))
print("the loss, step by step:    ", loss.round(4))
print("xent.cross_entropy:        ", round(xent.cross_entropy(logits, label), 4))
print("if all were equally likely:", round(xent.cross_entropy(np.zeros(3), label), 4))
plt.show()
