"""The answer of an iso-compute study: each budget's valley, where it is lowest, and how the best size grows with the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, Law, TooWeak, fit
from pipeline.statistics.valley import SPLIT, best_size, lowest, parabola
from pipeline.studies import measures
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.iso_compute.fields import Fields
from pipeline.studies.iso_compute.valleys import Valley, law_of, points_of
from pipeline.studies.measures import percent

Array = NDArray[np.float64]


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    valleys = [Valley.of(evidence, budget) for budget in Fields.of(evidence.study).budgets]
    metrics: dict[str, float] = {}
    fitted, weak = law_of(evidence, valleys)
    best = [None if fitted is None else best_size(fitted, each.sizes, each.spend) for each in valleys]
    for valley, size in zip(valleys, best, strict=True):
        if size is not None:
            metrics |= measures.ends(f"best_width_at_{valley.budget:.3g}", valley.width(size))
    sections = [
        _valleys(evidence, valleys, fitted, best, weak),
        *_path(valleys, fitted, best, metrics),
        *_law(evidence, valleys, fitted, metrics),
        Section(
            "All cells",
            "What each lost against the line-up's reference on all rows, and what it cost.",
            None,
            measures.table(evidence, evidence.study.cells),
        ),
    ]
    return Findings(
        headline=_headline(valleys, fitted, best, weak),
        metrics=metrics,
        sections=tuple(sections),
        checks=tuple(_checks(evidence, valleys, best)),
        notes=(measures.scope(evidence),),
        documents={} if fitted is None else {"law": fitted.document()},
    )


def _headline(valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], weak: str) -> str:
    if fitted is None:
        return f"No law was fitted: {weak}."
    inside = [(valley, size) for valley, size in zip(valleys, best, strict=True) if size and valley.holds(size)]
    if not inside:
        return "At no budget is the lowest point of the valley surely within the sizes that were trained."
    parts = [f"at {valley.words} a width of {_width(valley.width(size))}" for valley, size in inside]
    rest = len(valleys) - len(inside)
    outside = f"; at {rest} more the lowest point is not surely within the sizes that were trained" if rest else ""
    return f"The loss is lowest {', '.join(parts)}{outside}."


def _width(width: Interval) -> str:
    if math.isnan(width.low):
        return f"{width.value:.0f} (of this log or these worlds alone)"
    low, high = (f"{end:.0f}" if 0 < end < math.inf else "no bound" for end in (width.low, width.high))
    return f"{width.value:.0f} ({low} to {high})"


def _valleys(
    evidence: Evidence, valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], weak: str
) -> Section:
    curves = {}
    rows = []
    for valley, size in zip(valleys, best, strict=True):
        losses = [measures.judged(evidence, cell) for cell in valley.cells]
        curves[valley.words] = ([float(cell.value or 0.0) for cell in valley.cells], measures.band(losses))
        least = int(np.argmin([each.value for each in losses]))
        bent = parabola(valley.sizes, valley.losses, independent=evidence.independent)
        by_parabola = "none" if math.isnan(bent.value) else _width(valley.width(bent))
        if fitted is None or size is None:
            found = ("no law", "", "", "")
        else:
            loss = fitted.interval(partial(_loss_of_best, valley))
            inside = "yes" if valley.holds(size) else "not surely"
            found = (_width(valley.width(size)), f"{valley.rows(size) / 1e6:.2f}M", percent(loss), inside)
        rows.append((valley.words, *found, valley.cells[least].label, percent(losses[least]), by_parabola))
    header = (
        "budget",
        "best width by the law (95 %)",
        "rows there",
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
        "right of it it has seen too little of it. " + (weak or "The law is fitted to all budgets together; see below.")
    )
    return Section("Valleys", text, figure, Table(header, tuple(rows)))


def _path(
    valleys: list[Valley], fitted: Fit | None, best: list[Interval | None], metrics: dict[str, float]
) -> Iterator[Section]:
    """How the best size grows with the budget."""
    if fitted is None or len(valleys) < 2:
        return
    logs = np.log([valley.budget for valley in valleys])

    def slope(law: Law) -> float:
        sizes = [lowest(law, each.sizes, each.spend)[0] for each in valleys]
        return float(np.polyfit(logs, np.log(sizes), 1)[0])

    grows = fitted.interval(slope)
    metrics |= measures.ends("size_grows_with_budget", grows)
    widths = [valley.width(size) for valley, size in zip(valleys, best, strict=True) if size is not None]
    figure = by_number(
        "Path of the minima: the best width by budget (95 %)",
        f"budget, {valleys[0].words.split()[1]}",
        "width of the embedding rows",
        {"best width by the law": ([valley.budget for valley in valleys], measures.band(widths))},
        logarithmic=True,
    )
    text = (
        f"The best size in operations an example grows as the budget to the power of {percent(grows)}. At 0.5 model and data "
        "grow alike; above, the model takes the larger part of what is added."
    )
    yield Section("Path of the minima", text, figure, None)


def _law(evidence: Evidence, valleys: list[Valley], fitted: Fit | None, metrics: dict[str, float]) -> Iterator[Section]:
    """The law's exponents, and how near it comes to a budget that it was not fitted to."""
    if fitted is None:
        return
    alpha, beta = (fitted.interval(partial(_exponent, place)) for place in (0, 1))
    metrics |= measures.ends("alpha", alpha) | measures.ends("beta", beta)
    metrics["residual_percent"] = float(np.sqrt(np.square(fitted.residuals).mean()))
    rows = [
        ("exponent of the model's size", percent(alpha)),
        ("exponent of the rows", percent(beta)),
        ("root of the mean squared residual, percent of log-loss", f"{metrics['residual_percent']:.3f}"),
    ]
    for place, valley in enumerate(valleys):
        error = _left_out(evidence, valleys, place)
        if error is not None:
            rows.append((f"error where {valley.words} is left out of the fit, mean absolute, percent", f"{error:.3f}"))
    text = (
        "loss = E + A size^-alpha + B rows^-beta, in percent of the reference's loss, fitted to the means over seeds by variable "
        "projection; intervals by the jackknife over seeds. It holds for the sizes, rows and windows of this study."
    )
    yield Section("The law", text, None, Table(("", "found (95 %)"), tuple(rows)))


