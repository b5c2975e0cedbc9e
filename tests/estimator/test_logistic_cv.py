"""Cross-validation of the penalty: each fit, each score, the choice, and errors."""

import pickle
import warnings

import numpy as np
import pytest

import xent
from xent._estimator.folds import split_stratified

CS = (1e-3, 1e-1, 10.0)
TIGHT = 1e-9


def fit_separately(X, y, train, C, weight=None, **parameters):
    """The coefficients of one fit, intercepts last."""
    model = xent.LogisticRegression(C=C, tol=TIGHT, max_iter=500, **parameters)
    model.fit(X[train], y[train], None if weight is None else weight[train])
    return np.column_stack([model.coef_, model.intercept_])


def make_data(n_classes, seed=0, n=150, d=6):
    rng = np.random.default_rng(seed)
    y = np.sort(rng.integers(0, n_classes, n))
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(n_classes, d))[y], rng.permutation(n_classes)[y]


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("storage", ["C", "F", "sparse"])
def test_each_fit_is_that_of_its_rows(n_classes, fit_intercept, storage):
    X, y = make_data(n_classes)
    stored = {"C": np.ascontiguousarray, "F": np.asfortranarray}.get(storage)
    if stored is None:
        stored = pytest.importorskip("scipy.sparse").csr_array
    model = xent.LogisticRegressionCV(Cs=CS, cv=3, tol=TIGHT, max_iter=500, fit_intercept=fit_intercept)
    model.fit(stored(X), y)
    assert model.coefs_paths_.shape == (3, 1, 3, 1 if n_classes == 2 else n_classes, 6 + fit_intercept)
    assert model.n_iter_.shape == model.scores_.shape == (3, 1, 3)
    for i, fold in enumerate(split_stratified(np.unique(y, return_inverse=True)[1], 3)):
        for c, C in enumerate(CS):
            expected = fit_separately(X, y, fold.train, C, fit_intercept=fit_intercept)
            expected = expected if fit_intercept else expected[:, :-1]
            np.testing.assert_allclose(model.coefs_paths_[i, 0, c], expected, atol=1e-5, rtol=1e-5)
            twin = xent.LogisticRegression(C=C, tol=TIGHT, max_iter=500, fit_intercept=fit_intercept)
            twin.fit(X[fold.train], y[fold.train])
            score = -xent.log_loss(y[fold.test], twin.predict_proba(X[fold.test]), labels=twin.classes_)
            np.testing.assert_allclose(model.scores_[i, 0, c], score, rtol=1e-6)
    best = CS[int(np.argmax(model.scores_.mean(axis=(0, 1))))]
    assert best == model.C_
    assert (model.l1_ratio_, model.l1_ratios_.tolist(), model.Cs_.tolist()) == (0.0, [0.0], list(CS))
    expected = fit_separately(X, y, np.arange(len(y)), best, fit_intercept=fit_intercept)
    np.testing.assert_allclose(np.column_stack([model.coef_, model.intercept_]), expected, atol=1e-5, rtol=1e-5)
    assert model.converged_
    assert model.grad_norm_ <= TIGHT


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_weights_are_in_fits_and_sample_weights_in_scores(class_weight):
    X, y = make_data(3)
    weight = np.random.default_rng(1).integers(0, 4, len(y)) / 2
    model = xent.LogisticRegressionCV(Cs=[0.05], cv=4, tol=TIGHT, max_iter=500, class_weight=class_weight)
    model.fit(X, y, weight)
    factors = class_weight
    if class_weight == "balanced":      # of all rows
        factors = {k: weight.sum() / (3 * weight[y == k].sum()) for k in range(3)}
    for i, fold in enumerate(split_stratified(y, 4)):
        expected = fit_separately(X, y, fold.train, 0.05, weight, class_weight=factors)
        np.testing.assert_allclose(model.coefs_paths_[i, 0, 0], expected, atol=1e-5, rtol=1e-5)
        twin = xent.LogisticRegression(C=0.05, tol=TIGHT, class_weight=factors)
        twin.fit(X[fold.train], y[fold.train], weight[fold.train])
        proba = twin.predict_proba(X[fold.test])
        score = -xent.log_loss(y[fold.test], proba, sample_weight=weight[fold.test], labels=[0, 1, 2])
        np.testing.assert_allclose(model.scores_[i, 0, 0], score, rtol=1e-6)


