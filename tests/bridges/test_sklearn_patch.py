"""scikit-learn's own classes and functions under `xent.sklearn.patch`."""

import inspect
import logging
import operator
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xent

sklearn = pytest.importorskip("sklearn", minversion="1.6")

import joblib  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn.base import clone, is_classifier  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.ensemble import StackingClassifier  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, _logistic  # noqa: E402
from sklearn.metrics import get_scorer, log_loss  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402
from sklearn.utils import parallel  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402
from sklearn.utils.parallel import Parallel, delayed  # noqa: E402

import xent.sklearn  # noqa: E402
from xent.sklearn import _measuring, _patching  # noqa: E402
from xent.sklearn.__main__ import main  # noqa: E402

# What older versions of scikit-learn say of the parameters, or of newer versions of SciPy.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting penalty=None will ignore:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*L-BFGS-B:DeprecationWarning"),
]
SINCE_1_8 = "classes" in inspect.signature(_logistic._log_reg_scoring_path).parameters


@pytest.fixture(autouse=True)
def messages(caplog):
    """The test is under the patch. What is logged: (level, text)."""
    caplog.set_level(logging.DEBUG, "xent.sklearn")
    xent.sklearn.patch()
    yield lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]
    xent.sklearn.unpatch()


@pytest.fixture(scope="module")
def digits():
    X, y = xent.datasets.load_digits()
    return X[:300, ::3] / 16, y[:300]


def outside(function, *args, **options):
    """The result without the patch."""
    xent.sklearn.unpatch()
    try:
        return function(*args, **options)
    finally:
        xent.sklearn.patch()


# What xent computes.


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_the_same_minimum(digits, messages, solver, n_classes):
    X, y = digits
    X, y = X[y < n_classes], np.array(list("abcdefghij"))[y[y < n_classes]]
    weight = np.random.default_rng(0).uniform(size=len(y))
    options = {"C": 0.1, "tol": 1e-7, "max_iter": 1000, "class_weight": "balanced"}
    model = LogisticRegression(solver=solver, **options).fit(X, y, weight)
    assert messages(logging.INFO) == []
    assert len(messages(logging.DEBUG)) == 1
    twin = outside(LogisticRegression(**options).fit, X, y, weight)
    np.testing.assert_allclose(model.coef_, twin.coef_, atol=1e-4)
    np.testing.assert_allclose(model.intercept_, twin.intercept_, atol=1e-4)
    np.testing.assert_array_equal(model.classes_, twin.classes_)
    np.testing.assert_allclose(model.predict_proba(X), twin.predict_proba(X), atol=1e-4)
    assert set(vars(model)) == set(vars(twin))
    for name, value in vars(model).items():
        assert type(value) is type(vars(twin)[name]), name
        if isinstance(value, np.ndarray):
            assert (value.shape, value.dtype) == (vars(twin)[name].shape, vars(twin)[name].dtype), name


@pytest.mark.parametrize(
    "options",
    [
        {"fit_intercept": False},
        {"C": np.inf, "max_iter": 2000},
        {"class_weight": {0: 2.0, 1: 0.5}},
        {"solver": "liblinear", "fit_intercept": False},
        {"solver": "liblinear", "fit_intercept": False, "dual": True, "max_iter": 5000, "random_state": 0},
    ],
)
@pytest.mark.parametrize("convert", [np.array, np.asfortranarray, sparse.csr_matrix, np.float32])
def test_options(messages, options, convert):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(120, 3))
    y = (X[:, 0] + rng.normal(size=120) > 0.3).astype(int)
    model = LogisticRegression(tol=1e-6, **options).fit(convert(X), y)
    assert messages(logging.INFO) == []
    twin = outside(LogisticRegression(tol=1e-6, **options).fit, convert(X), y)
    np.testing.assert_allclose(model.coef_, twin.coef_, atol=1e-3)
    np.testing.assert_allclose(model.intercept_, twin.intercept_, atol=1e-3)
    assert model.coef_.dtype == twin.coef_.dtype
    assert np.shape(model.intercept_) == np.shape(twin.intercept_)


FORMS = [np.array, np.asfortranarray, np.ndarray.tolist, np.float32, np.int64, sparse.csr_matrix, sparse.csc_array]


