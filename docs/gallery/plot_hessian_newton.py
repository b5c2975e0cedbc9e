"""
Newton steps from the diagonal of the Hessian
=============================================

A classifier was trained on balanced classes. In use, some classes are ten thousand times as frequent as others. Its
logits are right up to one bias for each class: how are these biases fitted in a few passes over the data?

``xent.cross_entropy(..., return_hess=True)`` returns the loss, its gradient and the diagonal of its Hessian, for little
more than the price of loss and gradient. A step that divides the one by the other needs no learning rate, and rare
classes move as fast as frequent ones. Gradient boosting sets the values of leaves in the same way.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# Logits, and labels that are drawn with biases which the logits do not have: the logarithms of the frequencies.

rng = np.random.default_rng(0)
rows, classes = 50_000, 30
frequencies = np.geomspace(1, 1e-4, classes)
logits = rng.normal(scale=2, size=(rows, classes))
noise = rng.gumbel(size=logits.shape)
labels = (logits + np.log(frequencies) + noise).argmax(axis=1)
print(
    "rows of the most frequent and of the rarest classes:",
    np.bincount(labels, minlength=classes)[[0, 1, -2, -1]],
)

# %%
# The logits of a row are ``logits[i] + bias``. So the derivatives with respect to the biases are those with respect to
# the logits, summed over the rows.
#
# Softmax does not change when all logits grow alike: along that direction the Hessian is 0. In the others it is more
# than its diagonal, by K / (K - 1) where K classes are equally likely, and by up to 2 where only two are. Therefore
# LightGBM multiplies the diagonal by K / (K - 1), and XGBoost by 2, which is a bound.


def fit(step, passes=30):
    """The loss before each step, and the biases after the last."""
    bias, losses = np.zeros(classes), []
    grad, hess = np.empty_like(logits), np.empty_like(logits)
    for _ in range(passes):
        loss, *_ = xent.cross_entropy(
            logits + bias, labels, grad_out=grad, hess_out=hess
        )
        losses.append(loss)
        bias -= step(grad.sum(axis=0), hess.sum(axis=0))
    return np.array(losses), bias


curves = {
    f"gradient, rate {rate}": fit(lambda g, h, rate=rate: rate * g)[0]
    for rate in (1, 5, 25)
}
curves["Newton, diagonal"], bias = fit(lambda g, h: g / h)
curves["Newton, diagonal times 2"], _ = fit(lambda g, h: g / (2 * h))

# %%
# The least loss, from many more steps; and the biases at which it is. They are the logarithms of the frequencies, as
# far as a sample tells: of the rarest class there are few rows.

least = fit(lambda g, h: g / (2 * h), passes=150)[0].min()
print(f"least loss {least:.6f}, without biases {curves['Newton, diagonal'][0]:.6f}")
print(
    "largest error of a bias:",
    np.abs((bias - bias[0]) - np.log(frequencies)).max().round(2),
)

fig, ax = plt.subplots(figsize=(7, 4))
for name, losses in curves.items():
    ax.semilogy(losses - least, label=name)
ax.set(xlabel="passes over the data", ylabel="loss above the least", ylim=(1e-10, 10))
ax.legend()
fig.tight_layout()

# %%
# A rate that suits the frequent classes is far too small for the rare ones, and with a larger one the frequent classes
# never settle.
#
# Confident rows are where the second derivative is usually lost. Its formula p (1 - p) gives 0 as soon as p rounds to
# 1, and a leaf that holds such rows divides by 0. xent adds up the probabilities of the other classes instead.

confident = np.array([[40.0, 0.0, 0.0], [45.0, 1.0, 0.0]])
p = xent.softmax(confident)
_, grad, hess = xent.cross_entropy(confident, [0, 0], reduction="sum", return_hess=True)
print("p (1 - p):", (p * (1 - p))[:, 0], " xent:", hess[:, 0])
print("Newton step of the logit of class 0:", -grad[:, 0].sum() / hess[:, 0].sum())

plt.show()
