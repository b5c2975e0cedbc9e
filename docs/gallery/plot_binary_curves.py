"""
Binary cross-entropy: two curves
================================

A yes/no question has one probability p, that the answer is yes, and one loss: -log(p) if it was yes (y = 1), and
-log(1 - p) if it was no (y = 0). What these curves look like says most of what there is to know about the loss.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# The loss of a probability
# -------------------------
# A confident answer costs next to nothing if it is right, and more and more if it is wrong: there is no limit to what
# p = 0 costs. A p of 1/2, which says nothing, costs log 2 = 0.693 either way.

p = np.linspace(0.001, 0.999, 999)
yes = xent.binary_cross_entropy(p, np.ones_like(p), reduction="none")
no = xent.binary_cross_entropy(p, np.zeros_like(p), reduction="none")

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True, layout="constrained")
for axis, loss, color, title, side in (
    (axes[0], yes, "C0", "The answer is yes: -log(p)", "left"),
    (axes[1], no, "C1", "The answer is no: -log(1 - p)", "right"),
):
    wrong, beside = (0.03, 1) if side == "left" else (0.97, -1)
    place = {"textcoords": "offset points", "ha": side, "color": color}
    axis.plot(p, loss, color=color)
    axis.fill_between(p, loss, color=color, alpha=0.1)
    axis.plot(0.5, np.log(2), "o", color=color)
    axis.annotate(
        "says nothing: 0.693", (0.5, np.log(2)), xytext=(8 * beside, 8), **place
    )
    axis.annotate(
        "confidently wrong", (wrong, -np.log(0.03)), xytext=(12 * beside, 0), **place
    )
    axis.set(
        title=title,
        xlabel="p, the predicted probability of yes",
        xlim=(0, 1),
        ylim=(0, 5),
    )
axes[0].set_ylabel("loss, nats")
for share in (0.99, 0.9, 0.5, 0.1, 0.01):
    print(
        f"p = {share:4}: loss {xent.binary_cross_entropy([share], [1]):.4f} if yes,"
        f" {xent.binary_cross_entropy([share], [0]):.4f} if no"
    )

# %%
# The loss of a logit
# -------------------
# Models compute a logit x, any real number, and p = 1 / (1 + exp(-x)). As a function of x the loss is almost a straight
# line where the model is wrong, and its slope is p - y: never steeper than 1, so that no single row can pull without
# limit.

x = np.linspace(-8, 8, 401)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for y, color in ((1, "C0"), (0, "C1")):
    target = np.full(len(x), y)
    loss, grad = xent.binary_cross_entropy_with_logits(
        x, target, reduction="none", return_grad=True
    )
    left.plot(x, loss, color=color, label=f"y = {y}")
    right.plot(x, grad, color=color, label=f"y = {y}")
left.set(title="Loss", xlabel="logit x", ylabel="nats")
right.set(title="Gradient: p - y", xlabel="logit x", ylim=(-1.1, 1.1))
left.legend(loc="upper center")
right.legend(loc="upper left")

# %%
# Far out
# -------
# Pass logits, not probabilities: in float32, a p above 0.99999997 is 1, and one below 1e-38 may be 0. The loss of such
# a p is 0 or infinite, whatever the logit was. From the logit, it is right everywhere.

x = np.linspace(-120, 60, 721).astype(np.float32)
ones = np.ones_like(x)
with np.errstate(all="ignore"):
    by_probability = -np.log(1 / (1 + np.exp(-x)))
by_logit = xent.binary_cross_entropy_with_logits(x, ones, reduction="none")

figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
axis.semilogy(x, by_logit, color="C0", label="xent, of the logit")
axis.semilogy(x, by_probability, "--", color="C1", label="-log(p), with p in float32")
axis.axvspan(x[by_probability == 0].min(), 60, color="C1", alpha=0.1, linewidth=0)
axis.axvspan(
    -120, x[np.isinf(by_probability)].max(), color="C1", alpha=0.1, linewidth=0
)
axis.text(39, 3, "-log(p) is 0", color="C1", ha="center")
axis.text(-104, 1e-5, "-log(p) is\ninfinite", color="C1", ha="center")
axis.set(
    xlabel="logit x of a row with y = 1",
    ylabel="loss, nats",
    xlim=(-120, 60),
    ylim=(1e-27, 1e4),
)
axis.legend(loc="lower left", bbox_to_anchor=(0.2, 0.05))
print("the loss of a logit of 50:", xent.binary_cross_entropy_with_logits([50.0], [1]))
plt.show()
