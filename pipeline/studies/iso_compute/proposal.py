"""The planner: for a budget, the size and the rows that an iso-compute study's law finds best, as a line-up to be trained."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.config import Variant
from pipeline.spec.errors import BadInput, shown
from pipeline.spec.lineup import LineUp, document
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit
from pipeline.statistics.valley import best_size, lowest
from pipeline.studies.estimate import row_seconds, shape_of, update_seconds
from pipeline.studies.evidence import Evidence
from pipeline.studies.iso_compute.cells import ALL_ROWS, WIDTHS, Grid, Size
from pipeline.studies.iso_compute.fields import Fields, Unit
from pipeline.studies.iso_compute.valleys import Valley, law_of

Array = NDArray[np.float64]

PLANNED = "planned"
"""The proposed variant's name."""
BEYOND = 4.0
"""How far outside the study's budgets a proposal goes unless more is allowed."""
WIDEST = 4.0
"""Upper end over lower end of the best size, from which a law decides nothing."""
UNITS: dict[str, Unit] = {"": "FLOPs", "flops": "FLOPs", "core-h": "core-hours"}


@dataclass(frozen=True)
class Proposal:
    """What to train for a budget, and what to expect of it."""

    budget: str
    width: Interval
    """Of the embedding rows, by the law."""
    chosen: Size
    """What is trained: the nearest width that tables can have, and its rows."""
    loss: Interval
    """Percent of the loss of the study's reference on all rows."""
    doubling: Interval
    """Percent of loss that twice the budget would take away."""
    minutes: float
    """On one core as Windrow was measured on an AMD EPYC."""
    valid: tuple[str, str]
    """The smallest and the largest budget that the law was fitted to."""
    lineup: LineUp
    """The study's line-up with the reference and the proposed variant."""

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
            "fitted_budgets": list(self.valid),
            "lineup": document(self.lineup),
        }

    def words(self) -> str:
        """For people."""
        return (
            f"For {self.budget}: {self.chosen.label}. The best width by the law is {_shown(self.width, 0)}; expected loss "
            f"{_shown(self.loss)} % against the study's reference on all rows; about {self.minutes:,.1f} minutes of one core. "
            f"Twice the budget would take away another {_shown(self.doubling)} %. The law was fitted to budgets from "
            f"{self.valid[0]} to {self.valid[1]}."
        )


def budget_of(text: str) -> tuple[float, Unit]:
    """A budget as people type it: `5e14` (FLOPs) or `2core-h`.

    Raises:
        BadInput: it is neither.

    >>> budget_of("5e14")
    (500000000000000.0, 'FLOPs')
    >>> budget_of("2.5core-h")
    (2.5, 'core-hours')
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z-]*)\s*", text.lower())
    unit = None if found is None else UNITS.get(found[2])
    try:
        amount = float(found[1]) if found is not None else 0.0
    except ValueError:
        amount = 0.0
    if unit is None or not 0 < amount < math.inf:
        raise BadInput(
            f"a budget is a number of FLOPs or of hours of a core, got {shown(text)}: give it as 5e14 or 2core-h; of a GPU, the "
            "hours times the FLOPs a second that were measured on it"
        )
    return amount, unit


def propose(evidence: Evidence, base: LineUp, text: str, beyond: float = BEYOND) -> Proposal:
    """What to train for a budget.

    Args:
        evidence: of an iso-compute study.
        base: the line-up that the study began with.
        text: the budget, as `budget_of` reads it.
        beyond: how far outside the study's budgets it may lie, as a factor.

    Raises:
        BadInput: the study is of another kind, its law is too weak, or the budget lies too far outside.
    """
    if evidence.study.kind != "iso_compute":
        raise BadInput(
            f"a plan takes the law of an iso_compute study, got one of {evidence.study.kind}: run an iso_compute study first"
        )
    asked = Fields.of(evidence.study)
    amount, unit = budget_of(text)
    grid = Grid(base, asked.model_copy(update={"unit": unit}))
    valleys = [Valley.of(evidence, each) for each in asked.budgets]
    fitted, weak = law_of(evidence, valleys)
    if fitted is None:
        raise BadInput(f"no law is known for a plan: {weak}: run the study with more budgets or sizes")
    sizes = np.concatenate([valley.sizes for valley in valleys])
    rows = evidence.tracks[ALL_ROWS].total_examples

    def spend(times: float, models: Array) -> Array:
        return np.array([rows * min(1.0, grid.share(times * amount, float(each))) for each in models])

    once, twice = partial(spend, 1.0), partial(spend, 2.0)
    size = best_size(fitted, sizes, once)
    _refuse_beyond(fitted, size.value, once, beyond, grid.words(amount))
    width = valleys[0].width(size)
    if size.high / size.low > WIDEST:
        raise BadInput(
            f"the law is too weak for a plan: the best width lies between {width.low:.0f} and {width.high:.0f}: run the study on "
            "more seeds, or with more sizes"
        )
    loss = fitted.interval(lambda law: lowest(law, sizes, once)[1])
    doubling = fitted.interval(lambda law: lowest(law, sizes, once)[1] - lowest(law, sizes, twice)[1])
    chosen = _chosen(grid, amount, width.value)
    variant = grid.variant(chosen).model_copy(update={"name": PLANNED})
    return Proposal(
        budget=grid.words(amount),
        width=width,
        chosen=chosen,
        loss=loss,
        doubling=doubling,
        minutes=_minutes(grid, variant, chosen),
        valid=(valleys[0].words, valleys[-1].words),
        lineup=_lineup(base, grid.reference, variant, asked),
    )


def _refuse_beyond(fitted: Fit, size: float, once: partial[Array], beyond: float, words: str) -> None:
    point = {"model": np.array([size]), "data": once(np.array([size]))}
    far = fitted.law.beyond(point)
    if far > beyond:
        raise BadInput(
            f"a law holds near what it was fitted to; at {words} it is asked {far:.1f} times outside, and at most {beyond:g} times is "
            f"allowed: run the study at larger budgets, or allow it with --beyond {math.ceil(far)}"
        )


def _chosen(grid: Grid, amount: float, width: float) -> Size:
    """The size of the ladder that is nearest to a width, of those that the budget can pay for."""
    found = [size for each in WIDTHS if (size := grid.size(amount, each)) is not None]
    if not found:
        raise BadInput(
            f"a budget of {grid.words(amount)} pays for no size on {grid.num_windows} windows of {grid.rows:,.0f} rows: give another"
        )
    return min(found, key=lambda size: abs(math.log(size.width / width)))


def _minutes(grid: Grid, variant: Variant, chosen: Size) -> float:
    whole, num_sparse = grid.rows * grid.num_windows, shape_of(grid.base)[2]
    trained = chosen.share * whole
    updates = trained / variant.optimizer.batch_size
    flops = grid.flops(chosen.width)
    return (update_seconds(updates, grid.num_windows) + trained * row_seconds(num_sparse, flops)) / 60


def _lineup(base: LineUp, reference: Variant, variant: Variant, asked: Fields) -> LineUp:
    return base.model_copy(
        update={
            "name": f"{asked.study}_planned"[:63],
            "variants": (reference, variant),
            "reference": reference.name,
            "online_start": asked.online_start,
            "tuned": f"by the law of study {asked.study}; learning rates as there",
        }
    )


def _shown(interval: Interval, digits: int = 2) -> str:
    sign = "+" if digits else ""
    value, low, high = (f"{end:{sign}.{digits}f}" for end in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})" if math.isfinite(interval.low) else f"{value} (no interval from so few worlds)"
