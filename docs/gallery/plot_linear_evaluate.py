"""
Judge a compressed output layer from hidden states
==================================================

The output layer of a language model has a row of weights for each word of its vocabulary. Compressed to fewer bits or
to a lower rank it saves much memory, and the question is what that costs. The logits of both layers for a whole test
set do not fit in memory. :func:`xent.linear_evaluate` takes the hidden states and the two layers instead, and needs at
most ``max_scratch`` bytes.
"""

import tracemalloc

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# The original
# ------------
# Hidden states and an output layer, made up: a few directions matter much, as in real ones. The next word of each
# state is drawn from the model's own probabilities, so that no other model can be better.

rng = np.random.default_rng(0)
tokens, words, features = 1500, 16_000, 64
hidden = rng.normal(size=(tokens, features)).astype(np.float32)
layer = (rng.normal(size=(words, features)) * np.geomspace(1, 0.02, features)).astype(
    np.float32
)
target = np.empty(tokens, int)
for rows in np.array_split(np.arange(tokens), 30):
    target[rows] = (
        hidden[rows] @ layer.T + rng.gumbel(size=(len(rows), words))
    ).argmax(axis=1)

# %%
# Compressed layers
# -----------------
# With fewer bits, each weight is one of 2^bits evenly spaced numbers. A layer of rank r is the product of a (words,
# r) and an (r, features) matrix. The second one is applied to the hidden states, so that this model has other
# features; only words and states must be the same.


def rounded(weights, bits):
    scale = np.abs(weights).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weights / scale) * scale


left, sizes, right = np.linalg.svd(layer, full_matrices=False)
models = {"float16": (hidden, layer.astype(np.float16))}
models |= {f"{bits} bits": (hidden, rounded(layer, bits)) for bits in (12, 10, 8, 6, 4)}
models |= {
    f"rank {r}": (hidden @ right[:r].T, left[:, :r] * sizes[:r])
    for r in (56, 48, 32, 16)
}

tracemalloc.start()
before = xent.linear_evaluate(hidden, layer, target, max_scratch=16 << 20)
results = {
    name: xent.linear_evaluate(
        *model, target, reference=(hidden, layer), max_scratch=16 << 20
    )
    for name, model in models.items()
}
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
print(
    f"memory: at most {peak / 2**20:.0f} MiB; the logits of one model are {tokens * words * 4 / 2**20:.0f} MiB"
)

print("model      perplexity  top-5  agreement        kl   change of the loss")
for name, r in results.items():
    change = r.loss - before.loss
    print(
        f"{name:9} {r.perplexity:11.3f} {r.topk[5]:6.3f} {r.agreement:10.3f} {r.kl:9.2g} {change:12.2g}"
    )

# %%
# Which number to look at
# -----------------------
# Since the words were drawn from the original, the mean loss of another model exceeds the original's by the
# divergence. But the loss of 1500 words is a sample. Of close models, its change is mostly noise, while the
# divergence is known for each state to all its digits.

kl = np.array([r.kl for r in results.values()])
change = np.abs([r.loss - before.loss for r in results.values()])
line = np.geomspace(kl.min() / 8, kl.max() * 2)
figure, axis = plt.subplots(figsize=(7, 5))
axis.loglog(line, line, ":", color="grey", label="the change that is expected")
axis.fill_between(
    line,
    line * 1e-9,
    np.sqrt(2 * line / tokens),
    color="grey",
    alpha=0.2,
    label="its standard error",
)
axis.loglog(kl, change, "o")
for name, x, y in zip(results, kl, change, strict=True):
    place, side = ((6, -10), "left") if "rank" in name else ((-6, 3), "right")
    axis.annotate(
        name, (x, y), xytext=place, ha=side, textcoords="offset points", fontsize=9
    )
axis.set(
    xlabel="divergence from the original, nats per word",
    ylabel="|change of the loss|, nats per word",
)
axis.set(ylim=(change.min() / 3, 10), xlim=(line[0], line[-1] * 3))
axis.legend(loc="lower right")
figure.tight_layout()
plt.show()
