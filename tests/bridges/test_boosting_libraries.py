"""xent.boosting in XGBoost and LightGBM: the trees of their own objectives, where they have one, and soft labels."""

import pickle

import numpy as np
import pytest
from boosting_libraries import LIBRARIES

import xent
from xent.boosting import Multiclass

ROWS, FEATURES, CLASSES = 600, 6, 4

rng = np.random.default_rng(1)
X = rng.integers(30, size=(ROWS, FEATURES)).astype(np.float32)      # each value has a bin of its own
LOGITS = (X / 15 - 1) @ rng.normal(size=(FEATURES, CLASSES))
Y = (LOGITS + rng.normal(size=LOGITS.shape)).argmax(axis=1)
SOFT = xent.softmax(LOGITS)
WEIGHT = rng.uniform(0.2, 2, size=ROWS)
CLASS_WEIGHT = np.array([0.5, 1, 2, 4])


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param](pytest.importorskip(request.param))


@pytest.fixture
def xgboost():
    return LIBRARIES["xgboost"](pytest.importorskip("xgboost"))


@pytest.fixture
def lightgbm():
    return LIBRARIES["lightgbm"](pytest.importorskip("lightgbm"))


def assert_same_model(library, booster, expected):
    """The same splits, and scores that differ by rounding.

    Both objectives round gradients and Hessians to float32. XGBoost's own also computes in float32, and forms p - 1:
    errors of up to about 2e-7 per row. A leaf is a ratio of their sums, of which the gradients cancel in part: it is
    off by some 1e-6 of its learning rate 0.3, and the scores of 10 rounds by less than 1e-5.
    """
    assert library.trees_of(booster) == library.trees_of(expected)
    np.testing.assert_allclose(library.predict(booster, X), library.predict(expected, X), rtol=0, atol=1e-5)


def test_the_problems_grow_trees(library):
    """Else the other tests would compare stumps."""
    trees = library.trees_of(library.train(X, Y))
    assert len(trees) == 10 * CLASSES
    assert sum(tree is not None and any(tree[2:]) for tree in trees) > 0.9 * len(trees)


# --- as the built-in objectives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
def test_the_trees_of_the_library(library, weight):
    objective = Multiclass()
    assert_same_model(library, library.train(X, Y, weight, objective), library.train(X, Y, weight))


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
def test_the_trees_of_its_classifier(library, weight):
    pytest.importorskip("sklearn")
    y = Y + 0 if library.method == "xgboost" else np.array(list("abcd"))[Y]     # XGBoost wants 0, 1, ...
    own = library.make_classifier().fit(X, y, sample_weight=weight)
    model = library.make_classifier(Multiclass(CLASSES)).fit(X, y, sample_weight=weight)
    assert_same_model(library, library.booster_of(model), library.booster_of(own))


# --- targets, smoothing and class weights ----------------------------------------------------------------------------


def repeat_rows(target):
    """Each row once for each class, with the mass on it as its weight, has the same sums of gradients and Hessians."""
    return np.repeat(X, CLASSES, axis=0), np.tile(np.arange(CLASSES), ROWS), target.ravel()


# Counts of rows must decide nothing, as there are four times as many; and no sum of equal Hessians is 4.1.
BY_WEIGHT = {
    "xgboost": {}, "lightgbm": {"min_data_in_leaf": 1, "min_data_in_bin": 1, "min_sum_hessian_in_leaf": 4.1}
}  # fmt: skip
ONE_HOT = np.eye(CLASSES)[Y]
PROBLEMS = {
    "soft labels": ({"target": SOFT}, SOFT),
    "soft labels of any sum": ({"target": SOFT * WEIGHT[:, None]}, SOFT * WEIGHT[:, None]),
    "label_smoothing": ({"label_smoothing": 0.2}, 0.8 * ONE_HOT + 0.05),
    "class_weight": ({"class_weight": CLASS_WEIGHT}, ONE_HOT * CLASS_WEIGHT),
    "all": (
        {"target": SOFT, "class_weight": CLASS_WEIGHT, "label_smoothing": 0.2}, (0.8 * SOFT + 0.05) * CLASS_WEIGHT
    ),
}  # fmt: skip


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
@pytest.mark.parametrize(("options", "mass"), PROBLEMS.values(), ids=PROBLEMS)
def test_mass_on_several_classes_is_as_rows_with_weights(library, options, mass, weight):
    parameters = BY_WEIGHT[library.method]
    booster = library.train(X, Y, weight, Multiclass(**options), **parameters)
    expected = library.train(*repeat_rows(mass if weight is None else mass * weight[:, None]), **parameters)
    assert_same_model(library, booster, expected)


