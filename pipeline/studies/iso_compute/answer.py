"""The answer of an iso-compute study: each budget's valley, where it is lowest, and how the best size grows with the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import document
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, Form, Law, TooWeak, fit
from pipeline.statistics.valley import FORMS, HUNGRY, ROWS_ALONE, SPLIT, best_size, lowest, parabola
from pipeline.studies import measures
from pipeline.studies.draft import rates_by_width
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.iso_compute import early, held_out
from pipeline.studies.iso_compute.cells import short
from pipeline.studies.iso_compute.proposal import Ground, propose
from pipeline.studies.iso_compute.valleys import Log, Valley, held_out_of, law_of, points_of, shown_width, valleys_of
from pipeline.studies.measures import percent

Array = NDArray[np.float64]

UNSPENT = 0.05
"""Share of a budget that a cell may have left, or spent beyond it."""


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    log = Log.of(evidence)
    valleys, beyond = valleys_of(evidence, log), held_out_of(evidence, log)
    trained = valleys if beyond is None else [*valleys, beyond]
    metrics: dict[str, float] = {}
    fitted, weak = law_of(evidence, valleys)
    documents = {} if fitted is None else {"law": fitted.document()}
    best = [None if fitted is None else _best(log, fitted, each) for each in valleys]
    for valley, size in zip(valleys, best, strict=True):
        if size is not None:
            metrics |= measures.ends(f"best_width_at_{short(valley.budget)}", log.widths(size))
    sections = [
        _valleys(evidence, log, valleys, fitted, best, weak),
        *_path(log, valleys, fitted, best, metrics),
        *_law(log, valleys, fitted, metrics),
        *_forms(valleys, beyond, metrics),
        *_held_out(evidence, log, fitted, beyond, metrics),
        *_plan(log, valleys, fitted, documents),
        *early.section(evidence, trained, metrics),
        Section(
            "All cells",
            "What each lost against the line-up's reference on all rows, and what it cost.",
            None,
            measures.table(evidence, evidence.study.cells),
        ),
    ]
    return Findings(
        headline=_headline(log, valleys, fitted, best, weak),
        metrics=metrics,
        sections=tuple(sections),
        checks=tuple(_checks(evidence, log, valleys, trained, best)),
        notes=(measures.scope(evidence), _rates(log)),
        documents=documents,
    )


def _best(log: Log, fitted: Fit, valley: Valley) -> Interval:
    return best_size(fitted, valley.sizes, partial(log.spend, valley.budget))


def _rates(log: Log) -> str:
    """Where the learning rates come from."""
    known = sorted(rates_by_width(log.grid.asked.base(), log.grid.reference))
    return (
        f"Learning rates are known at {'widths' if len(known) > 1 else 'width'} {', '.join(map(str, known))}; between two of them they "
        "are taken in proportion to the logarithm of the width, beyond them they are those of the nearest."
    )


def _headline(log: Log, valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], weak: str) -> str:
    if fitted is None:
        return f"No law was fitted: {weak}."
    inside = [(valley, size) for valley, size in zip(valleys, best, strict=True) if size and valley.holds(size)]
    if not inside:
        return "At no budget is the lowest point of the valley surely within the sizes that were trained."
    parts = [f"at {valley.words} a width of {shown_width(log.widths(size))}" for valley, size in inside]
    rest = len(valleys) - len(inside)
    outside = f"; at {rest} more the lowest point is not surely within the sizes that were trained" if rest else ""
    return f"The loss is lowest {', '.join(parts)}{outside}."


def _valleys(
    evidence: Evidence, log: Log, valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], weak: str
) -> Section:
    curves = {}
    rows = []
    for valley, size in zip(valleys, best, strict=True):
        losses = [measures.judged(evidence, cell) for cell in valley.cells]
        curves[valley.words] = ([float(cell.value or 0.0) for cell in valley.cells], measures.band(losses))
        least = int(np.argmin([each.value for each in losses]))
        bent = parabola(valley.sizes, valley.losses, independent=evidence.independent)
        by_parabola = "none" if math.isnan(bent.value) else shown_width(log.widths(bent))
        found = ("no law", "", "", "") if fitted is None or size is None else _at_best(log, fitted, valley, size)
        rows.append((valley.words, *found, valley.cells[least].label, percent(losses[least]), by_parabola))
    header = (
        "budget",
        "best width by the law (95 %)",
        "rows seen there",
        "its loss, percent (95 %)",
        "within the sizes trained?",
        "best cell trained",
        "its loss, percent (95 %)",
        "best width by a parabola through this budget alone (95 %)",
    )
    figure = by_number(
        "Loss at one budget by the width of the model: a larger one is trained on fewer rows (95 %)",
        "width of the embedding rows",
        "percent against the line-up's reference on all rows",
        curves,
        logarithmic=True,
    )
    text = (
        "Every cell of a curve spends the same budget. Left of the lowest point the model is too small for what the log says, "
        "right of it it has seen too little of it. Rows are counted to the middle of the judged windows. "
        + (f"No law is fitted: {weak}." if weak else "The law is fitted to all budgets together; see below.")
    )
    return Section("Valleys", text, figure, Table(header, tuple(rows)))


def _at_best(log: Log, fitted: Fit, valley: Valley, size: Interval) -> tuple[str, str, str, str]:
    inside = {True: "yes", False: "not surely", None: "not known"}[valley.holds(size)]
    if not 0 < size.value < math.inf:
        return shown_width(log.widths(size)), "", "", inside
    rows = float(log.spend(valley.budget, np.array([size.value]))[0])
    loss = fitted.interval(lambda law: lowest(law, valley.sizes, partial(log.spend, valley.budget))[1])
    return shown_width(log.widths(size)), measures.many(rows), percent(loss), inside


def _path(
    log: Log, valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], metrics: dict[str, float]
) -> Iterator[Section]:
    """How the best size grows with the budget, where each budget has one."""
    if fitted is None or len(valleys) < 2 or not all(s and v.holds(s) for v, s in zip(valleys, best, strict=True)):
        return
    logs = np.log([valley.budget for valley in valleys])

    def slope(law: Law) -> float:
        sizes = [lowest(law, each.sizes, partial(log.spend, each.budget))[0] for each in valleys]
        return float(np.polyfit(logs, np.log(sizes), 1)[0])

    grows = fitted.interval(slope)
    metrics |= measures.ends("size_grows_with_budget", grows)
    widths = [log.widths(size) for size in best if size is not None]
    figure = by_number(
        "Path of the minima: the best width by budget (95 %)",
        f"budget, {log.grid.asked.unit}",
        "width of the embedding rows",
        {"best width by the law": ([valley.budget for valley in valleys], measures.band(widths))},
        logarithmic=True,
    )
    text = f"The best size, in operations an example, grows as the budget to the power of {percent(grows)}."
    if log.grid.asked.unit == "FLOPs":
        text += " At 0.5 model and rows grow alike; above, the model takes the larger part of what is added."
    yield Section("Path of the minima", text, figure, None)


def _law(log: Log, valleys: list[Valley], fitted: Fit | None, metrics: dict[str, float]) -> Iterator[Section]:
    """The law's exponents, and how near it comes to a budget that it was not fitted to."""
    if fitted is None:
        return
    names = {"alpha": "exponent of the model's size", "beta": "exponent of the rows"}
    rows = []
    for place, (name, words) in enumerate(names.items()):
        found = fitted.interval(partial(_exponent, place))
        metrics |= measures.ends(name, found)
        rows.append((words, "not determined" if math.isnan(found.value) else percent(found)))
    metrics["residual_percent"] = float(np.sqrt(np.square(fitted.residuals).mean()))
    rows.append(("root of the mean squared residual, percent of log-loss", f"{metrics['residual_percent']:.3f}"))
    text = (
        "loss = E + A size^-alpha + B rows^-beta, in percent of the reference's loss, fitted to the means over seeds by variable "
        "projection; intervals by the jackknife over seeds. It holds for the sizes, rows and windows of this study."
    )
    yield Section("The law", text, None, Table(("", "found (95 %)"), tuple(rows)))


