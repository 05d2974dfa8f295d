"""Comparisons: paired losses of variants on the same rows, with intervals by resampling clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.training.chain.evaluations import Closed, EvaluationStore
from pipeline.training.chain.predictions import Predictions
from pipeline.training.chain.steps import StepStore
from pipeline.training.metrics import ClickSums, auc

NUM_RESAMPLES = 2000
NUM_GROUPS = 1024
"""Number of groups of whole clusters that are resampled: enough for quantiles, and few enough for any log."""
MIN_GROUPS = 2

Array = NDArray[np.float64]


class NothingToCompare(BadInput):
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
    training_flops: float
    """Of training alone until the last window, mean over seeds: no evaluation, no scoring for others, no teacher."""
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

    Each interval is a percentile bootstrap of the ratio of summed losses: clusters of all windows are drawn again, and
    training seeds where there are several.

    A variant that the line-up lets start after the last window is left out; where the reference is such a one, so is all.

    Raises:
        NothingToCompare: a variant shares no window with the reference.
    """
    later = not_started(lineup, variants, last)
    if lineup.reference in later:
        return []
    chosen = [v.name for v in lineup.only(tuple(variants)) if v.name not in later]
    random = np.random.default_rng(seed)
    reference = _steps(lake, lineup, lineup.reference, first, last)
    bases = {
        window: _Losses.of([Predictions.read(lake, each.evaluation) for each in steps])
        for window, steps in reference.items()
    }
    found = []
    for name in dict.fromkeys([lineup.reference, *chosen]):
        steps = _steps(lake, lineup, name, first, last)
        shared = [w for w in steps if w in reference]
        if not shared:
            raise NothingToCompare(
                f"{name!r} and the reference {lineup.reference!r} share no window from {first} to {last}: train both "
                "on them first (`historical_warmup`, `online_training`)"
            )
        found.append(_compare_one(lake, lineup, name, steps, bases, shared, random, num_resamples))
    return found


def not_started(lineup: LineUp, variants: Sequence[str], last: Window) -> dict[str, Window]:
    """Those of the variants, and of the reference, that the line-up lets start after a window, and when."""
    asked = [*lineup.only(tuple(variants)), lineup.variant(lineup.reference)]
    return {v.name: v.start for v in asked if v.start is not None and v.start > last}


@dataclass(frozen=True, slots=True)
class _Losses:
    """One variant's losses in one window."""

    example_ids: tuple[str, ...]
    """Per seed, a digest of the rows."""
    loss: Array
    """(S, G) summed by seed and group of clusters."""

    @classmethod
    def of(cls, slices: Sequence[Predictions]) -> _Losses:
        return cls(
            tuple(hashlib.sha256(s.example_id.tobytes()).hexdigest() for s in slices),
            np.stack([s.grouped_losses(NUM_GROUPS) for s in slices]),
        )


def _steps(lake: Lake, lineup: LineUp, variant: str, first: Window, last: Window) -> dict[Window, list[Closed]]:
    """The windows that all seeds of a variant have closed, with their evaluations."""
    found: dict[Window, list[Closed]] = {}
    for window in Window.span(first, last):
        heads = [
            StepStore(lake, lineup.dataset.under(seed)).head(lineup.name, variant, seed, window)
            for seed in lineup.seeds
        ]
        steps = [head for head in heads if head is not None]
        if len(steps) == len(lineup.seeds):
            found[window] = [
                Closed(step, EvaluationStore(lake, step.dataset).require(step, lineup.evaluation, repr(variant)))
                for step in steps
            ]
    return found


def _compare_one(
    lake: Lake,
    lineup: LineUp,
    name: str,
    steps: Mapping[Window, list[Closed]],
    bases: Mapping[Window, _Losses],
    windows: list[Window],
    random: np.random.Generator,
    num_resamples: int,
) -> VariantComparison:
    points: dict[Window, WindowPoint] = {}
    loss = np.zeros((len(lineup.seeds), NUM_GROUPS))
    base = np.zeros_like(loss)
    seen: list[list[Predictions]] = []
    totals = ClickSums()
    for window in windows:
        ours = [Predictions.read(lake, each.evaluation) for each in steps[window]]
        mine, reference = _Losses.of(ours), bases[window]
        if mine.example_ids != reference.example_ids:
            raise NothingToCompare(
                f"{window}: variant and reference were evaluated on different rows; the window was published again "
                "between them: train both on it again"
            )
        loss += mine.loss
        base += reference.loss
        seen.append(ours)
        for s in ours:
            totals += ClickSums.of(s.label, s.logit, true_prob=s.true_prob)
        points[window] = WindowPoint(
            metrics=_mean([each.evaluation.metrics for each in steps[window]]),
            gap=_gap(mine.loss, reference.loss, random, num_resamples),
            examples=float(np.mean([each.step.total_examples for each in steps[window]])),
        )
    metrics = totals.metrics()
    areas = [
        auc(np.concatenate([s.label for s in slices]), np.concatenate([s.logit for s in slices]))
        for slices in zip(*seen, strict=True)
    ]
    if all(area is not None for area in areas):
        metrics["auc"] = float(np.mean([area for area in areas if area is not None]))
    last = [each.step for each in steps[windows[-1]]]
    return VariantComparison(
        variant=name,
        windows=tuple(windows),
        num_seeds=len(lineup.seeds),
        examples=float(np.mean([step.total_examples for step in last])),
        training_flops=float(np.mean([step.total_flops.training for step in last])),
        metrics=metrics,
        gap=_gap(loss, base, random, num_resamples),
        points=points,
    )


def _gap(loss: Array, base: Array, random: np.random.Generator, num_resamples: int) -> Interval:
    """The relative loss of (S, G) summed losses, with its interval under resampling of seeds and of groups of clusters.

    A Poisson bootstrap (Chamandy et al. 2012): each group is drawn Poisson(1) times, with all windows that it recurs in.
    From a single group the interval cannot be known, and is not a number.
    """
    value = float(100 * (loss.sum() / base.sum() - 1))
    there = base.sum(axis=0) > 0
    if there.sum() < MIN_GROUPS:
        return Interval(value, float("nan"), float("nan"))
    loss, base = loss[:, there], base[:, there]
    num_seeds, num_groups = loss.shape
    seeds = random.multinomial(num_seeds, [1 / num_seeds] * num_seeds, num_resamples)
    weight = random.poisson(1.0, (num_resamples, num_groups)).astype(float)
    drawn_loss, drawn_base = (((weight @ sums.T) * seeds).sum(axis=1) for sums in (loss, base))
    drawn = drawn_base > 0
    low, high = np.quantile(100 * (drawn_loss[drawn] / drawn_base[drawn] - 1), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(row) for row in rows))
    return {name: float(np.mean([row[name] for row in rows])) for name in sorted(names)}
