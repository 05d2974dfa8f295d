"""When a falling curve under autocorrelated noise comes to stay below a limit: every moment that the data don't reject.

The curve is Weibull's growth curve c + a 2^-(t/h)^m with a >= 0 (Seber & Wild 1989, section 7.3): an exponential at m = 1,
slower and slower like a power law below, late and sudden like a sigmoid above. A moment is rejected by the likelihood ratio
of all curves against those that pass the limit then, as in inverse regression (Fieller 1954; Seber & Wild, chapter 5), so
that nothing is asked of the distribution of the estimate, which is skewed and may be infinite. A curve that turns back up is
fitted badly; its misfit counts as noise that lasts, and widens the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth
from scipy.stats import f as fisher

from pipeline.statistics.autocorrelation import Noises, regress
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Series

Array = NDArray[np.float64]

POWERS = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""m"""
HALVINGS = 3.0
"""Neighbouring h of power m differ by a factor of 2^(1 / (3 max(m, 1/2))), from half a window to one and a half runs."""
MOMENTS = 2
"""Moments tried between two windows."""
NUM_COEFFICIENTS = 4
MIN_WINDOWS = NUM_COEFFICIENTS + 3
SIGNIFICANT = 0.05
ALIKE = 1e-6
"""A curve that has fallen within a window moves alike with some of its coefficients: these count once."""
HOPELESS = 15.0
"""A shape whose best curve has a likelihood ratio (F) above this can't make a moment plausible."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """When a curve came to stay below a limit, in windows since the first."""

    window: Interval
    """0 where it was so from the start; infinite where it did not happen before the last window."""
    leverage: Array
    """(W,) how much each window's whitened number moves the estimate, up to a factor."""
    residual: Array
    """(W,) whitened, under the likeliest noise."""


def crossing(series: Series, limit: float) -> Crossing:
    """Find when a series falls below a limit to stay.

    Raises:
        ValueError: there are too few windows for a curve and its noise.
    """
    num_windows = len(series.values)
    if num_windows < MIN_WINDOWS:
        raise ValueError(f"a falling curve needs at least {MIN_WINDOWS} windows, got {num_windows}: wait for more")
    family = _Family.over(num_windows)
    noises = Noises.plausible(series.sampling_error(), unrest=True)
    best = _Products.of(series.values - limit, family, noises.typical()).best()
    jacobian = family.jacobian(best)
    known = regress(series.values, orth(jacobian, rcond=ALIKE), noises)
    shift = sum(series.persistent()) / known.variance
    products = _Products.of(series.values - limit, family, known.noises).shifted(shift)
    p_values = known.weight @ products.p_values(family, num_windows - NUM_COEFFICIENTS)
    likely = known.noises.only(np.arange(len(known.weight)) == np.argmax(known.weight))
    white = likely.whiten(np.column_stack([jacobian, series.values]))[0]
    x, y = white[:, :-1], white[:, -1]
    inverse = np.linalg.pinv(x)
    found = _hull(family.moments, p_values)
    row = family.jacobian(best, np.array([min(found.value, num_windows - 1.0)]))[0]
    return Crossing(found, row @ inverse, y - x @ (inverse @ y))


@dataclass(frozen=True, slots=True)
class _Family:
    """H shapes of curves over W windows."""

    power: Array
    """(H,)"""
    halving: Array
    """(H,)"""
    at_windows: Array
    """(W, H)"""
    moments: Array
    """(T,) candidates, the first is "from the start" and the last "never"."""
    at_moments: Array
    """(H, T-2) without these two."""

    @classmethod
    @lru_cache(maxsize=64)
    def over(cls, num_windows: int) -> _Family:
        octaves = np.log2(3 * num_windows)
        halvings = [
            np.geomspace(0.5, 1.5 * num_windows, int(np.ceil(HALVINGS * max(m, 0.5) * octaves)) + 1) for m in POWERS
        ]
        power, halving = np.repeat(POWERS, [len(h) for h in halvings]), np.concatenate(halvings)
        windows = np.arange(num_windows, dtype=float)
        moments = np.linspace(0, num_windows - 1, MOMENTS * (num_windows - 1) + 1)
        return cls(
            power,
            halving,
            _shape(windows[:, None], power, halving),
            np.concatenate([[0.0], moments, [np.inf]]),
            _shape(moments[:, None], power, halving).T,
        )

    def jacobian(self, chosen: int, moments: Array | None = None) -> Array:
        """(W, 4) how a curve of a shape moves with its coefficients, at the windows or other moments."""
        at = np.arange(len(self.at_windows), dtype=float) if moments is None else moments
        power, halving = float(self.power[chosen]), float(self.halving[chosen])
        curve = _shape(at, power, halving)
        slower, bent = _shape(at, power, 1.1 * halving), _shape(at, 1.1 * power, halving)
        return np.column_stack([np.ones(len(at)), curve, slower - curve, bent - curve])


