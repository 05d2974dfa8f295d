"""Scales: the factor that brings scores, clipped to probabilities, to a share of the rows; from a histogram of their logarithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANGE = 32.0
"""Logarithms of scores beyond it count as if they lay on its edge when a scale is solved."""
BINS = 1 << 16
"""Of a histogram."""


def histogram(log_score: NDArray[np.floating]) -> NDArray[np.int64]:
    """(BINS,) how many logarithms of scores (N,) lie in each bin; whole numbers, so that their sum depends on no order."""
    import numpy as np

    return np.bincount(bins_of(log_score), minlength=BINS)


def logs_of(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) logarithms of scores (N,) of at least 1e-12."""
    import numpy as np

    logs: NDArray[np.float64] = np.log(np.maximum(score.astype(np.float64), 1e-12))
    return logs


def bins_of(log_score: NDArray[np.floating]) -> NDArray[np.int64]:
    """(N,) the bin of each logarithm (N,)."""
    import numpy as np

    place = (log_score.astype(np.float64) + RANGE) * (BINS / (2 * RANGE))
    return np.clip(place, 0, BINS - 1).astype(np.int64)


def centres(places: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) logarithms in the middle of the bins at places (N,)."""
    return (places.astype("float64") + 0.5) * (2 * RANGE / BINS) - RANGE


def clipped(log_score: NDArray[np.floating], log_scale: float, least: float) -> NDArray[np.float64]:
    """(N,) the scale times the scores, between the least probability and one."""
    import numpy as np

    found: NDArray[np.float64] = np.maximum(least, np.exp(np.minimum(log_scale + log_score.astype(np.float64), 0.0)))
    return found


def scale_for(
    rate: float, log_score: NDArray[np.float64], weight: NDArray[np.floating] | NDArray[np.int64], least: float
) -> float:
    """The logarithm of the scale at which scores (N,) of weights (N,), clipped, are `rate` on average."""
    return solved(lambda scale: float((weight * (clipped(log_score, scale, least) - rate)).sum()))


def solved(excess: Callable[[float], float]) -> float:
    """The logarithm of a scale at which a share that grows with it reaches the wanted one.

    By a fixed number of halvings, and no library's root finder: a selection must be the same to the bit under any version of one.

    Args:
        excess: of a logarithm, what is kept more than is asked for.
    """
    low, high = -2 * RANGE, 2 * RANGE
    for _ in range(60):
        middle = (low + high) / 2
        if excess(middle) < 0:
            low = middle
        else:
            high = middle
    return high
