"""Simulated studies whose truth is known: curves of relative loss under the noise that daily windows have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.paired import Paired

Array = NDArray[np.float64]

NUM_GROUPS = 64
ROWS_A_WINDOW = 1000.0


@dataclass(frozen=True, slots=True)
class Truth:
    """A curve of relative loss in percent by window, and the limit that it shall come to stay below."""

    name: str
    curve: Callable[[Any], Any]
    epsilon: float

    def crossing(self, num_windows: int) -> float:
        """When it does, in windows; infinite if not before the last."""
        at = np.linspace(0, num_windows - 1, 1000 * (num_windows - 1) + 1)
        above = np.flatnonzero(self.curve(at) > self.epsilon)
        if not len(above):
            return 0.0
        return float("inf") if above[-1] == len(at) - 1 else float(at[above[-1]])


TRUTHS = (
    Truth("exponential, slow", lambda t: 4 * np.exp(-t / 5), 0.25),
    Truth("exponential, fast, ends below", lambda t: -0.4 + 3 * np.exp(-t / 4), 0.1),
    Truth("power law 1/(1+t)", lambda t: 6 / (1 + t), 0.4),
    Truth("power law with a root, ends below", lambda t: -1 + 3 * (1 + t / 2) ** -0.5, 0.2),
    Truth("two exponentials", lambda t: 3 * np.exp(-t / 2) + 1.2 * np.exp(-t / 12), 0.3),
    Truth("logistic", lambda t: 3 / (1 + np.exp((t - 10) / 2)), 0.25),
    Truth("sigmoid with a heavy tail", lambda t: 3 / (1 + (t / 6) ** 3), 0.25),
    Truth("falls, then turns up and leaves", lambda t: 3 * np.exp(-t / 3) + 0.06 * np.maximum(t - 14, 0), 0.4),
    Truth("never: levels off 0.05 above", lambda t: 0.25 + 3 * np.exp(-t / 5), 0.2),
    Truth("never: levels off 0.25 above", lambda t: 0.5 + 3 * np.exp(-t / 5), 0.25),
)


def correlated(random: np.random.Generator, shape: tuple[int, ...], rho: float) -> Array:
    """AR(1) noise of variance 1 along the last axis."""
    fresh = random.normal(size=shape)
    noise = fresh.copy()
    for t in range(1, shape[-1]):
        noise[..., t] = rho * noise[..., t - 1] + np.sqrt(1 - rho**2) * fresh[..., t]
    return noise


@dataclass(frozen=True, slots=True)
class Days:
    """What all variants of a study share: its windows' rows and their luck."""

    loud: Array
    """(W,) how noisy a window is: each differs, and the first are 2.5 times as noisy."""
    shared: Array
    """(W,) the windows' own ups and downs, in percent."""
    base: Array
    """(1, W, G) the reference's losses."""
    rows: Array
    """(1, W, G) the luck of each group's rows, in percent."""
    rho: float

    @classmethod
    def drawn(cls, random: np.random.Generator, num_windows: int, rho: float) -> Days:
        """Draw the days of a study."""
        window = np.arange(num_windows)
        return cls(
            loud=np.exp(random.normal(0, 0.25, num_windows)) * (1 + 1.5 * np.exp(-window / 4)),
            shared=0.12 * correlated(random, (num_windows,), rho),
            base=random.gamma(20, 1, (1, num_windows, NUM_GROUPS)),
            rows=random.normal(0, 0.5, (1, num_windows, NUM_GROUPS)),
            rho=rho,
        )

    def variant(self, random: np.random.Generator, curve: Array, num_seeds: int, *, persistent: float = 0.0) -> Paired:
        """A variant with this true relative loss by window, in percent; each seed's is off by `persistent` for good."""
        num_windows = len(curve)
        own = 0.15 * correlated(random, (num_seeds, num_windows), self.rho)
        own += persistent * random.normal(size=(num_seeds, 1)) / self.loud
        luck = self.rows + random.normal(0, 0.4, (num_seeds, num_windows, NUM_GROUPS))
        percent = curve[None, :, None] + self.loud[None, :, None] * ((self.shared + own)[:, :, None] + luck)
        base = np.repeat(self.base, num_seeds, axis=0)
        spent = np.tile(ROWS_A_WINDOW * np.arange(num_windows), (num_seeds, 1))
        return Paired(
            loss=base * (1 + percent / 100), base=base, examples=spent, flops=6e6 * spent, seconds=1e-4 * spent
        )
