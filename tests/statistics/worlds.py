"""Series around a curve, almost without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.series import Series


def around(curve: NDArray[Any], *, seeds: int = 8, noise: float = 1e-3, independent: bool = True) -> Series:
    """Seeds that follow a curve (W,)."""
    random = np.random.default_rng(0)
    values = curve + noise * random.normal(size=(seeds, len(curve)))
    return Series(values, np.zeros((0, len(curve))), independent)