def _loss_of_best(valley: Valley, law: Law) -> float:
    return lowest(law, valley.sizes, valley.spend)[1]


def _exponent(place: int, law: Law) -> float:
    return law.exponents[place]


def _left_out(evidence: Evidence, valleys: list[Valley], place: int) -> float | None:
    rest = [each for number, each in enumerate(valleys) if number != place]
    if len(rest) < 2:
        return None
    try:
        found = fit(SPLIT, *points_of(rest), independent=False)
    except TooWeak:
        return None
    points, losses = points_of([valleys[place]])
    return float(np.abs(found.law.at(points) - losses.mean(axis=0)).mean())


def _checks(evidence: Evidence, valleys: list[Valley], best: list[Interval | None]) -> Iterator[Check]:
    inside = [size is not None and valley.holds(size) for valley, size in zip(valleys, best, strict=True)]
    yield Check(
        "an iso-compute curve without a minimum",
        f"{sum(inside)} of {len(inside)} budgets have their lowest point, its interval included, within the sizes trained",
        None if not any(inside) else all(inside),
    )
    ends = []
    for valley in valleys:
        means = valley.losses.mean(axis=0)
        if int(means.argmin()) in (0, len(means) - 1):
            ends.append(valley.words)
    yield Check("a best cell at the edge of the sizes", f"at an edge: {', '.join(ends) or 'none'}", not ends)
    spent = max(
        abs(float(each.sizes[k] * each.data[k] * 3) / float(np.median(each.sizes * each.data * 3)) - 1)
        for each in valleys
        for k in range(len(each.cells))
    )
    yield Check(
        "cells of one budget that did not spend alike",
        f"largest difference of a cell's FLOPs from the middle one's: {spent:.1%}",
        spent < 0.05 if Fields.of(evidence.study).unit == "FLOPs" else None,
    )
    middle = valleys[len(valleys) // 2]
    means = middle.losses.mean(axis=0)
    worst, least = (middle.cells[int(place)].variant for place in (means.argmax(), means.argmin()))
    depth = evidence.series(worst, least, evidence.judged).mean().interval()
    yield measures.too_much_variance(evidence, worst, least, depth)
