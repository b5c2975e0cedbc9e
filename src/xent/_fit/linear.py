"""The objective of a linear classifier, over row blocks: logits of a block, loss and gradient in their place, product
of that gradient with the block. No array of all the logits ever exists.

    f(W, b) = sum_i s_i loss(W x_i + b, y_i) / sum_i s_i T_i + l2/2 |W|^2      T_i: mass of target i (1: label)

Two parts, so that the rows may be anywhere: `Sums` is what is added up over rows, neither divided nor penalised (for
rows in memory, `RowSums`); `Objective` divides by the total weight and adds the penalty. Nothing else knows of rows.

Coefficients are one matrix of shape (rows, features + 1), the intercept in the last column (0 if there is none), as a
flat float64 vector: row by row, or for sparse rows, each element of which meets all classes, column by column. Two
classes need one row: the logit of the second class, that of the first being 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from xent._calls.arguments import Batch, Options
from xent._calls.dispatch import kernels
from xent._calls.threads import THREAD_ELEMENTS, Blocks, get_num_threads
from xent._fit import subsample
from xent._fit.dual_ascent import ascend
from xent._fit.solvers import FORCING, Metric, Progress, Result, Vector, lbfgs, newton_cg
from xent._fit.subsample import MIN_BLOCK_ROWS, Candidates
from xent.losses import cross_entropy
from xent.primitives import softmax

Array = NDArray[Any]
Matrix = NDArray[np.float64]

BLOCK_ELEMENTS = 1 << 18    # of X and the logits: a block of both stays near the processor
RIDGE = 1e-9
PATIENCE = 60               # iterations of L-BFGS with a good metric

# Memory. A fit takes 64 MB and 24 arrays of the size of the coefficients beside the data, whatever is chosen.
MAX_BLOCK_ELEMENTS = 1 << 21    # of the metric with an inverse for each class
MAX_BLOCK_SIZE = 1 << 10        # of each
MAX_FACTOR_SIZE = 1600          # of the metric with eigenvectors
SQUARED_BYTES = 1 << 23         # of rows whose elements are squared
MAX_KEPT_BYTES = 1 << 25        # of probabilities, kept from one Hessian product to the next
MAX_GRADIENT_BYTES = 1 << 24    # of the gradients of threads, or
GRADIENTS = 5                   # arrays of the size of the coefficients
MAX_MEMORY_ELEMENTS = 3 << 20   # of the steps that L-BFGS remembers, or
LEAST_MEMORY = 4                # steps, of three arrays each
ASCENT_ARRAYS = 12              # of the size of the coefficients: what the probabilities of a dual ascent may take
INVERTED_BYTES = 1 << 22        # of matrices that are inverted together
TILE_SCORES = 1 << 20           # bytes of a tile's logits
MAX_SKINNY = 32             # classes up to which dense rows are multiplied by the kernels, not by BLAS
MAX_TILE = 48               # rows
TILE_BYTES = 3 << 15
TURNED_BYTES = 5 << 16      # of a tile of rows that lie side by side: each column of it is far from the next
MAX_GRADIENTS = 16
FORCING_NEAR = 0.1          # where few steps are left, and what each costs beside its products is as much as a few

LOSS, PROBABILITIES, CURVATURE, DIAGONAL = range(4)       # tasks of kernels.linear_sums


def row_blocks(X: Any, rows_of_coefficients: int) -> Iterator[slice]:
    # Few rows make products slow; but no more than features, or a block were larger than the coefficients.
    least = min(MIN_BLOCK_ROWS, X.shape[1] + 1)
    rows = max(least, BLOCK_ELEMENTS // (X.shape[1] + rows_of_coefficients))
    return (slice(start, start + rows) for start in range(0, X.shape[0], rows))


def logits(X: Any, coef: Array, intercept: Array) -> Array:
    """X @ coef.T + intercept, in the type of X, an array or a sparse matrix."""
    result: Array = X @ coef.T.astype(X.dtype, copy=False)
    result += intercept.astype(X.dtype, copy=False)
    return result


class Sums(Protocol):
    """Sums over rows: of a part of the data or of all of it. Matrices have the shape of the coefficients."""

    rows: int       # of coefficients
    features: int
    order: Literal["C", "F"]    # of matrices in memory: what takes no copies
    weight: float   # sum of sample weight times target mass
    needs_no_blas: bool     # whether only metrics use BLAS

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        """The sum of the losses and its gradient, the intercept's included."""

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        """v -> H v, with H the Hessian of that sum."""

    def candidates(self) -> Candidates:
        """Rows that a sample for a metric is drawn from."""

    def diagonal(self, matrix: Matrix) -> Matrix:
        """The diagonal of the Hessian divided by the weight."""

    def ascent(self, l2: float, fit_intercept: bool, most: int) -> tuple[Matrix, int] | None:
        """Coefficients from which less is to go than from zeros, if they are quickly found, and in how many sweeps over
        the rows, of so many at most."""


