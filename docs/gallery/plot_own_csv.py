"""
Train on your own CSV file
==========================

A CSV file with a column of names, and a few of numbers: how do you get from there to a classifier, and to probabilities
for new rows? In six steps, with NumPy alone or with pandas.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import xent

# %%
# A file
# ------
# Measurements of fruit, made up. Put the path of your own file in the place of ``path``.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
path = folder / "fruit.csv"
rng = np.random.default_rng(0)
MEANS = {  # weight in g, length in mm, width in mm
    "apple": (170, 72, 76),
    "lemon": (110, 82, 58),
    "pear": (180, 95, 70),
    "plum": (70, 52, 46),
}
with path.open("w", encoding="utf-8") as file:
    print("fruit,weight_g,length_mm,width_mm", file=file)
    for _ in range(600):
        name = rng.choice(list(MEANS))
        numbers = rng.normal(MEANS[name], np.multiply(0.11, MEANS[name]))
        print(name, *numbers.round(1), sep=",", file=file)
print(*path.read_text(encoding="utf-8").splitlines()[:4], sep="\n")

# %%
# 1. Read it
# ----------
# NumPy reads a table of numbers and text into columns with names. Labels may be strings: no encoding is needed.

table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
features = ["weight_g", "length_mm", "width_mm"]
X = np.column_stack([table[name] for name in features]).astype(float)
y = table["fruit"]
print(X.shape, y[:3])

# %%
# pandas does the same in a line, and xent takes its frames as they are. The model then knows the names of its columns,
# and refuses a frame that has others.

frame = pd.read_csv(path)
print(frame.head(3))

# %%
# 2. Hold some rows out
# ---------------------
# What a model does on rows that it was fitted to says little. Shuffle first: files are often sorted.

order = rng.permutation(len(X))
train, test = order[:450], order[450:]

# %%
# 3. Fit
# ------
# The penalty treats all columns alike, so they should have similar scales: subtract the mean and divide by the standard
# deviation, both of the rows that are fitted.

mean, std = X[train].mean(axis=0), X[train].std(axis=0)
Z = (X - mean) / std
model = xent.LogisticRegression().fit(Z[train], y[train])
print("classes:", *model.classes_)

part = frame.iloc[train]
twin = xent.LogisticRegression().fit((part[features] - mean) / std, part["fruit"])
print("from the frame:", *twin.feature_names_in_)
print("the same coefficients:", np.allclose(twin.coef_, model.coef_))

# %%
# 4. Score
# --------
# The share of right predictions, and the cross-entropy, which also says whether the model knows when it may be wrong. A
# model that has learned nothing has the logarithm of the number of classes.

proba = model.predict_proba(Z[test])
print(f"right: {model.score(Z[test], y[test]):.1%} of the rows held out")
print(f"cross-entropy: {xent.log_loss(y[test], proba):.3f} nats")
print(f"without a model: {np.log(len(model.classes_)):.3f} nats")

# %%
# 5. Predict
# ----------
# New rows are scaled by the same numbers.

new = np.array([[150.0, 80.0, 66.0], [65.0, 50.0, 47.0]])
print("probabilities of", *model.classes_)
print(model.predict_proba((new - mean) / std).round(3))
print("so they are", *model.predict((new - mean) / std))

# %%
# 6. Save
# -------
# Without pickle, so that the file can be read safely wherever it comes from. The scales are a part of the model, and
# are saved beside it.

model.save(folder / "fruit.npz")
np.savez(folder / "scales.npz", mean=mean, std=std)
twin = xent.LogisticRegression.load(folder / "fruit.npz")
temporary.cleanup()
same = (twin.predict(Z[test]) == model.predict(Z[test])).all()
print("loaded:", twin, "- same predictions:", same)

# %%
# Which are taken for which
# -------------------------
# The rows of a confusion matrix are what the fruit is, its columns what the model says.

predicted = model.predict(Z[test])
names = model.classes_
confusion = np.array(
    [[np.sum((y[test] == a) & (predicted == b)) for b in names] for a in names]
)
figure, axis = plt.subplots(figsize=(5, 4.6), layout="constrained")
axis.imshow(np.sqrt(confusion), cmap="Blues", vmax=1.2 * np.sqrt(confusion.max()))
for (i, j), count in np.ndenumerate(confusion):
    color = "white" if i == j else "black"
    axis.text(j, i, str(count), ha="center", va="center", color=color)
axis.set_xticks(range(len(names)), names)
axis.set_yticks(range(len(names)), names)
axis.set(xlabel="predicted", ylabel="true")
axis.set_title(f"{np.trace(confusion)} of {confusion.sum()} right")
axis.tick_params(length=0)
axis.spines[:].set_visible(False)
axis.grid(visible=False)
plt.show()
