"""Racing: which cells of a sweep are surely not the best, by their windows so far; and what stopping them would have cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from pipeline.statistics.series import MIN_WORLDS

Array = NDArray[np.float64]

FIRST = 4
"""Windows after which the first cell may be stopped: the first is scored by an untrained model and left out, three show a curve."""
LEVEL = 0.975
"""Of the one-sided interval of a forecast."""


@dataclass(frozen=True, slots=True)
class Race:
    """A sweep of K cells over W windows, replayed."""

    stopped: NDArray[np.int64]
    """(K,) windows after which each was stopped; W for those that went on to the end."""
    chosen: int
    """Which of those that went on lost least on the judged windows."""
    saved: float
    """Share of the sweep's cost."""
    regret: float
    """By how much the chosen loses more on the judged windows than the best of all."""
    regret_so_far: float
    """The same, had all but the one with the least mean loss so far been stopped at once, for at least the same saving."""


def replay(losses: Array, costs: Array, judged: slice) -> Race:
    """Stop each cell in the window after which its final loss is surely above that of the one with the least forecast.

    A cell's forecast is that of its difference to the leader: for each seed a line a + b / n through its windows n = 2 to the last seen,
    taken at the judged windows; its interval is a t-interval over seeds, each a world. The rule was fixed before anything was
    replayed. Sources: racing (Maron & Moore 1994), learning curves as powers of the data.

    Args:
        losses: (S, K, W) relative to a common reference, by seed, cell and window.
        costs: (K, W) of training each cell on each window.
        judged: windows on which a sweep is judged.

    Raises:
        ValueError: seeds are fewer than 8, cells fewer than two, or something is not finite.
    """
    num_seeds, num_cells, num_windows = losses.shape
    if num_seeds < MIN_WORLDS or num_cells < 2 or not np.isfinite(losses).all():
        raise ValueError(
            f"a race needs {MIN_WORLDS} seeds, two cells and finite losses, got losses {losses.shape}: train more seeds"
        )
    final = losses[:, :, judged].mean(axis=(0, 2))
    stopped = np.full(num_cells, num_windows)
    for seen in range(FIRST, num_windows):
        racing = np.flatnonzero(stopped == num_windows)
        stopped[racing[_surely_worse(losses[:, racing, :seen], num_windows, judged)]] = seen
    racing = np.flatnonzero(stopped == num_windows)
    saved = _saved(costs, stopped)
    chosen = int(racing[np.argmin(final[racing])])
    regret = float(final[chosen] - final.min())
    return Race(
        stopped, chosen, saved, regret, float(final[_by_loss_so_far(losses, costs, saved, final)] - final.min())
    )


def _surely_worse(seen: Array, num_windows: int, judged: slice) -> NDArray[np.bool_]:
    """(K,) whether the forecast of a cell is surely above the leader's, by losses (S, K, w) of the windows so far."""
    forecasts = seen[:, :, 1:] @ _weights(seen.shape[2], num_windows, judged)
    apart = forecasts - forecasts[:, [int(forecasts.mean(axis=0).argmin())]]
    error = apart.std(axis=0, ddof=1) / np.sqrt(len(apart))
    worse: NDArray[np.bool_] = apart.mean(axis=0) > student.ppf(LEVEL, len(apart) - 1) * error
    return worse


def _weights(num_seen: int, num_windows: int, judged: slice) -> Array:
    """(w - 1,) what each window from the second on adds to a forecast, by least squares of a + b / n."""
    inverse = 1 / np.arange(1, num_windows + 1)
    design = np.stack([np.ones(num_seen - 1), inverse[1:num_seen]], axis=1)
    weights: Array = np.array([1.0, inverse[judged].mean()]) @ np.linalg.pinv(design)
    return weights


def _saved(costs: Array, stopped: NDArray[np.int64]) -> float:
    spent = sum(float(cost[:windows].sum()) for cost, windows in zip(costs, stopped, strict=True))
    return 1 - spent / float(costs.sum())


def _by_loss_so_far(losses: Array, costs: Array, saved: float, final: Array) -> int:
    """The cell with the least mean loss up to the last window at which stopping all others saves as much."""
    num_cells, num_windows = costs.shape
    if saved <= 0:
        return int(final.argmin())  # nothing needs to be stopped
    for seen in range(num_windows - 1, 1, -1):
        leader = int(losses[:, :, 1:seen].mean(axis=(0, 2)).argmin())
        stopped = np.full(num_cells, seen)
        stopped[leader] = num_windows
        if _saved(costs, stopped) >= saved:
            return leader
    return int(losses[:, :, 1].mean(axis=0).argmin())
