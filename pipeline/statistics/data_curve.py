"""Loss against data: a curve through students of one schedule that saw different amounts, and the data that a loss takes.

The curve is a + b/D + c log(D) in the data D, fitted by least squares over all starts of a schedule. A crossing of two measured
points would hang on these alone. The fitted loss at any amount is linear in the measured ones, so that it has a t-interval
over worlds; an amount is rejected where that leaves out the loss that is asked for, as in `crossing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.crossing import last_above
from pipeline.statistics.interval import Interval
from pipeline.statistics.series import Series

Array = NDArray[np.float64]

MIN_POINTS = 3
AMOUNTS = 400
"""Amounts of data tried from the least to the most that was seen."""


@dataclass(frozen=True, slots=True)
class Students:
    """Students of one schedule, by the data that they had seen."""

    data: Array
    """(N,) examples trained on at the middle of the judged windows, upwards; the last had all history."""
    loss: Array
    """(S, N) by seed, percent of a reference that is common to all schedules."""

    def __post_init__(self) -> None:
        if len(self.data) < MIN_POINTS or self.loss.shape[1:] != self.data.shape or not (np.diff(self.data) > 0).all():
            raise ValueError(
                f"a curve of loss against data needs at least {MIN_POINTS} students that saw different amounts, got "
                f"{len(self.data)} with losses of {self.loss.shape}: give more starts"
            )

    def fitted(self, data: Array) -> Array:
        """(N, N') the weights of the measured losses in the fitted ones at N' amounts."""
        weights: Array = np.linalg.pinv(_terms(self.data / self.data[-1])).T @ _terms(data / self.data[-1]).T
        return weights


def data_needed(students: Students, loss: Array, *, independent: bool = True) -> Interval:
    """The data with which students reach a loss (S,), which is given by seed.

    The least that was seen where all reach it; infinite where all data do not. Ends as in `crossing.below_for_good`.
    """
    amounts = np.geomspace(students.data[0], students.data[-1], AMOUNTS)
    gaps = students.loss @ students.fitted(amounts) - loss[:, None]
    return last_above(amounts, *Series(gaps, np.zeros((0, AMOUNTS)), independent).over_seeds())


def data_saved(ours: Students, theirs: Students, *, independent: bool = True) -> Interval:
    """The share of all data that ours do without to reach the loss that theirs have with all history.

    Two students that started alike share the luck of that start. So what theirs lose more is measured where both have all history,
    and is held against what ours lose with less data by their curve: at no data saved the luck is gone.

    Where already the student that saw least reaches it, the value is not a number, and `low` says what is saved at least.
    Where ours do not reach it with all data, the value is not a number either, and `high` is zero if they surely do not.
    """
    all_data = float(ours.data[-1])
    lost = theirs.loss[:, -1] - ours.loss[:, -1]
    found = data_needed(ours, ours.loss @ ours.fitted(ours.data[-1:])[:, 0] + lost, independent=independent)
    value = math.nan if not ours.data[0] < found.value < math.inf else 1 - found.value / all_data
    high = 1.0 if found.low <= ours.data[0] else 1 - found.low / all_data
    return Interval(value, 1 - found.high / all_data, high)


def _terms(data: Array) -> Array:
    return np.stack([np.ones_like(data), 1 / data, np.log(data)], axis=1)
