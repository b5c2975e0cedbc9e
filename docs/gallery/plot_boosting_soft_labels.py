"""
Boosted trees from votes
========================

Five people look at each case, and often disagree. Should the trees learn from the majority, or from the votes? Neither
XGBoost nor LightGBM has an objective for votes; ``xent.boosting.Multiclass`` is one. Here the true probability of each
class is known, so that we can see what the trees make of both.
"""

# %%
# Cases in three classes that overlap
# -----------------------------------
# A case is a point; the probability of a class falls with the distance from its centre. Each of five people names a
# class at random, by these probabilities.

import lightgbm
import matplotlib.pyplot as plt
import numpy as np

import xent
from xent.boosting import Multiclass

N, PEOPLE, CLASSES, ROUNDS = 4000, 5, 3, 60
CENTRES = np.array([[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5]])
rng = np.random.default_rng(0)


def make_cases(n):
    X = rng.uniform(-2, 2, size=(n, 2))
    distance = ((X[:, None] - CENTRES) ** 2).sum(axis=-1)
    return X, xent.softmax(-distance)


X, truth = make_cases(N)
X_test, truth_test = make_cases(N)
votes = rng.multinomial(PEOPLE, truth) / PEOPLE
majority = votes.argmax(axis=1)
print(f"all five agree on {(votes.max(axis=1) == 1).mean():.0%} of the cases")

# %%
# Two models, one objective
# -------------------------
# ``target`` is the distribution of the votes. LightGBM wants labels all the same, but they are not read then. The
# metric is the cross-entropy with the true probabilities of cases that the trees have not seen; its least value is the
# entropy of these.


def measure(preds, data):
    return "loss", xent.cross_entropy(preds, truth_test), False


def train(objective):
    losses = {}
    rows = lightgbm.Dataset(X, majority)
    test = lightgbm.Dataset(X_test, truth_test.argmax(axis=1), reference=rows)
    parameters = {
        "objective": objective.lightgbm,
        "num_class": CLASSES,
        "num_leaves": 8,
        "metric": "None",
        "num_threads": 1,
        "verbosity": -1,
    }
    booster = lightgbm.train(
        parameters,
        rows,
        ROUNDS,
        valid_sets=[test],
        valid_names=["test"],
        feval=measure,
        callbacks=[lightgbm.record_evaluation(losses)],
    )
    return xent.softmax(booster.predict(X_test)), losses["test"]["loss"]


models = {
    "the majority": train(Multiclass()),
    "the votes": train(Multiclass(target=votes)),
}
least = xent.categorical_cross_entropy(truth_test, truth_test)
for name, (_, losses) in models.items():
    print(
        f"learned from {name}: loss {losses[-1]:.4f}, best {min(losses):.4f}; least possible {least:.4f}"
    )

# %%
# What they learned
# -----------------
# A majority of three in five becomes a certain label, so the trees learn to be certain, and the longer they are trained
# the worse their probabilities become. From the votes they learn the probabilities.

figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
for name, (proba, losses) in models.items():
    left.plot(np.arange(1, ROUNDS + 1), losses, label=f"learned from {name}")
    order = np.argsort(truth_test[:, 0])
    groups = np.array_split(order, 25)
    right.plot(
        [truth_test[group, 0].mean() for group in groups],
        [proba[group, 0].mean() for group in groups],
        "o-",
        markersize=3,
        label=f"learned from {name}",
    )
left.axhline(least, color="black", linestyle=":", label="least possible")
left.set(
    xlabel="rounds",
    ylabel="cross-entropy with the true probabilities",
    title="Cases not seen",
)
right.plot([0, 1], [0, 1], color="black", linestyle=":", label="right")
right.set(
    xlabel="true probability of class 0",
    ylabel="mean predicted probability",
    title="After 60 rounds",
)
left.legend()
right.legend()
plt.show()
