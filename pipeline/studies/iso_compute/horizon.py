"""Planning ahead: the log grows, and each quarter of a year wants a size, a budget and hardware."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import brentq

from pipeline.spec.errors import BadInput
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Law
from pipeline.statistics.valley import BESIDE, lowest
from pipeline.studies.estimate import update_seconds
from pipeline.studies.iso_compute.proposal import BEYOND, Ground, Proposal


@dataclass(frozen=True)
class Quarter:
    """What a quarter of a year wants."""

    ahead: int
    """Quarters from now."""
    rows_per_window: float
    flops: float
    """Of training from the first window to the last."""
    width: Interval
    """Of the embedding rows: best for these rows, by the law."""
    core_minutes: float
    """On one core as Windrow was measured on an AMD EPYC."""
    cores: float
    """That train in the time that one core takes today."""
    loss: Interval
    """Percent of the loss of the study's reference on all rows of today."""


def horizon(
    ground: Ground, proposal: Proposal, growth: float, num_quarters: int, *, beyond: float | None = None
) -> list[Quarter]:
    """What each quarter wants, from now on, if the log grows and the same share of it is trained on.

    The size is the one that is best for so many rows: at its budget, neither more rows nor a larger model would lose less. Rows
    count alike whether the log has more of them or a larger share of it is kept. Source: Ardalani et al. 2022 ask the question;
    the answer's law is Hoffmann et al. 2022, approach 3.

    Args:
        ground: what today's plan stands on.
        proposal: today's plan.
        growth: of the log in a year, as a share of today's: 0.5 for half as much again.
        num_quarters: after today's.
        beyond: how far outside the sizes and rows that were trained, as a factor; four times when not given.

    Raises:
        BadInput: a quarter lies further outside, no size is best for it, or larger models gave up windows, whose rows count otherwise.
    """
    if ground.grid.asked.gives_up == "windows":
        raise BadInput(
            "planning ahead is for studies whose larger models give up rows of every window, got one that gives up windows"
        )
    today, spend = ground.grid, partial(ground.log.spend, ground.amount, grid=ground.grid)
    best, _ = lowest(ground.fitted.law, ground.sizes, spend)
    share = min(1.0, today.share(ground.amount, best))
    updates = proposal.chosen.share * today.rows * today.num_windows / proposal.lineup.variants[-1].optimizer.batch_size
    allowed, found = BEYOND if beyond is None else beyond, list[Quarter]()
    for place in range(num_quarters + 1):
        grid = replace(today, grown=(1 + growth) ** (place / 4))
        rows = grid.grown * float(ground.log.seen(np.array([share]))[0])
        size = _best(ground, ground.fitted.law, rows)
        point = {"model": np.array([size]), "data": np.array([rows])}
        logs = ground.fitted.interval(partial(_log_of_best, ground, rows))
        width = ground.log.widths(Interval(*(math.exp(end) for end in (logs.value, logs.low, logs.high))))
        where = f"in {place} quarters, at {grid.rows:,.0f} rows a window,"
        if not 0 < width.value < math.inf:
            raise BadInput(f"{where} the law finds no size best that a model can have: ask for fewer --quarters")
        if (far := ground.fitted.law.beyond(point)) > allowed:
            raise BadInput(
                f"{where} the law is asked {far:.1f} times outside the sizes and rows that were trained, and at most {allowed:g} times is "
                f"allowed: ask for fewer --quarters, allow it with --beyond {math.ceil(far)}, or run the study on more rows"
            )
        trained = share * grid.rows * grid.num_windows
        # Updates stay as many, since batches grow with the rows.
        taken = (update_seconds(updates, grid.num_windows) + trained * grid.row_seconds(size)) / 60
        found.append(
            Quarter(
                ahead=place,
                rows_per_window=grid.rows,
                flops=3 * size * trained,
                width=width,
                core_minutes=taken,
                cores=taken / found[0].core_minutes if found else 1.0,
                loss=ground.fitted.predicted(point)[0],
            )
        )
    return found


def _best(ground: Ground, law: Law, rows: float) -> float:
    """The size that is best for so many rows; not a number where none is.

    There, on the curve of equal budgets, what a larger model wins is what its fewer rows lose: with A, alpha the law's term of
    the model and B, beta that of the rows, alpha A model^-alpha = c beta B rows^-beta. A row grows dearer as the model to the
    power of c, which is 1 where the budget counts operations.
    """
    (alpha, beta), (of_model, of_rows) = law.exponents, law.factors
    lost = beta * of_rows * float(rows / law.units["data"]) ** -beta

    def won(log_size: float) -> float:
        size = math.exp(log_size)
        return float(alpha * of_model * (size / law.units["model"]) ** -alpha - ground.grid.dearer(size) * lost)

    low, high = math.log(ground.sizes.min() / BESIDE), math.log(ground.sizes.max() * BESIDE)
    return math.exp(float(brentq(won, low, high))) if won(low) > 0 > won(high) else math.nan


def _log_of_best(ground: Ground, rows: float, law: Law) -> float:
    return math.log(_best(ground, law, rows))