def test_xgboost_has_soft_labels_in_its_matrix(xgboost):
    """They are stored as float32, go with the rows into folds, and into XGBRegressor."""
    soft = SOFT.astype(np.float32)
    expected = xgboost.train(X, Y, WEIGHT, Multiclass(target=soft))
    assert_same_model(xgboost, xgboost.train(X, soft, WEIGHT, Multiclass()), expected)

    rows = xgboost.module.DMatrix(X, soft)
    folds = [(np.arange(0, ROWS, 2), np.arange(1, ROWS, 2)), (np.arange(1, ROWS, 2), np.arange(0, ROWS, 2))]
    parameters = {"nthread": 1, "max_depth": 3, "base_score": 0.0, "disable_default_eval_metric": True}
    found = xgboost.module.cv(
        parameters, rows, 5, folds=folds, obj=Multiclass().xgboost, as_pandas=False, metrics=(),
        custom_metric=lambda predt, data: ("loss", xent.cross_entropy(predt, data.get_label().reshape(predt.shape))),
    )["test-loss-mean"]     # fmt: skip
    wanted = np.zeros(5)
    for train, test in folds:
        part = xgboost.module.DMatrix(X[train], Y[train])
        objective = Multiclass(target=soft[train]).xgboost
        parameters |= {"objective": "multi:softprob", "num_class": CLASSES}
        booster = xgboost.module.train(parameters, part, 5, obj=objective)
        for i in range(5):
            scores = booster.predict(xgboost.module.DMatrix(X[test]), output_margin=True, iteration_range=(0, i + 1))
            wanted[i] += xent.cross_entropy(scores, soft[test]) / 2
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert found[-1] < found[0]

    pytest.importorskip("sklearn")
    model = xgboost.module.XGBRegressor(
        objective=Multiclass().xgboost_sklearn, n_estimators=10, n_jobs=1, max_depth=3, min_child_weight=4.1,
        base_score=0.5,
    ).fit(X, soft, sample_weight=WEIGHT)     # fmt: skip
    assert_same_model(xgboost, model.get_booster(), expected)


SUBSETS = [
    ("xgboost", {"subsample": 0.5}),
    ("xgboost", {"tree_method": "approx", "colsample_bytree": 0.5}),
    ("xgboost", {"tree_method": "exact"}),
    ("xgboost", {"booster": "dart", "rate_drop": 0.3}),
    ("xgboost", {"multi_strategy": "multi_output_tree"}),
    ("lightgbm", {"bagging_fraction": 0.5, "bagging_freq": 1}),
    ("lightgbm", {"data_sample_strategy": "goss", "learning_rate": 0.5}),
    ("lightgbm", {"linear_tree": True}),
]


@pytest.mark.parametrize(("name", "parameters"), SUBSETS)
def test_the_objective_sees_all_rows_in_their_order(name, parameters):
    """Whatever the library samples: a one-hot target, and the labels that it has, lead to the same model."""
    library = LIBRARIES[name](pytest.importorskip(name))
    by_label = library.train(X, Y, WEIGHT, Multiclass(), **parameters)
    by_target = library.train(X, Y, WEIGHT, Multiclass(target=ONE_HOT), **parameters)
    np.testing.assert_allclose(library.predict(by_target, X), library.predict(by_label, X), rtol=0, atol=1e-5)


def test_a_target_does_not_go_with_folds(library):
    function = getattr(Multiclass(target=SOFT), library.method)
    if library.method == "xgboost":
        parameters = {"num_class": CLASSES, "objective": "multi:softprob", "nthread": 1}
        call, message = library.module.cv, r"^target has 600 rows and predt has 300; they must be those of one training"
        arguments = {"dtrain": library.module.DMatrix(X, Y), "obj": function}
    else:
        parameters = {"num_class": CLASSES, "objective": function, "num_threads": 1, "verbosity": -1}
        call, message = library.module.cv, r"^target has 600 rows and preds has 300; they must be those of one training"
        arguments = {"train_set": library.module.Dataset(X, Y)}
    with pytest.raises(ValueError, match=message):
        call(parameters, nfold=2, num_boost_round=1, **arguments)


# --- what the libraries make of errors, predictions and copies -------------------------------------------------------


def test_bad_labels_end_the_training(library):
    y = Y.astype(float)
    y[17] = 1.5
    with pytest.raises(ValueError, match=r"^label\[17\] is 1\.5; labels must be whole numbers in \[0, 4\)$"):
        library.train(X, y, None, Multiclass(), num_class=CLASSES)


def test_two_classes(library):
    """As any other number of them, if the library is told to have two scores."""
    y = Y % 2
    assert_same_model(library, library.train(X, y, None, Multiclass()), library.train(X, y))
    with pytest.raises(ValueError, match=r"it must have shape .rows, classes.*: set num_class, also to 2"):
        library.train(X, y, None, Multiclass(), **library.one_score)


def test_xgboost_predicts_probabilities_and_measures_them(xgboost):
    rows, measured = xgboost.module.DMatrix(X, Y), {}
    booster = xgboost.module.train(
        {"objective": "multi:softprob", "num_class": CLASSES, "nthread": 1}, rows, 5, obj=Multiclass().xgboost,
        evals=[(rows, "rows")], evals_result=measured, verbose_eval=False,
    )     # fmt: skip
    scores = booster.predict(rows, output_margin=True)
    np.testing.assert_allclose(booster.predict(rows), xent.softmax(scores), rtol=1e-5)
    assert measured["rows"]["mlogloss"][-1] == pytest.approx(xent.cross_entropy(scores, Y), rel=1e-5)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")      # LightGBM 4.6
def test_classifiers_can_be_copied_and_pickled(library):
    base = pytest.importorskip("sklearn.base")
    first = library.make_classifier(Multiclass(target=SOFT, class_weight=CLASS_WEIGHT))
    second = base.clone(first)
    for model in (first, second):
        model.fit(X, Y)
    assert library.trees_of(library.booster_of(first)) == library.trees_of(library.booster_of(second))
    loaded = pickle.loads(pickle.dumps(first))
    if library.method == "xgboost":
        proba = [model.predict_proba(X) for model in (first, second, loaded)]
        np.testing.assert_allclose(proba[0].sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(first.predict(X), proba[0].argmax(axis=1))
    else:
        with pytest.warns(UserWarning, match="Returning raw scores instead"):
            proba = [model.predict_proba(X) for model in (first, second, loaded)]
    np.testing.assert_array_equal(proba[0], proba[1])
    np.testing.assert_array_equal(proba[0], proba[2])
    assert library.trees_of(library.booster_of(loaded.fit(X, Y))) == library.trees_of(library.booster_of(first))
