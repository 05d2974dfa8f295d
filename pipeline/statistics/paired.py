"""Paired losses of a variant and its reference by seed, window and group of clusters, and how sure their relative loss is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from pipeline.statistics.autocorrelation import Mixture, Noises, regress
from pipeline.statistics.interval import Interval

Array = NDArray[np.float64]

FAR_APART = 5
"""Windows further apart than this (or than a third of the run) share no passing luck, only what persists."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What S seeds of a variant and of its reference lost on the same rows of W windows, in G groups of clusters."""

    loss: Array
    """(S, W, G) the variant's log-losses in nats, summed over a group's rows; a cluster is always in the same group."""
    base: Array
    """(S, W, G) the reference's."""
    examples: Array
    """(S, W) rows that the variant had trained on when it was evaluated on a window, which is before training on it."""
    flops: Array
    """(S, W) likewise."""
    seconds: Array
    """(S, W) likewise."""

    def __post_init__(self) -> None:
        if self.loss.ndim != 3 or 0 in self.loss.shape or self.base.shape != self.loss.shape:
            raise ValueError(
                f"loss and base must be (seeds, windows, groups) alike, got {self.loss.shape} and {self.base.shape}: "
                "load both on the same windows"
            )
        for name in ("loss", "base", "examples", "flops", "seconds"):
            self._check(name, getattr(self, name))
        empty = np.flatnonzero(self.base.sum(axis=(0, 2)) <= 0)
        if len(empty):
            raise ValueError(f"the reference lost nothing on window {empty[0]}: leave windows without rows out")

    def _check(self, name: str, values: Array) -> None:
        if not np.all(np.isfinite(values)) or values.min() < 0:
            raise ValueError(
                f"{name} must be finite and not negative, got {values.min()} to {values.max()}: train again what diverged"
            )
        if values.ndim == 3:
            return
        if values.shape != self.loss.shape[:2]:
            raise ValueError(f"{name} must be (seeds, windows) = {self.loss.shape[:2]}, got {values.shape}")
        if np.any(np.diff(values, axis=1) < 0):
            raise ValueError(f"{name} must not fall from window to window: give what was spent *until* each window")

    @property
    def num_windows(self) -> int:
        """How many windows."""
        return int(self.loss.shape[1])

    def windows(self, chosen: slice) -> Paired:
        """Some of the windows."""
        return Paired(
            loss=self.loss[:, chosen],
            base=self.base[:, chosen],
            examples=self.examples[:, chosen],
            flops=self.flops[:, chosen],
            seconds=self.seconds[:, chosen],
        )

    def series(self) -> Series:
        """The relative loss by window, in percent; below zero is better than the reference."""
        base = self.base.sum(axis=(0, 2))
        ratio = self.loss.sum(axis=(0, 2)) / base
        parts = 100 * (self.loss - ratio[:, None] * self.base) / base[:, None]
        return Series(100 * (ratio - 1), parts)


