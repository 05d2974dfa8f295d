"""In-run convergence: when a variant's relative loss came to stay within epsilon, and the data, compute and time until then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.falling import MIN_WINDOWS, Crossing, crossing
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Paired

Spent = Literal["examples", "flops", "seconds"]
Verdict = Literal["converged", "not converged", "undecided"]

MAX_CORRELATION = 0.95


@dataclass(frozen=True, slots=True)
class Convergence:
    """When a variant's relative loss came to stay at or below epsilon, as far as its windows show.

    Where it did not before the last window, the value is infinite (censored) and `low` says what it takes at least; an
    infinite `high` says that it may not have converged yet.
    """

    epsilon: float
    """Percent of the reference's loss."""
    num_windows: int
    provisional: bool
    """Whether windows of the run are still to come: the curve may yet leave epsilon again."""
    window: Interval
    """Windows trained on until then, a fraction being read off the fitted curve."""
    examples: Interval
    """Data to converge."""
    flops: Interval
    seconds: Interval

    @property
    def verdict(self) -> Verdict:
        """A claim only where the whole interval agrees."""
        if math.isfinite(self.window.high):
            return "converged"
        return "not converged" if self.window.low >= self.num_windows - 1 else "undecided"


def convergence(paired: Paired, epsilon: float, *, provisional: bool = False) -> Convergence:
    """Find when a variant converged in its run.

    Raises:
        ValueError: there are too few windows.
    """
    return _converged(paired, epsilon, _crossing(paired, epsilon), provisional)


def verdicts(paired: Paired, epsilon: float) -> tuple[Convergence, ...]:
    """What would have been said after each window of a run, from the first that allows it; all but the last provisional.

    Each is a 95 % statement by itself. Whoever stops at the first "converged" looks many times, and errs more often.
    """
    lengths = range(MIN_WINDOWS, paired.num_windows + 1)
    return tuple(
        convergence(paired.windows(slice(0, num)), epsilon, provisional=num < paired.num_windows) for num in lengths
    )


def saved(ours: Paired, theirs: Paired, epsilon: float, spent: Spent = "examples") -> Interval:
    """The share of what `theirs` spent to converge that `ours` did without: 1 - ours / theirs.

    The interval of the ratio's logarithm is recovered from those of its two parts (MOVER: Zou & Donner 2008; Donner & Zou
    2012), with the correlation that the same windows and rows give them. Where one is censored, the value is not a number
    and a bound stands where the data give one: theirs never converged: `low`; ours never did: `high`.

    Raises:
        ValueError: the two do not have the same number of windows, or too few.
    """
    if ours.num_windows != theirs.num_windows:
        raise ValueError(
            f"both variants must have the same windows, got {ours.num_windows} and {theirs.num_windows}: "
            "take those that both have"
        )
    crossings = _crossing(ours, epsilon), _crossing(theirs, epsilon)
    a, b = (_converged(paired, epsilon, found, False) for paired, found in zip((ours, theirs), crossings, strict=True))
    ratio = ratio_of(getattr(a, spent), getattr(b, spent), _correlation(*crossings))
    return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


def ratio_of(ours: Interval, theirs: Interval, correlation: float) -> Interval:
    """The ratio of two positive numbers with intervals, whose estimates are so correlated; censored ones are infinite."""
    value = ours.value / theirs.value if theirs.value > 0 and math.isfinite(ours.value + theirs.value) else math.nan
    return Interval(
        value,
        1 / _greatest(theirs, ours, correlation) if _greatest(theirs, ours, correlation) > 0 else math.inf,
        _greatest(ours, theirs, correlation),
    )


def _greatest(above: Interval, below: Interval, correlation: float) -> float:
    """The upper limit of a ratio."""
    if math.isinf(above.high) or below.low <= 0:
        return math.inf
    if above.high <= 0:
        return 0.0
    if not math.isfinite(above.value + below.value) or above.value <= 0:
        return above.high / below.low
    up, down = math.log(above.high / above.value), math.log(below.value / below.low)
    reach = math.sqrt(max(0.0, up**2 + down**2 - 2 * correlation * up * down))
    return above.value / below.value * math.exp(reach)


def _crossing(paired: Paired, epsilon: float) -> Crossing:
    return crossing(paired.series(), epsilon)


def _converged(paired: Paired, epsilon: float, found: Crossing, provisional: bool) -> Convergence:
    def until(spent: NDArray[np.float64]) -> Interval:
        mean = spent.mean(axis=0)

        def at(window: float) -> float:
            return math.inf if math.isinf(window) else float(np.interp(window, np.arange(len(mean)), mean))

        return Interval(at(found.window.value), at(found.window.low), at(found.window.high))

    return Convergence(
        epsilon=epsilon,
        num_windows=paired.num_windows,
        provisional=provisional,
        window=found.window,
        examples=until(paired.examples),
        flops=until(paired.flops),
        seconds=until(paired.seconds),
    )


def _correlation(ours: Crossing, theirs: Crossing) -> float:
    """Of two estimates, by the delta method: that of the residuals times how alike both weigh the windows."""

    def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / size if size > 0 else 0.0

    found = alike(ours.residual, theirs.residual) * alike(ours.leverage, theirs.leverage)
    return float(np.clip(found, -MAX_CORRELATION, MAX_CORRELATION))