def draw_problem(rng):
    """Rows in some form, labels of some type, weights, and parameters."""
    n_classes, n = int(rng.integers(2, 5)), int(rng.integers(20, 60))
    form = FORMS[rng.integers(len(FORMS))]
    X = form(rng.normal(size=(n, int(rng.integers(1, 6)))) * 3)
    names = [np.arange(n_classes), np.arange(n_classes) - 1.0, np.array(list("abcd"))[:n_classes]][rng.integers(3)]
    y = names[np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]]
    weight = [None, rng.uniform(0.5, 1, size=n), rng.integers(1, 3, n).tolist()][rng.integers(3)]
    labels = names.tolist()
    options = {
        "class_weight": [None, "balanced", {labels[0]: 2.0}, dict.fromkeys(labels, 0.5)][rng.integers(4)],
        "fit_intercept": bool(rng.integers(4)),
        "C": float(rng.choice([0.1, 1.0, 10.0])),
        "solver": str(rng.choice(["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"])),
    }
    if options["solver"] == "saga" and SINCE_1_8:        # before, l1_ratio without penalty="elasticnet" is ignored
        options["l1_ratio"] = float(rng.choice([0.0, 0.5, 1.0]))
    return X, y, weight, options


def compute_objective(model, X, y, weight):
    """scikit-learn's, in NumPy."""
    X = X.toarray() if sparse.issparse(X) else np.asarray(X, float)
    weight = compute_class_weights(model.class_weight, y, weight)
    logits = X @ model.coef_.T + model.intercept_
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    ratio = model.l1_ratio or 0.0
    coef = model.coef_.astype(float)
    return model.C * weight @ loss + ratio * np.abs(coef).sum() + (1 - ratio) / 2 * (coef**2).sum()