def test_distributions(blobs):
    X, y = blobs
    soft = 0.7 * np.eye(3)[y] + 0.1
    model = xent.LogisticRegressionCV(Cs=CS, cv=3, tol=TIGHT, max_iter=500).fit(X, soft)
    for i, fold in enumerate(split_stratified(y, 3)):
        np.testing.assert_allclose(
            model.coefs_paths_[i, 0, 1], fit_separately(X, soft, fold.train, CS[1]), atol=1e-6, rtol=1e-5
        )
    assert model.classes_.tolist() == [0, 1, 2]
    accuracy = xent.LogisticRegressionCV(Cs=[0.1], cv=3, scoring="accuracy").fit(X, soft)
    twin = xent.LogisticRegression(C=0.1)
    for i, fold in enumerate(split_stratified(y, 3)):
        score = twin.fit(X[fold.train], soft[fold.train]).score(X[fold.test], soft[fold.test])
        assert accuracy.scores_[i, 0, 0] == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_solvers_find_the_same(solver, blobs):
    same = xent.LogisticRegressionCV(Cs=CS, cv=3, tol=1e-8, max_iter=500).fit(*blobs)
    model = xent.LogisticRegressionCV(Cs=CS, cv=3, tol=1e-8, max_iter=500, solver=solver).fit(*blobs)
    np.testing.assert_allclose(model.coefs_paths_, same.coefs_paths_, atol=1e-5)
    np.testing.assert_allclose(model.scores_, same.scores_, atol=1e-6)


def test_the_order_of_the_grid_and_repeated_values_do_not_matter(blobs):
    model = xent.LogisticRegressionCV(Cs=[1.0, 1e-2, 1.0, np.inf], cv=3, tol=1e-8, max_iter=500).fit(*blobs)
    same = xent.LogisticRegressionCV(Cs=[1e-2, 1.0, np.inf], cv=3, tol=1e-8, max_iter=500).fit(*blobs)
    np.testing.assert_allclose(model.scores_[..., [1, 0, 3]], same.scores_, atol=1e-6)
    np.testing.assert_allclose(model.scores_[..., 0], model.scores_[..., 2], atol=1e-6)


def test_columns_of_any_scale():
    X, y = make_data(3)
    X = X * np.logspace(-3, 4, 6) + [0, 0, 0, 5, 0, 1e4]
    model = xent.LogisticRegressionCV(Cs=[1e-2, 1.0], cv=3, tol=1e-7, max_iter=1000).fit(X, y)
    for i, fold in enumerate(split_stratified(y, 3)):
        for c, C in enumerate(model.Cs_):
            twin = xent.LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(X[fold.train], y[fold.train])
            score = -xent.log_loss(y[fold.test], twin.predict_proba(X[fold.test]), labels=[0, 1, 2])
            np.testing.assert_allclose(model.scores_[i, 0, c], score, rtol=1e-4)


def test_the_default_grid(blobs):
    model = xent.LogisticRegressionCV().fit(*blobs)
    np.testing.assert_allclose(model.Cs_, np.logspace(-4, 4, 10))
    assert model.scores_.shape == (5, 1, 10)
    assert model.score(*blobs) == pytest.approx(-xent.log_loss(blobs[1], model.predict_proba(blobs[0])))
    assert xent.LogisticRegressionCV(Cs=3).fit(*blobs).Cs_.tolist() == [1e-4, 1.0, 1e4]


def test_without_refit_the_best_of_each_fold_is_averaged(blobs):
    model = xent.LogisticRegressionCV(Cs=CS, cv=4).fit(*blobs)
    model.set_params(refit=False).fit(*blobs)
    best = model.scores_[:, 0].argmax(axis=1)
    np.testing.assert_allclose(model.C_, np.mean(np.array(CS)[best]))
    expected = np.mean([model.coefs_paths_[i, 0, c] for i, c in enumerate(best)], axis=0)
    np.testing.assert_allclose(np.column_stack([model.coef_, model.intercept_]), expected)
    assert not hasattr(model, "objective_")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_elastic_net(n_classes):
    X, y = make_data(n_classes)
    ratios = [0.0, 0.5, 1.0]
    model = xent.LogisticRegressionCV(Cs=[0.02, 0.3], l1_ratios=ratios, cv=3, tol=1e-8, max_iter=500).fit(X, y)
    assert model.scores_.shape == model.n_iter_.shape == (3, 3, 2)
    assert model.coefs_paths_.shape[:3] == (3, 3, 2)
    for i, fold in enumerate(split_stratified(np.unique(y, return_inverse=True)[1], 3)):
        for r, ratio in enumerate(ratios):
            for c, C in enumerate(model.Cs_):
                expected = fit_separately(X, y, fold.train, C, l1_ratio=ratio)
                np.testing.assert_allclose(model.coefs_paths_[i, r, c], expected, atol=1e-4)
    r, c = np.unravel_index(model.scores_.mean(axis=0).argmax(), (3, 2))
    assert (model.l1_ratio_, model.C_) == (ratios[r], model.Cs_[c])
    expected = fit_separately(X, y, np.arange(len(y)), model.C_, l1_ratio=model.l1_ratio_)
    np.testing.assert_allclose(model.coef_, expected[:, :-1], atol=1e-4)
    for penalty, ratio in (("l1", 1.0), ("l2", 0.0)):
        same = xent.LogisticRegressionCV(Cs=[0.3], penalty=penalty, l1_ratios=[ratio], cv=3, tol=1e-8).fit(X, y)
        np.testing.assert_allclose(same.scores_[:, 0, 0], model.scores_[:, ratios.index(ratio), 1], atol=1e-5)
        assert same.l1_ratio_ == ratio


