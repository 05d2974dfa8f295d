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
from pipeline.studies.draft import WIDTHS
from pipeline.studies.iso_compute.proposal import BEYOND, Ground, Proposal, minutes


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
        BadInput: a quarter lies further outside, or no size is best for it.
    """
    batch, spend = (
        proposal.lineup.variants[-1].optimizer.batch_size,
        partial(ground.log.spend, ground.amount, grid=ground.grid),
    )
    # Of the best size itself, and not of the nearest that tables can have.
    share = ground.grid.share(ground.amount, lowest(ground.fitted.law, ground.sizes, spend)[0])
    allowed, found = BEYOND if beyond is None else beyond, list[Quarter]()
    for place in range(num_quarters + 1):
        grown = (1 + growth) ** (place / 4)
        grid = replace(ground.grid, grown=grown)
        rows = grown * float(ground.log.seen(np.array([share]))[0])
        size = _best(ground, ground.fitted.law, rows)
        point = {"model": np.array([size]), "data": np.array([rows])}
        if math.isnan(size) or ground.fitted.law.beyond(point) > allowed:
            far = (
                "no size is best"
                if math.isnan(size)
                else f"the law is asked {ground.fitted.law.beyond(point):.1f} times outside"
            )
            raise BadInput(
                f"in {place} quarters, at {grid.rows:,.0f} rows a window, {far} of the sizes and rows that were trained, and at most "
                f"{allowed:g} times is allowed: ask for fewer --quarters, allow it with --beyond, or run the study on more rows"
            )
        logs = ground.fitted.interval(partial(_log_of_best, ground, rows))
        width = ground.log.widths(Interval(*(math.exp(end) for end in (logs.value, logs.low, logs.high))))
        chosen = replace(proposal.chosen, width=min(WIDTHS, key=partial(_apart, width.value)))
        taken = minutes(grid, chosen, grown * batch)  # updates stay as many
        found.append(
            Quarter(
                ahead=place,
                rows_per_window=grid.rows,
                flops=3 * size * share * grid.rows * chosen.num_windows,
                width=width,
                core_minutes=taken,
                cores=taken / found[0].core_minutes if found else 1.0,
                loss=ground.fitted.interval(partial(_loss, point)),
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


def _loss(point: dict[str, np.ndarray], law: Law) -> float:
    return float(law.at(point)[0])


def _apart(width: float, other: int) -> float:
    return abs(math.log(other / width))
