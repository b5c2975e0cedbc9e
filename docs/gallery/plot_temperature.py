"""
Calibrate a classifier with one number
======================================

How sure may a classifier be? A model that was fitted until it makes no mistakes on its training data says "99%" too
often. Dividing its logits by a temperature T, fitted on rows that it has not seen, mends that, and changes none of its
predictions. :func:`xent.fit_temperature` finds the T with the smallest cross-entropy.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# A classifier that is too sure
# -----------------------------
# Noisy images of digits, and a model with next to no penalty, fitted to only 600 of them.

rng = np.random.default_rng(0)
X, y = xent.datasets.load_digits()
X = X + rng.normal(scale=4, size=X.shape)
order = rng.permutation(len(X))
train, held_out, test = np.split(order, [600, 1100])

model = xent.LogisticRegression(C=10.0, max_iter=1000).fit(X[train], y[train])
logits = X @ model.coef_.T + model.intercept_
for name, rows in (("training", train), ("test", test)):
    print(f"accuracy on the {name} rows: {model.score(X[rows], y[rows]):.3f}")

# %%
# One number from held-out rows
# -----------------------------
# ``logit_scale=1 / T`` gives the loss at that temperature without a copy of the logits.

T = xent.fit_temperature(logits[held_out], y[held_out])
before = xent.cross_entropy(logits[test], y[test])
after = xent.cross_entropy(logits[test], y[test], logit_scale=1 / T)
print(f"T = {T:.3f}: loss on the test rows {before:.3f} -> {after:.3f}")

# %%
# Said and done
# -------------
# Among the rows where the model says "70%", 70% should be right. The calibration error, `ece` of :func:`xent.evaluate`,
# is the mean distance between the two, in bins of such rows.


def compare_bins(p, labels, n_bins=10):
    """Of each bin of the largest probability: its mean, the share right, the rows."""
    said, right = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.minimum((said * n_bins).astype(int), n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    used = count > 0
    means = [
        np.bincount(bins, values, n_bins)[used] / count[used]
        for values in (said, right)
    ]
    return *means, count[used]


figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
for axis, name, scale in zip(
    axes, ("as fitted", f"divided by T = {T:.2f}"), (1, 1 / T), strict=True
):
    p = xent.softmax(scale * logits[test])
    said, right, count = compare_bins(p, y[test])
    result = xent.evaluate(scale * logits[test], y[test])
    print(f"{name}: calibration error {result.ece:.3f}, accuracy {result.accuracy:.3f}")
    print(f"    loss {result.loss:.3f}, Brier score {result.brier:.3f}")
    axis.plot([0, 1], [0, 1], ":", color="grey")
    many = count >= 10  # the share of a few rows says little
    axis.plot(said[many], right[many], "-", color="C0")
    axis.scatter(
        said[many],
        right[many],
        s=count[many] / 2,
        color="C0",
        alpha=0.6,
        clip_on=False,
        zorder=3,
    )
    axis.set(
        title=f"{name}\ncalibration error {result.ece:.3f}",
        xlabel="probability that the model says",
    )
    axis.set(xlim=(0, 1), ylim=(0, 1))
axes[0].set_ylabel("share of right predictions")
figure.tight_layout()

# %%
# The loss as a function of T has one minimum, since it is convex in 1 / T.

temperatures = np.geomspace(0.5, 20, 60)
losses = [
    xent.cross_entropy(logits[held_out], y[held_out], logit_scale=1 / t)
    for t in temperatures
]
figure, axis = plt.subplots(figsize=(5, 3.5))
axis.semilogx(temperatures, losses)
axis.axvline(T, color="grey", linestyle=":")
axis.set(xlabel="temperature", ylabel="cross-entropy of held-out rows")
figure.tight_layout()
plt.show()