class RowSums:
    """The sums over rows in memory.

    Parameters
    ----------
    X : ndarray of any strides or scipy.sparse CSR matrix or array, of shape (n, features), float32 or float64
    target : ndarray
        Class indices, int64 of shape (n,); or distributions over the classes (under the class weights already), floats
        of shape (n, n_classes).
    n_classes : int
    sample_weight : ndarray of shape (n,), float64
    n_threads : int or None
        Sums do not depend on it.
    """

    def __init__(
        self, X: Any, target: Array, n_classes: int, sample_weight: Vector, n_threads: int | None = None
    ) -> None:
        self.X = X
        self.rows = 1 if n_classes == 2 else n_classes
        self.features: int = X.shape[1]
        self.n_threads = n_threads
        self.target = target
        self.sample_weight = None if (sample_weight == 1).all() else sample_weight
        self.mass = sample_weight       # of a row's loss
        if target.ndim == 2:
            self.mass = sample_weight * target.sum(axis=1, dtype=np.float64)
        self.weight = float(self.mass.sum())
        self.classes = n_classes
        self._csr: tuple[Array, Array, Array] | None = None
        if not isinstance(X, np.ndarray):
            index = np.result_type(X.indices, X.indptr)
            # SciPy takes strides and alignments as they come; the kernels do not.
            self._csr = (
                np.require(X.data, X.dtype, ["C", "A"]),
                np.require(X.indices, index, ["C", "A"]),
                np.require(X.indptr, index, ["C", "A"]),
            )
        self.order: Literal["C", "F"] = "C" if self._csr is None else "F"
        self._skinny = self._csr is None and (
            self.rows <= MAX_SKINNY and min(X.strides) > 0 and X.itemsize in X.strides and X.flags.aligned
        )
        self.needs_no_blas = self._skinny or self._csr is not None

    def loss_gradient(self, matrix: Matrix) -> tuple[float, Matrix]:
        return self._sums(LOSS, matrix, None)

    def hessian_product_at(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        size = self._kept_rows()
        if self.X.shape[0] <= size:
            probabilities = np.empty((self.X.shape[0], self.classes), self.X.dtype)
            self._sums(PROBABILITIES, matrix, probabilities)
            return lambda direction: self._sums(CURVATURE, direction, probabilities)[1]

        def product(direction: Matrix) -> Matrix:
            result = np.zeros(matrix.shape, order=self.order)
            for part in self._parts(size):
                result += part.hessian_product_at(matrix)(direction)
            return result

        return product

    def candidates(self) -> Candidates:
        wanted = subsample.rows_wanted(self.features + 1, np.dtype(np.float32).itemsize)
        stride = subsample.stride_of(self.X.shape[0], subsample.CANDIDATES * wanted)
        X, mass = (self.X, self.mass) if stride == 1 else (self.X[::stride], self.mass[::stride])
        return Candidates(X, mass, self.classes, self.n_threads, all_rows=stride == 1)

    def diagonal(self, matrix: Matrix) -> Matrix:
        result = np.zeros(matrix.shape, order=self.order)
        elements = self.features if self._csr is None else len(self._csr[0]) // self.X.shape[0]     # of a row
        most = SQUARED_BYTES // self.X.dtype.itemsize
        size = min(max(self._least_rows(), most // self.classes), max(1, most // max(1, elements)))
        for part in self._parts(size):
            probabilities = np.empty((part.X.shape[0], self.classes), self.X.dtype)
            part._sums(PROBABILITIES, matrix, probabilities)
            part._square()
            result += part._sums(DIAGONAL, matrix, probabilities)[1]
        return result / self.weight

    def _square(self) -> None:
        """Make squares of the elements, in new arrays."""
        with np.errstate(over="ignore", under="ignore"):
            if self._csr is None:
                self.X = np.square(self.X)
            else:
                self._csr = (np.square(self._csr[0]), *self._csr[1:])

    def ascent(self, l2: float, fit_intercept: bool, most: int) -> tuple[Matrix, int] | None:
        if self._csr is None or not l2 * self.weight > 0:
            return None
        # In float32 if that fits: it is the memory that takes the time.
        for dtype in (np.dtype(np.float32), self.X.dtype):
            copied = 0 if dtype == self.X.dtype else len(self._csr[0])
            needed = dtype.itemsize * (self.X.shape[0] * self.classes + copied)
            if needed <= max(MAX_KEPT_BYTES, ASCENT_ARRAYS * 8 * self.rows * (self.features + 1)):
                return ascend(self, self._csr, dtype, l2 * self.weight, fit_intercept, most)
        return None

    def _kept_rows(self) -> int:
        """How many rows' probabilities may be kept."""
        size: int = self.X.dtype.itemsize
        return max(self._least_rows(), MAX_KEPT_BYTES // (self.classes * size))

    def _least_rows(self) -> int:
        return min(MIN_BLOCK_ROWS, self.features + 1)

    def _parts(self, size: int) -> Iterator[RowSums]:
        weight = np.ones(len(self.mass)) if self.sample_weight is None else self.sample_weight
        for start in range(0, self.X.shape[0], size):
            rows = slice(start, start + size)
            yield RowSums(self.X[rows], self.target[rows], self.classes, weight[rows], self.n_threads)

    def _sums(self, task: int, matrix: Matrix, kept: Array | None) -> tuple[float, Matrix]:
        """The sum of losses and the gradient (LOSS), nothing but `kept` (PROBABILITIES), a Hessian product with the
        probabilities `kept` (CURVATURE), or the Hessian's diagonal if X holds squares (DIAGONAL)."""
        if self.needs_no_blas:
            return self._compiled_sums(task, matrix, kept)
        dtype = self.X.dtype
        coef, intercept = (a.astype(dtype, copy=False) for a in (matrix[:, :-1], matrix[:, -1]))
        gradient = np.zeros(matrix.shape)
        product = np.empty(coef.shape, dtype)       # fresh memory for each block would cost more than the product
        total = 0.0
        for block in row_blocks(self.X, self.rows):
            X = self.X[block]
            scores = np.zeros((X.shape[0], self.classes), dtype)
            slopes = scores[:, -self.rows :]
            if task != DIAGONAL:
                np.matmul(X, coef.T, out=slopes)
                slopes += intercept
            if task == LOSS:
                weight = None if self.sample_weight is None else self.sample_weight[block]
                total += cross_entropy(
                    scores, self.target[block], sample_weight=weight, reduction="sum", grad_out=scores,
                    n_threads=self.n_threads,
                )[0]    # fmt: skip
            elif task == PROBABILITIES:
                assert kept is not None
                softmax(scores, out=kept[block], n_threads=self.n_threads)
                continue
            else:
                assert kept is not None
                self._curve(task, slopes, kept[block])
                slopes *= self.mass[block, None].astype(dtype)
            gradient[:, :-1] += np.matmul(slopes.T, X, out=product)
            gradient[:, -1] += slopes.sum(axis=0, dtype=np.float64)
        return total, gradient

    def _curve(self, task: int, slopes: Array, p: Array) -> None:
        """Changes of logits become those of their gradient; or p (1 - p)."""
        if task == DIAGONAL:
            np.subtract(1, p[:, -self.rows :], out=slopes)
            slopes *= p[:, -self.rows :]
        elif self.rows == 1:
            slopes *= p[:, :1] * p[:, 1:]
        else:
            slopes -= np.einsum("ij,ij->i", p, slopes)[:, None]
            slopes *= p

    def _compiled_sums(self, task: int, matrix: Matrix, kept: Array | None) -> tuple[float, Matrix]:
        X, csr, dtype = self.X, self._csr, self.X.dtype
        n = X.shape[0]
        lanes = kernels.lanes_of(dtype.itemsize)
        coef: Array
        if csr is None:
            elements = n * self.features
            room = TILE_BYTES if X.strides[1] == X.itemsize else TURNED_BYTES
            tile = min(MAX_TILE, max(12, room // max(1, self.features * dtype.itemsize) // 12 * 12))
            coef = np.ascontiguousarray(matrix[:, :-1], dtype)
        else:
            elements = int(csr[2][-1])
            tile = MAX_TILE
            coef = matrix[:, :-1].T
            width = -(-self.rows // lanes) * lanes
            if width > self.rows or coef.dtype != dtype or not coef.flags.c_contiguous:
                coef = np.zeros((self.features, width), dtype)
                coef[:, : self.rows] = matrix[:, :-1].T
        tile = max(1, min(tile, TILE_SCORES // (self.classes * dtype.itemsize)))
        gradient_bytes = coef.nbytes if csr is not None else 8 * matrix.size + coef.nbytes
        blocks = self._blocks(elements, coef.size, tile, gradient_bytes)
        totals = np.zeros(blocks.number)
        gradients = sparse = None
        if task != PROBABILITIES and csr is None:
            gradients = np.zeros((blocks.number, *matrix.shape))
        elif task != PROBABILITIES:
            gradients = np.zeros((blocks.number, self.rows))
            sparse = np.zeros((blocks.number, *coef.shape), dtype)
        intercept = np.ascontiguousarray(matrix[:, -1])
        scores = np.empty((tile, self.classes), dtype)     # for its shape and type
        batch = Batch(scores, 1, scores, self.target, None, None, None, self.sample_weight)
        blocks.run(
            kernels.linear_sums, batch, Options(), task, X if csr is None else csr, self.rows, coef, intercept, kept,
            self.mass, totals, gradients, sparse,
        )
        result = np.empty(matrix.shape, order=self.order)
        if gradients is not None and sparse is None:
            gradients.sum(axis=0, out=result)
        elif gradients is not None and sparse is not None:
            np.add.reduce(sparse[:, :, : self.rows], axis=0, dtype=np.float64, out=result[:, :-1].T)
            gradients.sum(axis=0, out=result[:, -1])
        return kernels.total(totals.tolist()), result

    def _blocks(self, elements: int, coefficients: int, tile: int, gradient_bytes: int) -> Blocks:
        """So many that threads have work, and so few that their gradients are small beside it, and in memory."""
        work = elements * self.rows
        most = max(MAX_GRADIENT_BYTES, GRADIENTS * 8 * self.rows * (self.features + 1)) // gradient_bytes
        number = max(1, min(MAX_GRADIENTS, most, work // THREAD_ELEMENTS, work // (8 * coefficients)))
        tiles = -(-self.X.shape[0] // tile)
        size = -(-tiles // number) * tile
        return Blocks(self.X.shape[0], size, get_num_threads() if self.n_threads is None else self.n_threads)


class Objective:
    """The function to minimise: a mean over rows and a penalty.

    Parameters
    ----------
    X, target, n_classes, sample_weight, n_threads
        What `RowSums` takes.
    l2 : float
        Strength of the penalty on the mean objective; 0 for none.
    fit_intercept : bool
    """

    def __init__(
        self,
        X: Any,
        target: Array,
        n_classes: int,
        sample_weight: Vector,
        l2: float,
        fit_intercept: bool,
        n_threads: int | None,
    ) -> None:
        self._set(RowSums(X, target, n_classes, sample_weight, n_threads), l2, fit_intercept)

    @classmethod
    def of(cls, sums: Sums, l2: float, fit_intercept: bool) -> Objective:
        """The objective over rows that are wherever their sums come from."""
        objective = cls.__new__(cls)
        objective._set(sums, l2, fit_intercept)
        return objective

    def _set(self, sums: Sums, l2: float, fit_intercept: bool) -> None:
        self.sums = sums
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.shape: tuple[int, int] = (sums.rows, sums.features + 1)

    def matrix(self, vector: Vector) -> Matrix:
        """The coefficients in a vector: a view."""
        return vector.reshape(self.shape, order=self.sums.order)

    def vector(self, matrix: Matrix) -> Vector:
        """The coefficients as minimisers have them: a view if the matrix is in the order of the sums."""
        return matrix.ravel(order=self.sums.order)

    def __call__(self, coefficients: Vector) -> tuple[float, Vector]:
        matrix = self.matrix(coefficients)
        loss, gradient = self.sums.loss_gradient(matrix)
        penalty = 0.5 * self.l2 * float(np.einsum("ij,ij->", matrix[:, :-1], matrix[:, :-1]))
        return loss / self.sums.weight + penalty, self._mean(gradient, matrix)

    def ascent(self, most: int) -> tuple[Vector, int]:
        """What a dual ascent finds, and in how many sweeps over the rows; zeros where there is none."""
        found = self.sums.ascent(self.l2, self.fit_intercept, most) if most > 0 else None
        if found is None:
            return np.zeros(self.shape).ravel(), 0
        return self.centred(self.vector(found[0])), found[1]

    def hessian_product_at(self, coefficients: Vector) -> Callable[[Vector], Vector]:
        """v -> H v, with H the Hessian of the objective there."""
        product = self.sums.hessian_product_at(self.matrix(coefficients))

        def mean_product(direction: Vector) -> Vector:
            matrix = self.matrix(direction)
            return self._mean(product(matrix), matrix)

        return mean_product

    def _mean(self, total: Matrix, matrix: Matrix) -> Vector:
        """A gradient, or a Hessian product, of the sum and the matrix where it was taken, to that of the objective."""
        total /= self.sums.weight
        total[:, :-1] += self.l2 * matrix[:, :-1]
        if not self.fit_intercept:
            total[:, -1] = 0
        return self.vector(total)

    def centred(self, coefficients: Vector) -> Vector:
        """Coefficients with mean 0 over the classes.

        The loss does not see a shift of all classes, and the penalty is least there. Gradients have mean 0 as well, so
        that a minimiser that starts with centred coefficients keeps them so.
        """
        return self._centre(coefficients.copy())

    def _centre(self, coefficients: Vector) -> Vector:
        """The same in place."""
        if self.shape[0] > 1:
            matrix = self.matrix(coefficients)
            matrix -= np.add.reduce(matrix, axis=0) / len(matrix)
        return coefficients

    def metric_at(self, coefficients: Vector) -> Metric:
        """Roughly the inverse of the Hessian among centred coefficients: the better, the fewer features there are.

        Few: the inverse of the block of each class, sum_i s_i p_ik (1 - p_ik) x_i x_i' / sum_i s_i + l2 I. More: that
        of its diagonal in a basis of eigenvectors, the same for all classes, similar to [1]_. Many: that of the
        diagonal. How features go together is taken from a sample of the rows: it shapes the steps, not the answer.

        References
        ----------
        .. [1] T. George et al., "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis",
           NeurIPS 2018.
        """
        matrix = self.matrix(coefficients)
        if self.has_block_metric():
            return self._block_metric(matrix)
        if self.shape[1] <= MAX_FACTOR_SIZE:
            return self._factor_metric(matrix)
        return self._diagonal_metric(matrix)

    def has_block_metric(self) -> bool:
        """Whether there are few enough features for the inverses of all blocks."""
        return self.shape[1] <= MAX_BLOCK_SIZE and self.shape[0] * self.shape[1] ** 2 <= MAX_BLOCK_ELEMENTS

    def _block_metric(self, matrix: Matrix) -> Metric:
        inverses = self.sums.candidates().class_blocks(matrix, self.sums.diagonal(matrix))
        last = self.shape[1] - 1
        inverses[:, range(last), range(last)] += self.l2
        if not self.fit_intercept:
            inverses[:, -1, :-1] = inverses[:, :-1, -1] = 0
        invert(inverses)

        def metric(g: Vector) -> Vector:
            columns = self.matrix(self.centred(g)).reshape(*self.shape, 1)
            return self._centre(self.vector(np.matmul(inverses, columns).reshape(self.shape)))

        return metric

    def _factor_metric(self, matrix: Matrix) -> Metric:
        features, curvatures = self.sums.candidates().factors(matrix, self.sums.diagonal(matrix), self.l2)
        np.maximum(curvatures, curvatures.max(initial=0.0) * 1e-9, out=curvatures)
        curvatures[~(curvatures > 0)] = 1.0

        def metric(g: Vector) -> Vector:
            rotated = self.matrix(self.centred(g)) @ features
            rotated /= curvatures
            result = rotated @ features.T
            del rotated
            if not self.fit_intercept:
                result[:, -1] = 0
            return self._centre(self.vector(result))

        return metric

    def _diagonal_metric(self, matrix: Matrix) -> Metric:
        scale = self.sums.diagonal(matrix)
        scale[:, :-1] += self.l2
        scale[~(scale > 0)] = 1.0       # columns of zeros
        scale = self.vector(scale)

        def metric(g: Vector) -> Vector:
            result = self.centred(g)        # a copy
            result /= scale
            return self._centre(result)

        return metric


def invert(matrices: Matrix) -> None:
    """Make inverses, as `inverse` does, of a stack of matrices."""
    size = max(1, INVERTED_BYTES // matrices[0].nbytes)
    for start in range(0, len(matrices), size):
        some = matrices[start : start + size]
        try:
            if not np.isfinite(some).all():
                raise np.linalg.LinAlgError
            some[...] = _inverses(some, RIDGE)
        except np.linalg.LinAlgError:
            for one in some:
                one[...] = inverse(one)


def inverse(matrix: Matrix) -> Matrix:
    """The inverse of a positive semidefinite matrix, regularised as far as rounding asks for it.

    The identity if an element has overflowed: no regularisation would mend that.
    """
    if not np.isfinite(matrix).all():
        return np.eye(len(matrix))
    ridge = RIDGE
    while True:
        try:
            return _inverses(matrix, ridge)
        except np.linalg.LinAlgError:
            ridge *= 100


def _inverses(matrices: Matrix, ridge: float) -> Matrix:
    """Of one matrix or several, with a ridge on what then has ones on the diagonal."""
    diagonal = np.einsum("...ii->...i", matrices)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    unit = matrices * scale[..., None]
    unit *= scale[..., None, :]
    np.einsum("...ii->...i", unit)[...] += ridge
    half = np.linalg.inv(np.linalg.cholesky(unit))
    del unit
    half *= scale[..., None, :]
    result: Matrix = np.matmul(half.swapaxes(-1, -2), half)
    return result


def memory_for(size: int, most: int = 60) -> int:
    """How many steps L-BFGS remembers of so many coefficients."""
    return min(most, max(LEAST_MEMORY, MAX_MEMORY_ELEMENTS // (3 * size)))


def minimise(
    objective: Objective,
    start: Vector,
    *,
    solver: str = "auto",
    tol: float,
    max_iter: int,
    noise: float,
    callback: Callable[[Progress], object] | None = None,
) -> Result:
    """The minimum of an objective, from centred coefficients on.

    Parameters
    ----------
    solver : {"auto", "lbfgs", "newton-cg"}
        "auto" takes Newton-CG where there are more features than a good metric can have, and else L-BFGS: per pass
        over the rows L-BFGS came nearer on all sets that were measured, but the steps that it remembers cost more than
        the rows where coefficients are many. If these are zeros and the rows sparse, it begins where a dual ascent
        ends. Where L-BFGS stops short of tol, or the metric is one that it should not need many iterations with (which
        rounding spoils where columns differ by many orders of magnitude), Newton-CG goes on from there.
    start, tol, max_iter, noise, callback
        As the solvers take them.
    """

    told = -1

    def run(
        solver: str, start: Vector, done: int = 0, most: int = max_iter, at_start: tuple[float, Vector] | None = None
    ) -> Result:
        """With so many iterations after those that are done."""

        def tell(progress: Progress) -> None:
            nonlocal told
            iteration = done + progress.iteration
            if callback is not None and iteration > told:   # where one solver ends, the next begins
                callback(progress._replace(iteration=iteration))
            told = iteration

        if solver == "lbfgs":
            result = lbfgs(
                objective, start, metric_at=objective.metric_at, tol=tol, max_iter=most, memory=memory_for(start.size),
                noise=noise, callback=tell,
            )    # fmt: skip
        else:
            result = newton_cg(
                objective, start, at_start=at_start, hessian_product_at=objective.hessian_product_at,
                metric_at=objective.metric_at, forcing=FORCING if at_start is None else FORCING_NEAR, tol=tol,
                max_iter=most, noise=noise, callback=tell,
            )    # fmt: skip
        return result._replace(iterations=done + result.iterations)

    start = objective.centred(start)
    with _one_blas_thread() if objective.sums.needs_no_blas else nullcontext():
        if solver != "auto":
            return run(solver, start)
        if objective.shape[1] > MAX_FACTOR_SIZE:
            found, sweeps = (start, 0) if start.any() else objective.ascent(max_iter)
            value = objective(found) if sweeps else None
            if value is not None and not value[0] < math.log(max(2, objective.shape[0])):     # the loss at zeros
                found, value = start, None
            return run("newton-cg", found, sweeps, max_iter - sweeps, value)
        first = run("lbfgs", start, 0, min(PATIENCE, max_iter) if objective.has_block_metric() else max_iter)
        if first.converged or first.iterations == max_iter:
            return first
        second = run("newton-cg", first.x, first.iterations, max_iter - first.iterations)
        better = second if second.converged or second.loss < first.loss else first
        return better._replace(iterations=second.iterations, reason=second.reason)


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return ThreadpoolController()


def _one_blas_thread() -> AbstractContextManager[object]:
    """A limit for the products of a metric, where threadpoolctl is there to set it (scikit-learn brings it).

    The rows have the threads of `_parallel`. Those of BLAS, woken for a millisecond's work, wait for one another by
    spinning: beside busy neighbours a fit of the digits took thirty times longer with them. The limit is the process's.
    """
    controller = _controller()
    limit: AbstractContextManager[object] = controller.limit(limits=1, user_api="blas") if controller else nullcontext()
    return limit
