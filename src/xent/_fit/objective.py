"""The function that a fit minimises.

    f(W, b) = F(W, b) / weight + penalty(W)         F, weight: see `Sums`

Solvers see coefficients as a flat vector: the matrix (W, b) in the memory order of the sums. If the penalty has a kink,
values include it, and derivatives are those of the smooth part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xent._fit import preconditioners
from xent._fit.penalties import Penalty, expand_curvature, least_shift
from xent._fit.solver import Expansion, Operator
from xent._fit.sums import Sums
from xent._fit.types import Array, Matrix, Vector

RARE = 1e-9                 # least share of a class


class Objective:
    """The mean loss over rows, wherever they are, and a penalty.

    Parameters
    ----------
    sums : Sums
    penalty : Penalty
    fit_intercept : bool
        If False, the derivatives by intercepts are 0, so that they stay as they are.
    """

    def __init__(self, sums: Sums, penalty: Penalty, fit_intercept: bool) -> None:
        self.sums = sums
        self.penalty = penalty
        self.fit_intercept = fit_intercept
        self.shape: tuple[int, int] = (sums.n_coef_rows, sums.n_features + 1)

    def to_matrix(self, vector: Vector) -> Matrix:
        """The coefficients in a vector: a view."""
        return vector.reshape(self.shape, order=self.sums.order)

    def to_vector(self, matrix: Matrix) -> Vector:
        """The coefficients as solvers have them: a view if the matrix is in the order of the sums."""
        return matrix.ravel(order=self.sums.order)

    def __call__(self, coefficients: Vector) -> tuple[float, Vector]:
        """The value and the gradient."""
        return self.complete(coefficients, *self.sums.loss_gradient(self.to_matrix(coefficients)))

    def complete(self, coefficients: Vector, loss: float, gradient: Matrix) -> tuple[float, Vector]:
        """The value and the gradient, from those of the sums; the array of the latter is changed."""
        matrix = self.to_matrix(coefficients)
        value = loss / self.sums.weight + self.penalty.value(matrix)
        gradient /= self.sums.weight
        self.penalty.add_gradient(matrix, gradient)
        return value, self._zero_fixed(gradient)

    def hessian_product_at(self, coefficients: Vector) -> Operator:
        """v -> H v, with H the Hessian at the coefficients."""
        product_of_sums = self.sums.hessian_product_at(self.to_matrix(coefficients))

        def product(direction: Vector) -> Vector:
            matrix = self.to_matrix(direction)
            result = product_of_sums(matrix)
            result /= self.sums.weight
            result[:, :-1] += self.penalty.curvature * matrix[:, :-1]
            return self._zero_fixed(result)

        return product

    def best_intercepts(self, slopes: Vector) -> Vector:
        """The intercepts with the least loss when all other coefficients are 0; from the slopes along them at 0."""
        result: Vector
        share = np.maximum(1 / max(2, len(slopes)) - slopes, RARE)      # of each class, or of the second, in the weight
        if len(share) == 1:
            result = np.log(share) - np.log(np.maximum(1 - share, RARE))
            return result
        result = np.log(share)
        result -= np.add.reduce(result) / len(share)
        return result

    @property
    def kinks(self) -> Vector:
        """The kink of the penalty at each coefficient; infinite for intercepts that are not fitted."""
        result = np.full(self.shape, self.penalty.kink, order=self.sums.order)
        result[:, -1] = 0.0 if self.fit_intercept else np.inf
        return self.to_vector(result)

    def expand(self, coefficients: Vector) -> Expansion:
        """Value, gradient and Hessian, computed in float64 whatever the type of the rows.

        Curvature is added where there is none, along shifts of all classes that `centred` removes and for intercepts
        that are not fitted. Neither changes the steps of Newton's method, which have no part along these.
        """
        matrix = self.to_matrix(coefficients)
        loss, gradient, hessian = self.sums.expand(matrix)
        value = loss / self.sums.weight + self.penalty.value(matrix)
        gradient /= self.sums.weight
        self.penalty.add_gradient(matrix, gradient)
        hessian /= self.sums.weight
        self._complete(hessian.reshape(self.shape * 2))
        if self.sums.order == "F":
            hessian = hessian.reshape(self.shape * 2).transpose(1, 0, 3, 2).reshape(hessian.shape)
        return Expansion(value, self._zero_fixed(gradient), hessian)

    def _complete(self, hessian: Array) -> None:
        """Add the penalty and what makes the Hessian of shape (classes, columns, classes, columns) regular."""
        n_coef_rows, n_columns = self.shape
        columns = np.arange(n_columns)
        if not self.fit_intercept:
            hessian[:, -1] = 0
            hessian[:, :, :, -1] = 0
        if n_coef_rows > 1:
            mean = np.einsum("kaka->a", hessian) / n_coef_rows**2
            if not self.penalty.is_least_centred:
                mean[:-1] = 0
            hessian[:, columns, :, columns] += mean[:, None, None]
        np.einsum("kaka->ka", hessian)[...] += expand_curvature(self.penalty, n_columns)

    def preconditioner_at(self, coefficients: Vector) -> Operator:
        """Roughly the inverse of the Hessian among centred coefficients."""
        return self._among_centred(self._preconditioner(self.to_matrix(coefficients)))

    def _preconditioner(self, matrix: Matrix) -> Callable[[Matrix], Matrix]:
        return preconditioners.make(self.sums, self.penalty, self.fit_intercept, matrix)

    def curvature_at(self, coefficients: Vector) -> preconditioners.Curvature:
        """What the preconditioner at the coefficients is made from; it also serves for similar penalties."""
        return preconditioners.estimate_curvature(self.sums, self.penalty, self.to_matrix(coefficients))

    def preconditioner(self, curvature: preconditioners.Curvature) -> Operator:
        """The preconditioner from an estimate of the curvature."""
        return self._among_centred(curvature.precondition(self.penalty, self.fit_intercept))

    def _among_centred(self, precondition: preconditioners.Precondition) -> Operator:
        def apply(gradient: Vector) -> Vector:
            result = precondition(self.to_matrix(self.centred(gradient)))
            return self._centre(self._zero_fixed(result))

        return apply

    def centred(self, coefficients: Vector) -> Vector:
        """A copy of the coefficients with mean 0 over the classes; of the intercepts alone, unless the penalty is least
        there. A penalty with a kink is least elsewhere, and the copy has the coefficients there.

        The loss does not see a shift of all classes, so its Hessian is singular. Gradients have mean 0 as well, and a
        solver that starts with centred coefficients keeps them so.
        """
        return self._centre(coefficients.copy())

    def _centre(self, coefficients: Vector) -> Vector:
        """The same in place."""
        if self.shape[0] > 1:
            matrix = self.to_matrix(coefficients)
            if self.penalty.kink > 0:
                matrix[:, :-1] -= least_shift(self.penalty, matrix[:, :-1])
            if not self.penalty.is_least_centred:
                matrix = matrix[:, -1:]
            matrix -= np.einsum("ij->j", matrix) / len(matrix)      # np.add.reduce is slower by columns
        return coefficients

    def _zero_fixed(self, matrix: Matrix) -> Vector:
        """A derivative, with 0 for intercepts that are not fitted."""
        if not self.fit_intercept:
            matrix[:, -1] = 0
        return self.to_vector(matrix)
