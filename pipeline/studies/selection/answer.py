"""The answer of a selection study: what each policy costs against all rows, and whether it beats a uniform sample of negatives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.studies import measures
from pipeline.studies.drawing import by_number, by_window
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.measures import percent
from pipeline.studies.selection.cells import ALL_ROWS, BASELINE, name_of
from pipeline.studies.selection.fields import Fields
from pipeline.studies.selection.recommend import recommended

CALIBRATED = 0.02
"""How far the mean prediction of a policy's model may lie from the click rate, relative to that of all rows' model."""


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    cells = evidence.study.of("policy")
    metrics: dict[str, float] = {}
    for cell in cells:
        metrics |= measures.ends(f"{cell.variant}_percent", measures.judged(evidence, cell))
        if cell.family != BASELINE:
            metrics |= measures.ends(f"{cell.variant}_against_{BASELINE}", _against_baseline(evidence, cell))
    rates = sorted({float(cell.value or 0.0) for cell in cells}, reverse=True)
    said = [words for rate in rates for words in _chosen(evidence, rate, metrics)]
    rules = recommended(evidence, rates, metrics)
    return Findings(
        headline=" ".join(said) or _unchosen(evidence, rates),
        metrics=metrics,
        sections=(
            *(_at_rate(evidence, rate) for rate in rates),
            *_over_rates(evidence, rates),
            *(() if rules is None else (rules,)),
            Section(
                "What it cost",
                "Compute is that of the model alone, then with the whole pilot that it asks, then with its part of a pilot that all share. "
                "The last two hold what the choice itself takes, which also stands apart: a coreset's search, and the passes of the pilot "
                "beyond its own that forgetting takes.",
                None,
                _costs(evidence, [*evidence.study.of("rows"), *cells]),
            ),
        ),
        checks=tuple(_checks(evidence, cells)),
        notes=(measures.scope(evidence), *_left_out(evidence, rates)),
    )


def _costs(evidence: Evidence, cells: list[Cell]) -> Table:
    """What every study shows of its cells' costs, and what choosing took."""
    table = measures.table(evidence, cells)
    chosen = [f"{sum(measures.choosing(evidence, cell.variant)) / 1e12:.3g}" for cell in cells]
    return Table(
        (*table.header, "choosing, TFLOP"), tuple((*row, add) for row, add in zip(table.rows, chosen, strict=True))
    )


def _left_out(evidence: Evidence, rates: list[float]) -> Iterator[str]:
    """Policies that have no cell at a rate."""
    asked = Fields.of(evidence.study).policies
    for rate in rates:
        gone = sorted({*asked} - {str(cell.family) for cell in _at(evidence, rate)})
        if gone:
            yield f"At {100 * rate:g} % of the rows {', '.join(gone)} is left out: all clicks, which it keeps, are more than half of them."


def _against_baseline(evidence: Evidence, cell: Cell, seeds: slice = slice(None)) -> Interval:
    """Percent of log-loss that a policy loses more than a uniform sample of negatives of as many rows."""
    baseline = name_of(BASELINE, float(cell.value or 0.0))
    return evidence.series(cell.variant, baseline, evidence.judged, seeds).mean().interval()


def _at(evidence: Evidence, rate: float) -> list[Cell]:
    return [cell for cell in evidence.study.of("policy") if cell.value == rate]


def _chosen(evidence: Evidence, rate: float, metrics: dict[str, float]) -> Iterator[str]:
    """The policy that some seeds choose, and what the others say of it."""
    choosing, confirming = measures.split_seeds(evidence)
    if confirming is None:
        return
    best = min(_at(evidence, rate), key=lambda cell: measures.judged(evidence, cell, choosing).value)
    found = measures.judged(evidence, best, confirming)
    metrics |= measures.ends(f"chosen_at_{100 * rate:g}_percent", found)
    words = (
        f"At {100 * rate:g} % of the rows {best.family}, chosen on other seeds, costs {percent(found)} % of log-loss"
    )
    if best.family == BASELINE:
        yield f"{words}; no other policy lost less on the seeds that chose."
        return
    gain = _against_baseline(evidence, best, confirming)
    metrics |= measures.ends(f"chosen_at_{100 * rate:g}_against_{BASELINE}", gain)
    verdict = "" if gain.high < 0 else ", which is not shown to be better"
    yield f"{words}, {percent(gain)} % against a uniform sample of negatives{verdict}."


