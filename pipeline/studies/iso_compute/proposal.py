"""The planner: for a budget, the size and the rows that an iso-compute study's law finds best, as a line-up to be trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp, document
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit
from pipeline.statistics.valley import best_size, lowest
from pipeline.studies.draft import WIDTHS
from pipeline.studies.estimate import update_seconds
from pipeline.studies.evidence import Evidence
from pipeline.studies.iso_compute.cells import STEP, Grid, Point, short
from pipeline.studies.iso_compute.fields import budget_of
from pipeline.studies.iso_compute.valleys import Log, Valley, law_of, shown_width, valleys_of
from pipeline.studies.operations import forward_flops, shape_of

Array = NDArray[np.float64]

BEYOND = 4.0
"""How far outside the study's budgets a proposal goes unless more is allowed."""
WIDEST = 4.0
"""Upper end over lower end of the best width, from which a law decides nothing."""


@dataclass(frozen=True)
class Proposal:
    """What to train for a budget, and what to expect of it."""

    budget: str
    width: Interval
    """Of the embedding rows, by the law."""
    chosen: Point
    """What is trained: the nearest width that tables can have, and its rows."""
    loss: Interval
    """Of what is chosen: percent of the loss of the study's reference on all rows."""
    doubling: Interval
    """Percent of loss that twice the budget would take away."""
    minutes: float
    """On one core as Windrow was measured on an AMD EPYC."""
    pilot_minutes: float
    """The same, of the reference's pass over all rows, where the policy asks it; else none."""
    fitted: tuple[str, str]
    """The smallest and the largest budget that the law was fitted to."""
    span: tuple[str, str]
    """First and last window that the budget pays for."""
    lineup: LineUp
    """The study's line-up with the reference and what is chosen."""

    def figures(self) -> dict[str, object]:
        """For programs."""
        return {
            "budget": self.budget,
            "width": asdict(self.width),
            "chosen_width": self.chosen.width,
            "rate": self.chosen.rate,
            "num_windows": self.chosen.num_windows,
            "loss_percent": asdict(self.loss),
            "doubling_percent": asdict(self.doubling),
            "core_minutes": self.minutes,
            "pilot_core_minutes": self.pilot_minutes,
            "fitted_budgets": list(self.fitted),
            "span": list(self.span),
            "lineup": document(self.lineup),
        }

    def words(self) -> str:
        """For people."""
        unsure = "" if math.isfinite(self.loss.low) else " Nothing here says how sure that is."
        pilot = (
            f", and {self.pilot_minutes:,.1f} of the reference on all rows, which its policy asks"
            if self.pilot_minutes
            else ""
        )
        return (
            f"For {self.budget} from {self.span[0]} to {self.span[1]}: {self.chosen.label}. The best width by the law is "
            f"{shown_width(self.width)}; expected loss {_percent(self.loss)} % against the study's reference on all rows; about "
            f"{self.minutes:,.1f} minutes of one core{pilot}. Twice the budget would take away {_percent(self.doubling, sign='')} % of loss. "
            f"The law was fitted to budgets from {self.fitted[0]} to {self.fitted[1]}.{unsure}"
        )


