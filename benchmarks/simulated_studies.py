"""Simulated studies whose truth is known: curves of relative loss in worlds that differ, under the noise that daily windows have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.data_curve import Students
from pipeline.statistics.series import Series

Array = NDArray[np.float64]

LEVEL, SLOPE, WINDOW = 0.25, 0.015, 0.15
"""Percent of loss: how far worlds differ for good, a window, and from one window to the next."""
NUM_GROUPS = 64


@dataclass(frozen=True, slots=True)
class Truth:
    """A curve of relative loss in percent by windows trained on, and the limit that it comes to stay below."""

    name: str
    curve: Callable[[Any], Any]
    epsilon: float

    def crossing(self, num_windows: int) -> float:
        """When it does, in windows trained on; infinite if not before the last."""
        at = np.linspace(1, num_windows, 1000 * num_windows)
        above = np.flatnonzero(self.curve(at) > self.epsilon)
        return float("inf") if above[-1] == len(at) - 1 else float(at[above[-1]])


TRUTHS = (
    Truth("exponential, slow", lambda t: 4 * np.exp(-t / 5), 0.25),
    Truth("exponential, fast, ends below", lambda t: -0.4 + 3 * np.exp(-t / 4), 0.1),
    Truth("power law 1/t", lambda t: 6 / (1 + t), 0.4),
    Truth("power law with a root, ends below", lambda t: -1 + 3 * (1 + t / 2) ** -0.5, 0.2),
    Truth("two exponentials", lambda t: 3 * np.exp(-t / 2) + 1.2 * np.exp(-t / 12), 0.3),
    Truth("a cliff in the first window, then slow", lambda t: 40 * np.exp(-3 * t) + np.exp(-t / 8), 0.2),
    Truth("never: levels off 0.25 above", lambda t: 0.5 + 3 * np.exp(-t / 5), 0.25),
)


def correlated(random: np.random.Generator, shape: tuple[int, ...], rho: float) -> Array:
    """AR(1) noise of variance 1 along the last axis."""
    fresh = random.normal(size=shape)
    noise = fresh.copy()
    for t in range(1, shape[-1]):
        noise[..., t] = rho * noise[..., t - 1] + np.sqrt(1 - rho**2) * fresh[..., t]
    return noise


def worlds(random: np.random.Generator, curve: Array, num_seeds: int, rho: float) -> Series:
    """A variant in so many worlds, each with a level, a slope and windows of its own around the true curve (W,)."""
    num_windows = len(curve)
    away = np.linspace(-0.5, 0.5, num_windows) * (num_windows - 1)
    values = curve + LEVEL * random.normal(size=(num_seeds, 1)) + SLOPE * random.normal(size=(num_seeds, 1)) * away
    values += WINDOW * correlated(random, (num_seeds, num_windows), rho)
    return Series(values, np.zeros((0, num_windows)), independent=True)


def one_log(random: np.random.Generator, curve: Array, rho: float) -> Series:
    """A variant on a single log: windows that are alike, of unequal loudness, and the luck of clusters that come again."""
    num_windows = len(curve)
    loud = np.exp(random.normal(0, 0.25, num_windows))
    base = random.gamma(20, 1, (NUM_GROUPS, num_windows))
    percent = curve + loud * (WINDOW * correlated(random, (num_windows,), rho) + random.normal(0, 0.5, base.shape))
    loss = base * (1 + percent / 100)
    whole = (loss.sum(axis=0)[None], base.sum(axis=0)[None])
    return Series.relative(*whole, independent=False, groups=(loss, base))


def luck_of_starts(random: np.random.Generator, num_seeds: int, num_starts: int) -> Array:
    """(S, N) percent of loss by which students are off that started then, whatever their schedule, as measured in the rich world."""
    return 0.5 * random.normal(size=(num_seeds, num_starts))


def students(random: np.random.Generator, data: Array, loss: Array, luck: Array) -> Students:
    """Students of one schedule that saw different amounts (N,), around their true losses (N,), off by the luck of the last N starts."""
    num_seeds = len(luck)
    noise = LEVEL / 2 * random.normal(size=(num_seeds, 1)) + 0.1 * random.normal(size=(num_seeds, len(data)))
    return Students(data, loss + luck[:, -len(data) :] + noise)


BUDGETS = (1.0, 3.0, 10.0)
BESIDE = np.geomspace(0.25, 4.0, 6)
"""Sizes of a budget, relative to its best."""


@dataclass(frozen=True, slots=True)
class LawTruth:
    """loss = floor + of_model model^-alpha + of_data data^-beta, in percent."""

    alpha: float = 0.6
    beta: float = 0.3
    floor: float = -2.0
    of_model: float = 3.0
    of_data: float = 5.0

    def at(self, model: Any, data: Any) -> Any:
        """The loss at sizes and rows."""
        return self.floor + self.of_model * model**-self.alpha + self.of_data * data**-self.beta

    def best(self, budget: float) -> float:
        """The best size where model * data = budget, in closed form: both terms fall alike there."""
        ratio = self.alpha * self.of_model / (self.beta * self.of_data)
        return float((ratio * budget**self.beta) ** (1 / (self.alpha + self.beta)))

    def grid(self, asymmetry: float = 1.0) -> dict[str, Array]:
        """(18,) sizes and rows: six sizes around each budget's best one, or all larger by some factor."""
        models = [BESIDE * self.best(budget) * asymmetry for budget in BUDGETS]
        data = [budget / each for budget, each in zip(BUDGETS, models, strict=True)]
        return {"model": np.concatenate(models), "data": np.concatenate(data)}

    def losses(self, random: np.random.Generator, points: dict[str, Array], num_seeds: int, noise: float) -> Array:
        """(S, K) each world has a level and a steepness of its own, and noise at each point."""
        true = self.at(points["model"], points["data"])
        steep = 1 + 0.05 * random.normal(size=(num_seeds, 1))
        level = LEVEL * random.normal(size=(num_seeds, 1))
        return np.asarray(true * steep + level + noise * random.normal(size=(num_seeds, len(true))))
