"""
Why logits are shifted
======================

Softmax divides exp(x) by the sum of exp(x). Written like that in NumPy, it returns ``nan`` for logits that are nothing
special. Subtracting the largest logit first gives the same probabilities, and always works.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# Where exp ends
# --------------
# The largest float32 is 3.4e38, which is exp(88.72). float64 ends at exp(709.78). Neither is a large number for a
# logit.

with np.errstate(over="ignore"):
    for x in (88, 89):
        print(f"float32: exp({x}) =", np.exp(np.float32(x)))
    for x in (709, 710):
        print(f"float64: exp({x}) =", np.exp(np.float64(x)))

# %%
# The same probabilities, or none
# -------------------------------
# The worked example, [2, 4, 0.5], with the same number added to all three logits. The probabilities depend on
# differences alone, so none of the lines should move.


def without_shift(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def with_shift(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


offsets = np.arange(-150, 150.5, 0.5)
logits = (np.array([2, 4, 0.5]) + offsets[:, None]).astype(np.float32)
with np.errstate(all="ignore"):
    naive = without_shift(logits)
shifted = with_shift(logits)
works = np.isfinite(naive).all(axis=1)
naive[~works] = np.nan
good = offsets[works]

figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, layout="constrained")
for axis, p, title in (
    (axes[0], naive, "exp(x) / sum(exp(x))"),
    (axes[1], shifted, "the same of x - max(x)"),
):
    for c, (color, name) in enumerate((("C0", "2"), ("C1", "4"), ("C2", "0.5"))):
        axis.plot(offsets, p[:, c], color=color)
        height = p[len(p) // 2, c] + 0.02
        axis.text(0, height, f"logit {name}", color=color, ha="center")
    axis.set(title=title, xlabel="added to all three logits")
    axis.set(xlim=(-150, 150), ylim=(0, 1.02), xticks=range(-100, 101, 50))
axes[0].set_ylabel("probability, float32")
for low, high, text in (
    (-150, good[0], "0 / 0\n= nan"),
    (good[-1], 150, "inf / inf\n= nan"),
):
    axes[0].axvspan(low, high, color="C1", alpha=0.15, linewidth=0)
    axes[0].text((low + high) / 2, 0.5, text, color="C1", ha="center", va="center")
print(f"without the shift, softmax works for offsets from {good[0]} to {good[-1]}")

# %%
# Just before it ends, it is already wrong: below about -87 the exponentials are subnormal numbers, which have lost
# digits.

exact = xent.softmax(np.array([2, 4, 0.5]))
for offset in (0, -95, -100):
    row = np.array([2, 4, 0.5], np.float32) + np.float32(offset)
    print(f"offset {offset:4}, no shift: {without_shift(row).round(6)}")
    print(f"offset {offset:4}, by xent:  {xent.softmax(row).round(6)}")
print("exactly:              ", exact.round(6))

# %%
# The shift rounds, too
# ---------------------
# x - max(x) is a rounded number, and exp makes half a unit in the last place of 80 into 30 units or more. xent shifts
# the binary exponents of the exponentials by a whole number instead, which rounds nothing.


def error_in_ulp(p, exact):
    ulp = np.spacing(exact.astype(np.float32))
    return (np.abs(p.astype(np.float64) - exact) / ulp).max()


rng = np.random.default_rng(0)
gaps = np.linspace(1, 80, 80)
errors = {"x - max(x), in float32": [], "xent.softmax, in float32": []}
for gap in gaps:
    rows = rng.uniform(0, gap, size=(50, 3))
    rows[:, 0], rows[:, 1] = 0, gap
    rows = rows.astype(np.float32)
    truth = xent.softmax(rows.astype(np.float64))
    for errors_by, softmax in zip(
        errors.values(), (with_shift, xent.softmax), strict=True
    ):
        errors_by.append(error_in_ulp(softmax(rows), truth))
figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (name, values), color in zip(errors.items(), ("C1", "C0"), strict=True):
    axis.plot(gaps, values, color=color, label=name)
axis.set(xlabel="largest minus least logit", ylim=(0, None))
axis.set_ylabel("largest error, units in the last place")
axis.legend(loc="upper left")
plt.show()
