"""Regression over windows whose errors are autocorrelated and of unequal size: every plausible noise counts by its likelihood.

Neighbouring days share their luck, early ones are louder, and twenty days do not show which. Plugging in one estimate of the
noise gives intervals that are too narrow. Here the restricted likelihood (Patterson & Thompson 1971; Harville 1974) weighs a
grid of noises, AR(1) times a scale per window, and what is concluded is a mixture over them, as in Bayesian regression with
a flat prior on the coefficients, 1 / sigma on the scale and flat ones on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

from pipeline.statistics.interval import Interval

Array = NDArray[np.float64]

CORRELATIONS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
TYPICAL_CORRELATION = 0.3
POWERS = (0.0, 0.5, 1.0)
"""How far a window's error follows the sampling error of its rows: not at all, by its root, in proportion."""
UNREST = (1.0, 3.0)
"""How many times as loud the first window is as the last; it dies down over an eighth of the run."""
MIN_WEIGHT = 0.02
"""A noise less likely than this share of the likeliest is left out."""


@dataclass(frozen=True, slots=True)
class Noises:
    """K candidates for the noise of W windows: an AR(1) correlation and W standard deviations each, up to a common scale."""

    correlation: Array
    """(K,)"""
    power: Array
    """(K,) to which the sampling error enters the scale."""
    unrest: Array
    """(K,)"""
    scale: Array
    """(K, W)"""

    @classmethod
    def plausible(cls, sampling_error: Array, *, unrest: bool = False) -> Noises:
        """The grid, around the sampling errors (W,) of the windows' values; where those are unknown, all are alike."""
        known = bool(np.all(np.isfinite(sampling_error) & (sampling_error > 0)))
        shape = np.log(sampling_error) if known else np.zeros(len(sampling_error))
        decline = np.exp(-np.arange(len(shape)) / max(1.0, len(shape) / 8))
        grid = list(product(CORRELATIONS, POWERS if np.ptp(shape) > 0 else (0.0,), UNREST if unrest else (1.0,)))
        scale = np.exp([power * (shape - shape.mean()) + np.log(loud) * decline for _, power, loud in grid])
        correlation, powers, unrests = np.array(grid).T
        return cls(correlation, powers, unrests, scale)

    def whiten(self, columns: Array) -> Array:
        """(K, W, p) what columns (W, p) become under each noise's inverse root."""
        scaled = columns[None] / self.scale[:, :, None]
        rho = self.correlation[:, None, None]
        later = (scaled[:, 1:] - rho * scaled[:, :-1]) / np.sqrt(1 - rho**2)
        return np.concatenate([scaled[:, :1], later], axis=1)

    def covariance(self) -> Array:
        """(K, W, W)"""
        window = np.arange(self.scale.shape[1])
        apart = np.abs(window[:, None] - window)
        correlated: Array = self.correlation[:, None, None] ** apart * self.scale[:, :, None] * self.scale[:, None, :]
        return correlated

    def log_determinant(self) -> Array:
        """(K,) of each covariance."""
        num = self.scale.shape[1]
        known: Array = 2 * np.log(self.scale).sum(axis=1) + (num - 1) * np.log(1 - self.correlation**2)
        return known

    def typical(self) -> Noises:
        """The one candidate to begin with: somewhat correlated, somewhat uneven."""
        middle = [np.median(np.unique(values)) for values in (self.power, self.unrest)]
        far = abs(self.correlation - TYPICAL_CORRELATION) + abs(self.power - middle[0]) + abs(self.unrest - middle[1])
        return self.only(np.arange(len(far)) == np.argmin(far))

    def only(self, chosen: NDArray[np.bool_]) -> Noises:
        """Some of the candidates."""
        return Noises(self.correlation[chosen], self.power[chosen], self.unrest[chosen], self.scale[chosen])


@dataclass(frozen=True, slots=True)
class Weighed:
    """The noises that a regression leaves plausible."""

    noises: Noises
    weight: Array
    """(K,) adding up to one."""
    variance: Array
    """(K,) of the common scale."""
    degrees: int
    """Of freedom: windows less coefficients."""
    coefficients: Array
    """(K, p)"""
    covariance: Array
    """(K, p, p), with the variance in it."""


def regress(values: Array, design: Array, noises: Noises, *, plain: bool = False) -> Weighed:
    """Least squares of values (W,) on a design (W, p) under each noise, weighed by restricted likelihood.

    Args:
        values: what was measured.
        design: what it is regressed on.
        noises: the candidates.
        plain: let every window count alike, and ask the noises only how sure that is. Generalised least squares, the
            default, gives less to loud windows: it is surer where loudness has nothing to do with the effect, and wrong
            where it has, as when what a model loses is lost on its worst days.

    Raises:
        ValueError: there are not more windows than coefficients.
    """
    num, width = design.shape
    if num <= width:
        raise ValueError(
            f"{width} coefficients need more than {width} windows, got {num}: wait for more windows or start earlier"
        )
    white = noises.whiten(np.column_stack([design, values]))
    x, y = white[:, :, :width], white[:, :, width]
    normal = np.einsum("kwi,kwj->kij", x, x)
    coefficients = np.linalg.solve(normal, np.einsum("kwi,kw->ki", x, y)[..., None])[..., 0]
    squares = np.maximum(((y - np.einsum("kwi,ki->kw", x, coefficients)) ** 2).sum(axis=1), 1e-300)
    degrees = num - width
    likelihood = -0.5 * (noises.log_determinant() + np.linalg.slogdet(normal)[1] + degrees * np.log(squares))
    weight = np.exp(likelihood - likelihood.max())
    kept = weight >= MIN_WEIGHT
    variance = squares[kept] / degrees
    likely = noises.only(kept)
    if plain:
        inverse = np.linalg.pinv(design)
        coefficients = np.broadcast_to(inverse @ values, coefficients.shape)
        spread = np.einsum("iw,kwv,jv->kij", inverse, likely.covariance(), inverse)
    else:
        spread = np.linalg.inv(normal[kept])
    return Weighed(
        likely,
        weight[kept] / weight[kept].sum(),
        variance,
        degrees,
        coefficients[kept],
        spread * variance[:, None, None],
    )


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is known of a number: a mixture of t distributions."""

    weight: Array
    centre: Array
    spread: Array
    degrees: Array | float

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
        return float(self.weight @ student.cdf((point - self.centre) / self.spread, self.degrees))

    def p_value(self, point: float) -> float:
        """Of the hypothesis that the number is that, two-sided."""
        below = self.below(point)
        return 2 * min(below, 1 - below)

    def quantile(self, probability: float) -> float:
        """Below it lies so much."""
        reach = student.ppf(max(probability, 1 - probability, 0.75), self.degrees) * self.spread
        low, high = float((self.centre - reach).min()), float((self.centre + reach).max())
        if not high > low:
            return low
        margin = 1e-9 * (high - low)
        return float(brentq(lambda x: self.below(x) - probability, low - margin, high + margin))

    def interval(self) -> Interval:
        """The mean with its 95 % interval."""
        return Interval(self.value, self.quantile(0.025), self.quantile(0.975))
