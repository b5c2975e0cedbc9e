"""
What does rounding the weights cost?
====================================

A classifier is stored with 8 or 4 bits for each weight instead of 64. Is it still the same classifier? Accuracy alone
hardly tells: it moves only when a prediction flips. ``xent.evaluate(..., reference=)`` compares the rounded model with
the original on the same rows, in one pass: how its probabilities have moved (``kl``), how often it decides alike
(``agreement``), and whether it is still as sure as it is right (``ece``).
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# The original
# ------------
# Logistic regression of noisy digits.

rng = np.random.default_rng(0)
X, y = xent.datasets.load_digits()
X = X + rng.normal(scale=3, size=X.shape)
order = rng.permutation(len(X))
train, test = np.split(order, [1000])
model = xent.LogisticRegression(C=0.01, max_iter=1000).fit(X[train], y[train])
original = X[test] @ model.coef_.T + model.intercept_

# %%
# Rounded models
# --------------
# Each weight becomes one of 2^bits evenly spaced numbers, with one scale for each class.


def rounded(weights, bits):
    levels = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(axis=1, keepdims=True) / levels
    return np.round(weights / scale) * scale


results = {"float64": xent.evaluate(original, y[test], reference=original)}
for bits in (8, 6, 5, 4, 3, 2):
    logits = X[test] @ rounded(model.coef_, bits).T + model.intercept_
    results[f"{bits} bits"] = xent.evaluate(logits, y[test], reference=original)

print("weights    loss  accuracy     ece  agreement        kl")
for name, r in results.items():
    print(
        f"{name:8} {r.loss:6.3f} {r.accuracy:9.3f} {r.ece:7.3f} {r.agreement:10.3f} {r.kl:9.2g}"
    )

# %%
# With 8 bits nothing has happened; the divergence says how little. It falls by about 16 for each two bits, as the
# square of the rounding, long after accuracy and agreement have come to rest. With few bits, the model errs more, and
# its probabilities no longer fit: the calibration error grows.

names = list(results)[1:]
bits = [name.removesuffix(" bits") for name in names]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4))
axes[0].semilogy(bits, [results[name].kl for name in names], "o-")
axes[0].set(ylabel="divergence from the original, nats")
axes[1].plot(
    bits,
    [1 - results[name].agreement for name in names],
    "o-",
    label="decides otherwise",
)
axes[1].plot(
    bits, [1 - results[name].accuracy for name in names], "s--", label="is wrong"
)
axes[1].axhline(
    1 - results["float64"].accuracy,
    color="grey",
    linestyle=":",
    label="the original is wrong",
)
axes[1].set(ylabel="share of the rows", ylim=(0, None))
axes[1].legend(loc="upper left", fontsize=9)
axes[2].plot(bits, [results[name].ece for name in names], "o-")
axes[2].axhline(
    results["float64"].ece, color="grey", linestyle=":", label="the original's"
)
axes[2].set(ylabel="expected calibration error", ylim=(0, None))
axes[2].legend()
for axis in axes:
    axis.set_xlabel("bits for each weight")
figure.tight_layout()

# %%
# Batch by batch
# --------------
# Test sets that do not fit in memory go through :class:`xent.StreamingLoss`, with the same result to the last bit.

stream = xent.StreamingLoss()
logits = X[test] @ rounded(model.coef_, 4).T + model.intercept_
for batch in np.array_split(np.arange(len(test)), 10):
    stream.update(logits[batch], y[test][batch], reference=original[batch])
print("batch by batch:", stream.result() == results["4 bits"])
plt.show()
