"""Data that several files fit."""

import numpy as np
import pytest


@pytest.fixture
def blobs():
    """Three overlapping classes: a well-conditioned problem."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    return rng.normal(size=(300, 5)) + np.eye(3, 5)[y], y