def compute_class_weights(class_weight, y, weight):
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    classes, place = np.unique(y, return_inverse=True)
    if class_weight == "balanced":
        return weight * (weight.sum() / (len(classes) * np.bincount(place, weight)))[place]
    return weight * np.array([(class_weight or {}).get(label, 1.0) for label in classes.tolist()])[place]


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_never_farther_from_the_minimum(messages):
    """Whatever the form of the arguments: the same coefficients, or a lower objective."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        X, y, weight, options = draw_problem(rng)
        model = LogisticRegression(tol=1e-7, max_iter=3000, **options).fit(X, y, weight)
        twin = outside(LogisticRegression(tol=1e-7, max_iter=3000, **options).fit, X, y, weight)
        assert messages(logging.INFO) == []
        assert (model.coef_.shape, model.coef_.dtype) == (twin.coef_.shape, twin.coef_.dtype)
        assert model.classes_.dtype == twin.classes_.dtype
        if not np.allclose(model.coef_, twin.coef_, atol=1e-3):
            ours, theirs = (compute_objective(fitted, X, y, weight) for fitted in (model, twin))
            assert ours <= theirs * (1 + 1e-6), (options, ours, theirs)


def test_warm_start(digits):
    X, y = digits
    model = LogisticRegression(warm_start=True, tol=1e-5).fit(X, y)
    coef, first = model.coef_, model.n_iter_[0]
    assert first > 0
    assert model.fit(X, y).n_iter_[0] == 0
    np.testing.assert_array_equal(model.coef_, coef)
    assert model.set_params(C=1.1).fit(X, y).n_iter_[0] < first


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore:.*penalty.*:FutureWarning", "ignore:.*l1_ratio.*:UserWarning")
def test_penalties_with_a_kink(digits, messages, l1_ratio):
    X, y = digits
    options = {"solver": "saga", "penalty": "elasticnet", "l1_ratio": l1_ratio, "C": 0.5, "max_iter": 3000}
    model = LogisticRegression(**options).fit(X[y < 3], y[y < 3])
    assert messages(logging.INFO) == []
    twin = outside(LogisticRegression(**options, tol=1e-6).fit, X[y < 3], y[y < 3])
    np.testing.assert_allclose(model.coef_, twin.coef_, atol=1e-3)
    assert ((model.coef_ == 0).mean() > 0.3) == (l1_ratio > 0)


@pytest.mark.filterwarnings("ignore:.*n_jobs.*:FutureWarning")
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"])
def test_warnings_are_those_of_scikit_learn(digits, solver):
    with pytest.warns(ConvergenceWarning) as caught:
        LogisticRegression(solver=solver, max_iter=1, tol=1e-9).fit(*digits)
    assert "sklearn" in Path(caught[0].filename).parts      # so that filters for scikit-learn's modules apply
    words = re.match(r"\w+(-\w+)?", str(caught[0].message))[0]
    with pytest.warns(ConvergenceWarning, match=words):
        outside(LogisticRegression(solver=solver, max_iter=1, tol=1e-9).fit, *digits)


def test_no_warning_where_scikit_learn_gives_none(digits, recwarn):
    X, y = digits
    LogisticRegression(tol=1e-15, max_iter=1000).fit(X, y)          # as far as rounding allows
    LogisticRegression(C=np.inf, max_iter=1000).fit(X, y)           # separable
    assert [str(w.message) for w in recwarn if "penalty=None" not in str(w.message)] == []


def test_errors_are_those_of_scikit_learn(digits):
    X, y = digits
    with pytest.raises(ValueError, match="'solver' parameter of LogisticRegression must be a str among"):
        LogisticRegression(solver="auto").fit(X, y)
    with pytest.raises(ValueError, match="supports only dual=False"):
        LogisticRegression(dual=True).fit(X, y)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        LogisticRegression().fit(np.full_like(X, np.nan), y)


# LogisticRegressionCV


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cross_validation(digits, messages):
    X, y = digits
    options = {"Cs": [0.01, 1.0], "cv": 3, "scoring": "neg_log_loss", "max_iter": 500, "tol": 1e-5}
    model = LogisticRegressionCV(**options).fit(X, y)
    twin = outside(LogisticRegressionCV(**options).fit, X, y)
    assert model.C_[0] == twin.C_[0]
    np.testing.assert_allclose(model.scores_[3], twin.scores_[3], rtol=1e-3)
    np.testing.assert_allclose(model.coef_, twin.coef_, atol=1e-2)
    assert messages(logging.INFO) == []
    assert len(messages(logging.DEBUG)) == (2 if SINCE_1_8 else 7)


# What is left to scikit-learn.


@pytest.mark.parametrize(
    ("options", "weight", "reason"),
    [
        ({"solver": "liblinear"}, None, "liblinear penalises the intercept"),
        ({}, -1.0, r"sample_weight\[0\] is -1.0; weights must be finite and at least 0"),
    ],
)
def test_reasons(messages, options, weight, reason):
    X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), [0, 1, 0, 1]
    weight = None if weight is None else np.array([weight, 9.0, 9.0, 9.0])
    model = LogisticRegression(**options).fit(X, y, weight)
    assert len(messages(logging.INFO)) == 1
    assert re.match("LogisticRegression is fitted by scikit-learn: " + reason, messages(logging.INFO)[0])
    assert messages(logging.DEBUG) == []
    twin = outside(LogisticRegression(**options).fit, X, y, weight)
    np.testing.assert_array_equal(model.coef_, twin.coef_)
    np.testing.assert_array_equal(model.intercept_, twin.intercept_)


# log_loss


def test_log_loss_is_clipped_as_there(messages):
    for proba in ([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]], [0.0, 1.0, 0.75], [1e-300, 1.0, 0.75]):
        for dtype in (np.float64, np.float32):
            for y in ([1, 0, 1], [0, 1, 1], ["no", "yes", "yes"]):
                for normalize in (True, False):
                    args = y, np.array(proba, dtype)
                    loss = log_loss(*args, normalize=normalize)
                    expected = outside(log_loss, *args, normalize=normalize)
                    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-15)
    assert messages(logging.INFO) == []


def test_log_loss_takes_what_it_took(messages):
    y, proba = [0, 1, 1], np.array([0.25, 0.5, 0.75])
    expected = outside(log_loss, y, proba)
    assert log_loss(y, proba) == pytest.approx(expected, rel=1e-15)
    assert log_loss(y_true=y, **{PROBA: proba}) == pytest.approx(expected, rel=1e-15)
    weighted = log_loss([0, 0], [0.25, 0.5], labels=[0, 1], sample_weight=[1, 3])
    assert weighted == pytest.approx(outside(log_loss, [0, 0], [0.25, 0.5], labels=[0, 1], sample_weight=[1, 3]))
    assert messages(logging.INFO) == []
    if PROBA == "y_proba":
        with pytest.warns(FutureWarning, match="`y_pred` was renamed to `y_proba`"):
            assert log_loss(y, y_pred=proba) == pytest.approx(expected, rel=1e-15)
        assert messages(logging.INFO) == []
        with pytest.raises(ValueError, match="Cannot use both"):
            log_loss(y, proba, y_pred=proba)
    with pytest.raises(ValueError, match="y_true contains only one label"):
        log_loss([1, 1], [0.5, 0.5])
    soft = [[0.25, 0.75], [1.0, 0.0]]
    with pytest.raises(ValueError, match="not supported"):
        log_loss(soft, [[0.5, 0.5], [0.5, 0.5]])
    assert messages(logging.INFO)[-1] == "log_loss is computed by scikit-learn: y_true has several columns"


def test_one_warning_or_one_error(messages):
    with pytest.warns(UserWarning, match="do not sum to one") as caught:
        log_loss([0, 1, 2], np.eye(3) * 0.9)
    assert len(caught) == 1
    with pytest.raises(ValueError, match="different number of classes"):
        log_loss([0, 1], np.eye(3)[:2])
    with pytest.raises((ValueError, ZeroDivisionError)):
        log_loss([0, 1], [0.5, 0.5], sample_weight=[0, 0])


PROBA = "y_proba" if "y_proba" in _measuring._SIGNATURE.parameters else "y_pred"


def test_scorer(digits):
    X, y = digits
    model = LogisticRegression().fit(X, y)
    score = get_scorer("neg_log_loss")(model, X, y)
    assert score == pytest.approx(-xent.log_loss(y, model.predict_proba(X)), rel=1e-14)


# Tools, copies and files.


def test_it_is_still_scikit_learns_class(digits):
    X, y = digits
    model = LogisticRegression(C=0.5).fit(X, y)
    assert type(model).__module__ == "sklearn.linear_model._logistic"
    assert repr(model) == "LogisticRegression(C=0.5)"
    assert is_classifier(model)
    assert clone(model).get_params() == model.get_params()
    assert "LogisticRegression" in model._repr_html_()


def test_all_its_checks_pass():
    results = check_estimator(LogisticRegression(), on_fail=None, on_skip=None)
    assert [r for r in results if r["status"] not in ("passed", "skipped", "xfail")] == []


def test_tools(digits, messages):
    X, y = digits
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_score_ > -1
    calibrated = CalibratedClassifierCV(LogisticRegression(), cv=2).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    stack = StackingClassifier([("tree", tree), ("linear", LogisticRegression())], cv=2).fit(X, y)
    assert stack.score(X, y) > 0.9
    assert messages(logging.INFO) == []
    assert len(messages(logging.DEBUG)) == 5 + 2 + 4       # the last one is the default of StackingClassifier


def test_a_subclass_made_before(digits, messages):
    class Named(LogisticRegression):
        def fit(self, X, y):
            return super().fit(X, y)

    Named().fit(*digits)
    assert len(messages(logging.DEBUG)) == 1


def test_pickles_need_no_xent(digits, python, tmp_path):
    X, y = digits
    model = LogisticRegression().fit(X, y)
    joblib.dump((model, LogisticRegression(C=3.0)), tmp_path / "models.joblib")
    values = pickle.dumps((model, X))
    script = f"""
