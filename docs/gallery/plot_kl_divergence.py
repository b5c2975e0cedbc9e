"""
How far apart are two close models?
===================================

A model was rounded, pruned or trained a little further: how far are its predictions from those of the original? The
Kullback-Leibler divergence says it in nats. But the closer the models are, the less is left of the usual formula, the
sum of q (log q - log p): its terms are as large as the change of the logits, of both signs, and cancel down to about
the square of that change. :func:`xent.kl_divergence` adds up terms that are all positive.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# The usual formula, and an exact value to compare with: the same sum as in xent, in float64, with a few terms of the
# series of exp(d) - 1 - d where it cancels.


def usual(x, ref):
    """As most libraries compute it, in the type of the logits."""
    log_p, log_q = (a - np.log(np.exp(a).sum(axis=-1, keepdims=True)) for a in (x, ref))
    return (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)


def exact(x, ref):
    x, ref = x.astype(np.float64), ref.astype(np.float64)
    c = xent.logsumexp(x) - xent.logsumexp(ref)
    d = x - ref - c[:, None]
    series = d**2 * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d / 120)))
    return (
        xent.softmax(ref) * np.where(np.abs(d) < 0.01, series, np.expm1(d) - d)
    ).sum(axis=-1)


# %%
# Logits of 1000 classes in float32, and the same with noise of different sizes.

rng = np.random.default_rng(0)
ref = rng.normal(size=(200, 1000), scale=2).astype(np.float32)
noise = rng.normal(size=ref.shape)
sizes = np.geomspace(1e-5, 10, 25)
errors = {"the usual formula": [], "xent.kl_divergence": []}
for size in sizes:
    x = (ref + size * noise).astype(np.float32)
    truth = exact(x, ref)
    errors["the usual formula"].append(np.median(np.abs(usual(x, ref) / truth - 1)))
    errors["xent.kl_divergence"].append(
        np.median(np.abs(xent.kl_divergence(x, ref, reduction="none") / truth - 1))
    )

# %%
# After a change of 0.0005, which is what rounding to float16 or training for one more step may do, much of what the
# usual formula gives is noise, and some of its results are negative. A divergence never is.

x = (ref + 5e-4 * noise).astype(np.float32)
truth, found = exact(x, ref), {"the usual formula": usual(x, ref)}
found["xent.kl_divergence"] = xent.kl_divergence(x, ref, reduction="none")
for name, result in found.items():
    print(
        f"{name}: {np.mean(result < 0):.0%} negative, mean {result.mean():.3g}; exactly {truth.mean():.3g}"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
colors = {"the usual formula": "C1", "xent.kl_divergence": "C0"}
for name, error in errors.items():
    left.loglog(sizes, error, color=colors[name], label=name)
left.axhline(1, color="grey", linestyle=":")
left.text(sizes[-1], 1.3, "no digit is right", ha="right", color="grey")
left.set(xlabel="change of the logits", ylabel="relative error, float32")
left.legend()
for name, result in found.items():
    right.plot(truth * 1e7, result * 1e7, ".", color=colors[name], label=name)
right.axhline(0, color="grey", linewidth=0.5)
right.set(
    xlabel="exact divergence, 1e-7 nats",
    ylabel="computed, 1e-7 nats",
    title="each row, for a change of 0.0005",
)
figure.tight_layout()

# %%
# The gradient, p - q, leads from one model to the other. Equal rows have a divergence of exactly 0.

x = (ref + noise).astype(np.float32)
for step in range(5):
    divergence, grad = xent.kl_divergence(x, ref, reduction="sum", return_grad=True)
    print(f"step {step}: {divergence / len(ref):.4f} nats for each row")
    x -= 10 * grad
print("of equal rows:", xent.kl_divergence(ref, ref.copy()))
plt.show()
