"""The answer of a study of negative downsampling: what leaving negatives out costs, whether that grows, how few will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.statistics.series import over_seeds
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
        metrics |= measures.ends(f"{name}_percent", penalty)
    choosing, confirming = measures.split_seeds(evidence)
    lowest = recommended(evidence, rates, choosing) if confirming else None
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
    slope = measures.moved(evidence.series(centre.variant, ALL_ROWS, evidence.judged))
    moves = "" if slope is None else f", changing by {percent(_share(slope), 0)} % of that over the judged windows"
    advice = (
        "no rate is surely affordable" if lowest is None else f"{lowest.label} is the lowest rate surely affordable"
    )
    if confirming is None:
        advice = f"no rate is recommended on fewer than {measures.MIN_CHOOSING + measures.MIN_CONFIRMING} seeds"
    return Findings(
        headline=(
            f"{centre.label} cost {percent(penalties[centre.variant])} % of log-loss{moves}; where {Fields.of(study).affordable:g} % "
            f"can be afforded, {advice}."
        ),
        metrics=metrics,
        sections=tuple(sections),
        checks=tuple(_checks(evidence, centre, penalties[centre.variant], slope)),
        notes=(measures.scope(evidence),),
    )


def _share(trend: Trend) -> Interval:
    """The change over the run, percent of the penalty."""
    return Interval(*(100 * end for end in (trend.change.value, trend.change.low, trend.change.high)))


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
        series = evidence.series(cell.variant, ALL_ROWS, evidence.judged)
        penalty, found = percent(measures.judged(evidence, cell)), measures.moved(series)
        if found is None:
            rows.append((cell.label, penalty, "too few windows", "", ""))
            continue
        metrics |= measures.ends(f"{cell.variant}_slope", found.slope)
        metrics |= measures.ends(f"{cell.variant}_change", found.change)
        verdict = "yes" if found.constant else "not shown"
        rows.append((cell.label, penalty, percent(found.slope, 4), percent(_share(found), 0), verdict))
    header = (
        "kept",
        "penalty, percent (95 %)",
        "slope, percentage points a window (95 %)",
        "change over the judged windows, percent of the penalty (95 %)",
        "constant?",
    )
    text = (
        "The paper finds the penalty small and constant. A straight line is fitted to the judged windows. Constant means that "
        "the interval of the change holds zero and excludes a change over the judged windows of more than a quarter of the penalty."
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
    return float(np.nanmean(evidence.tracks[variant]["num_updates"]))


def _kept_per_positive(evidence: Evidence, cell: Cell) -> float:
    track = evidence.tracks[cell.variant]
    base_rate = float(np.nansum(track["positives"]) / np.nansum(track["num_rows"]))
    return (cell.value or 1.0) * (1 - base_rate) / base_rate


def recommended(evidence: Evidence, rates: Sequence[Cell], seeds: slice) -> Cell | None:
    """The lowest rate whose penalty is surely affordable by some of the seeds, testing downwards until one fails.

    The order is fixed before the data are seen and testing stops at the first failure, so that the chance of recommending
    any rate that costs too much is at most that of one test, 2.5 %, without a correction for their number (fixed-sequence
    procedure: Maurer, Hothorn & Lehmacher 1995; Dmitrienko, Tamhane & Bretz 2010).
    """
    lowest = None
    for cell in sorted(rates, key=lambda cell: -(cell.value or 0.0)):
        if not _penalty(evidence, cell, seeds).high <= Fields.of(evidence.study).affordable:
            break
        lowest = cell
    return lowest


def _penalty(evidence: Evidence, cell: Cell, seeds: slice) -> Interval:
    """By some of the seeds, however few they are."""
    return over_seeds(evidence.series(cell.variant, ALL_ROWS, evidence.judged, seeds).values.mean(axis=1)).interval()


def _recommendation(
    evidence: Evidence, rates: Sequence[Cell], lowest: Cell | None, metrics: dict[str, float]
) -> Section:
    choosing, confirming = measures.split_seeds(evidence)
    metrics["recommended_rate"] = float("nan") if lowest is None or lowest.value is None else lowest.value
    if confirming is None:
        text = (
            f"None: a rate is chosen by at least {measures.MIN_CHOOSING} seeds and confirmed by at least {measures.MIN_CONFIRMING} others, each a "
            f"world of its own; got {len(evidence.study.lineup.seeds)} seeds{'' if evidence.independent else ' of one log'}."
        )
        return Section("Recommendation", text)
    rows = [
        (
            cell.label,
            *(percent(_penalty(evidence, cell, seeds)) for seeds in (choosing, confirming)),
            "recommended" if cell is lowest else "",
        )
        for cell in sorted(rates, key=lambda cell: -(cell.value or 0.0))
    ]
    text = (
        f"Rates are tested downwards on seeds {', '.join(map(str, evidence.study.lineup.seeds[choosing]))}, until the upper end "
        f"of a penalty's interval reaches the {Fields.of(evidence.study).affordable:g} % that can be afforded; the last that "
        "passed is recommended. In such a fixed sequence every test keeps its level, however many there are (Maurer, Hothorn & "
        "Lehmacher 1995). The other seeds, which had no part in the choice, confirm it or do not."
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
            against = evidence.series(cell.variant, found[0].variant, evidence.judged).mean().interval()
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
        loss = evidence.series(pilots[0], centre.variant, evidence.judged).mean().interval()
        yield Check(
            "a stale pilot",
            f"an older checkpoint's odds against uniform: {percent(loss)} %",
            measures.surely_not_above(loss),
        )
    yield Check("an iso-compute curve without a minimum", "this study varies no budget", None)
