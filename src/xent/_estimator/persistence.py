"""Files of fitted estimators, without pickle: nothing in such a file can run code.

A file is an .npz archive of the arrays, and of a description: JSON in an array of bytes. Checksums are compared before
anything is made from the contents.
"""

from __future__ import annotations

import contextlib
import datetime
import numbers
import os
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DESCRIPTION = "description"


class Saved(Protocol):
    """An estimator that can be saved, with the attributes that are in every file."""

    classes_: Array
    coef_: Array
    intercept_: Array
    n_iter_: Array
    n_features_in_: int
    objective_: float
    grad_norm_: float
    converged_: bool
    _seen: float
    _fitted_l2: float
    _curvature: Array | None

    def _linear(self) -> tuple[Array, Array, Array]: ...

    def get_params(self, deep: bool = ...) -> dict[str, Any]: ...


S = TypeVar("S", bound=Saved)

_KIND, _VERSION = "xent.LogisticRegression", 1
_NUMBERS = {
    "n_features_in_": int,
    "objective_": float,
    "grad_norm_": float,
    "converged_": bool,
    "_seen": float,
    "_fitted_l2": float,
}


def save(model: Saved, path: str | os.PathLike[str]) -> None:
    missing = [name for name in ("n_iter_", *_NUMBERS) if not hasattr(model, name)]
    if missing:
        raise ValueError(f"the estimator has no {', '.join(missing)}, which must be saved; call fit first")
    labels, coef, intercept = model._linear()
    if coef.shape[1] != model.n_features_in_:
        raise ValueError(f"coef_ has shape {coef.shape}; it must have n_features_in_ columns, {model.n_features_in_}")
    classes, type_of_classes = _labels_to_array("classes_", labels)
    arrays = {"coef": coef, "intercept": intercept, "n_iter": model.n_iter_, "classes": classes}
    names, type_of_names = getattr(model, "feature_names_in_", None), ""
    if names is not None:
        arrays["feature_names"], type_of_names = _labels_to_array("feature_names_in_", names)
    if model._curvature is not None:
        arrays["curvature"] = model._curvature
    content = {
        "parameters": {name: _to_json(name, value) for name, value in model.get_params().items()},
        "type_of_classes": type_of_classes,
        "type_of_names": type_of_names,
        **{name: kind(getattr(model, name)) for name, kind in _NUMBERS.items()},
    }
    write(path, _KIND, _VERSION, content, arrays)


def load(cls: type[S], path: str | os.PathLike[str]) -> S:
    content, arrays = read(path, _KIND, _VERSION)
    try:
        model = cls(**{name: _from_json(value) for name, value in content["parameters"].items()})
        for name, kind in _NUMBERS.items():
            setattr(model, name, kind(content[name]))
        model.coef_, model.intercept_, model.n_iter_ = arrays["coef"], arrays["intercept"], arrays["n_iter"]
        model.classes_ = _labels_from_array(arrays["classes"], content["type_of_classes"])
        model._curvature = arrays.get("curvature")
        for name in ("coef", "intercept"):
            if arrays[name].dtype not in (np.float32, np.float64):
                raise ValueError(f"{name} has dtype {arrays[name].dtype}")
        if model.classes_.ndim != 1 or len(model.classes_) < 2 or not (model.classes_[:-1] < model.classes_[1:]).all():
            raise ValueError("its classes are not at least two different labels in order")
        rows, size = (1 if len(model.classes_) == 2 else len(model.classes_)), model.n_features_in_ + 1
        shapes = [model.coef_.shape == (rows, size - 1), model.intercept_.shape == (rows,), model.n_iter_.shape == (1,)]
        if "feature_names" in arrays:
            names = _labels_from_array(arrays["feature_names"], content["type_of_names"])
            model.feature_names_in_ = names  # type: ignore[attr-defined]
            shapes.append(arrays["feature_names"].shape == (size - 1,))
        if "curvature" in arrays:
            shapes.append(arrays["curvature"].shape in [(rows, size), (rows, size, size)])
        if not all(shapes):
            raise ValueError("the shapes of its arrays are inconsistent")
    except Exception as error:      # a description may hold anything
        raise ValueError(f"{os.fspath(path)!r} is damaged, or of another version of xent: {error}") from None
    return model