import sys, pickle, joblib
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "xent":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
model, X = pickle.loads({values!r})
again, fresh = joblib.load({str(tmp_path / "models.joblib")!r})
print((model.predict(X) == again.predict(X)).all(), fresh, *again.predict(X)[:5])
"""
    predicted = " ".join(map(str, model.predict(X)[:5]))
    assert python(script) == f"True LogisticRegression(C=3.0) {predicted}"
    again, fresh = joblib.load(tmp_path / "models.joblib")
    assert type(again) is type(fresh) is LogisticRegression


def test_tasks_in_other_processes_are_under_the_patch():
    def where():
        asked = delayed(operator.attrgetter("_logistic_regression_path.__module__"))
        return set(Parallel(n_jobs=2)(asked(_logistic) for _ in range(4)))

    assert where() == {"xent.sklearn._fitting"}
    assert outside(where) == {"sklearn.linear_model._logistic"}      # in the same processes


def test_threads_of_workers(monkeypatch):
    for value, expected in ("2", 2), ("16", 8), ("", 8), ("0", 8), ("2,1", 8):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert _patching._threads_of_worker(8) == expected


@pytest.mark.deep
def test_its_own_tests_pass(tmp_path):
    folder = str(Path(__file__).parents[1] / "scikit_learn")
    path = os.pathsep.join([folder, str(Path(xent.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    arguments = ["--pyargs", "sklearn.linear_model.tests.test_logistic", "-p", "under_the_patch", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 300


# patch and unpatch


def test_unpatch_restores_everything():
    def state():
        return [
            _logistic._logistic_regression_path,
            _logistic._fit_liblinear,
            _logistic.Parallel,
            _logistic.softmax,
            parallel._FuncWrapper,
            *(cell.cell_contents for cell in log_loss.__closure__),
        ]

    under = state()
    xent.sklearn.patch()
    assert state() == under
    xent.sklearn.unpatch()
    before = state()
    assert all(a is not b for a, b in zip(under[:5], before[:5], strict=True))
    assert sum(a is not b for a, b in zip(under, before, strict=True)) == 6
    xent.sklearn.unpatch()
    assert state() == before
    xent.sklearn.patch()
    assert state() == under


def test_an_estimator_made_before(digits, messages):
    model = outside(LogisticRegression)
    model.fit(*digits)
    assert len(messages(logging.DEBUG)) == 1
    outside(model.fit, *digits)
    assert len(messages(logging.DEBUG)) == 1


# The command line.


def run(*args, code=0, cwd=None):
    done = subprocess.run(
        [sys.executable, "-m", "xent.sklearn", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(xent.__file__).parents[1])},
    )
    assert done.returncode == code, done.stderr
    return (done.stdout + done.stderr).strip()


SCRIPT = """
import sys
from helper import answer
from sklearn.linear_model import LogisticRegression
from sklearn.utils import parallel
print(answer, sys.argv[1:], __name__, __file__ == sys.argv[0], parallel._FuncWrapper.__name__)
LogisticRegression(solver="liblinear").fit([[0.0], [1.0]], [0, 1])
if sys.argv[1:] == ["0"]:
    LogisticRegression().fit([[0.0], [1.0]], [0, 1])
