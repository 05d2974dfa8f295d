"""How an effect moves over windows: its slope, and its change over the run as a share of its size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from pipeline.statistics.interval import Interval
from pipeline.statistics.known import Known
from pipeline.statistics.series import Series

MIN_WINDOWS = 8
SIGNIFICANT = 0.05
LARGE_CHANGE = 0.25
"""A change of more than this share of the penalty is no longer constant."""
LARGEST_SHARE = 1e3


@dataclass(frozen=True, slots=True)
class Trend:
    """How a number moved over the windows that were fitted."""

    slope: Interval
    """Per window."""
    p_value: float
    """Of the hypothesis that there is no slope, two-sided."""
    change: Interval
    """From the first window to the last, as a share of the mean: -0.2 means that a fifth of the penalty went away."""

    @property
    def constant(self) -> bool:
        """Whether no slope is seen, and a change larger than a quarter of the penalty is excluded as well."""
        return self.change.low <= 0 <= self.change.high and max(-self.change.low, self.change.high) <= LARGE_CHANGE


def trend(series: Series) -> Trend:
    """Fit a straight line by least squares.

    Raises:
        ValueError: there are fewer than 8 windows.
    """
    run = series.num_windows - 1
    if run + 1 < MIN_WINDOWS:
        raise ValueError(f"a slope needs at least {MIN_WINDOWS} windows, got {run + 1}: wait for more")
    line = series.fit(np.column_stack([np.ones(run + 1), np.linspace(-0.5, 0.5, run + 1)]))
    moved, mean = line(np.array([0.0, 1.0])), line(np.array([1.0, 0.0]))
    slope = moved.interval()
    return Trend(
        slope=Interval(slope.value / run, slope.low / run, slope.high / run),
        p_value=moved.p_value(),
        change=ratio(moved.value, mean.value, lambda share: line(np.array([-share, 1.0]))),
    )


def transfer_ratio(student: Series, teacher: Series) -> Interval:
    """eta = (P_distilled - P_plain) / (P_teacher - P_plain): 1 where the student is as good as its teacher.

    Both are given against the plain student on the same rows.

    Source: Rec-Distill (2026).
    """
    return ratio(student.mean().value, teacher.mean().value, lambda eta: (student - teacher * eta).mean())


def ratio(above: float, below: float, difference: Callable[[float], Known]) -> Interval:
    """A ratio and those that the data don't reject (Fieller 1954), unbounded where the lower number may be zero.

    Args:
        above: the upper number.
        below: the lower one.
        difference: what is known of above - ratio * below, by ratio.
    """
    ends = (-LARGEST_SHARE, LARGEST_SHARE)
    if below == 0 or any(difference(end).p_value() > SIGNIFICANT for end in ends):
        return Interval(above / below if below else math.nan, -math.inf, math.inf)
    value = above / below

    def excess(candidate: float) -> float:
        return difference(candidate).p_value() - SIGNIFICANT

    if not excess(value) > 0:  # without noise
        return Interval(value, value, value)
    return Interval(value, float(brentq(excess, ends[0], value)), float(brentq(excess, value, ends[1])))
