"""Fitted classifiers as ONNX models, through skl2onnx. Needs the extra ``onnx``.

Importing this module registers converters for `xent.LogisticRegression`, `xent.LogisticRegressionCV` and
`xent.dask.LogisticRegression`. From then on, `skl2onnx.to_onnx` converts them, alone or inside scikit-learn's pipelines
and ensembles, with the options that it has for scikit-learn's own logistic regression.

The graph of a classifier, with ordinary operators, which compute float32 as well as float64:

    logits = Gemm(X, coef, intercept)       for two classes: a column of zeros, and the logit of the second class
    probabilities = Softmax(logits)
    label = Gather(classes, ArgMax(logits))     of equal logits the first, as in `predict`

skl2onnx asks for three functions: `parse` declares the outputs, `infer_shapes` their types, `convert` adds the nodes.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx._parse import _apply_zipmap
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int32TensorType,
    Int64TensorType,
    StringTensorType,
)
from skl2onnx.common.utils_classifier import get_label_classes

from xent._estimator.prediction import LinearClassifier
from xent.logistic import LogisticRegression
from xent.logistic_cv import LogisticRegressionCV

__all__ = ["register", "to_onnx"]

Array = NDArray[Any]
Class = TypeVar("Class", bound=type[LinearClassifier])

ALIAS = "XentLinearClassifier"      # what skl2onnx calls the operator
OPTIONS = {
    "zipmap": [True, False, "columns"],
    "nocl": [True, False],
    "output_class_labels": [False, True],
    "raw_scores": [True, False],
}
NUMBERS = (FloatTensorType, DoubleTensorType, Int64TensorType, Int32TensorType, BooleanTensorType)


def register(estimator_class: Class) -> Class:
    """Register the converter for a class of your own that is derived from one of xent's; usable as a decorator.

    skl2onnx finds converters by the class itself, and not by those that it is derived from. xent's own classes are
    registered already.

    Parameters
    ----------
    estimator_class : type
        A class whose `predict` and `predict_proba` are those of :class:`xent.LogisticRegression`.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    TypeError
        If it is not derived from a classifier of xent.

    Examples
    --------
    >>> import xent.onnx
    >>> @xent.onnx.register
    ... class Balanced(xent.LogisticRegression):
    ...     def __init__(self, C=1.0):
    ...         super().__init__(C=C, class_weight="balanced")
    >>> X, y = xent.datasets.load_digits()
    >>> xent.onnx.to_onnx(Balanced().fit(X, y), X[:1]).graph.output[0].name
    'output_label'
    """
    if not (isinstance(estimator_class, type) and issubclass(estimator_class, LinearClassifier)):
        raise TypeError(f"{estimator_class!r} is not a class derived from xent.LogisticRegression")
    update_registered_converter(estimator_class, ALIAS, infer_shapes, convert, parser=parse, options=OPTIONS)
    return estimator_class


def parse(scope: Any, model: LinearClassifier, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    """Declare the outputs: the label and the probabilities, in the form that the options ask for."""
    labels = _find_labels(scope, model)
    options = scope.get_options(model, {"zipmap": True, "output_class_labels": False})
    zipmap, with_labels = options["zipmap"], options["output_class_labels"]
    if zipmap and with_labels:
        raise RuntimeError("Option 'output_class_labels' is not compatible with option 'zipmap'.")
    # ZipMap, which makes dictionaries, takes float32 only.
    type_ = FloatTensorType if zipmap is True else _result_type(inputs)
    operator = scope.declare_local_operator(ALIAS, model)
    operator.inputs = inputs
    outputs = operator.outputs
    outputs.append(scope.declare_local_variable("label", _label_type(labels)()))
    outputs.append(scope.declare_local_variable("probabilities", type_()))
    if zipmap:
        return list(_apply_zipmap(zipmap, scope, model, type_(), outputs))
    if not with_labels:
        return list(outputs)
    listed = scope.declare_local_operator("SklearnClassLabels")
    listed.classes = labels
    listed.outputs.append(scope.declare_local_variable("class_labels", _label_type(labels)(labels.shape)))
    return [*outputs, *listed.outputs]


def infer_shapes(operator: Any) -> None:
    """Set the types of the outputs, and check those of the inputs."""
    model = operator.raw_operator
    labels = _find_labels(operator.scope_inst, model)
    _check_inputs(operator.inputs, type(model).__name__, model._linear()[1].shape[1])
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].set_type(_label_type(labels)([rows]))
    operator.outputs[1].type.shape = [rows, len(labels)]


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes."""
    model = operator.raw_operator
    labels = _find_labels(scope, model)
    raw_scores = container.get_options(model, {"raw_scores": False})["raw_scores"]
    dtype = _compute_dtype(operator.inputs)
    result_dtype = np.float64 if isinstance(operator.outputs[1].type, DoubleTensorType) else np.float32
    label, result = (output.full_name for output in operator.outputs)
    _, coef, intercept = model._linear()
    if len(coef) == 1:      # skl2onnx has -z and z as the scores of two classes
        first = -1 if raw_scores else 0
        coef, intercept = np.concatenate([first * coef, coef]), np.concatenate([first * intercept, intercept])
    add = _Nodes(scope, container)
    X = add.concatenated(operator.inputs, dtype)
    operands = X, add.constant("coef", coef.astype(dtype)), add.constant("intercept", intercept.astype(dtype))
    out = result if dtype == result_dtype else None     # else there is a cast to come
    logits = add.node("Gemm", *operands, transB=1, output=out if raw_scores else None)
    scores = logits if raw_scores else add.node("Softmax", logits, axis=1, output=out)
    if out is None:
        add.cast(scores, result_dtype, output=result)
    index = add.node("ArgMax", logits, axis=1, keepdims=0)
    add.node("Gather", add.constant("classes", labels), index, axis=0, output=label)


