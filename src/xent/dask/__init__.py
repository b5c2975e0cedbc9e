"""Logistic regression on Dask collections, and evaluation of logits; see :mod:`xent.dask.estimator`."""

from xent.dask.estimator import LogisticRegression, evaluate
from xent.dask.rounds import Timing

__all__ = ["LogisticRegression", "Timing", "evaluate"]
