"""Array types. Coefficients, gradients and Hessian products are float64 whatever the type of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
