"""What to make of effects: how much of a teacher reaches its student, and which rate of sampling can be afforded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Paired
from pipeline.statistics.trend import fieller


def transfer_ratio(student: Paired, teacher: Paired) -> Interval:
    """eta = (P_distilled - P_plain) / (P_teacher - P_plain): 1 where the student is as good as its teacher.

    Both are given against the plain student on the same rows. The interval holds each ratio that the data don't reject
    (Fieller 1954), and is unbounded where the teacher may be no better than the plain student.

    Source: Rec-Distill (2026).
    """
    above, below = student.series(), teacher.series()
    return fieller(above.mean().value, below.mean().value, lambda ratio: (above + below * -ratio).mean())


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The lowest rate that can be afforded, and why no lower one."""

    rate: float | None
    """None where the highest rate tried already costs too much, as far as is known."""
    affordable: float
    """Percent of the reference's loss."""
    penalties: Mapping[float, Interval]
    """Of the rates tested, by rate; the last one failed unless all passed."""


def recommend(penalties: Mapping[float, Interval], affordable: float) -> Recommendation:
    """The lowest rate whose penalty's upper bound is at most what can be afforded, testing downwards until one fails.

    The order is fixed before the data are seen and testing stops at the first failure, so that the chance of recommending
    any rate that costs too much is at most that of one test, 2.5 %, without a correction for their number (fixed-sequence
    procedure: Maurer, Hothorn & Lehmacher 1995; Dmitrienko, Tamhane & Bretz 2010).

    Raises:
        ValueError: a rate is outside (0, 1], or there is none.
    """
    if not penalties or not all(0 < rate <= 1 for rate in penalties):
        raise ValueError(f"rates must be in (0, 1], got {sorted(penalties)}: give the penalty of at least one")
    tested: dict[float, Interval] = {}
    lowest = None
    for rate in sorted(penalties, reverse=True):
        tested[rate] = penalties[rate]
        if not penalties[rate].high <= affordable:
            break
        lowest = rate
    return Recommendation(lowest, affordable, tested)
