"""
Score a language model
======================

A language model gives, for each token, logits over all tokens that may come next. How good is it? The cross-entropy of
the tokens that did come next says it, and exp of it is the perplexity: among how many equally likely tokens the model
hesitates. Here the tokens are characters, the text is the Zen of Python, and the model fits on a page; with another
model's logits, nothing else changes.
"""

import contextlib
import io

import matplotlib.pyplot as plt
import numpy as np

import xent

with contextlib.redirect_stdout(io.StringIO()) as text:  # printed by the import
    import this  # noqa: F401

lines = [line for line in text.getvalue().splitlines() if line]
alphabet = sorted(set("".join(lines)))
tokens = [np.array([alphabet.index(c) for c in line]) for line in lines]
train, test = tokens[:15], tokens[15:]
print(f"{len(lines)} lines, {len(alphabet)} characters; held out:")
print(*lines[15:], sep="\n")

# %%
# A small model
# -------------
# It looks at the last character only: how often each character followed it in the first 15 lines. The logarithms of
# these counts are logits. They need not sum to 1 after exp, since softmax sees to that. The 0.1 stands for what has not
# been seen.

counts = np.full((len(alphabet), len(alphabet)), 0.1)
for line in train:
    np.add.at(counts, (line[:-1], line[1:]), 1)
model = np.log(counts)

# %%
# Padding
# -------
# Lines have different lengths, and batches are rectangular: the rest of a short line is padding. Its target is -100, so
# that it counts nothing, whatever the logits there are.


def make_batch(lines):
    """Inputs and targets: each target is the token after its input."""
    width = max(map(len, lines)) - 1
    inputs = np.zeros((len(lines), width), int)
    targets = np.full((len(lines), width), -100)
    for i, line in enumerate(lines):
        inputs[i, : len(line) - 1], targets[i, : len(line) - 1] = line[:-1], line[1:]
    return inputs, targets


inputs, targets = make_batch(test)
logits = model[inputs]
padding = (targets == -100).sum()
print("logits", logits.shape, "targets", targets.shape, "of which padding", padding)
result = xent.evaluate(logits, targets)
print(f"loss {result.loss:.3f} nats, perplexity {result.perplexity:.1f}")
print(f"the next character is among the five likeliest in {result.topk[5]:.0%}")
seen, following = make_batch(train)
known = xent.evaluate(model[seen], following)
print(f"perplexity of the lines it was made from: {known.perplexity:.1f}")
print(f"of a model that knows nothing: {len(alphabet)}")

# %%
# Token by token
# --------------
# ``reduction="none"`` returns the loss of each token. What the model finds hard is dark: where a word may begin with
# anything, and pairs of characters that it has not seen.

losses = xent.cross_entropy(logits, targets, reduction="none")
figure, axis = plt.subplots(figsize=(9.5, 3), layout="constrained")
shown = np.where(targets == -100, np.nan, losses)
image = axis.imshow(shown, cmap="Blues", vmin=0, vmax=9, aspect="auto")
style = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 8}
for i, j in np.argwhere(targets != -100):
    color = "white" if losses[i, j] > 4.5 else "black"
    axis.text(j, i, alphabet[targets[i, j]], color=color, **style)
axis.set(xlabel="position in the line", yticks=[])
axis.set_title("Loss of each character, given the one before it")
axis.grid(visible=False)
axis.spines[:].set_visible(False)
figure.colorbar(image, label="nats", pad=0.01)

# %%
# In batches
# ----------
# The logits of a whole test set seldom fit in memory. :class:`xent.StreamingLoss` takes them batch by batch, and gives
# the same numbers to the last bit, however they are cut.

stream = xent.StreamingLoss()
for line in test:
    stream.update(model[line[:-1]], line[1:])
print("line by line, without padding:", stream.result() == result)

# %%
# A compressed copy
# -----------------
# The logits are stored with fewer bits. How far is the copy from the original? ``reference`` holds the original's
# logits for the same rows. The perplexity of a few lines moves up and down by chance: the copy with 6 bits seems better
# than the original. The divergence ``kl`` is that of all tokens that might have come next, and knows better.


def rounded(weights, bits):
    step = np.ptp(weights) / (2**bits - 1)
    return np.round(weights / step) * step


print("bits  perplexity  agreement       kl")
copies = {}
for bits in (10, 8, 6, 4, 3, 2):
    copy = rounded(model, bits)[inputs]
    r = copies[bits] = xent.evaluate(copy, targets, reference=logits)
    print(f"{bits:4} {r.perplexity:11.2f} {r.agreement:10.2f} {r.kl:8.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
left.plot(copies.keys(), [r.perplexity for r in copies.values()], "o-", color="C0")
left.axhline(result.perplexity, color="grey", linestyle=":")
left.text(10, result.perplexity + 0.05, "the original", ha="right", color="grey")
left.set(xlabel="bits for each number", ylabel="perplexity", ylim=(16, 18))
right.semilogy(copies.keys(), [r.kl for r in copies.values()], "o-", color="C1")
right.set(xlabel="bits for each number", ylabel="divergence from the original, nats")
plt.show()
