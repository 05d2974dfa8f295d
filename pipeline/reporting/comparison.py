"""Comparisons: what variants of a line-up lost against its reference on the same rows, window by window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.statistics.interval import Interval
from pipeline.statistics.series import Series
from pipeline.storage.lake import Lake
from pipeline.studies.results import Result, in_lake
from pipeline.training.metrics import ClickSums

Array = NDArray[np.float64]


class NothingToCompare(BadInput):
    """A comparison lacks steps."""


@dataclass(frozen=True, slots=True)
class WindowPoint:
    """One variant in one window, over seeds."""

    metrics: dict[str, float]
    gap: Interval
    """Loss relative to the reference's on the same rows, in percent; below zero is better."""
    examples: float
    """Rows trained on before the window's end, since the chain's first window."""


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """One variant against the reference over the windows that both have."""

    variant: str
    windows: tuple[Window, ...]
    num_seeds: int
    of_worlds: bool
    """Whether intervals are over seeds that are worlds of their own, and enough of them."""
    examples: float
    """Rows trained on until the last window, mean over seeds."""
    training_flops: float
    """Of training alone until the last window, mean over seeds: no evaluation, no scoring for others, no teacher."""
    metrics: dict[str, float]
    """Over all evaluated rows of all windows and seeds; the AUC is the mean over windows."""
    gap: Interval
    """Percent, as in `WindowPoint`, mean over these windows; of one log or few worlds with an interval of their rows alone."""
    points: dict[Window, WindowPoint]


def compare(
    lake: Lake, lineup: LineUp, variants: Sequence[str], first: Window, last: Window
) -> list[VariantComparison]:
    """Compare variants with the line-up's reference on the evaluation slices of the windows `first` to `last`.

    Intervals are over seeds where these are enough worlds of their own, else over the rows of these windows alone: what
    happened is well known even where a study, which asks what will happen on other days, is not sure yet.
    A variant that the line-up lets start after the last window is left out; where the reference is such a one, so is all.

    Raises:
        NothingToCompare: a variant shares no window with the reference, or was evaluated on other rows.
    """
    later = not_started(lineup, variants, last)
    if lineup.reference in later:
        return []
    chosen = [v.name for v in lineup.only(tuple(variants)) if v.name not in later]
    names = tuple(dict.fromkeys([lineup.reference, *chosen]))
    rows = _by_variant(lake, lineup, names, list(Window.span(first, last)))
    return [_compared(lineup, name, rows[name], rows[lineup.reference], first, last) for name in names]


def not_started(lineup: LineUp, variants: Sequence[str], last: Window) -> dict[str, Window]:
    """Those of the variants, and of the reference, that the line-up lets start after a window, and when."""
    asked = [*lineup.only(tuple(variants)), lineup.variant(lineup.reference)]
    return {v.name: v.start for v in asked if v.start is not None and v.start > last}


Rows = Mapping[Window, Sequence[Result]]
"""By window that all seeds have closed, a row for each."""


def _by_variant(lake: Lake, lineup: LineUp, names: tuple[str, ...], windows: Sequence[Window]) -> dict[str, Rows]:
    found: dict[str, dict[Window, list[Result]]] = {name: {} for name in names}
    for row in in_lake(lake, lineup, windows, lineup.seeds, names, strict=False, groups=True):
        found[row.variant].setdefault(Window.of(row.window), []).append(row)
    return {
        name: {window: rows for window, rows in sorted(by_window.items()) if len(rows) == len(lineup.seeds)}
        for name, by_window in found.items()
    }


def _compared(lineup: LineUp, name: str, ours: Rows, reference: Rows, first: Window, last: Window) -> VariantComparison:
    windows = [window for window in ours if window in reference]
    if not windows:
        raise NothingToCompare(
            f"{name!r} and the reference {lineup.reference!r} share no window from {first} to {last}: train both "
            "on them first (`historical_warmup`, `online_training`)"
        )
    mine, theirs = ([rows[window] for window in windows] for rows in (ours, reference))
    for window, left, right in zip(windows, mine, theirs, strict=True):
        if [row.slice for row in left] != [row.slice for row in right]:
            raise NothingToCompare(
                f"{window}: variant and reference were evaluated on different rows; the window was published again "
                "between them: train both on it again"
            )
    series = Series.relative(
        _losses(mine),
        _losses(theirs),
        independent=lineup.dataset.has_worlds,
        groups=(_groups(mine), _groups(theirs)),
    )
    examples = [float(np.mean([row.examples + row.num_selected for row in rows])) for rows in mine]
    return VariantComparison(
        variant=name,
        windows=tuple(windows),
        num_seeds=len(lineup.seeds),
        of_worlds=series.of_worlds,
        examples=examples[-1],
        training_flops=float(np.mean([row.total_training_flops for row in mine[-1]])),
        metrics=_metrics([row for rows in mine for row in rows]),
        gap=series.on_rows().interval(),
        points={
            window: WindowPoint(_metrics(rows), gap, seen)
            for window, rows, gap, seen in zip(windows, mine, series.by_window(), examples, strict=True)
        },
    )


def _losses(windows: Sequence[Sequence[Result]]) -> Array:
    """(S, W)"""
    return np.array([[row.loss for row in rows] for rows in windows]).T


def _groups(windows: Sequence[Sequence[Result]]) -> Array:
    """(G, W), summed over seeds."""
    return np.array([np.sum([row.groups or () for row in rows], axis=0) for rows in windows]).T


def _metrics(rows: Sequence[Result]) -> dict[str, float]:
    sums = sum((row.sums for row in rows), ClickSums())
    areas = [row.auc for row in rows if row.auc is not None]
    return sums.metrics() | ({"auc": float(np.mean(areas))} if areas else {})