@dataclass(frozen=True, slots=True)
class Series:
    """A number by window and what each seed and group contributed to it, so that its error is known.

    Sums and multiples of series are series: whatever is linear in the numbers keeps the pairing of seeds and groups.
    """

    values: Array
    """(W,)"""
    parts: Array
    """(S, W, G) each cell's influence on its window's number (the delta method for a ratio of sums); they add up to zero."""

    def __add__(self, other: Series) -> Series:
        if self.parts.shape != other.parts.shape:
            raise ValueError(
                f"series of {self.parts.shape} and {other.parts.shape} seeds, windows and groups can't be paired: "
                "take the seeds and windows that both have"
            )
        return Series(self.values + other.values, self.parts + other.parts)

    def __mul__(self, factor: float) -> Series:
        return Series(factor * self.values, factor * self.parts)

    @property
    def by_seed(self) -> Array:
        """(S, W)"""
        return _unbiased(self.parts.sum(axis=2))

    @property
    def by_group(self) -> Array:
        """(G, W)"""
        return _unbiased(self.parts.sum(axis=0).T)

    def sampling_error(self) -> Array:
        """(W,) standard error of each window's number if seeds and clusters were drawn again; 0 where neither says.

        Seeds and groups are crossed: their variances are added, and what both count, their interaction, is taken off once
        (Cameron, Gelbach & Miller 2011), though never below the larger.
        """
        seeds, groups = (np.square(parts).sum(axis=0) for parts in (self.by_seed, self.by_group))
        both = self._interaction()
        variance: Array = np.maximum(np.maximum(seeds, groups), seeds + groups - both)
        return np.sqrt(variance)

    def _interaction(self) -> Array:
        """(W,) variance of what neither a seed nor a group explains by itself."""
        num_seeds, _, num_groups = self.parts.shape
        if min(num_seeds, num_groups) == 1:
            return np.zeros(len(self.values))
        rest = self.parts - self.parts.mean(axis=2, keepdims=True) - self.parts.mean(axis=0, keepdims=True)
        variance: Array = np.square(rest).sum(axis=(0, 2)) * num_seeds / (num_seeds - 1) * num_groups / (num_groups - 1)
        return variance

    def persistent(self) -> tuple[float, float]:
        """Variance of a constant shift of all numbers that seeds, and that recurring clusters, may have brought along.

        The mean product of one seed's (one group's) contributions to windows far apart, which passing luck leaves at zero.
        """
        return _persistence(self.by_seed), _persistence(self.by_group)

    def by_window(self) -> tuple[Interval, ...]:
        """Each window's number with a 95 % band over seeds and clusters, not a number where there is one of each.

        A t-interval with Satterthwaite's degrees of freedom: percentiles of a bootstrap over 3 seeds are far too narrow.
        """
        seeds, groups = (np.square(parts).sum(axis=0) for parts in (self.by_seed, self.by_group))
        error = self.sampling_error()
        num_seeds, _, num_groups = self.parts.shape
        if max(num_seeds, num_groups) == 1:
            return tuple(Interval(float(v), np.nan, np.nan) for v in self.values)
        loss_of_sureness = seeds**2 / max(num_seeds - 1, 1) + groups**2 / max(num_groups - 1, 1)
        degrees = (seeds + groups) ** 2 / np.where(loss_of_sureness > 0, loss_of_sureness, 1)
        reach = np.where(error > 0, student.ppf(0.975, np.maximum(degrees, 1)) * error, 0)
        return tuple(Interval(float(v), float(v - r), float(v + r)) for v, r in zip(self.values, reach, strict=True))

    def mean(self) -> Mixture:
        """What is known of the plain mean over all windows: neighbours are alike, seeds and clusters leave their mark."""
        if len(self.values) < 2:
            raise ValueError("the mean over windows needs at least 2 of them, got 1: wait for more windows")
        known = regress(
            self.values, np.ones((len(self.values), 1)), Noises.plausible(self.sampling_error()), plain=True
        )
        return with_shift(known.coefficients[:, 0], known.covariance[:, 0, 0], known.weight, known.degrees, self)


def with_shift(centre: Array, variance: Array, weight: Array, degrees: int, series: Series) -> Mixture:
    """A mixture whose variance counts what shifts a whole series, with Satterthwaite's degrees of freedom."""
    num_seeds, _, num_groups = series.parts.shape
    shifts = [
        (v, max(num - 1, 1)) for v, num in zip(series.persistent(), (num_seeds, num_groups), strict=True) if v > 0
    ]
    total = variance + sum(v for v, _ in shifts)
    unsure = variance**2 / degrees + sum(v**2 / d for v, d in shifts)
    sure = total**2 / np.where(unsure > 0, unsure, 1)
    return Mixture(weight, centre, np.sqrt(total), np.where(unsure > 0, sure, degrees))


def _unbiased(parts: Array) -> Array:
    """Contributions (N, W) scaled so that the sum of their squares estimates a variance; none from one alone."""
    num = len(parts)
    scaled: Array = parts * np.sqrt(num / (num - 1)) if num > 1 else np.zeros_like(parts)
    return scaled


def _persistence(parts: Array) -> float:
    num_windows: Any = parts.shape[1]
    window = np.arange(num_windows)
    far = np.abs(window[:, None] - window) > min(FAR_APART, num_windows // 3)
    return max(0.0, float((parts.T @ parts)[far].mean())) if far.any() else 0.0
