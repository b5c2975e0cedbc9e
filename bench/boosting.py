"""The objective of XGBoost and LightGBM: xent.boosting against NumPy and the built-in objectives.

Usage:

    python bench/boosting.py [--quick] [--shapes 100000x20x10 ...] [--threads 1 2 ...] [--json PATH]

It needs the extra `boosting`; a library that is not installed is left out.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from harness import numpy_ops, report
from harness.cases import Floats, Labels
from harness.peers import use_threads
from harness.timing import Candidate, Result, check_and_time

import xent
from xent.boosting import Multiclass

Shape = tuple[int, int, int]        # rows, features, classes
Objective = Callable[[Floats, Any], tuple[Floats, Floats]]

SHAPES: tuple[Shape, ...] = ((100_000, 20, 10), (20_000, 50, 100))
QUICK_SHAPES: tuple[Shape, ...] = ((20_000, 10, 10),)
TARGETS = ("labels", "soft labels")
ROUNDS = 2      # of training, in one call
TREES = {"max_depth": 4, "learning_rate": 0.3}


@dataclass(frozen=True)
class Data:
    """Rows with labels that are drawn from soft labels; and scores, as they may be after some rounds."""

    X: Floats
    labels: Labels
    soft: Floats
    scores: Floats

    def target(self, kind: str) -> Any:
        return self.labels if kind == "labels" else self.soft


def make_data(shape: Shape) -> Data:
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, features), dtype=np.float32)
    scores = X @ rng.normal(size=(features, classes)).astype(np.float32) * np.float32(2 / features**0.5)
    soft = numpy_ops.softmax(scores)
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    return Data(X, labels, soft, scores)


@dataclass(frozen=True)
class Labelled:
    """What an objective reads of a DMatrix or a Dataset."""

    label: Floats

    def get_label(self) -> Floats:
        return self.label

    def get_weight(self) -> None:
        return None


class NumpyObjective:
    """As a careful user writes it: stable, and in place where that saves a temporary array."""

    def __init__(self, soft: Floats | None = None) -> None:
        self.soft = soft

    def differentiate(self, scores: Floats, data: Any) -> tuple[Floats, Floats]:
        p = numpy_ops.softmax(scores)
        hess = 1 - p
        hess *= p
        if self.soft is None:
            p[np.arange(len(p)), data.get_label().astype(np.intp)] -= 1
        else:
            p -= self.soft
        return p, hess

    def xgboost(self, predt: Floats, dtrain: Any) -> tuple[Floats, Floats]:
        grad, hess = self.differentiate(predt, dtrain)
        hess *= 2
        return grad, np.maximum(hess, 1e-16, out=hess)

    def lightgbm(self, preds: Floats, train_data: Any) -> tuple[Floats, Floats]:
        grad, hess = self.differentiate(preds, train_data)
        hess *= hess.shape[1] / (hess.shape[1] - 1)
        return grad, hess


def make_objectives(data: Data, kind: str) -> dict[str, Any]:
    soft = None if kind == "labels" else data.soft
    return {"xent": Multiclass(target=soft), "numpy": NumpyObjective(soft)}


# --- the libraries ---------------------------------------------------------------------------------------------------


class XGBoost:
    name = "xgboost"

    def __init__(self) -> None:
        import xgboost

        self.module, self.factor = xgboost, lambda classes: 2

    def scores(self, data: Data) -> Floats:
        return data.scores

    def make_training(self, data: Data, threads: int) -> Callable[[Any], Any]:
        rows = self.module.DMatrix(data.X, data.labels, nthread=threads)
        parameters = {
            "objective": "multi:softprob", "num_class": data.scores.shape[1], "base_score": 0.5, "nthread": threads,
            **TREES,
        }       # fmt: skip

        def train(objective: Any) -> Any:
            return self.module.train(parameters, rows, ROUNDS, obj=objective and objective.xgboost)

        return train

    def predict(self, booster: Any, data: Data) -> Floats:
        return booster.predict(self.module.DMatrix(data.X), output_margin=True)


class LightGBM:
    name = "lightgbm"

    def __init__(self) -> None:
        import lightgbm

        self.module, self.factor = lightgbm, lambda classes: classes / (classes - 1)

    def scores(self, data: Data) -> Floats:
        return np.asfortranarray(data.scores, np.float64)

    def make_training(self, data: Data, threads: int) -> Callable[[Any], Any]:
        parameters = {
            "num_class": data.scores.shape[1], "boost_from_average": False, "num_threads": threads, "num_leaves": 16,
            "force_col_wise": True, "verbosity": -1, **TREES,
        }       # fmt: skip
        rows = self.module.Dataset(data.X, data.labels, params={"verbosity": -1}, free_raw_data=False).construct()

        def train(objective: Any) -> Any:
            chosen = "multiclass" if objective is None else objective.lightgbm
            return self.module.train({**parameters, "objective": chosen}, rows, ROUNDS)

        return train

    def predict(self, booster: Any, data: Data) -> Floats:
        return booster.predict(data.X, raw_score=True)


def find_libraries() -> list[Any]:
    return [library() for library in (XGBoost, LightGBM) if importlib.util.find_spec(library.name)]


# --- measuring -------------------------------------------------------------------------------------------------------


def compute_answer(data: Data, kind: str, factor: float) -> tuple[Floats, Floats]:
    """The right answer, by plain NumPy in float64."""
    p = numpy_ops.softmax(data.scores.astype(np.float64))
    hess = factor * p * (1 - p)
    target = data.soft if kind == "soft labels" else np.eye(p.shape[1])[data.labels]
    return p - target, hess


def check_derivatives(expected: tuple[Floats, Floats], answer: tuple[Floats, Floats]) -> str | None:
    for name, got, want in zip(("gradient", "Hessian"), answer, expected, strict=True):
        error = float(np.abs(got - want).max())
        if not error <= 3e-6:
            return f"{name} is off by {error:.1e}"
    return None


def check_scores(predict: Callable[[Any], Floats], expected: Any, booster: Any) -> str | None:
    """The same trees, but for splits that are equally good up to rounding."""
    scores, expected = predict(booster), predict(expected)
    off = float((np.abs(scores - expected).max(axis=1) > 1e-4).mean())
    return None if off <= 0.01 else f"{off:.1%} of the rows have other scores than with the built-in objective"


def use(threads: int) -> AbstractContextManager[None]:
    return use_threads(xent.get_num_threads, xent.set_num_threads, threads)


def measure_objective(library: Any, data: Data, kind: str, threads: int, **timing: Any) -> list[Result]:
    scores, rows = library.scores(data), Labelled(data.labels.astype(np.float32))
    candidates = [
        Candidate(name, partial(getattr(objective, library.name), scores, rows), partial(use, threads))
        for name, objective in make_objectives(data, kind).items()
    ]
    expected = compute_answer(data, kind, library.factor(scores.shape[1]))
    return check_and_time(candidates, partial(check_derivatives, expected), **timing)


def measure_training(library: Any, data: Data, kind: str, threads: int, **timing: Any) -> list[Result]:
    """The time of ROUNDS rounds. Soft labels have no built-in objective."""
    train = library.make_training(data, threads)
    objectives = make_objectives(data, kind) | ({"built in": None} if kind == "labels" else {})
    candidates = [
        Candidate(name, partial(train, objective), partial(use, threads)) for name, objective in objectives.items()
    ]
    right = train(objectives.get("built in", objectives["numpy"]))
    check = partial(check_scores, partial(library.predict, data=data), right)
    return check_and_time(candidates, check, sample_seconds=0.0, warm_up_seconds=0.0, **timing)


def make_row(shape: Shape, library: Any, kind: str, threads: int, what: str, results: list[Result]) -> list[str]:
    per_call = ROUNDS if what == "round" else 1
    own = results[0].seconds
    ratios = {result.name: report.format_spread(result.ratio) for result in results}
    size = " x ".join(map(str, shape))
    time = report.format_seconds(own.median / per_call) if own else "WRONG"
    return [size, library.name, kind, str(threads), what, time, ratios["numpy"], ratios.get("built in", "")]


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Time an objective of XGBoost and LightGBM, alone and in rounds of training."
    parser = report.make_parser(description, quick="one small shape on all threads, in half a minute", grid=False)
    parser.add_argument("--shapes", nargs="+", type=report.parse_shape, metavar="ROWSxFEATURESxCLASSES")
    parser.add_argument("--threads", nargs="+", type=int, help="default: all")
    options = parser.parse_args(arguments)
    libraries = find_libraries()
    if not libraries:
        print("Neither XGBoost nor LightGBM is installed: pip install '.[boosting]'")
        return 0
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    grid = list(product(shapes, libraries, TARGETS, options.threads or [xent.get_num_threads()]))
    alone, training = {"budget": 1.0 if options.quick else 3.0}, {"budget": 2.0 if options.quick else 10.0, "least": 3}

    this = report.Report()
    rows, cells, found = [], [], []
    for shape, library, kind, threads in report.show_progress(grid, "boosting"):
        data = make_data(shape)
        for what, results in (
            ("objective", measure_objective(library, data, kind, threads, **alone)),
            ("round", measure_training(library, data, kind, threads, **training)),
        ):
            cell = {"shape": shape, "library": library.name, "target": kind, "threads": threads, "what": what}
            cells.append({**cell, "results": report.record(results)})
            found += [(cell, result) for result in results]
            rows.append(make_row(shape, library, kind, threads, what, results))
    versions = ", ".join(f"{library.name} {library.module.__version__}" for library in libraries)
    this.print_head(
        "Objectives of XGBoost and LightGBM",
        f"""Time with xent, of the objective alone and of a whole round of training, and how many times longer others
        take, median (quartiles). {versions}; depth 4.""",
    )
    header = ["rows x features x classes", "library", "target", "threads", "what", "xent", "NumPy", "built in"]
    print(report.format_table(header, rows))
    return int("xent" in this.finish(options.json, found, cells=cells))


if __name__ == "__main__":
    sys.exit(main())
