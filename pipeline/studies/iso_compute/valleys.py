"""The cells of an iso-compute study as its evidence has them: one valley a budget, and the law through all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, TooWeak, fit
from pipeline.statistics.valley import SPLIT
from pipeline.studies.draft import WIDTHS
from pipeline.studies.evidence import Evidence
from pipeline.studies.iso_compute.cells import ALL_ROWS, Grid
from pipeline.studies.iso_compute.fields import Fields

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """The log of a study: how many rows a model has seen when it is judged, and which width has which size."""

    grid: Grid
    rows: float
    """All of the study's windows have."""
    before: float
    """Share of these that a model on all windows has seen at the middle of the judged ones, where data are counted: students go on
    learning there."""

    @classmethod
    def of(cls, evidence: Evidence) -> Log:
        """As the study's reference has seen it, whatever its form says of rows."""
        track = evidence.tracks[ALL_ROWS]
        seen = float(track["examples"][:, evidence.judged].mean())
        return cls(
            Grid(evidence.study.lineup, Fields.of(evidence.study)), track.total_examples, seen / track.total_examples
        )

    def seen(self, share: Array) -> Array:
        """(N,) rows that a model had seen at the middle of the judged windows, by its shares (N,) of all rows."""
        if self.grid.asked.gives_up != "windows":
            return self.rows * self.before * share
        return self.rows * (share - (1 - self.before))  # the judged windows' second half stays away

    def spend(self, budget: float, sizes: Array, grid: Grid | None = None) -> Array:
        """(N,) rows that a budget leaves to models of sizes (N,), counted likewise and at most all; none where they are too few."""
        grid = grid or self.grid
        shares = np.array([grid.share(budget, float(size)) for size in sizes])
        return np.maximum(0.0, self.seen(np.minimum(1.0, shares)))

    @cached_property
    def _known(self) -> Array:
        """Size of a model of each width."""
        return np.array([self.grid.flops(width) for width in WIDTHS])

    def widths(self, size: Interval) -> Interval:
        """Sizes in operations as widths of embedding rows; open where they lie beyond all widths that were thought of."""
        known = self._known

        def width(found: float) -> float:
            if math.isnan(found):
                return found
            if not known[0] <= found <= known[-1]:
                return 0.0 if found < known[0] else math.inf
            return float(np.exp(np.interp(math.log(found), np.log(known), np.log(WIDTHS))))

        return Interval(*map(width, (size.value, size.low, size.high)))


@dataclass(frozen=True)
class Valley:
    """The cells of one budget, by size."""

    budget: float
    words: str
    cells: tuple[Cell, ...]
    flops: Array
    """(K,) of training until the last window."""
    sizes: Array
    """(K,) operations of an example's forward pass."""
    data: Array
    """(K,) examples that a cell had seen at the middle of the judged windows."""
    losses: Array
    """(S, K) percent of the line-up's reference on all rows."""

    @classmethod
    def of(cls, evidence: Evidence, grid: Grid, budget: float, axis: str = "budget") -> Valley:
        """As the ledger and the evaluations have it."""
        cells = tuple(cell for cell in evidence.study.of(axis) if cell.family == grid.words(budget))
        tracks = [evidence.tracks[cell.variant] for cell in cells]
        flops = np.array([track.training_flops for track in tracks])
        series = [evidence.series(cell.variant, ALL_ROWS, evidence.judged) for cell in cells]
        return cls(
            budget=budget,
            words=grid.words(budget),
            cells=cells,
            flops=flops,
            sizes=flops / np.array([track.total_examples for track in tracks]) / 3,
            data=np.array([float(track["examples"][:, evidence.judged].mean()) for track in tracks]),
            losses=np.stack([each.values.mean(axis=1) for each in series], axis=1),
        )

    def holds(self, size: Interval) -> bool | None:
        """Whether a size, its whole interval included, lies within those that were trained; None where none is known."""
        if math.isnan(size.low) or math.isnan(size.high):
            return None
        return bool(self.sizes.min() < size.low and size.high < self.sizes.max())


def valleys_of(evidence: Evidence, log: Log) -> list[Valley]:
    """One for each budget, from the smallest."""
    return [Valley.of(evidence, log.grid, budget) for budget in log.grid.asked.budgets]


def held_out_of(evidence: Evidence, log: Log) -> Valley | None:
    """That of the budget which no law is fitted to, if there is one."""
    budget = log.grid.held_out
    return None if budget is None else Valley.of(evidence, log.grid, budget, "held_out")


def law_of(evidence: Evidence, valleys: list[Valley]) -> tuple[Fit | None, str]:
    """The law through all budgets, or why there is none."""
    try:
        return fit(SPLIT, *points_of(valleys), independent=evidence.independent), ""
    except TooWeak as error:
        return None, str(error)


def points_of(valleys: list[Valley]) -> tuple[dict[str, Array], Array]:
    """Sizes and rows of all cells, and what they lost (S, K)."""
    points = {
        "model": np.concatenate([each.sizes for each in valleys]),
        "data": np.concatenate([each.data for each in valleys]),
    }
    return points, np.concatenate([each.losses for each in valleys], axis=1)


def shown_width(width: Interval) -> str:
    """A width with its interval as people read it."""

    def one(end: float) -> str:
        return f"{end:.0f}" if 0 < end < math.inf else "no bound"

    if math.isnan(width.low):
        return f"{one(width.value)} (interval not known)"
    return f"{one(width.value)} ({one(width.low)} to {one(width.high)})"
