"""The answer of a study of negative downsampling: what leaving negatives out costs, whether that grows, how few will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.study import Cell
from pipeline.statistics.effects import recommend
from pipeline.statistics.interval import Interval
from pipeline.statistics.trend import Trend
from pipeline.studies import measures
from pipeline.studies.downsampling import theory
from pipeline.studies.downsampling.cells import ALL_ROWS
from pipeline.studies.downsampling.fields import Fields
from pipeline.studies.draft import kept_name
from pipeline.studies.drawing import by_number, by_window
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.measures import percent

TITLES: dict[str, tuple[str, str]] = {
    "scope": ("Sampled in history only", "Sampling kept up in the online phase, or ended with its first window."),
    "correction": ("Weight or offset", "Two corrections that leave predictions calibrated."),
    "policy": (
        "Which negatives",
        "Drawn uniformly, or in proportion to the odds that a pilot predicts: hard negatives are kept, easy ones left out.",
    ),
    "batch": (
        "Batch held or scaled",
        "Fewer rows in batches of the same size are fewer updates; scaled with the rows, all samples take as many.",
    ),
    "combined": (
        "Together with a continuous teacher",
        "The teacher trains on all rows, the student on few. Do both together reach what neither reaches alone?",
    ),
}


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    study = evidence.study
    rates = [cell for cell in study.of("rate") if cell.variant != ALL_ROWS]
    metrics: dict[str, float] = {}
    penalties = {cell.variant: measures.judged(evidence, cell) for cell in study.cells}
    for name, penalty in penalties.items():
        metrics |= {f"{name}_percent": penalty.value} | measures.ends(f"{name}_percent", penalty)
    lowest = recommended(evidence, rates, slice(0, _num_choosing(evidence)))
    sections = [
        _over_time(evidence, rates, metrics),
        _by_rate(evidence, rates, penalties, metrics),
        _recommendation(evidence, rates, lowest, metrics),
        *_axes(evidence, penalties),
        _pareto(evidence, penalties),
    ]
    beside_theory = theory.section(evidence, metrics)
    if beside_theory is not None:
        sections.append(beside_theory)
    centre = study.cell(kept_name(Fields.of(study).centre))
    slope = measures.moved(evidence.paired(centre.variant, ALL_ROWS, evidence.judged).series())
    moves = "" if slope is None else f", moving by {percent(slope.slope, 4)} percentage points a window"
    advice = (
        "no rate is surely affordable" if lowest is None else f"{lowest.label} is the lowest rate surely affordable"
    )
    return Findings(
        headline=(
            f"{centre.label} cost {percent(penalties[centre.variant])} % of log-loss{moves}; where {Fields.of(study).affordable:g} % "
            f"can be afforded, {advice}."
        ),
        metrics=metrics,
        sections=tuple(sections),
        checks=tuple(_checks(evidence, centre, penalties[centre.variant], slope)),
    )


def _over_time(evidence: Evidence, rates: Sequence[Cell], metrics: dict[str, float]) -> Section:
    study = evidence.study
    figure = by_window(
        "Penalty by window: log-loss relative to the model on all rows, before training on them (95 %)",
        "percent; above zero is worse",
        measures.curves(evidence, rates),
        {"online phase": study.lineup.online_start, "judged from here": study.judged},
    )
    rows = []
    for cell in rates:
        series = evidence.paired(cell.variant, ALL_ROWS, evidence.judged).series()
        penalty, found = percent(measures.judged(evidence, cell)), measures.moved(series)
        if found is None:
            rows.append((cell.label, penalty, "too few windows", "", ""))
            continue
        metrics |= {f"{cell.variant}_slope": found.slope.value} | measures.ends(f"{cell.variant}_slope", found.slope)
        share = Interval(*(100 * end for end in (found.change.value, found.change.low, found.change.high)))
        verdict = "yes" if found.constant else "not shown"
        rows.append((cell.label, penalty, percent(found.slope, 4), percent(share, 0), verdict))
    header = (
        "kept",
        "penalty, percent (95 %)",
        "slope, percentage points a window (95 %)",
        "change over the judged windows, percent of the penalty (95 %)",
        "constant?",
    )
    text = (
        "The paper finds the penalty small and constant. The slope is fitted on the judged windows only, with errors that "
        "may be autocorrelated and uneven. Constant means that the interval holds zero and excludes a change over the "
        "judged windows of more than a quarter of the penalty."
    )
    return Section("Penalty over time", text, figure, Table(header, tuple(rows)))


def _by_rate(
    evidence: Evidence, rates: Sequence[Cell], penalties: dict[str, Interval], metrics: dict[str, float]
) -> Section:
    full = evidence.tracks[ALL_ROWS]
    rows = []
    for cell in rates:
        track = evidence.tracks[cell.variant]
        examples = full.total_examples / track.total_examples
        updates = _updates(evidence, ALL_ROWS) / _updates(evidence, cell.variant)
        metrics[f"{cell.variant}_fewer_examples"] = examples
        calibration = float(np.nanmean(track.metric("calibration")[:, evidence.judged]))
        kept_per_positive = _kept_per_positive(evidence, cell)
        rows.append(
            (
                cell.label,
                percent(penalties[cell.variant]),
                f"{kept_per_positive:.1f}",
                f"{examples:.1f}x",
                f"{updates:.1f}x",
                f"{calibration:.3f}",
            )
        )
    figure = by_number(
        "Penalty on the judged windows against the fraction of negatives kept (95 %)",
        "fraction of negatives",
        "percent of log-loss",
        {
            "uniform, offset, batch scaled": (
                [cell.value or 0.0 for cell in rates],
                measures.band([penalties[cell.variant] for cell in rates]),
            )
        },
        levels={"affordable": Fields.of(evidence.study).affordable},
        logarithmic=True,
    )
    header = (
        "kept",
        "penalty, percent (95 %)",
        "negatives per click",
        "fewer examples",
        "fewer updates",
        "calibration",
    )
    text = "Fewer examples and fewer updates are ratios to the model on all rows, over the whole run. Wall times are not compared: steps that were trained before were timed in another run."
    return Section("Penalty by rate", text, figure, Table(header, tuple(rows)))


def _updates(evidence: Evidence, variant: str) -> float:
    return float(np.mean([step.num_updates for step in evidence.tracks[variant].steps.values()]))


def _kept_per_positive(evidence: Evidence, cell: Cell) -> float:
    found = [each.metrics for each in evidence.tracks[cell.variant].evaluations.values()]
    base_rate = float(np.mean([metrics["base_rate"] for metrics in found if "base_rate" in metrics]))
    return (cell.value or 1.0) * (1 - base_rate) / base_rate


def _num_choosing(evidence: Evidence) -> int:
    """The first half of the seeds chooses the rate, the others confirm it."""
    return -(-len(evidence.study.lineup.seeds) // 2)


def recommended(evidence: Evidence, rates: Sequence[Cell], seeds: slice) -> Cell | None:
    """The lowest rate that is surely affordable, by some of the seeds."""
    penalties = {cell.value or 1.0: measures.judged(evidence, cell, seeds) for cell in rates}
    lowest = recommend(penalties, Fields.of(evidence.study).affordable).rate
    return next((cell for cell in rates if cell.value == lowest), None)


def _recommendation(
    evidence: Evidence, rates: Sequence[Cell], lowest: Cell | None, metrics: dict[str, float]
) -> Section:
    choosing = _num_choosing(evidence)
    seeds = evidence.study.lineup.seeds
    fresh = slice(choosing, len(seeds))
    rows = []
    for cell in sorted(rates, key=lambda cell: -(cell.value or 0.0)):
        chosen = measures.judged(evidence, cell, slice(0, choosing))
        confirmed = percent(measures.judged(evidence, cell, fresh)) if len(seeds) > choosing else "no seeds left"
        rows.append((cell.label, percent(chosen), confirmed, "recommended" if cell is lowest else ""))
    metrics["recommended_rate"] = float("nan") if lowest is None or lowest.value is None else lowest.value
    text = (
        f"Rates are tested downwards on seeds {', '.join(map(str, seeds[:choosing]))}, until the upper end of a penalty's "
        f"interval reaches the {Fields.of(evidence.study).affordable:g} % that can be afforded; the last that passed is recommended. "
        "In such a fixed sequence every test keeps its level, however many there are (Maurer, Hothorn & Lehmacher 1995). "
        "The other seeds, which had no part in the choice, confirm it or do not."
    )
    header = ("kept", "penalty on the choosing seeds, percent (95 %)", "on fresh seeds, percent (95 %)", "")
    return Section("Recommendation", text, None, Table(header, tuple(rows)))


def _axes(evidence: Evidence, penalties: dict[str, Interval]) -> Iterator[Section]:
    for axis, (title, text) in TITLES.items():
        found = evidence.study.of(axis)
        if not found:
            continue
        others = []
        for cell in found[1:]:
            against = evidence.paired(cell.variant, found[0].variant, evidence.judged).series().mean().interval()
            others.append((cell.label, percent(penalties[cell.variant]), percent(against)))
        rows = [(found[0].label, percent(penalties[found[0].variant]), "reference"), *others]
        header = (axis, "penalty against all rows, percent (95 %)", f"against {found[0].label}, percent (95 %)")
        yield Section(title, text, None, Table(header, tuple(rows)))


def _pareto(evidence: Evidence, penalties: dict[str, Interval]) -> Section:
    shown = {cell.variant: cell for cell in evidence.study.cells if cell.axis != "theory"}
    curves = {}
    for name, cell in shown.items():
        gap = penalties[name]
        examples = evidence.tracks[name].total_examples
        curves[cell.label if cell.axis != "correction" else f"by {cell.label}"] = (
            [examples],
            measures.band([gap]),
        )
    figure = by_number(
        "Loss against examples: below and to the left is better (95 %)",
        "examples trained on until the last window",
        "log-loss relative to all rows, percent",
        curves,
        levels={"": 0.0},
    )
    text = "Every variant of the study; those on the lower left edge lose least for the examples they train on."
    return Section("Loss against examples", text, figure, measures.table(evidence, tuple(shown.values())))


def _checks(evidence: Evidence, centre: Cell, penalty: Interval, slope: Trend | None) -> Iterator[Check]:
    yield measures.growing(centre.label, slope)
    yield measures.jumps(evidence, evidence.study.cells)
    yield measures.too_much_variance(evidence, centre.variant, ALL_ROWS, penalty)
    calibration = evidence.tracks[centre.variant].metric("calibration")[:, evidence.judged]
    off = float(np.nanmean(calibration)) - float(
        np.nanmean(evidence.tracks[ALL_ROWS].metric("calibration")[:, evidence.judged])
    )
    yield Check(
        "a sample that is not corrected, or twice",
        f"mean calibration differs from that on all rows by {off:+.3f}",
        abs(off) < 0.1,
    )
    pilots = [
        v.name
        for v in evidence.study.lineup.variants
        if isinstance(v.selection, OddsProportional) and v.selection.pilot_age > 0
    ]
    uniform = [v.name for v in evidence.study.lineup.variants if isinstance(v.selection, NegativeDownsampling)]
    if pilots and uniform:
        loss = evidence.paired(pilots[0], centre.variant, evidence.judged).series().mean().interval()
        yield Check(
            "a stale pilot",
            f"an older checkpoint's odds against uniform: {percent(loss)} %",
            measures.surely_not_above(loss),
        )
    yield Check("an iso-compute curve without a minimum", "this study varies no budget", None)