@dataclass(frozen=True)
class Ground:
    """What plans stand on: the law of a study, and what a budget pays for."""

    log: Log
    grid: Grid
    """In the unit of the budget."""
    valleys: list[Valley]
    fitted: Fit
    amount: float
    """The budget."""

    @classmethod
    def of(cls, evidence: Evidence, base: LineUp, text: str) -> Ground:
        """The law of an iso-compute study.

        Args:
            evidence: the study's.
            base: the line-up that the study began with.
            text: the budget, as `budget_of` reads it.

        Raises:
            BadInput: there is no law, or the text is no budget.
        """
        log = Log.of(evidence)
        valleys = valleys_of(evidence, log)
        fitted, weak = law_of(evidence, valleys)
        if fitted is None:
            raise BadInput(f"no law is known for a plan: {weak}: run the study with more budgets or sizes")
        return cls.by(log, valleys, fitted, base, text)

    @classmethod
    def by(cls, log: Log, valleys: list[Valley], fitted: Fit, base: LineUp, text: str) -> Ground:
        """The same, where the law is known already."""
        amount, unit = budget_of(text)
        asked = log.grid.asked.model_copy(update={"unit": unit, "rows_per_window": _rows_per_window(log)})
        return cls(log, Grid(base, asked), valleys, fitted, amount)

    @property
    def sizes(self) -> Array:
        """(K,) all that were trained."""
        return np.concatenate([valley.sizes for valley in self.valleys])

    def point(self, size: float, share: float) -> dict[str, Array]:
        """Where a model of a size on a share of all rows lies on the law's axes."""
        return {"model": np.array([size]), "data": self.log.seen(np.array([share]))}


def propose(ground: Ground, *, beyond: float | None = None, unsure: bool = False) -> Proposal:
    """What to train for a budget.

    Args:
        ground: the study's law, and the budget.
        beyond: how far outside the study's budgets it may lie, as a factor, and what is best outside the sizes and rows that were
            trained; four times when not given.
        unsure: propose also where no interval is known, as of a single log.

    Raises:
        BadInput: the law is too weak, the budget lies too far outside, or it does not pay for what the law finds best.
    """
    log, grid, valleys, fitted = ground.log, ground.grid, ground.valleys, ground.fitted
    sizes, amount = ground.sizes, ground.amount
    words, asked = grid.words(amount), grid.asked
    allowed = BEYOND if beyond is None else beyond
    if asked.unit == log.grid.asked.unit:
        _refuse_beyond(amount, valleys, words, allowed)
    once, twice = (partial(log.spend, times * amount, grid=grid) for times in (1.0, 2.0))
    if not (once(sizes) > 0).any():
        raise BadInput(f"a budget of {words} pays for no rows at any size that was studied: give a larger one")
    width = log.widths(best_size(fitted, sizes, once))
    _refuse_weak(width, words, valleys, unsure=unsure)
    if not all(math.isfinite(law.exponent(place)) for law in (fitted.law, *fitted.without) for place in (0, 1)):
        raise BadInput(
            "the law is too weak for a plan: its points do not determine how losses fall with size and with rows: run the study on "
            "more seeds, or at more budgets"
        )
    chosen = _chosen(grid, amount, width)
    point = ground.point(grid.flops(chosen.width), chosen.share)
    if (far := fitted.law.beyond(point)) > allowed:
        raise BadInput(
            f"a law holds near what it was fitted to; at {words} it is asked {far:.1f} times outside the sizes and rows that were "
            f"trained, and at most {allowed:g} times is allowed: run the study at this budget, or allow it with --beyond {math.ceil(far)}"
        )
    variant = grid.variant(chosen)
    return Proposal(
        budget=words,
        width=width,
        chosen=chosen,
        loss=fitted.predicted(point)[0],
        doubling=fitted.interval(lambda law: lowest(law, sizes, once)[1] - lowest(law, sizes, twice)[1]),
        minutes=_of_chosen(grid, chosen, variant.optimizer.batch_size),
        pilot_minutes=_of_pilot(grid) if variant.selection.reads() else 0.0,
        fitted=(valleys[0].words, valleys[-1].words),
        span=(asked.last.shift(1 - chosen.num_windows).name, asked.last.name),
        lineup=grid.base.model_copy(
            update={
                "name": f"{asked.study}_{short(amount)}"[:63],
                "variants": (grid.reference, variant),
                "reference": grid.reference.name,
                "online_start": asked.online_start,
                "tuned": f"by the law of study {asked.study}; learning rates as there",
            }
        ),
    )


def _rows_per_window(log: Log) -> int | None:
    """What the study's windows really had, where its form had to say it."""
    return None if log.grid.asked.rows_per_window is None else round(log.rows / log.grid.num_windows)