def _shape(at: Array, power: Array | float, halving: Array | float) -> Array:
    """From 1 down to 0."""
    fallen: Array = 2.0 ** -((at / halving) ** power)
    return fallen


@dataclass(frozen=True, slots=True)
class _Products:
    """Inner products under K noises: of y (numbers less the limit), 1 and F (the H shapes)."""

    yy: Array
    """(K, 1), as the next two."""
    y1: Array
    one: Array
    yf: Array
    """(K, H), as the next two."""
    f1: Array
    ff: Array

    @classmethod
    def of(cls, values: Array, family: _Family, noises: Noises) -> _Products:
        white = noises.whiten(np.column_stack([values, np.ones(len(values)), family.at_windows]))
        y, one, f = white[:, :, 0], white[:, :, 1], white[:, :, 2:]

        def product(a: Array, b: Array) -> Array:
            products: Array = np.einsum("kw,kw->k", a, b)[:, None]
            return products

        return cls(
            product(y, y),
            product(y, one),
            product(one, one),
            np.einsum("kw,kwh->kh", y, f),
            np.einsum("kw,kwh->kh", one, f),
            np.einsum("kwh,kwh->kh", f, f),
        )

    def shifted(self, ratio: Array) -> _Products:
        """Under noises that also shift all windows at once, by so many times their variance (Sherman & Morrison 1950)."""
        less = ratio[:, None] / (1 + ratio[:, None] * self.one)
        return _Products(
            self.yy - less * self.y1**2,
            self.y1 - less * self.y1 * self.one,
            self.one - less * self.one**2,
            self.yf - less * self.y1 * self.f1,
            self.f1 - less * self.one * self.f1,
            self.ff - less * self.f1**2,
        )

    def fit(self) -> tuple[Array, Array, Array]:
        """(K, H) the level c, the fall a >= 0 and the sum of squares of each shape's best curve."""
        covariance = self.yf - self.y1 * self.f1 / self.one
        spread = np.maximum(self.ff - self.f1**2 / self.one, 1e-12)
        fall = np.maximum(covariance, 0) / spread
        squares = self.yy - self.y1**2 / self.one - fall * np.maximum(covariance, 0)
        return (self.y1 - fall * self.f1) / self.one, fall, squares

    def best(self) -> int:
        """The likeliest shape under the first noise."""
        return int(np.argmin(self.fit()[2][0]))

    def p_values(self, family: _Family, degrees: int) -> Array:
        """(K, T) of the hypotheses that the curve passes the limit at each moment."""
        level, fall, squares = self.fit()
        least = squares.min(axis=1, keepdims=True)
        hopeful = (squares <= least * (1 + HOPELESS / degrees)).any(axis=0)
        level, fall, squares = level[:, hopeful], fall[:, hopeful], squares[:, hopeful]
        f = family.at_moments[hopeful]
        toward = np.maximum(self.yf[:, hopeful, None] - f * self.y1[:, :, None], 0)
        length = self.ff[:, hopeful, None] - f * (2 * self.f1[:, hopeful, None] - f * self.one[:, :, None])
        passing = self.yy[:, :, None] - toward * toward / np.maximum(length, 1e-12)  # (K, H', T-2)
        start = np.where(level + fall <= 0, squares, passing[:, :, 0]).min(axis=1)
        never = np.where(level + fall * f[:, -1] >= 0, squares, passing[:, :, -1]).min(axis=1)
        all_squares = np.column_stack([start, passing.min(axis=1), never])
        least = all_squares.min(axis=1, keepdims=True)
        ratio = (all_squares - least) / np.maximum(least / degrees, 1e-300)
        p_values: Array = fisher.sf(ratio, 1, degrees)
        return p_values


def _hull(moments: Array, p_values: Array) -> Interval:
    """The likeliest moment and the ends of those not rejected, interpolated between the moments tried."""
    kept = np.flatnonzero(p_values > SIGNIFICANT)
    first, last = int(kept[0]), int(kept[-1])
    low, high = float(moments[first]), float(moments[last])
    inside = slice(1, len(moments) - 1)
    if first > 1 and first < len(moments) - 1:
        low = float(np.interp(SIGNIFICANT, p_values[first - 1 : first + 1], moments[first - 1 : first + 1]))
    elif first == len(moments) - 1:
        low = float(moments[inside][-1])
    if 0 < last < len(moments) - 2:
        high = float(np.interp(SIGNIFICANT, p_values[[last + 1, last]], moments[[last + 1, last]]))
    return Interval(float(moments[int(np.argmax(p_values))]), low, high)
