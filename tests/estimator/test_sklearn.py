"""scikit-learn's view of the estimator: its checks and its tools."""

import pickle

import numpy as np
import pytest

import xent

sklearn = pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone, is_classifier  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.compose import make_column_transformer  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError, UnsetMetadataPassedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils import estimator_html_repr  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.filterwarnings("ignore:Estimator LogisticRegression does not inherit from:UserWarning")
def test_all_its_checks_pass():
    results = check_estimator(xent.LogisticRegression(), on_fail=None, on_skip=None)
    assert [r for r in results if r["status"] not in ("passed", "skipped")] == []
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}
    assert len(results) == len(list(estimator_checks_generator(xent.LogisticRegression())))


@pytest.mark.filterwarnings("ignore:Estimator LogisticRegressionCV does not inherit from:UserWarning")
@pytest.mark.filterwarnings("ignore:the least populated class:UserWarning")
@pytest.mark.filterwarnings("ignore:[0-9]+ of [0-9]+ fits failed:UserWarning")
def test_all_its_checks_pass_with_cross_validation():
    """With a tight tolerance, since weights and repeated rows must give the same 7 digits."""
    model = xent.LogisticRegressionCV(Cs=[0.1, 1.0], cv=3, tol=1e-10)
    results = check_estimator(model, on_fail=None, on_skip=None)
    assert [r for r in results if r["status"] not in ("passed", "skipped")] == []


def test_cross_validation_in_a_pipeline(blobs):
    X, y = blobs
    pipeline = make_pipeline(StandardScaler(), xent.LogisticRegressionCV(Cs=3, cv=3, scoring="accuracy"))
    assert clone(pipeline).fit(X, y).score(X, y) > 0.5
    assert cross_val_score(pipeline, X, y, cv=2).min() > 0.5
    twin = clone(xent.LogisticRegressionCV(Cs=(0.1, 1.0), refit=False))
    assert twin.get_params()["Cs"] == (0.1, 1.0)
    check_is_fitted(twin.fit(X, y))


def test_tools_take_it(blobs):
    X, y = blobs
    names = np.array(["ash", "birch", "cedar"])[y]
    assert is_classifier(xent.LogisticRegression())
    assert cross_val_score(xent.LogisticRegression(), X, names, cv=3).min() > 0.5
    pipeline = make_pipeline(StandardScaler(), xent.LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=3).fit(X, names)
    assert search.best_score_ > 0.5
    assert search.best_estimator_.predict_proba(X).shape == (300, 3)
    calibrated = CalibratedClassifierCV(xent.LogisticRegression(), cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    scores = cross_validate(xent.LogisticRegression(), X, y, scoring=["neg_log_loss", "roc_auc_ovr"], cv=3)
    assert scores["test_roc_auc_ovr"].min() > 0.5


def test_frames_through_a_pipeline(blobs):
    pandas = pytest.importorskip("pandas")
    X, y = blobs
    frame = pandas.DataFrame(X, columns=list("abcde"))
    pipeline = make_pipeline(
        make_column_transformer((StandardScaler(), ["a", "c"]), remainder="passthrough"), xent.LogisticRegression()
    )
    pipeline.set_output(transform="pandas").fit(frame, y)
    assert list(pipeline[-1].feature_names_in_) == list(pipeline[0].get_feature_names_out())
    assert pipeline.score(frame, y) > 0.5


def test_clone_and_params():
    model = xent.LogisticRegression(C=2.0, class_weight={0: 2.0})
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert twin.class_weight is not model.class_weight
    nested = make_pipeline(model).set_params(logisticregression__C=3.0)
    assert nested[-1].C == 3.0


def test_is_fitted(blobs):
    check_is_fitted(xent.LogisticRegression().fit(*blobs))
    with pytest.raises(NotFittedError):
        check_is_fitted(xent.LogisticRegression())


def test_errors_and_warnings_are_also_its_own(blobs):
    model = xent.LogisticRegression(max_iter=1)
    with pytest.raises(NotFittedError) as caught:
        model.predict(blobs[0])
    assert isinstance(caught.value, xent.NotFittedError)
    with pytest.warns(ConvergenceWarning) as warned:
        model.fit(*blobs)
    assert issubclass(warned[0].category, xent.ConvergenceWarning)
    again = pickle.loads(pickle.dumps(caught.value))      # as a worker process hands it over
    assert isinstance(again, xent.NotFittedError)
    assert isinstance(again, NotFittedError)
    assert str(again) == str(caught.value)


def test_without_scikit_learn(python):
    """The same errors where it has not been imported, and neither fitting nor showing imports it."""
    script = """
import sys, warnings, xent
try:
    xent.LogisticRegression().predict([[1.0]])
except xent.NotFittedError as error:
    assert type(error) is xent.NotFittedError
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    xent.LogisticRegression(max_iter=0, tol=1e-9).fit([[0.0], [1.0], [2.0]], [0, 1, 0])
assert [w.category for w in caught] == [xent.ConvergenceWarning]
assert "sklearn" not in sys.modules and "scipy" not in sys.modules and "pandas" not in sys.modules
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
model = xent.LogisticRegression()
assert model._repr_html_() is None
print("done")
"""
    assert python(script) == "done"


@pytest.mark.usefixtures("routing")
def test_metadata_routing(blobs):
    X, y = blobs
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    asked = xent.LogisticRegression(tol=1e-8).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(asked, {"C": [1.0]}, cv=2).fit(X, y, sample_weight=weight)
    twin = xent.LogisticRegression(tol=1e-8).fit(X, y, weight)
    np.testing.assert_allclose(search.best_estimator_.coef_, twin.coef_, atol=1e-6)
    with pytest.raises(UnsetMetadataPassedError):
        make_pipeline(xent.LogisticRegression()).fit(X, y, sample_weight=weight)
    with pytest.raises(TypeError, match="fit takes no weight; available: sample_weight"):
        asked.set_fit_request(weight=True)
    with pytest.raises(TypeError, match="sample_weight is 1; it must be True, False, None or a name"):
        asked.set_fit_request(sample_weight=1)
    requests = xent.LogisticRegression().set_partial_fit_request(classes="labels").get_metadata_routing()
    assert requests.partial_fit.requests == {"classes": "labels", "sample_weight": None}


def test_html_view(blobs):
    model = xent.LogisticRegression(C=0.25)
    for fitted in (False, True):
        if fitted:
            model.fit(*blobs)
        html = model._repr_html_()
        assert "LogisticRegression" in html
        assert "0.25" in html
    assert "LogisticRegression" in estimator_html_repr(make_pipeline(StandardScaler(), model))
    with sklearn.config_context(display="text"):
        assert model._repr_html_() is None


def test_distributions_in_cross_validation(blobs):
    X, y = blobs
    soft = 0.9 * np.eye(3)[y] + 0.1 / 3
    scores = cross_val_score(xent.LogisticRegression(), X, soft, cv=3)
    hard = cross_val_score(xent.LogisticRegression(), X, y, cv=3)
    assert (np.abs(scores - 0.9 * hard - 0.1 / 3) < 0.05).all()