def _refuse_beyond(amount: float, valleys: list[Valley], words: str, beyond: float) -> None:
    smallest, largest = valleys[0], valleys[-1]
    far = max(amount / largest.budget, smallest.budget / amount)
    if far > beyond:
        side = "more than the largest" if amount > largest.budget else "less than the smallest"
        raise BadInput(
            f"a law holds near what it was fitted to, {smallest.words} to {largest.words}; got {words}, {far:.1f} times {side}, and at "
            f"most {beyond:g} times is allowed: run the study at budgets nearer to it, or allow it with --beyond {math.ceil(far)}"
        )


def _refuse_weak(width: Interval, words: str, valleys: list[Valley], *, unsure: bool) -> None:
    trained = sorted(float(cell.value or 0) for valley in valleys for cell in valley.cells)
    if not 0 < width.value < math.inf:
        side = "narrower" if width.value == 0 else "wider"
        raise BadInput(
            f"at {words} the law is lowest at a model {side} than any it can be asked about; widths from {trained[0]:.0f} to "
            f"{trained[-1]:.0f} were trained: run the study at this budget, on rows of which it takes a part"
        )
    if math.isnan(width.low):
        if not unsure:
            raise BadInput(
                "no interval is known from a single log or from fewer than 8 worlds, so that nothing says how sure a plan is: allow it "
                "with --unsure"
            )
    elif not width.high / max(width.low, 1e-9) <= WIDEST:
        raise BadInput(
            f"the law is too weak for a plan: the best width is {shown_width(width)}: run the study on more seeds, or with more sizes"
        )


def _chosen(grid: Grid, amount: float, width: Interval) -> Point:
    """The width that tables can have nearest to the law's, of those that the budget can pay for.

    Raises:
        BadInput: it is far from the law's.
    """
    found = grid.paid(amount)
    words = grid.words(amount)
    if not found:
        raise BadInput(
            f"a budget of {words} pays for no width from {WIDTHS[0]} to {WIDTHS[-1]} on a fitting part of {grid.num_windows} windows of "
            f"{grid.rows:,.0f} rows: give another, or run the study over more windows"
        )
    nearest = min(found, key=lambda point: abs(math.log(point.width / width.value)))
    low, high = (width.value, width.value) if math.isnan(width.low) else (width.low, width.high)
    if not low / STEP <= nearest.width <= high * STEP:
        why = "leaves too few rows" if nearest.width < low else "has more than all rows"
        raise BadInput(
            f"the best width by the law is {shown_width(width)}, for which a budget of {words} {why} of {grid.num_windows} windows of "
            f"{grid.rows:,.0f} rows; the nearest that it pays for is {nearest.width}: give a "
            f"{'larger' if nearest.width < low else 'smaller'} budget, or run the study over "
            f"{'fewer' if nearest.width < low else 'more'} windows"
        )
    return nearest


def _of_chosen(grid: Grid, chosen: Point, batch_size: float) -> float:
    """Minutes of one core, to train what is chosen."""
    rows = chosen.share * grid.rows * grid.num_windows
    return _minutes(grid, rows, grid.flops(chosen.width), chosen.num_windows, batch_size)


def _of_pilot(grid: Grid) -> float:
    """Minutes of one core, to train the reference on all rows of all windows."""
    own = grid.reference
    _, num_dense, num_sparse = shape_of(grid.base, own.model)
    flops = forward_flops(own.model, num_dense, num_sparse) or 0.0
    return _minutes(grid, grid.rows * grid.num_windows, flops, grid.num_windows, own.optimizer.batch_size)


def _minutes(grid: Grid, rows: float, flops: float, num_windows: int, batch_size: float) -> float:
    return (update_seconds(rows / batch_size, num_windows) + rows * grid.row_seconds(flops)) / 60


def _percent(interval: Interval, sign: str = "+") -> str:
    value, low, high = (f"{end:{sign}.2f}" for end in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})" if math.isfinite(interval.low) else value