sys.exit(int(sys.argv[-1]))
"""


def test_running_a_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("answer = 42")
    path = str(tmp_path / "script.py")
    assert run(path, "-v", "--x=1", "3", code=3) == "42 ['-v', '--x=1', '3'] __main__ True PatchedTask"
    left = "xent.sklearn: LogisticRegression is fitted by scikit-learn: liblinear penalises the intercept"
    shown = run("-v", "-m", "script", "-m", "0", cwd=tmp_path).splitlines()
    assert sorted(shown) == ["42 ['-m', '0'] __main__ True PatchedTask", left]
    shown = run("-vv", path, "0")
    assert left in shown
    assert "xent.sklearn: LogisticRegression is fitted by xent: " in shown


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["missing.py"], 2, "there is no file 'missing.py'"),
        (["-v"], 2, "the following arguments are required: script"),
        (["-m", "no_such_module_here"], 2, "there is no module 'no_such_module_here'"),
        (["-m", "xent.missing.sub"], 2, "there is no module 'xent.missing.sub'"),
        (["--help"], 0, "usage: python -m xent.sklearn [-v] (script.py | -m module)"),
    ],
)
def test_command_lines_without_a_script(args, code, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == code
    assert words in "".join(capsys.readouterr())


def test_a_fit_that_ends_in_no_finite_number_is_warned_of():
    X = np.array([[0.0], [1e300], [2e300], [3e300]])
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        LogisticRegression(C=1e300).fit(X, [0, 1, 0, 1])
