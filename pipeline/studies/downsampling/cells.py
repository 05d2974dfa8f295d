"""The recipe of a study of negative downsampling: rates, and what else may matter, one factor at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import (
    LATE_CUTOVER_WINDOWS,
    Continuous,
    Name,
    Rate,
    Size,
    Variant,
)
from pipeline.spec.documents import Few, Real, Seeds
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.studies.distillation.cells import CONTINUOUS, TEACHER
from pipeline.studies.draft import Draft, both, kept, kept_name, plain, sampled, taught, tuned, with_batch

DownsamplingAxis = Literal["scope", "correction", "policy", "batch", "combined", "theory"]

ALL_ROWS = "all_rows"
CENTRE_RATE = 0.1


def downsampling_study(
    base: LineUp,
    *,
    name: Name,
    first: Window,
    online_start: Window,
    last: Window,
    judged: Window | None = None,
    size: Size = "tiny",
    teacher_size: Size = "small",
    soft_weight: Real = 3.0,
    rates: Annotated[Sequence[Rate], Few] = (0.5, 0.25, 0.1, 0.05),
    centre: Rate = CENTRE_RATE,
    axes: Sequence[DownsamplingAxis] = ("scope", "correction", "batch"),
    affordable: Real = 0.5,
    seeds: Seeds = (0,),
) -> Study:
    """How many negatives can be left out, and what does it cost as time goes by?

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models": a fixed rate kept through the online phase
    costs little, and the cost stays constant over time. Which rate is optimal is the first question that it leaves open.

    One factor at a time around (`centre` of the negatives, continuous, offset, uniform, batch scaled with the rows).

    Command: `airflow dags trigger downsampling_study`, or the form in the UI.

    Cost: one pass over all rows, and for each cell its share of one; with the axes `policy` or `combined` a teacher's
    pass, with `combined` another over all rows.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size. An arm
            whose name one of its variants has takes that one's optimizer; all rates take the centre's learning rates.
        name: names the study, its MLflow experiment and its chains in the lake.
        first: where everybody starts.
        online_start: first window of the online phase, where historical-only sampling ends.
        last: last window, included.
        judged: first window on which penalties are judged; the first online window when not given.
        size: size of the model whose rows are sampled.
        teacher_size: size of the teacher that the axes `policy` and `combined` need.
        soft_weight: weight of the teacher's loss beside the labels'.
        rates: fractions of negatives to try, tested downwards.
        centre: the fraction that all other axes stand at.
        axes: what to vary beside the rate, one at a time.
        affordable: percent of log-loss that may be lost.
        seeds: each variant is trained with each of them.
    """
    asked = _Asked(
        base, first, size, teacher_size, soft_weight, centre, tuple(sorted({*rates, centre} - {1.0}, reverse=True))
    )
    draft = Draft(ALL_ROWS)
    draft.add("rate", "all rows", asked.reference, 1.0)
    for rate in asked.rates:
        draft.add("rate", f"{100 * rate:g} % of negatives", asked.kept(rate), rate)
    for axis in axes:
        AXES[axis](draft, asked)
    return Study(
        kind="downsampling",
        question="How many negatives can be left out, and what does it cost as time goes by?",
        lineup=draft.lineup(base, name, online_start, seeds),
        cells=tuple(draft.cells),
        first=first,
        last=last,
        judged=judged or online_start,
        centre=asked.middle.name,
        affordable=affordable,
    )


@dataclass(frozen=True)
class _Asked:
    """What the axes vary."""

    base: LineUp
    first: Window
    size: Size
    teacher_size: Size
    soft_weight: float
    centre: float
    rates: tuple[float, ...]

    @property
    def reference(self) -> Variant:
        """The model on all rows."""
        return plain(self.base, ALL_ROWS, self.size)

    @property
    def teacher(self) -> Variant:
        """A larger model on all rows: the pilot of odds, and whom students listen to."""
        return plain(self.base, TEACHER, self.teacher_size)

    @property
    def middle(self) -> Variant:
        """The centre of all axes."""
        return kept(self.base, self.reference, self.centre)

    def kept(self, rate: float) -> Variant:
        """The model on a fraction of the negatives, with the centre's learning rates and number of updates."""
        return kept(self.base, self.reference, rate, self.centre)


def _scopes(draft: Draft, asked: _Asked) -> None:
    draft.add("scope", "continuous", asked.middle)
    policy = NegativeDownsampling(rate=asked.centre, scope="historical")
    # One batch size per variant: the full one fits the phase with all rows.
    draft.add("scope", "historical phase only, batch held", sampled(asked.reference, "historical_only", policy))


def _corrections(draft: Draft, asked: _Asked) -> None:
    draft.add("correction", "offset", asked.middle)
    policy = NegativeDownsampling(rate=asked.centre, correction="weight")
    draft.add("correction", "weight", sampled(asked.middle, "weighted", policy))


def _policies(draft: Draft, asked: _Asked) -> None:
    draft.train(asked.teacher)
    draft.add("policy", "uniform", asked.middle)
    for age, label in ((0, "odds of the teacher"), (LATE_CUTOVER_WINDOWS, "odds of an older checkpoint")):
        since = asked.first.shift(age) if age else None
        policy = OddsProportional(rate=asked.centre, pilot=TEACHER, pilot_age=age, since=since)
        draft.add("policy", label, sampled(asked.middle, f"odds_age_{age}", policy))


def _batches(draft: Draft, asked: _Asked) -> None:
    draft.add("batch", "batch scaled with the rows", asked.middle)
    held = with_batch(asked.middle, asked.reference.optimizer.batch_size).model_copy(update={"name": "batch_held"})
    draft.add("batch", "batch held", held)


def _combined(draft: Draft, asked: _Asked) -> None:
    """A teacher on all rows, and students on few."""
    draft.train(asked.teacher)
    continuous = Continuous(teacher=TEACHER, weight=asked.soft_weight)
    draft.add("combined", "all rows", asked.reference)
    draft.add("combined", f"{100 * asked.centre:g} % of negatives", asked.middle)
    draft.add("combined", "continuous distillation", tuned(asked.base, taught(asked.reference, CONTINUOUS, continuous)))
    draft.add("combined", "both", both(asked.base, asked.middle, continuous))


def _theory(draft: Draft, asked: _Asked) -> None:
    """Every rate under both policies and both corrections, to be held against what theory predicts."""
    draft.train(asked.teacher)
    for rate in asked.rates:
        for correction in ("offset", "weight"):
            uniform = NegativeDownsampling(rate=rate, correction=correction)
            odds = OddsProportional(rate=rate, correction=correction, pilot=TEACHER)
            for name, policy in (("uniform", uniform), ("odds", odds)):
                plain_ = name == "uniform" and correction == "offset"
                cell = kept_name(rate) if plain_ else f"{name}_{correction}_{100 * rate:g}"
                variant = sampled(asked.kept(rate), cell, policy)
                draft.add("theory", f"{100 * rate:g} % {name}, {correction}", variant, rate)


AXES: dict[DownsamplingAxis, Callable[[Draft, _Asked], None]] = {
    "scope": _scopes,
    "correction": _corrections,
    "policy": _policies,
    "batch": _batches,
    "combined": _combined,
    "theory": _theory,
}
"""What each axis adds."""