def _unchosen(evidence: Evidence, rates: list[float]) -> str:
    best = min(_at(evidence, rates[0]), key=lambda cell: measures.judged(evidence, cell).value)
    why = "so few seeds" if evidence.independent else "a single log"
    return (
        f"No policy is recommended on {why}; there {best.family} loses least at {100 * rates[0]:g} % of the rows: "
        f"{percent(measures.judged(evidence, best))} % of log-loss."
    )


def _at_rate(evidence: Evidence, rate: float) -> Section:
    choosing, confirming = measures.split_seeds(evidence)
    rows = []
    for cell in _at(evidence, rate):
        apart = ["" if cell.family == BASELINE else percent(_against_baseline(evidence, cell))]
        if confirming is not None:
            chose = f"{measures.judged(evidence, cell, choosing).value:+.2f}"  # of too few seeds for an interval
            apart += [chose, percent(measures.judged(evidence, cell, confirming))]
        track = evidence.tracks[cell.variant]
        calibration = float(np.nanmean(track.metric("calibration")[:, evidence.judged]))
        share = track.total_examples / evidence.tracks[ALL_ROWS].total_examples
        rows.append(
            (str(cell.family), f"{share:.1%}", percent(measures.judged(evidence, cell)), *apart, f"{calibration:.3f}")
        )
    header = (
        "policy",
        "rows trained on",
        "against all rows, percent (95 %)",
        f"against {BASELINE}, percent (95 %)",
        *(("on the choosing seeds", "on the others (95 %)") if confirming is not None else ()),
        "calibration",
    )
    text = "Every model takes as many updates as that on all rows, in smaller batches."
    if confirming is not None:
        chose = ", ".join(map(str, evidence.study.lineup.seeds[choosing]))
        text += f" A policy is chosen on seeds {chose}; what the others say of it had no part in the choice."
    figure = by_window(
        f"What each policy costs by window, at {100 * rate:g} % of the rows (95 %)",
        "percent of log-loss against all rows; above zero is worse",
        measures.curves(evidence, _at(evidence, rate)),
        {"online phase": evidence.study.lineup.online_start, "judged from here": evidence.study.judged},
    )
    return Section(f"At {100 * rate:g} % of the rows", text, figure, Table(header, tuple(rows)))


def _over_rates(evidence: Evidence, rates: list[float]) -> Iterator[Section]:
    if len(rates) < 2:
        return
    curves = {}
    for family in dict.fromkeys(str(cell.family) for cell in evidence.study.of("policy")):
        cells = [cell for cell in evidence.study.of("policy") if cell.family == family]
        losses = measures.band([measures.judged(evidence, cell) for cell in cells])
        curves[family] = ([100 * float(cell.value or 0.0) for cell in cells], losses)
    figure = by_number(
        "What each policy costs by the rows that it keeps (95 %)",
        "percent of the rows",
        "percent of log-loss against all rows",
        curves,
        levels={"all rows": 0.0},
        logarithmic=True,
    )
    yield Section("By the rows kept", "Below zero would be better than training on all rows.", figure, None)


def _checks(evidence: Evidence, cells: tuple[Cell, ...]) -> Iterator[Check]:
    whole = float(np.nanmean(evidence.tracks[ALL_ROWS].metric("calibration")[:, evidence.judged]))
    found = {
        cell.label: float(np.nanmean(evidence.tracks[cell.variant].metric("calibration")[:, evidence.judged])) / whole
        - 1
        for cell in cells
    }
    worst = max(found, key=lambda label: abs(found[label]))
    yield Check(
        "predictions that a selection shifts",
        f"furthest from the calibration of the model on all rows: {worst}, by {found[worst]:+.1%}",
        abs(found[worst]) <= CALIBRATED,
    )
    spent = {
        cell.label: evidence.tracks[cell.variant].total_examples
        / evidence.tracks[ALL_ROWS].total_examples
        / float(cell.value or 1.0)
        for cell in cells
    }
    worst = max(spent, key=lambda label: abs(spent[label] - 1))
    yield Check(
        "a policy that keeps more or fewer rows than its budget",
        f"furthest from it: {worst}, {spent[worst]:.2f} times its budget",
        abs(spent[worst] - 1) <= 0.1,
    )
    best = min(cells, key=lambda cell: measures.judged(evidence, cell).value)
    yield measures.too_much_variance(evidence, best.variant, ALL_ROWS, measures.judged(evidence, best))