def test_iterables_masks_and_repeated_rows(blobs):
    X, y = blobs
    rng = np.random.default_rng(0)
    train = rng.integers(0, 200, 250)       # with repetitions
    mask = np.arange(300) >= 200
    for pairs in ([(train, mask)], iter([(train.tolist(), np.flatnonzero(mask))])):
        model = xent.LogisticRegressionCV(Cs=[0.1], cv=pairs, tol=TIGHT).fit(X, y)
        np.testing.assert_allclose(model.coefs_paths_[0, 0, 0], fit_separately(X, y, train, 0.1), atol=1e-6)


def test_scores_by_accuracy(blobs):
    X, y = blobs
    names = np.array(["ash", "birch", "cedar"])[y]
    model = xent.LogisticRegressionCV(Cs=CS, cv=3, scoring="accuracy").fit(X, names)
    for i, fold in enumerate(split_stratified(y, 3)):
        for c in range(3):
            matrix = model.coefs_paths_[i, 0, c]
            found = (X[fold.test] @ matrix[:, :-1].T + matrix[:, -1]).argmax(axis=1)
            assert model.scores_[i, 0, c] == pytest.approx(np.mean(found == y[fold.test]))
    assert model.score(X, names) == np.mean(model.predict(X) == names)
    with_none = xent.LogisticRegressionCV(Cs=CS, cv=3, scoring=None).fit(X, names)
    np.testing.assert_array_equal(with_none.scores_, model.scores_)


def test_a_callable(blobs):
    X, y = blobs
    seen = []

    def scorer(model, X, y, sample_weight=None):
        seen.append((X.shape, y.shape, sample_weight is None))
        return float(np.mean(model.predict(X) == y))

    model = xent.LogisticRegressionCV(Cs=CS, cv=3, scoring=scorer).fit(X, y)
    same = xent.LogisticRegressionCV(Cs=CS, cv=3, scoring="accuracy").fit(X, y)
    np.testing.assert_allclose(model.scores_, same.scores_)
    assert len(seen) == 9
    assert all(no_weight for *_, no_weight in seen)
    assert model.score(X, y) == same.score(X, y)
    model.fit(X, y, np.ones(300))
    assert not seen[-2][2]


def test_a_fold_without_a_class_is_fitted(blobs):
    X, y = blobs
    y = np.where(np.arange(300) == 7, 3, y)     # one row
    with pytest.warns(UserWarning, match="least populated class in y has only 1 members"):
        model = xent.LogisticRegressionCV(Cs=CS, cv=3).fit(X, y)
    assert model.coefs_paths_.shape == (3, 1, 3, 4, 6)
    assert np.isfinite(model.scores_).all()


def test_one_warning_for_all_fits(blobs):
    with pytest.warns(xent.ConvergenceWarning, match="^10 of 10 fits failed to converge") as caught:
        xent.LogisticRegressionCV(Cs=CS, cv=3, max_iter=1, tol=1e-9).fit(*blobs)
    assert len(caught) == 1
    assert caught[0].filename == __file__


