"""The cells of a study of negative downsampling: rates, and what else may matter, one factor at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import LATE_CUTOVER_WINDOWS, Continuous, Variant
from pipeline.spec.lineup import LineUp
from pipeline.studies.distillation.cells import CONTINUOUS, TEACHER
from pipeline.studies.downsampling.fields import Axis, Fields
from pipeline.studies.draft import Draft, both, kept, kept_name, plain, sampled, taught, tuned, with_batch

ALL_ROWS = "all_rows"


def draft(base: LineUp, asked: Fields) -> Draft:
    """The model on all rows and on fewer and fewer, and one factor at a time around a centre.

    The centre: that fraction of the negatives, continuous, offset, uniform, batch scaled with the rows.

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models": a fixed rate kept through the online phase
    costs little, and the cost stays constant over time. Which rate is optimal is the first question that it leaves open.

    Cost: one pass over all rows, and for each cell its share of one; with the axes `policy` or `combined` a teacher's
    pass, with `combined` another over all rows.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size. An arm
            whose name one of its variants has takes that one's optimizer; all rates take the centre's learning rates.
        asked: the form's answers.
    """
    plan = _Plan(base, asked)
    found = Draft(ALL_ROWS)
    found.add("rate", "all rows", plan.reference, 1.0)
    for rate in plan.rates:
        found.add("rate", f"{100 * rate:g} % of negatives", plan.kept(rate), rate)
    for axis in asked.axes:
        AXES[axis](found, plan)
    return found


@dataclass(frozen=True)
class _Plan:
    """What the axes vary."""

    base: LineUp
    asked: Fields

    @property
    def rates(self) -> list[float]:
        """The fractions of the negatives, the centre's among them, downwards."""
        return sorted({*self.asked.rates, self.asked.centre} - {1.0}, reverse=True)

    @property
    def reference(self) -> Variant:
        """The model on all rows."""
        return plain(self.base, ALL_ROWS, self.asked.size)

    @property
    def teacher(self) -> Variant:
        """A larger model on all rows: the pilot that odds come from, and the students' teacher."""
        return plain(self.base, TEACHER, self.asked.teacher_size)

    @property
    def middle(self) -> Variant:
        """The centre of all axes."""
        return kept(self.base, self.reference, self.asked.centre)

    def kept(self, rate: float) -> Variant:
        """The model on a fraction of the negatives, with the centre's learning rates and number of updates."""
        return kept(self.base, self.reference, rate, self.asked.centre)


def _scopes(draft: Draft, plan: _Plan) -> None:
    draft.add("scope", "continuous", plan.middle)
    policy = NegativeDownsampling(rate=plan.asked.centre, scope="historical")
    # One batch size per variant: the full one fits the phase with all rows.
    draft.add("scope", "historical phase only, batch held", sampled(plan.reference, "historical_only", policy))


def _corrections(draft: Draft, plan: _Plan) -> None:
    draft.add("correction", "offset", plan.middle)
    policy = NegativeDownsampling(rate=plan.asked.centre, correction="weight")
    draft.add("correction", "weight", sampled(plan.middle, "weighted", policy))


def _policies(draft: Draft, plan: _Plan) -> None:
    draft.train(plan.teacher)
    draft.add("policy", "uniform", plan.middle)
    for age, label in ((0, "odds of the teacher"), (LATE_CUTOVER_WINDOWS, "odds of an older checkpoint")):
        since = plan.asked.first.shift(age) if age else None
        policy = OddsProportional(rate=plan.asked.centre, pilot=TEACHER, pilot_age=age, since=since)
        draft.add("policy", label, sampled(plan.middle, f"odds_age_{age}", policy))


def _batches(draft: Draft, plan: _Plan) -> None:
    draft.add("batch", "batch scaled with the rows", plan.middle)
    held = with_batch(plan.middle, plan.reference.optimizer.batch_size).model_copy(update={"name": "batch_held"})
    draft.add("batch", "batch held", held)


def _combined(draft: Draft, plan: _Plan) -> None:
    """A teacher on all rows, and students on few."""
    draft.train(plan.teacher)
    continuous = Continuous(teacher=TEACHER, weight=plan.asked.soft_weight)
    draft.add("combined", "all rows", plan.reference)
    draft.add("combined", f"{100 * plan.asked.centre:g} % of negatives", plan.middle)
    draft.add("combined", "continuous teacher", tuned(plan.base, taught(plan.reference, CONTINUOUS, continuous)))
    draft.add("combined", "both", both(plan.base, plan.middle, continuous))


def _theory(draft: Draft, plan: _Plan) -> None:
    """Every rate under both policies and both corrections, to be compared with what theory predicts."""
    draft.train(plan.teacher)
    for rate in plan.rates:
        for correction in ("offset", "weight"):
            uniform = NegativeDownsampling(rate=rate, correction=correction)
            odds = OddsProportional(rate=rate, correction=correction, pilot=TEACHER)
            for name, policy in (("uniform", uniform), ("odds", odds)):
                plain_ = name == "uniform" and correction == "offset"
                cell = kept_name(rate) if plain_ else f"{name}_{correction}_{100 * rate:g}"
                variant = sampled(plan.kept(rate), cell, policy)
                label = f"{100 * rate:g} % {name}, {correction}"
                draft.add("theory", label, variant, rate, family=f"{name}, {correction}")


AXES: dict[Axis, Callable[[Draft, _Plan], None]] = {
    "scope": _scopes,
    "correction": _corrections,
    "policy": _policies,
    "batch": _batches,
    "combined": _combined,
    "theory": _theory,
}
"""What each axis adds."""
