"""
Judge a compressed output layer from hidden states
==================================================

The output layer of a language model has a row of weights for each word of its vocabulary. Compressed to a lower rank or
to fewer bits it saves much memory, and the question is what that costs. The logits of both layers for a test set would
not fit: 3000 tokens with 30,000 words are 360 MB in float32, twice. :func:`xent.linear_evaluate` takes the hidden states
and the layers instead, and never holds more than ``max_scratch`` bytes of logits.
"""

import tracemalloc

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# Hidden states and an output layer, made up: a few directions matter much, as in real ones. The next token of each state
# is drawn from the model's own probabilities, so that the model is as good as a model can be.

rng = np.random.default_rng(0)
tokens, words, features = 3000, 30_000, 96
importance = np.geomspace(1, 0.02, features)
hidden = rng.normal(size=(tokens, features)).astype(np.float32)
layer = (rng.normal(size=(words, features)) * importance).astype(np.float32)
bias = np.log(rng.pareto(1, words) + 0.01).astype(np.float32)
target = np.empty(tokens, int)
for rows in np.array_split(np.arange(tokens), 60):
    noise = -np.log(rng.standard_exponential((len(rows), words), np.float32))
    target[rows] = (hidden[rows] @ layer.T + bias + noise).argmax(axis=1)

original = hidden, layer, bias

# %%
# A layer of rank r is the product of a (words, r) and an (r, features) matrix. The second one is applied to the hidden
# states, so the compressed model has other features; only tokens and words must be the same.

left, sizes, right = np.linalg.svd(layer, full_matrices=False)
results = {}
tracemalloc.start()
for rank in (96, 64, 48, 32, 16, 8):
    few = hidden @ right[:rank].T, left[:, :rank] * sizes[:rank]
    results[rank] = xent.linear_evaluate(*few, target, bias=bias, reference=original, max_scratch=16 << 20)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
print(f"peak memory {peak >> 20} MiB; all logits of one model {tokens * words * 4 >> 20} MiB")

print("rank  size   loss  perplexity  top-5  agreement        kl")
for rank, r in results.items():
    size = rank * (words + features) / (words * features)
    print(f"{rank:4} {size:5.0%} {r.loss:6.3f} {r.perplexity:11.1f} {r.topk[5]:6.3f} {r.agreement:10.3f} {r.kl:9.2g}")

# %%
# Weights in half precision are read as they are; a scale and a soft cap would be applied to both models.

half = xent.linear_evaluate(hidden, layer.astype(np.float16), target, bias=bias, reference=original)
print(f"float16: kl {half.kl:.2g}, agreement {half.agreement:.4f}, loss {half.loss:.4f}")

# %%
# The loss of a sample is a noisy way to see a small difference: between close models it changes by less than its own
# standard error, and in either direction. The divergence from the original has no such floor.

ranks = list(results)[1:]
worse = [results[rank].loss - results[96].loss for rank in ranks]
figure, (left_axis, right_axis) = plt.subplots(1, 2, figsize=(9, 3.8))
left_axis.loglog(ranks, [results[rank].kl for rank in ranks], "o-", label="divergence from the original")
left_axis.loglog(ranks, np.abs(worse), "s--", label="|change of the loss|")
left_axis.set(xlabel="rank", ylabel="nats per token")
left_axis.set_xticks(ranks, ranks)
left_axis.minorticks_off()
left_axis.legend()
right_axis.plot(ranks, [results[rank].agreement for rank in ranks], "o-", label="same first word as the original")
right_axis.plot(ranks, [results[rank].topk[5] for rank in ranks], "s--", label="next word among the first 5")
right_axis.axhline(results[96].topk[5], color="grey", linestyle=":", label="the original's, of these")
right_axis.set(xlabel="rank", ylabel="share of the tokens", ylim=(0, 1.02))
right_axis.set_xticks(ranks, ranks)
right_axis.legend()
figure.tight_layout()
plt.show()
