"""
Fit data that does not fit in memory
====================================

A fit needs all rows, many times over, but only a few of them at a time. :class:`xent.Blocks` reads them again for each
evaluation of the objective, from wherever they are, with at most two blocks in memory. The solver, and the minimum, are
those of data in memory.
"""

import tempfile
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# A folder of files
# -----------------
# Rows of 100 features in four classes, in 16 pairs of files. So that this page is built in seconds they are only 32 MB;
# a folder of 32 GB would be read in the same way.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name, "rows")
folder.mkdir()
rng = np.random.default_rng(0)
truth = rng.normal(size=(100, 4))
for i in range(16):
    X = rng.normal(size=(5000, 100)).astype(np.float32)
    y = (X @ truth / 4 + rng.gumbel(size=(5000, 4))).argmax(axis=1)
    np.save(folder / f"{i:02}.X.npy", X)
    np.save(folder / f"{i:02}.y.npy", y)
files = sorted(folder.iterdir())
total = sum(path.stat().st_size for path in files)
print(f"{len(files)} files, {total / 1e6:.0f} MB:", files[0].name, files[1].name, "...")

# %%
# Three ways to read
# ------------------
# A folder is read file by file. A memory map of one large file is read in blocks of as many rows as you like. And a
# function may do anything: query a database, parse text, or compute features on the way.


def read():
    """A generator of (X, y), called once for each evaluation."""
    for i in range(16):
        yield np.load(folder / f"{i:02}.X.npy"), np.load(folder / f"{i:02}.y.npy")


path = Path(temporary.name, "all.npy")
np.save(path, np.concatenate([X for X, _ in read()]))
labels = np.concatenate([y for _, y in read()])
big = np.load(path, mmap_mode="r")

sources = {
    "a folder": xent.Blocks.from_folder(folder),
    "a memory map": xent.Blocks.from_arrays(big, labels, rows=5000),
    "a function": xent.Blocks(read),
}

# %%
# The same minimum
# ----------------
# ``callback`` is called after each iteration with the loss and the gradient so far. The memory is what NumPy and xent
# have allocated at most during the fit; pages of a memory map are the system's, and not counted.


def fit(*data):
    losses = []
    tracemalloc.start()
    model = xent.LogisticRegression(tol=1e-6).fit(
        *data, callback=lambda progress: losses.append(progress.loss)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return model, np.array(losses), peak


in_memory = [np.concatenate(arrays) for arrays in zip(*read(), strict=True)]
held = sum(array.nbytes for array in in_memory)
results = {"arrays in memory": fit(*in_memory)}
results |= {name: fit(source) for name, source in sources.items()}
reference = results["arrays in memory"][0]
memory = {}
for name, (model, _, peak) in results.items():
    far = np.abs(model.coef_ - reference.coef_).max()
    memory[name] = (peak + (held if model is reference else 0)) / 1e6
    print(f"{name:17} {memory[name]:5.1f} MB, objective {model.objective_:.9f}", end="")
    print(f", coefficients differ by {far:.0e}")

# %%
# Progress, and memory
# --------------------
# The fits take nearly the same path: sums over blocks are rounded in another order. Each point costs one pass over the
# files, or a little more.

least = min(losses.min() for _, losses, _ in results.values())
figure, (axis, right) = plt.subplots(
    1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=[3, 2]
)
styles = (("o-", "C2", 9), ("s-", "C1", 6), ("--", "C3", 0), (":", "C0", 0))
for (name, (_, losses, _)), (line, color, size) in zip(
    results.items(), styles, strict=True
):
    axis.semilogy(
        losses - least + 1e-10, line, color=color, markersize=size, label=name
    )
axis.set(xlabel="iteration", ylabel="objective above the least", xticks=range(0, 17, 4))
axis.legend()
colors = [color for _, color, _ in styles]
bars = right.barh(list(memory), list(memory.values()), color=colors, height=0.5)
right.bar_label(bars, [f"{size:.0f} MB" for size in memory.values()], padding=3)
right.set(title="Memory allocated at most", xlabel="MB")
right.invert_yaxis()
right.margins(x=0.2)
right.grid(visible=False, axis="y")

# %%
# Predictions and scores read each block once.

model = results["a folder"][0]
possible = np.mean((big @ truth).argmax(axis=1) == labels)
print(f"right: {model.score(sources['a folder']):.2%}")
print(f"with the coefficients that made the data: {possible:.2%}")
del big, sources
temporary.cleanup()
plt.show()
