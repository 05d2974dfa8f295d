"""A budget that the law was not fitted to: what it predicted there, and what was lost."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit
from pipeline.statistics.valley import best_size
from pipeline.studies import measures
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table
from pipeline.studies.iso_compute.valleys import Log, Valley
from pipeline.studies.measures import percent


def section(evidence: Evidence, log: Log, fitted: Fit, valley: Valley, metrics: dict[str, float]) -> Section:
    """The page's section, and its figures among the metrics.

    Args:
        evidence: of the study.
        log: its log.
        fitted: the law, to the other budgets alone.
        valley: what was trained at the budget held out.
        metrics: takes its figures.
    """
    points = {"model": valley.sizes, "data": valley.data}
    errors = fitted.errors(points, valley.losses)
    predicted = fitted.predicted(points)
    lost = [measures.judged(evidence, cell) for cell in valley.cells]
    inside = [error.low <= 0 <= error.high for error in errors]
    known = all(math.isfinite(error.low) for error in errors)
    metrics["held_out_error_percent"] = float(np.mean([abs(each.value) for each in errors]))
    if known:
        metrics["held_out_share_inside"] = float(np.mean(inside))
    rows = [
        (
            cell.label,
            measures.many(data),
            percent(mean),
            percent(one),
            percent(error),
            ("yes" if held else "no") if known else "",
        )
        for cell, data, mean, one, error, held in zip(
            valley.cells, valley.data, lost, predicted, errors, inside, strict=True
        )
    ]
    header = (
        "cell",
        "rows seen",
        "lost, percent (95 %)",
        "predicted, percent (95 %)",
        "predicted less lost (95 %)",
        "does that hold zero?",
    )
    widths = [float(cell.value or 0.0) for cell in valley.cells]
    figure = by_number(
        f"What a law of smaller budgets predicts at {valley.words}, and what was lost there (95 %)",
        "width of the embedding rows",
        "percent against the line-up's reference on all rows",
        {"predicted": (widths, measures.band(predicted)), "lost": (widths, measures.band(lost))},
        logarithmic=True,
    )
    held = f", and the interval of its error holds zero at {sum(inside)} of {len(inside)} cells" if known else ""
    text = (
        f"The law is fitted to the other budgets alone. At {valley.words}, {valley.budget / max(log.grid.asked.budgets):g} times the "
        f"largest of them, it misses by {metrics['held_out_error_percent']:.3f} % of loss on average{held}. "
        + _proposal(evidence, log, fitted, valley, metrics)
    )
    return Section("The budget held out", text, figure, Table(header, tuple(rows)))


def _proposal(evidence: Evidence, log: Log, fitted: Fit, valley: Valley, metrics: dict[str, float]) -> str:
    """How near the size that the law proposes comes to the best that was trained."""
    size: Interval = best_size(fitted, valley.sizes, partial(log.spend, valley.budget))
    if not 0 < size.value < math.inf:
        return "It has no lowest point there."
    width = f"{log.widths(size).value:.0f}"
    if not valley.sizes.min() <= size.value <= valley.sizes.max():
        return f"The width that it proposes, {width}, lies outside those trained there."
    near = int(np.argmin(np.abs(np.log(valley.sizes / size.value))))
    best = int(valley.losses.mean(axis=0).argmin())
    name = f"Of what was trained, width {valley.cells[near].value:g} is nearest to the width that it proposes, {width}"
    metrics["held_out_steps_from_best"] = float(abs(near - best))
    if near == best:
        metrics["held_out_regret_percent"] = 0.0
        return f"{name}, and lost least."
    regret = evidence.series(valley.cells[near].variant, valley.cells[best].variant, evidence.judged).mean().interval()
    metrics["held_out_regret_percent"] = regret.value
    steps = abs(near - best)
    return (
        f"{name}; {valley.cells[best].value:g}, {steps} step{'s' if steps > 1 else ''} beside it, lost least, and it lost "
        f"{percent(regret)} % more."
    )
