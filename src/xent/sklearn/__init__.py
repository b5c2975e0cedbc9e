"""scikit-learn's own logistic regression and log loss, computed by xent: scripts run unchanged. Needs scikit-learn.

    import xent.sklearn

    xent.sklearn.patch()

or ``python -m xent.sklearn script.py``. `patch` replaces the inside of scikit-learn's classes and functions, not the
names: where and when a script imports these does not matter, an estimator stays an instance of scikit-learn's class,
and what is pickled needs no xent to be loaded. scikit-learn checks arguments, warns and stores results as it always
does; xent minimises and sums.

What xent does not offer is left to scikit-learn, with the reason on the logger ``xent.sklearn`` (INFO).

- `_fitting.py`: the minimum of the objective, for `LogisticRegression` and `LogisticRegressionCV`.
- `_folding.py`: the folds of `LogisticRegressionCV`, together.
- `_measuring.py`: `log_loss`, and the softmax of `predict_proba`.
- `_patching.py`: which parts of scikit-learn are replaced, and the tasks that joblib sends to other processes.
- `__main__.py`: the command line.
"""

from xent.sklearn._patching import patch, unpatch

__all__ = ["patch", "unpatch"]
