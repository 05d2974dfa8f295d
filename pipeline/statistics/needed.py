"""History needed: the least data a variant must have seen, starting at different points of history, to be converged by then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.statistics.convergence import ratio_of
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Paired, Series

MIN_WINDOWS = 5
LENGTHS = 8
"""Lengths of history tried between two students."""
SIGNIFICANT = 0.05
MAX_CORRELATION = 0.95


@dataclass(frozen=True, slots=True)
class Student:
    """One student, and how it did on the judged windows."""

    history: float
    """Examples trained on before the first judged window."""
    judged: Paired
    """Against the reference, on the judged windows alone."""


@dataclass(frozen=True, slots=True)
class HistoryNeeded:
    """The least history from which on every longer one is within epsilon of the reference on the judged windows.

    Where already the shortest student's is, `low` is 0 and the value the shortest's history, an upper bound
    (`left_censored`); where none's is, the value is infinite and `low` says what it takes at least.
    """

    epsilon: float
    examples: Interval
    left_censored: bool

    @property
    def right_censored(self) -> bool:
        """Whether not even the longest history sufficed."""
        return math.isinf(self.examples.value)


def history_needed(students: Sequence[Student], epsilon: float) -> HistoryNeeded:
    """Read the history needed off students that started at different points.

    Between two students the relative loss is taken as linear in the logarithm of history: losses fall with powers of data,
    and a chord of a convex curve lies above it, so that more rather than less history is asked for. At each length the
    mean over the judged windows has the interval of `Series.mean`: windows autocorrelated, seeds and groups paired across
    students. The interval holds each length at which "just within epsilon" is not rejected.

    Raises:
        ValueError: there are fewer than two students or five judged windows, or students were judged on different ones.
    """
    ordered = _checked(students)
    lengths, gaps = _along(ordered, epsilon)
    known = [gap.mean() for gap in gaps]
    value = _last_above(lengths, [m.value for m in known])
    low = _last_above(lengths, [m.quantile(SIGNIFICANT / 2) for m in known])
    high = _last_above(lengths, [m.quantile(1 - SIGNIFICANT / 2) for m in known])
    shortest, left = lengths[0], value == 0
    return HistoryNeeded(epsilon, Interval(shortest if left else value, min(low, lengths[-1]), high or shortest), left)


def history_saved(ours: Sequence[Student], theirs: Sequence[Student], epsilon: float) -> Interval:
    """The share of the history that `theirs` needs that `ours` does without: 1 - ours / theirs, as in `convergence.saved`.

    Where one is censored, the value is not a number and the bounds are those that the data give.

    Raises:
        ValueError: as in `history_needed`.
    """
    a, b = history_needed(ours, epsilon), history_needed(theirs, epsilon)
    ratio = ratio_of(a.examples, b.examples, _correlation(ours, theirs, a, b, epsilon))
    exact = not (a.left_censored or b.left_censored)
    return Interval(1 - ratio.value if exact else math.nan, 1 - ratio.high, 1 - ratio.low)


def _checked(students: Sequence[Student]) -> list[Student]:
    ordered = sorted(students, key=lambda s: s.history)
    if len(ordered) < 2 or ordered[0].history <= 0 or len({s.history for s in ordered}) < len(ordered):
        raise ValueError(
            f"students need at least two different histories above 0, got {[s.history for s in ordered]}: "
            "start another at another window"
        )
    num_windows = {s.judged.num_windows for s in ordered}
    if len(num_windows) > 1 or min(num_windows) < MIN_WINDOWS:
        raise ValueError(
            f"students must be judged on the same windows, at least {MIN_WINDOWS}, got {sorted(num_windows)}: "
            "train all of them to the same end"
        )
    return ordered


def _along(ordered: Sequence[Student], epsilon: float) -> tuple[list[float], list[Series]]:
    """Lengths of history, and the relative loss less epsilon at each."""
    series = [s.judged.series() for s in ordered]
    lengths: list[float] = []
    gaps: list[Series] = []
    for left in range(len(ordered) - 1):
        last = left == len(ordered) - 2
        for share in np.linspace(0, 1, LENGTHS + last, endpoint=last):
            lengths.append(ordered[left].history ** float(1 - share) * ordered[left + 1].history ** float(share))
            gap = series[left] * float(1 - share) + series[left + 1] * float(share)
            gaps.append(Series(gap.values - epsilon, gap.parts))
    return lengths, gaps


def _last_above(lengths: Sequence[float], gaps: Sequence[float]) -> float:
    """Where a curve is above zero for the last time: 0 if never, infinite if at the end."""
    above = np.flatnonzero(np.array(gaps) > 0)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(lengths) - 1:
        return math.inf
    share = gaps[last] / (gaps[last] - gaps[last + 1])
    return float(np.exp((1 - share) * math.log(lengths[last]) + share * math.log(lengths[last + 1])))


def _correlation(
    ours: Sequence[Student], theirs: Sequence[Student], a: HistoryNeeded, b: HistoryNeeded, epsilon: float
) -> float:
    """Of both needs: that of the relative losses by window where each is read off."""
    at = []
    for students, found in ((ours, a), (theirs, b)):
        lengths, gaps = _along(_checked(students), epsilon)
        nearest = int(np.argmin(np.abs(np.array(lengths) - min(found.examples.value, lengths[-1]))))
        at.append(gaps[nearest].values - gaps[nearest].values.mean())
    if len(at[0]) != len(at[1]):
        return 0.0
    size = float(np.linalg.norm(at[0]) * np.linalg.norm(at[1]))
    return float(np.clip(at[0] @ at[1] / size, 0, MAX_CORRELATION)) if size > 0 else 0.0
