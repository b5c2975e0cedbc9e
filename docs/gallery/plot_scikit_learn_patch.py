"""
Speed up a script that uses scikit-learn
========================================

``xent.sklearn.patch()`` replaces the solvers inside scikit-learn's logistic regression. The script stays as it is: the
classes, their parameters and their attributes are scikit-learn's, and so is the minimum.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

import xent.sklearn

# %%
# A script
# --------
# It fits a classifier, and chooses its penalty by a grid search: nine fits, and one with the best.

X, y = xent.datasets.load_digits()
X = X / 16
train, test = np.split(np.random.default_rng(0).permutation(len(X)), [1200])


def script():
    fit = LogisticRegression(tol=1e-5, max_iter=1000)
    grid = {"C": [0.01, 0.1, 1]}
    search = GridSearchCV(fit, grid, cv=3, scoring="neg_log_loss")
    seconds, models = {}, {"one fit": fit, "grid search": search}
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(X[train], y[train])
        seconds[name] = time.perf_counter() - start
        loss = log_loss(y[test], model.predict_proba(X[test]))
        print(f"{name}: {seconds[name]:.2f} s, loss {loss:.5f}")
    return seconds, models


before, theirs = script()

# %%
# The same script under the patch
# -------------------------------
# Nothing is imported anew. ``python -m xent.sklearn script.py`` does the same without a line of code.

xent.sklearn.patch()
after, ours = script()
xent.sklearn.unpatch()
print(type(ours["one fit"]))

# %%
# The same coefficients
# ---------------------
# Both solvers come as close to the minimum as ``tol`` asks, each in its own way.

coef, other = theirs["one fit"].coef_, ours["one fit"].coef_
print(f"largest coefficient {np.abs(coef).max():.2f}")
print(f"largest difference {np.abs(coef - other).max():.1e}")
print("chosen:", theirs["grid search"].best_params_, ours["grid search"].best_params_)

figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
left.plot(coef.ravel(), other.ravel(), ".", color="C0", alpha=0.5)
left.axline((0, 0), slope=1, color="grey", linewidth=1, linestyle=":")
left.set(title="Coefficients", xlabel="scikit-learn", ylabel="under the patch")
left.set_aspect("equal")
place = np.arange(2)
for shift, seconds, color, name in (
    (-0.2, before, "C2", "scikit-learn"),
    (0.2, after, "C0", "under the patch"),
):
    bars = right.barh(
        place + shift, list(seconds.values()), 0.36, color=color, label=name
    )
    right.bar_label(bars, [f"{s:.2g} s" for s in seconds.values()], padding=3)
right.set_title("Seconds, on the machine that built this page")
right.set_yticks(place, before)
right.set_ylim(1.6, -0.6)
right.margins(x=0.15)
right.grid(visible=False, axis="y")
right.legend(loc="lower right")
plt.show()
