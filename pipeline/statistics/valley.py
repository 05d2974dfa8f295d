"""Valleys: where, at one budget, a loss is lowest over sizes of the model: by a law, and by a parabola through what was trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, Form, Law
from pipeline.statistics.series import MIN_WORLDS, Series
from pipeline.statistics.trend import ratio

Array = NDArray[np.float64]
Spend = Callable[[Array], Array]
"""The data (N,) that a budget leaves to models of sizes (N,)."""

SPLIT = Form("model and data", (("model",), ("data",)))
"""loss = E + A model^-alpha + B data^-beta (Hoffmann et al. 2022, approach 3)."""
ROWS_ALONE = Form("rows alone", (("data",),))
"""A simpler form: the size of a model does not matter, but for the rows that it leaves."""
HUNGRY = Form("larger models need more rows", (("model",), ("data", "1/model")))
"""A richer form: loss = E + A model^-alpha + B model^gamma data^-beta; what too few rows cost rises with the model."""
FORMS = (ROWS_ALONE, SPLIT, HUNGRY)
BESIDE = 8.0
"""How far beside the trained sizes a minimum is looked for."""
TRIED = 400


def lowest(law: Law, sizes: Array, spend: Spend) -> tuple[float, float]:
    """The size at which a law is lowest, and the loss there.

    Looked for from an eighth of the smallest to eight times the largest of the sizes that are given. Where it is lowest at the
    lower end the size is 0, at the upper end infinite: the law has no lowest point there.

    Raises:
        ValueError: the budget pays for no rows at any of these sizes.
    """
    tried = np.geomspace(sizes.min() / BESIDE, sizes.max() * BESIDE, TRIED)
    data = spend(tried)
    paid = np.flatnonzero(data > 0)  # a budget in hours may not even pay for the updates
    if not len(paid):
        raise ValueError("the budget pays for no rows at any size: give a larger one")
    tried, losses = tried[paid], law.at({"model": tried[paid], "data": data[paid]})
    place = int(losses.argmin())
    least = float(losses[place])
    if place in (0, len(tried) - 1):
        return (0.0 if place == 0 else math.inf), least
    left, middle, right = losses[place - 1 : place + 2]
    bend = left - 2 * middle + right
    shift = 0.0 if bend <= 0 else 0.5 * (left - right) / bend
    return float(tried[place] * (tried[1] / tried[0]) ** shift), least


def best_size(fit: Fit, sizes: Array, spend: Spend) -> Interval:
    """The size at which a law is lowest, with an interval over its logarithm; open to a side on which there is no lowest point."""

    def log_of_best(law: Law) -> float:
        size, _ = lowest(law, sizes, spend)
        return -math.inf if size == 0 else math.inf if size == math.inf else math.log(size)

    logs = fit.interval(log_of_best)
    return Interval(*map(_exp, (logs.value, logs.low, logs.high)))


def parabola(sizes: Array, losses: Array, *, independent: bool = True) -> Interval:
    """The size at which a parabola over the logarithm of sizes (K,) through losses (S, K) is lowest; approach 2 of Hoffmann et al.

    It is biased where sizes lie unevenly around the minimum (Czech 2026), and stands beside the law for that reason. Without
    ends with fewer than 8 seeds, or where these are no worlds; not a number where the parabola has no lowest point.

    Raises:
        ValueError: there are fewer than 4 sizes.
    """
    if len(sizes) < 4:
        raise ValueError(f"a parabola is tested by at least 4 sizes, got {len(sizes)}: train more")
    logs = np.log(sizes)
    across = logs - logs.mean()
    design = np.stack([np.ones_like(across), across, across**2], axis=1)
    _, slope, bend = np.linalg.pinv(design) @ losses.mean(axis=0)
    if bend <= 0:
        return Interval(math.nan, math.nan, math.nan)
    if not independent or len(losses) < MIN_WORLDS:
        return Interval(float(np.exp(logs.mean() - slope / (2 * bend))), math.nan, math.nan)
    known = Series(losses, np.zeros((0, len(sizes))), independent=True).fit(design)
    found = ratio(-slope, 2 * bend, lambda place: known(np.array([0.0, -1.0, -2 * place])))
    return Interval(*(_exp(float(logs.mean()) + end) for end in (found.value, found.low, found.high)))


def _exp(log: float) -> float:
    return math.inf if log >= 700 else math.exp(log)