BAD = {
    "Cs": [
        (0, ValueError, "Cs is 0; it must be at least 1"),
        ([1.0, 0.0], ValueError, r"Cs\[1\] is 0.0; it must be greater than 0"),
        ([1.0, float("nan")], ValueError, r"Cs\[1\] is nan; it must be greater than 0"),
        ([], ValueError, "Cs is empty"),
        ("ten", TypeError, "Cs is 'ten'; it must be an integer or a 1d array"),
        (2.5, TypeError, "Cs is 2.5; it must be an integer or a 1d array"),
    ],
    "l1_ratios": [
        ([0.0, 1.5], ValueError, r"l1_ratios\[1\] is 1.5; it must be in \[0, 1\]"),
        (0.5, TypeError, "l1_ratios is 0.5; it must be a 1d array"),
        ([], ValueError, "l1_ratios is empty"),
    ],
    "cv": [
        (1, ValueError, "cv is 1; it must be at least 2"),
        (301, ValueError, "cv is 301; it must be at most the number of samples, 300"),
        (200, ValueError, "cv is 200; it must be at most the number of rows of the largest class"),
        ("five", ValueError, "cv is 'five'; it must be an integer, a splitter"),
        ([], ValueError, "cv has no folds"),
        ([([0, 1], [2], [3])], ValueError, r"cv: fold 0 is .*; it must be a pair"),
        ([([0, 1], [])], ValueError, "cv: fold 0: test has no rows"),
        ([([0, 1], [300])], ValueError, r"cv: fold 0: test\[0\] is 300; indices must be in \[0, 300\)"),
        ([([0.5, 1], [2])], TypeError, "cv: fold 0: train has dtype float64; it must be integers or bools"),
        ([(np.ones(3, bool), [2])], ValueError, "cv: fold 0: train has 3 bools; it must have one for each row, 300"),
    ],
    "scoring": [
        (1, TypeError, "scoring is 1; it must be a string, a callable or None"),
        ("log_los", ValueError, "scoring is 'log_los'; .*must be 'neg_log_loss', 'accuracy'"),
    ],
    "solver": [("adam", ValueError, "solver is 'adam'; it must be one of")],
    "penalty": [(None, ValueError, "penalty is None; it must be one of 'l1', 'l2', 'elasticnet' or 'unset'")],
    "intercept_scaling": [(0, ValueError, "intercept_scaling is 0")],
    "tol": [(0.0, ValueError, "tol is 0.0")],
    "max_iter": [(-1, ValueError, "max_iter is -1")],
    "n_jobs": [(0, ValueError, "n_jobs is 0")],
    "use_legacy_attributes": [(True, ValueError, "use_legacy_attributes is True; it must be False")],
}


@pytest.mark.parametrize(
    ("name", "value", "error", "message"), [(name, *case) for name, cases in BAD.items() for case in cases]
)
def test_errors_leave_the_estimator_as_it_was(name, value, error, message, blobs):
    model = xent.LogisticRegressionCV(Cs=CS, cv=3).fit(*blobs)
    before = pickle.dumps({k: v for k, v in vars(model).items() if k.endswith("_")})
    model.set_params(**{name: value})
    with pytest.raises(error, match=message):
        model.fit(*blobs)
    assert pickle.dumps({k: v for k, v in vars(model).items() if k.endswith("_")}) == before


def test_rows_of_weight_0(blobs):
    weight = np.r_[np.zeros(100), np.ones(200)]
    folds = [(np.arange(100, 300), np.arange(100))]
    with pytest.raises(ValueError, match="cv: fold 0: all rows to score have weight 0"):
        xent.LogisticRegressionCV(cv=folds).fit(*blobs, weight)
    with pytest.raises(ValueError, match="cv: fold 0: all rows to fit have weight 0"):
        xent.LogisticRegressionCV(cv=[folds[0][::-1]]).fit(*blobs, weight)


def test_ctrl_c_leaves_the_estimator_as_it_was(blobs):
    model = xent.LogisticRegressionCV(Cs=CS, cv=3).fit(*blobs)
    coef = model.coef_

    def scorer(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.set_params(scoring=scorer, Cs=2).fit(*blobs)
    assert model.coef_ is coef
    assert model.Cs_.tolist() == list(CS)


def test_frames_and_float32(blobs):
    pandas = pytest.importorskip("pandas")
    X, y = blobs
    frame = pandas.DataFrame(X.astype(np.float32), columns=list("abcde"))
    model = xent.LogisticRegressionCV(Cs=CS, cv=3).fit(frame, pandas.Series(y))
    assert model.feature_names_in_.tolist() == list("abcde")
    assert model.coef_.dtype == model.coefs_paths_.dtype == np.float32
    same = xent.LogisticRegressionCV(Cs=CS, cv=3).fit(X, y)
    np.testing.assert_allclose(model.scores_, same.scores_, atol=1e-4)
    model.fit(X, y)
    assert not hasattr(model, "feature_names_in_")
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))


def test_verbose(blobs, capsys):
    xent.LogisticRegressionCV(Cs=CS, cv=3, verbose=1).fit(*blobs)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"C = {C:g}, l1_ratio = 0" for C in CS]


