"""Comparisons: paired losses of variants on the same rows, with intervals by resampling clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.lake import Lake
from pipeline.lineup import LineUp
from pipeline.metrics import ClickSums, auc
from pipeline.predictions import Predictions
from pipeline.statistics.interval import Interval
from pipeline.steps import StepManifest, StepStore
from pipeline.window import Window

NUM_RESAMPLES = 2000
CLUSTERS_AT_A_TIME = 4096
MIN_CLUSTERS = 2

Array = NDArray[np.float64]


class NothingToCompare(ValueError):
    """A comparison lacks steps."""


@dataclass(frozen=True, slots=True)
class WindowPoint:
    """One variant in one window, averaged over seeds."""

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
    examples: float
    """Rows trained on until the last window, mean over seeds."""
    flops: float
    metrics: dict[str, float]
    """Over all evaluated rows of all windows, mean over seeds."""
    gap: Interval
    """Percent, as in `WindowPoint`, over all windows."""
    points: dict[Window, WindowPoint]


def compare(
    lake: Lake,
    lineup: LineUp,
    variants: Sequence[str],
    first: Window,
    last: Window,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[VariantComparison]:
    """Compare variants with the line-up's reference on the evaluation slices of the windows `first` to `last`.

    Each interval is a percentile bootstrap of the ratio of summed losses: clusters of all windows are drawn anew, and
    training seeds where there are several.

    Raises:
        NothingToCompare: a variant shares no window with the reference.
    """
    chosen = [v.name for v in lineup.only(tuple(variants))]
    random = np.random.default_rng(seed)
    reference = _steps(lake, lineup, lineup.reference, first, last)
    found = []
    for name in dict.fromkeys([lineup.reference, *chosen]):
        steps = _steps(lake, lineup, name, first, last)
        shared = [w for w in steps if w in reference]
        if not shared:
            raise NothingToCompare(
                f"{name!r} and the reference {lineup.reference!r} share no window from {first} to {last}: train both "
                "on them first (`historical_warmup`, `online_training`)"
            )
        found.append(_compare_one(lake, lineup, name, steps, reference, shared, random, num_resamples))
    return found


def _steps(lake: Lake, lineup: LineUp, variant: str, first: Window, last: Window) -> dict[Window, list[StepManifest]]:
    """The windows that all seeds of a variant have closed, and their steps."""
    found: dict[Window, list[StepManifest]] = {}
    for window in Window.span(first, last):
        heads = [
            StepStore(lake, lineup.dataset.under(seed)).head(lineup.name, variant, seed, window)
            for seed in lineup.seeds
        ]
        steps = [head for head in heads if head is not None]
        if len(steps) == len(lineup.seeds):
            found[window] = steps
    return found


def _compare_one(
    lake: Lake,
    lineup: LineUp,
    name: str,
    steps: Mapping[Window, list[StepManifest]],
    reference: Mapping[Window, list[StepManifest]],
    windows: list[Window],
    random: np.random.Generator,
    num_resamples: int,
) -> VariantComparison:
    points: dict[Window, WindowPoint] = {}
    clusters: list[NDArray[np.uint64]] = []
    sums: list[tuple[Array, Array]] = []
    seen: list[list[Predictions]] = []
    totals = ClickSums()
    for window in windows:
        ours = [Predictions.read(lake, step) for step in steps[window]]
        theirs = [Predictions.read(lake, step) for step in reference[window]]
        ids, loss, base = _cluster_sums(window, ours, theirs)
        clusters.append(ids)
        sums.append((loss, base))
        seen.append(ours)
        for s in ours:
            totals += ClickSums.of(s.label, s.logit, true_prob=s.true_prob)
        points[window] = WindowPoint(
            metrics=_mean([step.metrics for step in steps[window]]),
            gap=_gap(_resampled([(loss, base)], random, num_resamples), loss, base),
            examples=float(np.mean([step.total_examples for step in steps[window]])),
        )
    metrics = totals.metrics()
    areas = [
        auc(np.concatenate([s.label for s in slices]), np.concatenate([s.logit for s in slices]))
        for slices in zip(*seen, strict=True)
    ]
    if all(area is not None for area in areas):
        metrics["auc"] = float(np.mean([area for area in areas if area is not None]))
    loss, base = _across_windows(clusters, sums)
    last = steps[windows[-1]]
    return VariantComparison(
        variant=name,
        windows=tuple(windows),
        num_seeds=len(lineup.seeds),
        examples=float(np.mean([step.total_examples for step in last])),
        flops=float(np.mean([step.total_flops for step in last])),
        metrics=metrics,
        gap=_gap(_resampled([(loss, base)], random, num_resamples), loss, base),
        points=points,
    )


def _cluster_sums(
    window: Window, ours: list[Predictions], theirs: list[Predictions]
) -> tuple[NDArray[np.uint64], Array, Array]:
    """(C,) clusters, and (S, C) each: summed losses per seed and cluster, of the variant and of the reference on the same rows."""
    for one, other in zip(ours, theirs, strict=True):
        if not np.array_equal(one.example_id, other.example_id):
            raise NothingToCompare(
                f"{window}: variant and reference were evaluated on different rows; the window was published again "
                "between them: train both on it again"
            )
    known = np.unique(np.concatenate([s.cluster for s in ours]))  # above the cap each seed has rows of its own

    def summed(slices: list[Predictions]) -> Array:
        places = [np.searchsorted(known, s.cluster) for s in slices]
        return np.stack([np.bincount(at, s.losses(), len(known)) for at, s in zip(places, slices, strict=True)])

    return known, summed(ours), summed(theirs)


def _across_windows(clusters: list[NDArray[np.uint64]], sums: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(S, C) each: sums per cluster over all windows, since what recurs is drawn with all of its windows or not."""
    _, place = np.unique(np.concatenate(clusters), return_inverse=True)
    count = int(place.max()) + 1

    def added(rows: Array) -> Array:
        return np.stack([np.bincount(place, row, count) for row in rows])

    loss, base = (np.concatenate([pair[i] for pair in sums], axis=1) for i in (0, 1))
    return added(loss), added(base)


