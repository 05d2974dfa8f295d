"""When a curve comes to stay below a limit: the moments that the data don't reject.

A smooth curve in the number of windows trained on, t, is fitted by least squares: a + b/t + c/sqrt(t) + d log(t) + e log(t)^2.
Losses fall with powers of data, fast at first and ever slower, and so do these. The fitted number at any moment is linear in the data; it has an
interval over worlds, or over the windows of one log, and a moment is rejected where that leaves out the limit (inverse
regression: Fieller 1954; Seber & Wild 1989, chapter 5). Nothing is asked of the distribution of the moment itself, which is
skewed and may be infinite. A model's first window, before any training, is no part of the curve.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.interval import Interval
from pipeline.statistics.series import Series

Array = NDArray[np.float64]

Verdict = Literal["converged", "not converged", "undecided"]

NUM_COEFFICIENTS = 5
MIN_WINDOWS = NUM_COEFFICIENTS + 3
MOMENTS = 4
"""Moments tried from one window to the next."""


def below_for_good(series: Series, limit: float) -> Interval:
    """When a falling series came to stay below a limit, in windows trained on.

    The value is where the fitted curve crosses it for the last time: 1 where it is below from the first fitted window on,
    infinite where it is above at the last. Then the lower end says what it takes at least; an upper end is infinite where it
    may not have come to stay yet.

    Args:
        series: from the first window *after* training began, so that window k has been trained on k + 1 windows.
        limit: the level.

    Raises:
        ValueError: there are too few windows for a curve.
    """
    moments = _moments(series)
    return _last_above(series, moments, _terms(moments), limit)


def half_life(series: Series) -> Interval:
    """Windows until a fitted gain has fallen to half of what it was in the first window; read as in `below_for_good`.

    Args:
        series: the gain from the window of the event on, above zero.

    Raises:
        ValueError: there are too few windows.
    """
    moments = _moments(series)
    rows = _terms(moments)
    return _last_above(series, moments - 1, rows - rows[0] / 2, 0.0)


def verdict(moment: Interval, num_windows: int) -> Verdict:
    """A claim only where the whole interval agrees."""
    if math.isfinite(moment.high):
        return "converged"
    return "not converged" if moment.low >= num_windows else "undecided"


def _moments(series: Series) -> Array:
    num = series.num_windows
    if num < MIN_WINDOWS:
        raise ValueError(f"a curve needs at least {MIN_WINDOWS} windows, got {num}: wait for more")
    return np.linspace(1, num, MOMENTS * (num - 1) + 1)


def _last_above(series: Series, moments: Array, rows: Array, limit: float) -> Interval:
    """Where the fitted numbers along rows (N, 5), one a moment, are above a limit for the last time."""
    values, lows, highs = series.curve(_terms(np.arange(1, series.num_windows + 1, dtype=float)), rows)
    return last_above(moments, values - limit, lows - limit, highs - limit)


def _terms(at: Array) -> Array:
    """(N, 5) what the curve is made of, at some numbers of windows."""
    slow = np.log(at)
    return np.stack([np.ones_like(at), 1 / at, at**-0.5, slow, slow**2], axis=1)


def last_above(moments: Array, values: Array, lows: Array, highs: Array) -> Interval:
    """Where a curve, and the ends of its interval, are above zero for the last time.

    The first moment if never, infinite if at the last, but for the lower end.
    """
    return Interval(_last(moments, values), min(_last(moments, lows), float(moments[-1])), _last(moments, highs))


def _last(moments: Array, curve: Array) -> float:
    """Where a curve is above zero for the last time."""
    if np.isnan(curve).any():
        return math.nan
    above = np.flatnonzero(curve > 0)
    if not len(above):
        return float(moments[0])
    last = int(above[-1])
    if last == len(moments) - 1:
        return math.inf
    share = curve[last] / (curve[last] - curve[last + 1])
    return float(moments[last] + share * (moments[last + 1] - moments[last]))