def test_without_scikit_learn(python):
    script = """
import sys, numpy as np, xent
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("sklearn", "scipy", "joblib"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
X, y = xent.datasets.load_digits()
X, y = X[:200, 20:30], y[:200] % 3
for scoring in ("neg_log_loss", "accuracy", None, lambda model, X, y: np.mean(model.predict(X) == y)):
    model = xent.LogisticRegressionCV(Cs=2, cv=3, scoring=scoring).fit(X, y)
    model.score(X, y)
try:
    xent.LogisticRegressionCV(scoring="roc_auc_ovr").fit(X, y)
except ValueError as error:
    print(error)
"""
    allowed = "'neg_log_loss', 'accuracy', None or a callable"
    assert python(script) == f"scoring is 'roc_auc_ovr'; without scikit-learn it must be {allowed}"


# --- beside scikit-learn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "neg_brier_score", "f1_macro"])
def test_scikit_learn_finds_the_same(scoring, blobs):
    pytest.importorskip("sklearn", minversion="1.9")
    from sklearn.linear_model import LogisticRegressionCV

    X, y = blobs
    weight = np.random.default_rng(3).uniform(0.5, 2, 300)
    shared = {"Cs": CS, "l1_ratios": (0.0,), "cv": 3, "scoring": scoring, "tol": 1e-8, "max_iter": 1000}
    for arguments in ((X, y), (X, y, weight)):
        ours = xent.LogisticRegressionCV(**shared).fit(*arguments)
        theirs = LogisticRegressionCV(**shared, use_legacy_attributes=False).fit(*arguments)
        np.testing.assert_allclose(ours.scores_, theirs.scores_, rtol=1e-6)
        np.testing.assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-5)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        assert (ours.C_, ours.l1_ratio_) == (theirs.C_, theirs.l1_ratio_)
        assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-6)


@pytest.mark.parametrize("n_folds", [2, 3, 7])
def test_folds_are_those_of_scikit_learn(n_folds):
    selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(n_folds)
    for labels in (rng.integers(0, 5, 123), np.sort(rng.integers(0, 3, 50)), rng.permutation(np.arange(60) % 7)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = split_stratified(labels, n_folds)
            expected = list(selection.StratifiedKFold(n_folds).split(labels, labels))
        for fold, (train, test) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(fold.train, train)
            np.testing.assert_array_equal(fold.test, test)


def test_splitters(blobs):
    selection = pytest.importorskip("sklearn.model_selection")
    splitter = selection.StratifiedShuffleSplit(2, random_state=0)
    model = xent.LogisticRegressionCV(Cs=CS, cv=splitter).fit(*blobs)
    same = xent.LogisticRegressionCV(Cs=CS, cv=list(splitter.split(*blobs))).fit(*blobs)
    np.testing.assert_array_equal(model.scores_, same.scores_)
    assert model.scores_.shape == (2, 1, 3)


@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy"])
def test_score_of_blocks(blobs, scoring):
    X, y = blobs
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    model = xent.LogisticRegressionCV(Cs=2, scoring=scoring).fit(X, y)
    blocks = xent.Blocks.from_arrays(X, y, weight, rows=70)
    np.testing.assert_allclose(model.score(blocks), model.score(X, y, weight), rtol=1e-12)
    with pytest.raises(ValueError, match="X is a Blocks, which includes y and sample_weight"):
        model.score(blocks, y)


def test_score_of_blocks_by_a_scorer(blobs):
    model = xent.LogisticRegressionCV(Cs=2, scoring=lambda model, X, y: 1.0).fit(*blobs)
    with pytest.raises(TypeError, match=r"X is a Blocks, but scoring is .*, which takes arrays only"):
        model.score(xent.Blocks.from_arrays(*blobs))


def test_parameters_of_scikit_learns_class(blobs):
    theirs = pytest.importorskip("sklearn", minversion="1.8").linear_model.LogisticRegressionCV(Cs=2)
    parameters = {name: theirs.get_params()[name] for name in xent.LogisticRegressionCV().get_params()}
    model = xent.LogisticRegressionCV(**parameters).fit(*blobs)
    assert model.scores_.min() > 0      # accuracy, its default
    assert model.l1_ratios_.tolist() == [0.0]


def test_blocks_are_not_fitted(blobs):
    with pytest.raises(TypeError, match="X is a Blocks; fit takes arrays, sparse matrices and frames in memory only"):
        xent.LogisticRegressionCV().fit(xent.Blocks.from_arrays(*blobs), None)