def _resampled(sums: list[tuple[Array, Array]], random: np.random.Generator, num_resamples: int) -> Array:
    """(R,) the relative loss under resampling of seeds and of clusters.

    A Poisson bootstrap (Chamandy et al. 2012): each cluster of any window is drawn Poisson(1) times, so that windows
    of few clusters carry their full uncertainty, and memory stays small whatever the number of clusters.
    """
    num_seeds = len(sums[0][0])
    seeds = random.integers(0, num_seeds, (num_resamples, num_seeds))
    seed_weight = np.stack([(seeds == s).sum(axis=1) for s in range(num_seeds)], axis=1).astype(float)
    loss = np.zeros(num_resamples)
    base = np.zeros(num_resamples)
    for ours, theirs in sums:
        for start in range(0, ours.shape[1], CLUSTERS_AT_A_TIME):
            piece = slice(start, start + CLUSTERS_AT_A_TIME)
            weight = random.poisson(1.0, (num_resamples, ours[:, piece].shape[1])).astype(float)
            loss += ((weight @ ours[:, piece].T) * seed_weight).sum(axis=1)
            base += ((weight @ theirs[:, piece].T) * seed_weight).sum(axis=1)
    drawn = base > 0
    return 100 * (loss[drawn] / base[drawn] - 1)


def _gap(resampled: Array, loss: Array, base: Array) -> Interval:
    """The relative loss; from a single cluster its interval cannot be known, and is not a number."""
    value = float(100 * (loss.sum() / base.sum() - 1))
    if loss.shape[1] < MIN_CLUSTERS:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(row) for row in rows))
    return {name: float(np.mean([row[name] for row in rows])) for name in sorted(names)}
