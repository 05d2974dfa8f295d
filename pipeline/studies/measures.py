"""What all studies show of their cells: loss against the reference by window and over all judged ones, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.selection.policy import JointPolicy
from pipeline.spec.study import Cell
from pipeline.spec.window import Window
from pipeline.statistics.interval import Interval
from pipeline.statistics.series import MIN_WORLDS, Series
from pipeline.statistics.trend import MIN_WINDOWS, Trend, trend
from pipeline.studies.drawing import Band
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Table
from pipeline.studies.operations import embedding_bytes, shape_of
from pipeline.training.signals import passes_of

MIN_CHOOSING, MIN_CONFIRMING = 4, 8
"""Seeds: nothing is recommended on fewer."""
JUMP = 5.0
"""Percent of log-loss more than the reference, on one day under one seed, that nobody would let pass online."""
METRICS = {"log_loss": "{:.5f}", "normalized_entropy": "{:.4f}", "auc": "{:.4f}", "calibration": "{:.3f}"}


def percent(interval: Interval, digits: int = 2) -> str:
    """An interval as people read it; an end may be without a bound, or not known."""

    def one(number: float) -> str:
        if math.isnan(number):
            return "not known"
        return f"{number:+.{digits}f}" if math.isfinite(number) else "no bound"

    if math.isnan(interval.low) and math.isnan(interval.high):
        return f"{one(interval.value)} (interval not known)"
    return f"{one(interval.value)} ({one(interval.low)} to {one(interval.high)})"


def many(examples: float) -> str:
    """A number of examples in a unit that fits.

    >>> many(28_400), many(2_500_000)
    ('28k', '2.50M')
    """
    if examples >= 1e6:
        return f"{examples / 1e6:.2f}M"
    return f"{examples / 1e3:.0f}k" if examples >= 1e3 else f"{examples:.0f}"


def scope(evidence: Evidence) -> str:
    """What the intervals of a study speak of, and what not."""
    num = len(evidence.study.lineup.seeds)
    what = "on the rows' true probabilities" if evidence.knows_truth else "on the labels"
    if not evidence.independent:
        seeds = "one seed" if num == 1 else f"{num} seeds, which differ in initial weights and sample alone"
        return f"Losses are {what}. Intervals (95 %) are of this log only, {seeds}: another log may lie outside."
    if num < MIN_WORLDS:
        worlds = "this world" if num == 1 else f"these {num} worlds"
        return (
            f"Losses are {what}. Intervals (95 %) are of {worlds} only: another world may lie outside. From {MIN_WORLDS} "
            "seeds on they hold for worlds like these."
        )
    return f"Losses are {what}. Intervals (95 %) are over {num} seeds, each a world of its own."


def claim(sentence: str, interval: Interval) -> str:
    """A sentence that says first that nothing is shown where its interval holds zero."""
    shown = interval.low > 0 or interval.high < 0
    return sentence if shown else f"Not shown: {sentence[0].lower()}{sentence[1:]}"


def curves(evidence: Evidence, cells: Iterable[Cell]) -> dict[str, tuple[Sequence[Window], Band]]:
    """Each cell's loss by window relative to what it is compared with, by label; a reference is not shown beside itself."""
    found: dict[str, tuple[Sequence[Window], Band]] = {}
    for cell in cells:
        if cell.variant != cell.against:
            points = evidence.series(cell.variant, cell.against).by_window()
            found[cell.label] = (evidence.windows[-len(points) :], band(points))
    return found


def band(intervals: Sequence[Interval]) -> Band:
    """Intervals as a figure takes them."""
    return [i.value for i in intervals], [i.low for i in intervals], [i.high for i in intervals]


def judged(evidence: Evidence, cell: Cell, seeds: slice = slice(None), *, labels: bool = False) -> Interval:
    """A cell's loss over the judged windows relative to what it is compared with, percent."""
    if cell.variant == cell.against:
        return Interval(0.0, 0.0, 0.0)
    return evidence.series(cell.variant, cell.against, evidence.judged, seeds, labels=labels).mean().interval()


