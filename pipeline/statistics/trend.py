"""How an effect moves over windows: its slope, its change against its size, and how fast it dies down after an event."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth
from scipy.optimize import brentq
from scipy.stats import f as fisher
from scipy.stats import norm
from scipy.stats import t as student

from pipeline.statistics.autocorrelation import Mixture, Noises, regress
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Series

Array = NDArray[np.float64]

MIN_WINDOWS = 8
SIGNIFICANT = 0.05
POWER = 0.8
LARGE_CHANGE = 0.25
"""A change of more than this share of the penalty is no longer constant."""
LARGEST_SHARE = 1e3
HALVINGS = 120


@dataclass(frozen=True, slots=True)
class Trend:
    """How a number moved over the windows that were fitted."""

    num_windows: int
    slope: Interval
    """Per window."""
    p_value: float
    """Of the hypothesis that there is no slope, two-sided."""
    change: Interval
    """From the first window to the last, as a share of the mean: -0.2 means that a fifth of the penalty went away."""
    smallest_slope: float
    """The slope per window that would have been seen in 80 of 100 such runs."""

    @property
    def constant(self) -> bool:
        """Whether no slope is seen, and a change larger than a quarter of the penalty is excluded as well."""
        return self.change.low <= 0 <= self.change.high and max(-self.change.low, self.change.high) <= LARGE_CHANGE


def trend(series: Series, since: int = 0) -> Trend:
    """Fit a straight line from window `since` on, by generalised least squares under every plausible noise.

    The change over the mean is a ratio; its interval holds each ratio that the data don't reject (Fieller 1954), and is
    unbounded where the mean itself may be zero.

    Raises:
        ValueError: there are fewer than 8 windows.
    """
    values, error = series.values[since:], series.sampling_error()[since:]
    if len(values) < MIN_WINDOWS:
        raise ValueError(
            f"a slope needs at least {MIN_WINDOWS} windows, got {len(values)} from window {since} on: wait for more"
        )
    run = len(values) - 1
    design = np.column_stack([np.ones(run + 1), np.linspace(-0.5, 0.5, run + 1)])
    known = regress(values, design, Noises.plausible(error))

    def of(direction: Array) -> Mixture:
        variance = np.einsum("i,kij,j->k", direction, known.covariance, direction)
        return Mixture(known.weight, known.coefficients @ direction, np.sqrt(variance), known.degrees)

    moved = of(np.array([0.0, 1.0]))
    mean = of(np.array([1.0, 0.0]))
    change = fieller(moved.value, mean.value, lambda share: of(np.array([-share, 1.0])))
    slope = moved.interval()
    return Trend(
        num_windows=run + 1,
        slope=Interval(slope.value / run, slope.low / run, slope.high / run),
        p_value=moved.p_value(0.0),
        change=change,
        smallest_slope=smallest_effect(moved.standard_error, known.degrees) / run,
    )


def fieller(above: float, below: float, difference: Callable[[float], Mixture]) -> Interval:
    """A ratio and those that the data don't reject: `difference(ratio)` is what is known of above - ratio * below."""
    if (
        below == 0
        or difference(LARGEST_SHARE).p_value(0) > SIGNIFICANT
        or difference(-LARGEST_SHARE).p_value(0) > SIGNIFICANT
    ):
        return Interval(above / below if below else math.nan, -math.inf, math.inf)
    ratio = above / below

    def excess(candidate: float) -> float:
        return difference(candidate).p_value(0) - SIGNIFICANT

    if excess(ratio) <= 0:  # without noise
        return Interval(ratio, ratio, ratio)
    return Interval(ratio, brentq(excess, -LARGEST_SHARE, ratio), brentq(excess, ratio, LARGEST_SHARE))


def smallest_effect(standard_error: float, degrees: float = math.inf) -> float:
    """The effect that a two-sided test at 5 % would have seen with 80 % power, given what it knew it by.

    >>> round(smallest_effect(1.0), 2)
    2.8
    """
    quantile = norm.ppf if math.isinf(degrees) else lambda p: student.ppf(p, degrees)
    return float((quantile(1 - SIGNIFICANT / 2) + quantile(POWER)) * standard_error)


@dataclass(frozen=True, slots=True)
class Decay:
    """How an effect dies down after an event."""

    half_life: Interval
    """Windows until half of it is gone; an infinite `high` says that it may not go at all."""
    at_event: float
    """The fitted effect in the first window after the event."""


def decay(series: Series, event: int, *, settles_at: float | None = None) -> Decay:
    """Fit an exponential from window `event` on that settles at a level that is known, or with None is fitted too.

    The interval holds each half-life that the likelihood ratio does not reject.

    Raises:
        ValueError: there are fewer than 8 windows after the event.
    """
    values, error = series.values[event:], series.sampling_error()[event:]
    if len(values) < MIN_WINDOWS:
        raise ValueError(
            f"a decay needs at least {MIN_WINDOWS} windows, got {len(values)} from window {event} on: wait for more"
        )
    halvings = np.geomspace(0.2, 4 * len(values), HALVINGS)
    curves = 2.0 ** (-np.arange(len(values))[:, None] / halvings)
    level = np.ones((len(values), 0 if settles_at is not None else 1))
    values = values - (settles_at or 0.0)
    noises = Noises.plausible(error, unrest=True)
    middle = int(np.argmin(_squares(values, curves, level, noises.typical())[0]))
    tangent = curves[:, min(middle + 1, HALVINGS - 1)] - curves[:, max(middle - 1, 0)]
    known = regress(values, orth(np.column_stack([curves[:, middle], tangent, level]), rcond=1e-9), noises)
    squares = _squares(values, curves, level, known.noises)
    least = squares.min(axis=1, keepdims=True)
    ratio = (squares - least) / np.maximum(least / known.degrees, 1e-300)
    p_values = known.weight @ fisher.sf(ratio, 1, known.degrees)
    kept = np.flatnonzero(p_values > SIGNIFICANT)
    best = int(np.argmax(p_values))
    effect = np.linalg.lstsq(np.column_stack([curves[:, best], level]), values, rcond=None)[0][0]
    low = 0.0 if kept[0] == 0 else float(halvings[kept[0]])
    high = math.inf if kept[-1] == HALVINGS - 1 else float(halvings[kept[-1]])
    value = math.inf if best == HALVINGS - 1 else float(halvings[best])
    return Decay(Interval(value, low, high), float(effect))


def _squares(values: Array, curves: Array, level: Array, noises: Noises) -> Array:
    """(K, H) sums of squares that each of H curves (W, H) leaves under each noise, beside a level (W, 0 or 1)."""
    white = noises.whiten(np.column_stack([values, level, curves]))
    y, one, f = np.split(white, [1, 1 + level.shape[1]], axis=2)
    if level.shape[1]:
        y, f = (x - one * (one * x).sum(axis=1, keepdims=True) / (one * one).sum(axis=1, keepdims=True) for x in (y, f))
    left: Array = (y * y).sum(axis=1) - (y * f).sum(axis=1) ** 2 / np.maximum((f * f).sum(axis=1), 1e-300)
    return np.maximum(left, 0)
