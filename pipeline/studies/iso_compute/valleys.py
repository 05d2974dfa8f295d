"""The cells of an iso-compute study as its evidence has them: one valley a budget, and the law through all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, TooWeak, fit
from pipeline.statistics.valley import SPLIT, Spend
from pipeline.studies.estimate import forward_flops, shape_of
from pipeline.studies.evidence import Evidence
from pipeline.studies.iso_compute.cells import ALL_ROWS, WIDTHS, Grid
from pipeline.studies.iso_compute.fields import Fields

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Valley:
    """The cells of one budget, by size."""

    budget: float
    words: str
    cells: tuple[Cell, ...]
    sizes: Array
    """(K,) operations of an example's forward pass."""
    data: Array
    """(K,) examples trained on."""
    losses: Array
    """(S, K) percent of the line-up's reference on all rows."""
    spend: Spend
    widths: tuple[Array, Array]
    """Operations, and the widths that they belong to."""

    @classmethod
    def of(cls, evidence: Evidence, budget: float) -> Valley:
        """As the ledger and the evaluations have it."""
        study = evidence.study
        grid = Grid(study.lineup, Fields.of(study))
        cells = tuple(cell for cell in study.of("budget") if cell.family == grid.words(budget))
        data = np.array([evidence.tracks[cell.variant].total_examples for cell in cells])
        flops = np.array([evidence.tracks[cell.variant].training_flops for cell in cells])
        series = [evidence.series(cell.variant, ALL_ROWS, evidence.judged) for cell in cells]
        rows = evidence.tracks[ALL_ROWS].total_examples
        _, num_dense, num_sparse = shape_of(study.lineup)
        known = [forward_flops(grid.model(width), num_dense, num_sparse) or math.nan for width in WIDTHS]

        def spend(sizes: Array) -> Array:
            return np.array([rows * grid.share(budget, float(size)) for size in sizes])

        return cls(
            budget=budget,
            words=grid.words(budget),
            cells=cells,
            sizes=flops / data / 3,
            data=data,
            losses=np.stack([each.values.mean(axis=1) for each in series], axis=1),
            spend=spend,
            widths=(np.array(known), np.array(WIDTHS, dtype=float)),
        )

    def width(self, size: Interval) -> Interval:
        """Sizes in operations as widths of the embedding rows."""
        return Interval(*(_width(end, *self.widths) for end in (size.value, size.low, size.high)))

    def rows(self, size: Interval) -> float:
        """What the budget leaves to a model of a size."""
        return float(self.spend(np.array([size.value]))[0])

    def holds(self, size: Interval) -> bool:
        """Whether a size, its whole interval included, lies within those that were trained."""
        low, high = (size.value, size.value) if math.isnan(size.low) else (size.low, size.high)
        return bool(self.sizes.min() < low and high < self.sizes.max())


def _width(size: float, known: Array, widths: Array) -> float:
    if math.isnan(size) or size in (0.0, math.inf):
        return size
    return float(np.exp(np.interp(math.log(size), np.log(known), np.log(widths))))


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