def split_seeds(evidence: Evidence) -> tuple[slice, slice | None]:
    """A third of the seeds choose, the others confirm; where they are too few nothing is chosen."""
    seeds = len(evidence.study.lineup.seeds)
    choosing = max(MIN_CHOOSING, seeds // 3)
    enough = evidence.independent and seeds - choosing >= MIN_CONFIRMING
    return slice(0, choosing), slice(choosing, seeds) if enough else None


def over_seeds(by_seed: NDArray[np.float64], *, independent: bool) -> Interval:
    """The mean of a number (S,) that each seed has, with its interval over worlds; without ends where there are too few."""
    return Series(by_seed[:, None], np.zeros((0, 1)), independent).mean().interval()


def ends(name: str, interval: Interval) -> dict[str, float]:
    """An interval as three figures."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def table(evidence: Evidence, cells: Sequence[Cell]) -> Table:
    """What each cell lost on the judged windows, and what it cost until the last."""
    sampled = ("on the labels, percent (95 %)",) if evidence.knows_truth else ()
    header = (
        "variant",
        "log-loss against the reference, percent (95 %)",
        *sampled,
        *("log-loss", "NE", "AUC", "calibration", "examples"),
        "own training, TFLOP",
        "embeddings moved, GB",
        "with its teacher's training and scoring",
        "teacher shared",
    )
    rows = []
    for cell in cells:
        track, own = evidence.tracks[cell.variant], cell.variant == cell.against
        against = ["reference" if own else percent(judged(evidence, cell, labels=way)) for way in (False, True)]
        means = [form.format(np.nanmean(track.metric(name)[:, evidence.judged])) for name, form in METRICS.items()]
        own_flops, *whole = (f"{flops / 1e12:.3g}" for flops in compute(evidence, cell.variant))
        moved = f"{traffic(evidence, cell.variant) / 1e9:.3g}"
        counted = (f"{track.total_examples:,.0f}", own_flops, moved, *whole)
        rows.append((cell.label, *against[: 1 + len(sampled)], *means, *counted))
    return Table(header, tuple(rows))


def compute(evidence: Evidence, variant: str) -> tuple[float, float, float]:
    """FLOPs of a variant until its last window: its training's, with what it read from others, with its part of that.

    What teacher and pilot spent, beside what `choosing` says, is their training and their scoring while it read them; it is shared by all
    variants of the study that read from it. Evaluation is no part of any: it is the same for all, and serves the study alone.
    """
    lineup = evidence.study.lineup
    own = evidence.tracks[variant].training_flops
    searched, passed = choosing(evidence, variant)
    whole = own + searched + passed
    shared = own + searched
    for source in {read.source for read in lineup.variant(variant).reads}:
        spent = evidence.tracks[source]["training_flops"] + evidence.tracks[source]["scoring_flops"]
        flops = _over(evidence, spent, _read_in(evidence, variant, source))
        whole += flops
        shared += flops / sum(source in {read.source for read in v.reads} for v in lineup.variants)
    if passed:
        shared += passed / sum(bool(_asked_to_repeat(evidence, v.name)) for v in lineup.variants)
    return own, whole, shared


def choosing(evidence: Evidence, variant: str) -> tuple[float, float]:
    """FLOPs of choosing a variant's rows until its last window: a joint policy's search, and its pilots' passes beyond their own."""
    joint = isinstance(evidence.study.lineup.variant(variant).selection, JointPolicy)
    own = evidence.tracks[variant]["selection_flops"]
    searched = _over(evidence, own, evidence.windows[evidence.since(variant) :]) if joint else 0.0
    passed = sum(
        _over(evidence, evidence.tracks[source]["selection_flops"], _read_in(evidence, variant, source))
        for source in _asked_to_repeat(evidence, variant)
    )
    return searched, passed


def _asked_to_repeat(evidence: Evidence, variant: str) -> set[str]:
    """The pilots of which a variant's policy reads what takes several passes."""
    reads = evidence.study.lineup.variant(variant).selection.reads().values()
    return {read.source for read in reads if passes_of([read.signal]) > 1}


def _over(evidence: Evidence, numbers: NDArray[np.float64], windows: Iterable[Window]) -> float:
    """The sum over some windows of numbers (S, W), mean over seeds; what is not known counts as nothing."""
    places = sorted({evidence.index(window) for window in windows})
    return float(np.nansum(numbers[:, places], axis=1).mean())


def traffic(evidence: Evidence, variant: str) -> float:
    """Bytes of embedding rows that a variant's own training moved until its last window: read forward, read and written backward."""
    lineup = evidence.study.lineup
    model = lineup.variant(variant).model
    return 3 * embedding_bytes(model, shape_of(lineup, model)[2]) * evidence.tracks[variant].total_examples


def _read_in(evidence: Evidence, variant: str, source: str) -> Iterator[Window]:
    """The windows in which a variant reads what another says."""
    lineup = evidence.study.lineup
    recipe = lineup.variant(variant)
    for window in evidence.windows[evidence.since(variant) :]:
        config = lineup.resolved(recipe, window, seed=0)
        asked = recipe.selection.reads()
        selects = any(asked[name].source == source for name in config.selection.reads())
        if selects or (recipe.teacher == source and config.soft_weight is not None):
            yield window


def too_much_variance(evidence: Evidence, variant: str, against: str, effect: Interval) -> Check:
    """Whether runs differ among themselves by more than the effect that is claimed."""
    signature = "too much run-to-run variance to see the effect"
    by_seed = evidence.series(variant, against, evidence.judged).values.mean(axis=1)
    if len(by_seed) < 2:
        return Check(signature, "one seed only: spread between runs is not known", None)
    found = f"standard deviation between {len(by_seed)} seeds {by_seed.std(ddof=1):.3f} %, effect {percent(effect)} %"
    return Check(signature, found, not effect.low <= 0 <= effect.high)


def jumps(evidence: Evidence, cells: Iterable[Cell]) -> Check:
    """Whether some run lost far more on a single day than any mean over days shows."""
    worst, where = -math.inf, ""
    for cell in cells:
        if cell.variant == cell.against:
            continue
        gaps = evidence.series(cell.variant, cell.against, evidence.judged).values
        if gaps.max() > worst:
            seed, window = np.unravel_index(int(gaps.argmax()), gaps.shape)
            worst = float(gaps.max())
            where = (
                f"{cell.label}, seed {evidence.study.lineup.seeds[seed]}, {evidence.windows[evidence.judged][window]}"
            )
    found = f"worst judged window of any run: {worst:+.1f} % ({where})"
    return Check("a day on which the loss jumps", found, worst < JUMP)


def moved(series: Series) -> Trend | None:
    """How a penalty moved over its windows; None where they are too few."""
    return trend(series) if series.num_windows >= MIN_WINDOWS else None


def surely_not_above(interval: Interval, bound: float = 0.0) -> bool | None:
    """Whether all of an interval lies at or below a bound; None where it holds both sides."""
    if interval.high <= bound:
        return True
    return False if interval.low > bound else None


def growing(label: str, penalty: Trend | None) -> Check:
    """Whether what a variant loses grows as time goes by."""
    signature = "a penalty that grows over time"
    if penalty is None:
        return Check(signature, f"fewer than {MIN_WINDOWS} judged windows show no slope", None)
    found = f"slope of {label}: {percent(penalty.slope, 4)} percentage points a window"
    return Check(signature, found, surely_not_above(penalty.slope))
