"""Series: what each seed lost more than its reference, window by window, and how sure anything linear in it is.

Seeds that are worlds of their own are independent draws: whatever is linear is computed once per seed, and the seeds' spread
says how sure the mean is, whatever happens between windows. From a single log, or from few worlds, an interval
can only speak of the windows that were seen: their noise is autocorrelated, and its size comes from a likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from pipeline.statistics.interval import Interval
from pipeline.statistics.known import Known
from pipeline.statistics.one_log import known_of_windows

Array = NDArray[np.float64]

MIN_WORLDS = 8
"""With fewer independent seeds an interval speaks of these worlds alone."""
MIN_WINDOWS = 5
"""With fewer, the windows of one log do not show how they differ."""


@dataclass(frozen=True, slots=True)
class Series:
    """A number per seed and window: S seeds, W windows. Sums and multiples keep the pairing of seeds, windows and clusters."""

    values: Array
    """(S, W), mostly percent of the reference's loss; below zero is better."""
    clusters: Array
    """(G, W) how much each group of clusters adds to the seeds' mean; they add up to zero. No group where none is known."""
    independent: bool
    """Whether each seed is a world of its own."""

    @classmethod
    def relative(
        cls, loss: Array, base: Array, *, independent: bool, groups: tuple[Array, Array] | None = None
    ) -> Series:
        """Losses (S, W) relative to a reference's on the same rows, in percent.

        Args:
            loss: summed over the rows of a window.
            base: the reference's.
            independent: whether each seed is a world of its own.
            groups: both again (G, W), by group of clusters and summed over seeds, where seeds share one log.

        Raises:
            ValueError: the shapes differ, something is not finite, or the reference lost nothing on a window.
        """
        if loss.ndim != 2 or loss.shape != base.shape or 0 in loss.shape:
            raise ValueError(
                f"losses must be (seeds, windows) alike, got {loss.shape} and {base.shape}: take what both have"
            )
        if not (np.isfinite(loss).all() and np.isfinite(base).all()):
            raise ValueError("losses must be finite, got others: train again what diverged")
        if not (base > 0).all():
            raise ValueError("the reference lost nothing on a window: leave windows without rows out")
        parts = np.zeros((0, loss.shape[1]))
        if groups is not None:
            ours, theirs = groups
            whole = theirs.sum(axis=0)
            parts = 100 * (ours - ours.sum(axis=0) / whole * theirs) / whole
        return cls(100 * (loss / base - 1), parts, independent)

    def __add__(self, other: Series) -> Series:
        if self.values.shape != other.values.shape or self.clusters.shape != other.clusters.shape:
            raise ValueError(
                f"series of {self.values.shape} and {other.values.shape} seeds and windows can't be paired: take the seeds and "
                "windows that both have"
            )
        return replace(self, values=self.values + other.values, clusters=self.clusters + other.clusters)

    def __mul__(self, factor: float) -> Series:
        return replace(self, values=factor * self.values, clusters=factor * self.clusters)

    def __sub__(self, other: Series) -> Series:
        return self + other * -1.0

    @property
    def num_windows(self) -> int:
        """How many windows."""
        return int(self.values.shape[1])

    @property
    def of_worlds(self) -> bool:
        """Whether intervals hold for worlds like these, and not for the windows that were seen alone."""
        return self.independent and len(self.values) >= MIN_WORLDS

    def windows(self, chosen: slice) -> Series:
        """Some of the windows."""
        return replace(self, values=self.values[:, chosen], clusters=self.clusters[:, chosen])

    def seeds(self, chosen: slice) -> Series:
        """Some of the seeds, of worlds."""
        return replace(self, values=self.values[chosen])

    def fit(self, design: Array) -> Callable[[Array], Known]:
        """Least squares over the windows on a design (W, p): what is known of any direction (p,) in its coefficients.

        Raises:
            ValueError: there are not more windows than coefficients.
        """
        num, width = design.shape
        if num <= width and not self.of_worlds:
            raise ValueError(f"{width} coefficients need more than {width} windows, got {num}: wait for more windows")
        solved = np.linalg.pinv(design)
        if self.of_worlds:
            by_seed = self.values @ solved.T
            return lambda direction: over_seeds(by_seed @ direction)
        one = known_of_windows(self.values.mean(axis=0), design, self.cluster_error())
        num_seeds = len(self.values)
        between = np.cov((self.values @ solved.T).T).reshape(width, width) / num_seeds if num_seeds > 1 else None

        def known(direction: Array) -> Known:
            whole, passing = self._of_rows(direction @ solved)
            more = max(0.0, whole - passing)  # clusters that come again shift all windows at once
            if between is not None and not self.independent:  # seeds of one log differ by their initial weights as well
                more += float(direction @ between @ direction)
            return one(direction, more, whole)

        return known

    def _of_rows(self, weights: Array) -> tuple[float, float]:
        """Variance of a weighted sum over the windows (W,) if clusters were drawn again, and if each window had its own."""
        num = len(self.clusters)
        whole = np.square(self.clusters @ weights).sum() * num / max(num - 1, 1)
        return float(whole), float(np.square(weights * self.cluster_error()).sum())

    def curve(self, design: Array, rows: Array) -> tuple[Array, Array, Array]:
        """(N,) values, lower and upper ends of the fitted numbers along N rows (N, p) of a design.

        Raises:
            ValueError: there are not more windows than coefficients.
        """
        known = self.fit(design)
        if not self.of_worlds:
            found = [known(row).interval() for row in rows]
            values, lows, highs = (np.array([getattr(each, end) for each in found]) for end in ("value", "low", "high"))
            return values, lows, highs
        fitted = self.values @ (rows @ np.linalg.pinv(design)).T
        return Series(fitted, np.zeros((0, len(rows))), independent=True).over_seeds()

    def over_seeds(self) -> tuple[Array, Array, Array]:
        """(W,) means with lower and upper ends over worlds; without ends where there are too few."""
        num, middle = len(self.values), self.values.mean(axis=0)
        if not self.of_worlds:
            return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
        reach = student.ppf(0.975, num - 1) * self.values.std(axis=0, ddof=1) / np.sqrt(num)
        return middle, middle - reach, middle + reach

    def mean(self) -> Known:
        """What is known of the mean over all windows.

        Of a single log, fewer than 5 windows do not show how they differ: the interval is of the rows that were seen there,
        over clusters, and without ends where no clusters are known.
        """
        if self.of_worlds:
            return over_seeds(self.values.mean(axis=1))
        if self.num_windows >= MIN_WINDOWS:
            line = np.column_stack([np.ones(self.num_windows), np.linspace(-0.5, 0.5, self.num_windows)])
            return self.fit(line)(np.array([1.0, 0.0]))  # beside a trend, which is no noise
        return self.on_rows()

    def on_rows(self) -> Known:
        """What is known of the mean over exactly these windows, as if other clusters had come on the same days.

        It says what happened, and nothing of other days. Without ends where no clusters are known.
        """
        if self.of_worlds:
            return self.mean()
        error = self._of_clusters(self.clusters.mean(axis=1))
        return Known.one(float(self.values.mean()), error, len(self.clusters) - 1)

    def _of_clusters(self, parts: Array) -> float:
        """Standard error of a number that groups of clusters add up to (G,); not a number where there are none."""
        num = len(parts)
        return float(np.sqrt(np.square(parts).sum() * num / (num - 1))) if num > 1 else float("nan")

    def by_window(self) -> tuple[Interval, ...]:
        """Each window's number with a 95 % band over worlds, or over the clusters of one log; without ends where neither is known."""
        if self.of_worlds:
            return tuple(Interval(*map(float, ends)) for ends in zip(*self.over_seeds(), strict=True))
        middle, degrees = self.values.mean(axis=0), len(self.clusters) - 1
        return tuple(
            Known.one(float(value), self._of_clusters(parts), degrees).interval()
            for value, parts in zip(middle, self.clusters.T, strict=True)
        )

    def cluster_error(self) -> Array:
        """(W,) standard error of each window's mean if clusters were drawn again; 0 where no clusters are known."""
        num = len(self.clusters)
        error: Array = np.sqrt(np.square(self.clusters).sum(axis=0) * num / max(num - 1, 1))
        return error


def over_seeds(values: Array) -> Known:
    """The mean of independent numbers (S,): a t-interval.

    >>> over_seeds(np.array([1.0, 2.0, 3.0])).interval()  # doctest: +ELLIPSIS
    Interval(value=2.0, low=-0.48..., high=4.48...)
    """
    num = len(values)
    error = float(values.std(ddof=1)) / num**0.5 if num > 1 else float("nan")
    return Known.one(float(values.mean()), error, max(num - 1, 1))
