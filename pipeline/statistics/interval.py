"""An estimate with its 95 % interval, as every comparison and every fit states it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; an end may be infinite where the data set no bound, or nan where none is known."""

    value: float
    low: float
    high: float
