"""What a type checker makes of calls. `mypy` checks this file; nothing runs it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import xent
from xent.boosting import Multiclass

Array = NDArray[Any]
Gradients = tuple[Array, Array, Array | None]
x = np.zeros((2, 3))
y = np.zeros(2, np.int64)
flag = bool(x[0, 0])

assert_type(xent.cross_entropy(x, y), float)
assert_type(xent.cross_entropy([[0.0, 1.0]], [0], reduction="sum", z_loss=0.1, where=[True, False]), float)
assert_type(xent.cross_entropy(x, y, reduction="none"), Array)
assert_type(xent.cross_entropy(x, (y[:, None], x[:, :1]), return_grad=True), tuple[float, Array])
assert_type(xent.cross_entropy(x, y, grad_out=x), tuple[float, Array])
assert_type(xent.cross_entropy(x, y, return_grad=True, reduction="none"), tuple[Array, Array])
assert_type(xent.cross_entropy(x, y, grad_out=x, reduction="none"), tuple[Array, Array])
assert_type(xent.cross_entropy(x, y, return_grad=flag), float | Array | tuple[float | Array, Array])
assert_type(xent.cross_entropy(x, y, return_hess=True), tuple[float, Array, Array])
assert_type(xent.cross_entropy(x, y, return_grad=True, return_hess=True, reduction="none"), tuple[Array, Array, Array])
assert_type(xent.cross_entropy(x, y, grad_out=x, hess_out=x), tuple[float, Array, Array])
assert_type(xent.cross_entropy(x, y, hess_out=x, reduction="none"), tuple[Array, Array, Array])
assert_type(xent.cross_entropy(x, y, return_grad=True, return_hess=False), tuple[float, Array])
assert_type(xent.cross_entropy(x, y, return_hess=False, hess_out=None), float)
assert_type(
    xent.cross_entropy(x, y, return_hess=flag),
    float | Array | tuple[float | Array, Array] | tuple[float | Array, Array, Array],
)
xent.cross_entropy(x, y, reduction="median")  # type: ignore[call-overload]
xent.cross_entropy(x, y, smoothing=0.1)  # type: ignore[call-overload]

assert_type(xent.binary_cross_entropy_with_logits(x, x, pos_weight=2.0), float)
assert_type(xent.binary_cross_entropy_with_logits(x, x, return_grad=True), tuple[float, Array])
assert_type(xent.binary_cross_entropy(x, x, reduction="none"), Array)
assert_type(xent.binary_cross_entropy(x, x, grad_out=x, reduction="none"), tuple[Array, Array])
assert_type(xent.categorical_cross_entropy(x, y), float)
assert_type(xent.categorical_cross_entropy(x, y, reduction="none", axis=0), Array)

assert_type(xent.kl_divergence(x, [[0.0, 1.0, 2.0]] * 2, where=x > 0), float)
assert_type(xent.kl_divergence(x, x, reduction="none"), Array)
assert_type(xent.kl_divergence(x, x, return_grad=True), tuple[float, Array])
assert_type(xent.kl_divergence(x, x, grad_out=x, reduction="none"), tuple[Array, Array])
assert_type(xent.kl_divergence(x, x, return_grad=flag), float | Array | tuple[float | Array, Array])
xent.kl_divergence(x, x, softcap=5.0)  # type: ignore[call-overload]

assert_type(xent.linear_cross_entropy(x, x, y, bias=y), float)
assert_type(xent.linear_cross_entropy(x, x, y, reduction="none"), Array)
assert_type(xent.linear_cross_entropy(x, x, y, return_grad=True), tuple[float, Gradients])
assert_type(xent.linear_cross_entropy(x, x, y, return_grad=True, reduction="none"), tuple[Array, Gradients])
assert_type(xent.linear_cross_entropy(x, x, y, return_grad=flag), float | Array | tuple[float | Array, Gradients])

assert_type(xent.softmax(x), Array)
assert_type(xent.log_softmax(x, out=x), Array)
assert_type(xent.softmax(x, where=[True, True, False]), Array)
assert_type(xent.logsumexp(x, where=x > 0, return_sign=True), tuple[Array, Array])
assert_type(xent.logsumexp(x), Array)
assert_type(xent.logsumexp(x, b=[1.0, -1.0, 1.0], return_sign=True), tuple[Array, Array])
assert_type(xent.log_loss(["a", "b"], x), float)
assert_type(xent.evaluate(x, y, reference=x).topk, dict[int, float])
assert_type(xent.linear_evaluate(x, x, y, reference=(x, x), topk=3).kl, float)

assert_type(xent.LogisticRegressionCV(Cs=[0.1, 1.0], cv=3).fit(x, y).scores_, NDArray[np.float64])
assert_type(xent.LogisticRegressionCV(scoring=lambda model, X, y: 0.0).fit(x, y).C_, float)

objective = Multiclass(3, target=x, class_weight=[1, 2, 3], label_smoothing=0.1)
assert_type(objective.xgboost_sklearn(y, x, sample_weight=y), tuple[NDArray[np.float32], NDArray[np.float32]])
assert_type(xent.fit_temperature(x, y, where=x > 0, sample_weight=[1.0, 2.0]), float)

model = xent.LogisticRegression(C=2.0).fit(x, y)
assert_type(model.predict(xent.Blocks([(x, y)])), Array)
assert_type(model.score(xent.Blocks([(x, y)])), float)
assert_type(model.covariance(x, y, kind="sandwich"), NDArray[np.float64])
model.covariance(x, y, kind="HC0")  # type: ignore[arg-type]
