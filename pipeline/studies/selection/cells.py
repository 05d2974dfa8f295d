"""The cells of a selection study: each policy at each fraction of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.selection.policies.coreset import Coreset
from pipeline.selection.policies.distilled import Distilled
from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.forgetting import Forgetting
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.local_case_control import LocalCaseControl
from pipeline.selection.policies.low_loss import LowLoss
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.selection.policies.uniform import Uniform
from pipeline.spec.config import ModelConfig, Policy, Selection, Variant
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import StudyError
from pipeline.spec.window import Window
from pipeline.studies.draft import Draft, at_width, plain, sampled, tuned, with_batch
from pipeline.studies.selection.fields import Fields, Way

ALL_ROWS = "all_rows"
PILOT = "pilot"
BASELINE: Way = "negatives"
WITH_ALL_CLICKS: tuple[Way, ...] = ("odds",)
"""Policies that never leave a click out."""


def draft(base: LineUp, asked: Fields) -> Draft:
    """The model on all rows, and on the rows that each policy keeps.

    Papers: Sachdeva et al. 2022, "On Sampling Collaborative Filtering Datasets"; Paul et al. 2021 (EL2N); Fithian & Hastie 2014
    (local case-control); Wang, Zhang & Wang 2021 (odds); Killamsetty et al. 2021 (coresets).

    Cost: a pass of the model over all rows, and for each cell its fraction of one; a pass of the pilot over all rows, where it
    is older than its own pass another one forward, and for forgetting three passes more.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size. An arm whose
            name and selection one of its variants has takes that one's optimizer.
        asked: the form's answers.

    Raises:
        StudyError: the click rate is not known, or a policy has no meaning at so few rows.
    """
    plan = _Plan(base, asked)
    found = Draft(ALL_ROWS)
    found.add("rows", "all rows", plan.reference, 1.0)
    shown = [(way, rate) for rate in sorted(set(asked.rates), reverse=True) for way in plan.ways(rate)]
    if any(plan.policy(way, rate).reads() for way, rate in shown):
        found.train(at_width(base, plain(base, PILOT, asked.pilot_size)))
    for way, rate in shown:
        found.add("policy", f"{way}, {100 * rate:g} % of rows", plan.variant(way, rate), rate, family=way)
    return found


def click_rate(base: LineUp, model: Variant) -> float:
    """The log's, for which a model's prior stands.

    Raises:
        StudyError: it has the default, which stands for no log.
    """
    prior = model.model.prior
    if prior == ModelConfig.model_fields["prior"].default:
        raise StudyError(
            f"how many negatives a fraction of the rows leaves is known only with the click rate; line-up {base.name!r} has "
            f"the default prior {prior}: write the log's share of positives as `model: {{prior: ...}}`"
        )
    return prior


def name_of(way: str, rate: float) -> str:
    """What a model on the rows that a policy keeps is called."""
    return f"{way}_{100 * rate:g}"


@dataclass(frozen=True)
class _Plan:
    base: LineUp
    asked: Fields

    @property
    def reference(self) -> Variant:
        """The model on all rows."""
        return at_width(self.base, plain(self.base, ALL_ROWS, self.asked.size))

    def ways(self, rate: float) -> list[Way]:
        """The policies that are shown at a fraction of the rows: all but those whose clicks were more than half of them."""
        ways = dict.fromkeys((BASELINE, *self.asked.policies))
        return [way for way in ways if way not in WITH_ALL_CLICKS or rate >= 2 * self.click_rate]

    @property
    def click_rate(self) -> float:
        """The log's, for which the model's prior stands."""
        return click_rate(self.base, self.reference)

    def policy(self, way: Way, rate: float) -> Policy:
        """A policy that keeps a fraction of the rows."""
        age = self.asked.pilot_age
        since = self.asked.first.shift(age) if age else None  # there is no older checkpoint before it
        if since is not None and since > (self.asked.judged or self.asked.online_start):
            raise StudyError(
                f"a pilot {age} windows old is first asked on {since}, got the first judged window before it: judge later, or take a "
                "younger pilot"
            )
        return policy(way, rate, self.click_rate, PILOT, age, since)

    def variant(self, way: Way, rate: float) -> Variant:
        """The model on what a policy keeps."""
        return tuned(self.base, on_few(self.base, self.reference, name_of(way, rate), self.policy(way, rate), rate))


def policy(
    way: Way, rate: float, click_rate: float, pilot: str, pilot_age: int = 0, since: Window | None = None
) -> Policy:
    """A policy that keeps a fraction of all rows.

    Args:
        way: which.
        rate: the fraction, clicks and others.
        click_rate: the log's.
        pilot: the variant that it asks, if it asks one.
        pilot_age: how many windows older the asked checkpoint is.
        since: from which window on it asks.

    Raises:
        StudyError: it keeps all clicks, and these are more than half of the rows.
    """
    if way in WITH_ALL_CLICKS and rate < 2 * click_rate:
        raise StudyError(
            f"{way} keeps all clicks, {100 * click_rate:g} % of the rows, which may be half of what is kept at most, got {rate:g} of the "
            f"rows: keep at least {2 * click_rate:g}, or take another policy"
        )
    asked: dict[str, Any] = {"pilot": pilot, "pilot_age": pilot_age, "since": since}
    # Half of the rows are clicks at most: more would stand for too few others.
    clicks = min(1.0, rate / (2 * click_rate))
    negatives = (rate - clicks * click_rate) / (1 - click_rate)
    made: dict[Way, Policy] = {
        "negatives": NegativeDownsampling(rate=min(1.0, negatives), clicks=clicks),
        "uniform": Uniform(rate=rate),
        "odds": OddsProportional(rate=min(1.0, negatives), **asked),
        "local_case_control": LocalCaseControl(rate=rate, **asked),
        "el2n": El2n(rate=rate, **asked),
        "grand": Grand(rate=rate, **asked),
        "forgetting": Forgetting(rate=rate, pilot=pilot),
        "low_loss": LowLoss(rate=rate, **asked),
        "distilled": Distilled(rate=rate, pilot=pilot),
        "coreset": Coreset(rate=rate, **asked),
    }
    return made[way]


def on_few(base: LineUp, model: Variant, name: str, selection: Selection, rate: float) -> Variant:
    """A model on a fraction of the rows; its batch shrinks with them, so that updates stay as many."""
    workers = base.workers.num_workers
    batch = workers * max(1, round(model.optimizer.batch_size * rate / workers))
    return with_batch(sampled(model, name, selection), batch)
