"""The data that comes with xent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_digits"]


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Load 1,797 handwritten digits, 8 x 8 pixels each.

    Returns
    -------
    X : ndarray of shape (1797, 64), float64
        One image a row, its pixels row by row: whole numbers from 0 (paper) to 16 (ink).
    y : ndarray of shape (1797,), int64
        The digit that was written, 0 to 9; 174 to 183 images of each.

    Notes
    -----
    Both arrays are new at every call. The images are in scikit-learn's order.

    The data is the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak [1]_, under
    the licence CC BY 4.0; `LICENSE-digits`, next to the data in the package, says where it came from and how it was
    stored.

    References
    ----------
    .. [1] UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49

    Examples
    --------
    >>> from xent.datasets import load_digits
    >>> X, y = load_digits()
    >>> X.shape, y[:5].tolist()
    ((1797, 64), [0, 1, 2, 3, 4])
    """
    from importlib.resources import files  # here, so that importing xent does not pay for it

    with files("xent").joinpath("data", "digits.npz").open("rb") as file, np.load(file) as archive:
        return archive["X"].astype(np.float64), archive["y"].astype(np.int64)
