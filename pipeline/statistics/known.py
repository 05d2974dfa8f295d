"""What is known of a number: a mixture of t distributions, with its interval, its tests and its quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

from pipeline.statistics.interval import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Known:
    """K t distributions, each with its weight."""

    weight: Array
    """(K,) adding up to one, as the next two."""
    centre: Array
    spread: Array
    degrees: Array | float
    """Of freedom, of each or of all."""

    @classmethod
    def one(cls, centre: float, spread: float, degrees: float) -> Self:
        """A single t distribution."""
        return cls(np.ones(1), np.array([centre]), np.array([spread]), degrees)

    @property
    def value(self) -> float:
        """The mean."""
        return float(self.weight @ self.centre)

    @property
    def standard_error(self) -> float:
        """Over the mixture."""
        return float(np.sqrt(self.weight @ (self.spread**2 + (self.centre - self.value) ** 2)))

    def below(self, point: float) -> float:
        """The probability of less than that."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.weight @ student.cdf((point - self.centre) / self.spread, self.degrees))

    def p_value(self, point: float = 0.0) -> float:
        """Of the hypothesis that the number is that, two-sided."""
        below = self.below(point)
        return 2 * min(below, 1 - below)

    def quantile(self, probability: float) -> float:
        """Below it lies so much; not a number where nothing is known of the spread."""
        if len(self.weight) == 1:
            return float(self.centre[0] + student.ppf(probability, np.ravel(self.degrees)[0]) * self.spread[0])
        reach = student.ppf(max(probability, 1 - probability, 0.75), self.degrees) * self.spread
        low, high = float((self.centre - reach).min()), float((self.centre + reach).max())
        if not high > low:
            return low
        margin = 1e-9 * (high - low)
        return float(brentq(lambda x: self.below(x) - probability, low - margin, high + margin))

    def interval(self) -> Interval:
        """The mean with its 95 % interval."""
        return Interval(self.value, self.quantile(0.025), self.quantile(0.975))