def _held_out(
    evidence: Evidence, log: Log, fitted: Fit | None, valley: Valley | None, metrics: dict[str, float]
) -> Iterator[Section]:
    if valley is None:
        return
    if fitted is None:
        yield Section(
            "The budget held out",
            f"{valley.words} were trained too; without a law nothing predicts what is lost there.",
        )
        return
    yield held_out.section(evidence, log, fitted, valley, metrics)


def _plan(log: Log, valleys: list[Valley], fitted: Fit | None, documents: dict[str, Any]) -> Iterator[Section]:
    """What to train for the budget that the form asks a plan for."""
    text = log.grid.asked.plan_for
    if text is None:
        return
    try:
        if fitted is None:
            raise BadInput("there is no law")
        proposal = propose(Ground.by(log, valleys, fitted, log.grid.asked.base(), text))
    except BadInput as refused:
        yield Section("The plan", f"Nothing is proposed for a budget of {text}: {refused}.", None, None)
        return
    documents["plan"] = proposal.figures()
    documents["plan_lineup"] = document(proposal.lineup)
    first, last = proposal.span
    text = (
        f"{proposal.words()} As a line-up it lies beside this page, in the file whose name ends in `plan_lineup.json`: "
    )
    yield Section("The plan", f"{text}`windrow train --lineup FILE --first {first} --last {last}`.", None, None)