class _Nodes:
    """Adds nodes and constants to a graph, with unique names."""

    def __init__(self, scope: Any, container: Any) -> None:
        self.scope = scope
        self.container = container

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        output = output or self.scope.get_unique_variable_name(kind.lower())
        name = self.scope.get_unique_operator_name(kind)
        self.container.add_node(kind, list(inputs), output, name=name, **attributes)
        return output

    def constant(self, name: str, values: Array) -> str:
        name = self.scope.get_unique_variable_name(name)
        if values.dtype == object:
            self.container.add_initializer(name, TensorProto.STRING, values.shape, [v.encode() for v in values])
        else:
            tensor = numpy_helper.from_array(np.ascontiguousarray(values))
            self.container.add_initializer(name, tensor.data_type, values.shape, tensor)
        return name

    def cast(self, value: str, dtype: Any, output: str | None = None) -> str:
        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), output=output)

    def concatenated(self, inputs: list[Any], dtype: Any) -> str:
        """One matrix of all inputs, in one type."""
        same = FloatTensorType if dtype == np.float32 else DoubleTensorType
        names = [v.full_name if isinstance(v.type, same) else self.cast(v.full_name, dtype) for v in inputs]
        return names[0] if len(names) == 1 else self.node("Concat", *names, axis=1)


def _find_labels(scope: Any, model: LinearClassifier) -> Array:
    """The labels of the classes as ONNX has them: int64, or strings (in an array of objects)."""
    model._check_fitted()
    classes = np.asarray(get_label_classes(scope, model))
    if classes.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            labels = classes.astype(np.int64)
        wrong = (labels.astype(classes.dtype) != classes) | ((labels < 0) != (classes < 0))
        if wrong.any():
            raise ValueError(
                f"classes_[{wrong.argmax()}] is {classes[wrong.argmax()]}; a label of an ONNX model is a string or an "
                "integer of 64 bits. With the option nocl=True, labels are the numbers of the classes"
            )
        return labels
    if all(isinstance(label, str) for label in classes):
        return classes.astype(object)
    raise TypeError(
        f"classes_ has dtype {classes.dtype}; a label of an ONNX model is a string or an integer of 64 bits. With the "
        "option nocl=True, labels are the numbers of the classes"
    )


def _label_type(labels: Array) -> Any:
    return StringTensorType if labels.dtype == object else Int64TensorType


def _result_type(inputs: list[Any]) -> Any:
    """That of the probabilities: float64 for float64 features, else float32, which skl2onnx expects."""
    return DoubleTensorType if any(isinstance(v.type, DoubleTensorType) for v in inputs) else FloatTensorType


def _compute_dtype(inputs: list[Any]) -> Any:
    """float32 if all features are, else float64, in which xent computes integers and bools."""
    return np.float32 if all(isinstance(v.type, FloatTensorType) for v in inputs) else np.float64


def _check_inputs(inputs: list[Any], name: str, n_features: int) -> None:
    for v in inputs:
        if not isinstance(v.type, NUMBERS):
            raise TypeError(f"the input {v.raw_name!r} of {name} has the type {v.type}; it must be numbers")
    # What skl2onnx says of the shapes between the steps of a pipeline is not always right.
    widths: list[Any] = [v.type.shape[1] if v.is_root and len(v.type.shape) == 2 else None for v in inputs]
    if all(isinstance(width, int) for width in widths) and sum(widths) != n_features:
        raise ValueError(f"the inputs of {name} have {sum(widths)} features; the model was fitted with {n_features}")


register(LogisticRegression)
register(LogisticRegressionCV)
if hasattr(sys.modules.get("xent.dask"), "LogisticRegression"):     # else `xent.dask` calls `register` in its turn
    register(sys.modules["xent.dask"].LogisticRegression)
