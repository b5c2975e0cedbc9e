"""
Legal moves: softmax over some of the classes
=============================================

A policy for tic-tac-toe scores all nine squares, but only the empty ones may be played. ``where=`` of
:func:`xent.softmax`, :func:`xent.log_softmax` and :func:`xent.cross_entropy` says which classes can happen, row by row:
the others have probability 0, whatever their scores are, and no score has to be overwritten with -inf.
"""

import matplotlib.pyplot as plt
import numpy as np

import xent

# %%
# Positions, and the moves of a simple player
# -------------------------------------------
# Each row of ``boards`` has 1 for own marks, -1 for the other player's and 0 for empty squares. The player to imitate
# completes a line of three if it can, blocks one if it must, and else plays any empty square.

ROWS = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
COLUMNS = [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
LINES = np.array([*ROWS, *COLUMNS, [0, 4, 8], [2, 4, 6]])
rng = np.random.default_rng(0)


def choose_move(board):
    for own in (1, -1):
        for line in LINES:
            marks = board[line]
            if (marks == own).sum() == 2 and (marks == 0).sum() == 1:
                return line[marks == 0][0]
    return rng.choice(np.flatnonzero(board == 0))


def make_position():
    """A position of up to six moves, in which nobody has won."""
    while True:
        board, n = np.zeros(9, int), rng.integers(0, 7)
        squares = rng.permutation(9)[:n]
        board[squares[: n // 2]], board[squares[n // 2 :]] = 1, -1
        if np.abs(board[LINES].sum(axis=1)).max() < 3:
            return board


boards = np.array([make_position() for _ in range(6000)])
moves = np.array([choose_move(board) for board in boards])
legal = boards == 0

# %%
# A policy that knows the rules, and one that does not
# ----------------------------------------------------
# Both score a square by the marks on the lines through it, and are fitted by gradient descent on
# :func:`xent.cross_entropy`. The gradient of a masked class is exactly 0.

# lines with two marks, own and the other's; which squares are on a line; position, square, 2
marks = [(boards[:, LINES] == own).sum(axis=2) for own in (1, -1)]
pairs = np.stack([count == 2 for count in marks], axis=2)
through = (LINES[:, :, None] == np.arange(9)).any(axis=1).astype(float)
features = np.einsum("nlk,ls->nsk", pairs, through)


def fit(where, steps=300, rate=2.0):
    weight = np.zeros(2)
    for _ in range(steps):
        loss, grad = xent.cross_entropy(
            features @ weight, moves, where=where, return_grad=True
        )
        weight -= rate * np.einsum("ns,nsk->k", grad, features)
    return weight, loss


for name, where in (("without the rules", None), ("with where=legal", legal)):
    weight, loss = fit(where)
    p = xent.softmax(features @ weight, where=where)
    wasted = p[~legal].sum() / len(p)
    found = np.mean(p.argmax(axis=1) == moves)
    print(f"{name}: loss {loss:.3f}, same move {found:.2f}", end=", ")
    print(f"probability of illegal moves {wasted:.3f}")

# %%
# What it plays
# -------------
# The log-probability of an illegal move is -inf. Candidates that only some rows of a batch have are masked in the same
# way, as padding; and where a mask leaves nothing of a row, its probabilities are NaN.

log_p = xent.log_softmax(features @ weight, where=legal)
print("log-probabilities of one position:", log_p[0].round(2))
print("their sum, as a logarithm:", xent.logsumexp(log_p[0], where=legal[0]).round(12))

interesting = np.flatnonzero(
    (pairs.any(axis=(1, 2))) & (legal.sum(axis=1) >= 3) & (p.max(axis=1) > 0.8)
)[:4]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
for axis, i in zip(axes, interesting, strict=True):
    axis.imshow(
        np.where(legal[i], p[i], np.nan).reshape(3, 3), cmap="Blues", vmin=0, vmax=1
    )
    for square in range(9):
        text = {1: "X", -1: "O", 0: f"{p[i, square]:.2f}"}[boards[i, square]]
        color = "white" if boards[i, square] == 0 and p[i, square] > 0.6 else "black"
        axis.text(square % 3, square // 3, text, ha="center", va="center", color=color)
    axis.set(xticks=[0.5, 1.5], yticks=[0.5, 1.5], xticklabels=[], yticklabels=[])
    axis.grid(color="black")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(True)
figure.suptitle("Probabilities of the legal moves of X")
figure.tight_layout()
plt.show()