def _exponent(place: int, law: Law) -> float:
    return law.exponent(place)


def _forms(valleys: list[Valley], beyond: Valley | None, metrics: dict[str, float]) -> Iterator[Section]:
    """How near laws of a simpler and a richer form come to budgets that they were not fitted to."""
    if len(valleys) < 3:
        return
    rows = []
    for form in FORMS:
        left_out = [_error(form, [each for each in valleys if each is not out], out) for out in valleys]
        ahead = None if beyond is None else _error(form, valleys, beyond)
        if any(error is None for error in left_out):
            continue
        mean = float(np.mean([error for error in left_out if error is not None]))
        name = form.name.replace(" ", "_")
        metrics[f"left_out_error_{name}_percent"] = mean
        each = ", ".join(f"{error:.2f}" for error in left_out if error is not None)
        rows.append(
            (form.name, str(form.num_parameters), f"{mean:.3f} ({each})", "" if ahead is None else f"{ahead:.3f}")
        )
    if not rows:
        return
    header = (
        "form",
        "parameters",
        "error where a budget is left out (each), mean absolute, percent",
        "at the budget held out",
    )
    text = (
        f"Everything else on this page is by *{SPLIT.name}*, chosen before anything was trained. Beside it stand a simpler form and a "
        f"richer one, each fitted to the other budgets: *{ROWS_ALONE.name}*, and *{HUNGRY.name}*, by which few rows cost a large model more."
    )
    yield Section("Other forms of the law", text, None, Table(header, tuple(rows)))


def _error(form: Form, fitted: list[Valley], unseen: Valley) -> float | None:
    """Mean absolute error at one budget's cells of a law that was fitted to others, percent; None where it cannot be fitted."""
    try:
        found = fit(form, *points_of(fitted), independent=False)
    except TooWeak:
        return None
    points, losses = points_of([unseen])
    return float(np.abs(found.law.at(points) - losses.mean(axis=0)).mean())


def _checks(
    evidence: Evidence, log: Log, valleys: list[Valley], trained: list[Valley], best: list[Interval | None]
) -> Iterator[Check]:
    inside = [None if size is None else valley.holds(size) for valley, size in zip(valleys, best, strict=True)]
    known = all(each is not None for each in inside)
    yield Check(
        "an iso-compute curve without a minimum",
        f"{sum(each is True for each in inside)} of {len(inside)} budgets have their lowest point, its interval included, within the "
        f"sizes trained{'' if known else '; intervals are not known'}",
        all(inside) if known else None,
    )
    ends = [each.words for each in valleys if int(each.losses.mean(axis=0).argmin()) in (0, len(each.cells) - 1)]
    yield Check("a best cell at the edge of the sizes", f"at an edge: {', '.join(ends) or 'none'}", not ends)
    if log.grid.asked.unit == "FLOPs":
        off = max(float(np.abs(each.flops / each.budget - 1).max()) for each in trained)
        # A cell that gives up windows spends whole ones.
        allowed = UNSPENT if log.grid.asked.gives_up != "windows" else 0.5 / (2 * log.grid.num_judged) + UNSPENT
        yield Check("cells that did not spend their budget", f"furthest from it: {off:.1%}", off < allowed)
    middle = valleys[len(valleys) // 2]
    means = middle.losses.mean(axis=0)
    worst, least = (middle.cells[int(place)].variant for place in (means.argmax(), means.argmin()))
    depth = evidence.series(worst, least, evidence.judged).mean().interval()
    yield measures.too_much_variance(evidence, worst, least, depth)