# --- files -----------------------------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str], kind: str, version: int, content: dict[str, Any], arrays: dict[str, Array]
) -> None:
    """Write a file as a whole or not at all: first under another name in the same folder, then renamed."""
    import json  # here, so that importing xent does not pay for it

    if any(array.dtype.hasobject for array in arrays.values()):
        raise ValueError("an array has dtype object, which a file cannot hold without pickle")
    target = os.path.realpath(path)
    description = json.dumps({"kind": kind, "version": version, **content}).encode()
    members: dict[str, Any] = {_DESCRIPTION: np.frombuffer(description, np.uint8), **arrays}
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):      # some systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """The description and the arrays of a file; ValueError if it is damaged, or not of this kind and version."""
    import json
    import zipfile

    with open(path, "rb") as file:
        try:
            if not zipfile.is_zipfile(file):    # NumPy would advise to load it unsafely
                raise ValueError("it is no .npz archive, or not a whole one")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if _DESCRIPTION not in archive.files:
                    raise ValueError(f"it has no {_DESCRIPTION}; save writes one")
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.zip.infolist()):
                    raise ValueError("it is compressed")        # it may be far larger than the file
                damaged = archive.zip.testzip()     # compares all checksums
                if damaged is not None:
                    raise ValueError(f"the checksum of {damaged} is wrong")
                arrays = {name: _to_native(archive[name]) for name in archive.files}
            content = json.loads(arrays.pop(_DESCRIPTION).tobytes())
            found, found_version = content.pop("kind"), content.pop("version")
        except Exception as error:      # zipfile and NumPy raise almost anything
            raise ValueError(f"{os.fspath(path)!r} is damaged, or not a file of xent: {error}") from None
    if found != kind:
        raise ValueError(f"{os.fspath(path)!r} holds a {found}; it must hold a {kind}")
    if found_version != version:
        raise ValueError(f"{os.fspath(path)!r} has version {found_version} of the format; this xent reads {version}")
    return content, arrays


def _to_native(array: Array) -> Array:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# --- labels and parameters of many types -----------------------------------------------------------------------------


def _labels_to_array(name: str, labels: Array) -> tuple[Array, str]:
    """Labels as an array that a file can hold, and how to restore them: "" if they are the same, else see below."""
    if labels.dtype.kind in "iufbSUmM":
        return labels, ""
    if not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{name} has dtype {labels.dtype}; only numbers, bools, dates, bytes and strings can be saved")
    if any(label.endswith("\0") for label in labels):       # NumPy drops trailing zeros: a point protects them
        return np.array([f"{label}." for label in labels], np.str_), "object and a point"
    return np.array(labels.tolist(), np.str_), "object"


def _labels_from_array(array: Array, what: str) -> Array:
    if what == "object and a point":
        return np.array([label[:-1] for label in array.tolist()], object)
    return array.astype(object) if what == "object" else array


def _to_json(name: str, value: object) -> Any:
    """A parameter as JSON: numbers, strings and None as they are; a mapping as pairs, since its keys may be numbers."""
    if isinstance(value, datetime.date):
        value = np.datetime64(value)
    if isinstance(value, datetime.timedelta):
        value = np.timedelta64(value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return {"time": [value.dtype.str, int(value.astype(np.int64))]}
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, numbers.Number) and not isinstance(value, int | complex):      # fractions and decimals too
        value = float(value)    # type: ignore[arg-type]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, Mapping):
        return {"dict": [[_to_json(name, key), _to_json(name, item)] for key, item in value.items()]}
    raise ValueError(f"{name} is {value!r}; only numbers, strings, bytes, dates, None and dicts of these can be saved")


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "bytes":
        return content.encode("latin-1")
    if kind == "time":
        return np.int64(content[1]).astype(content[0])
    if kind == "dict":
        return {_from_json(key): _from_json(item) for key, item in content}
    raise ValueError(f"a parameter is of unknown kind {kind!r}")
