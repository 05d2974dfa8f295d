"""The forms of the daily DAGs: to ingest, to select, to warm up over past windows, to train on a day."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.config import JsonDict

from operators.form.run_window import Interval, resolve_window
from pipeline.spec.config import All, Continuous, NoTeacher, Rate, Variant
from pipeline.spec.documents import Flag, as_yaml
from pipeline.spec.errors import BadInput, asked, shown
from pipeline.spec.forms.asked import OfLineUp, OnWorkers, suggest_first, suggest_online
from pipeline.spec.forms.fields import LIMITS, Day, Fields, Minutes, OptionalDay, OptionalSeeds, unless_empty
from pipeline.spec.lineup import LineUp, document
from pipeline.spec.lineups import variant_names
from pipeline.spec.window import Window
from pipeline.studies.selection.cells import click_rate, name_of, on_few, policy
from pipeline.studies.selection.fields import Way

log = logging.getLogger(__name__)


def _offer_variants(schema: JsonDict) -> None:
    names = list(variant_names())
    schema |= {"type": ["array", "null"], "examples": [*names]}


Variants = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: () if given is None else given),
    Field(json_schema_extra=_offer_variants),
]


TRIED: JsonDict = {"section": "Try a selection policy"}
"""Of the fields that a form folds away until somebody tries one."""


class TriesPolicy(OnWorkers):
    """The fields of a form that trains a line-up, and may add a variant that trains on fewer rows."""

    variants: Variants = Field(default=(), title="Variants")
    """Only these; leave empty for all of the line-up. A student needs its teacher's logits: choose the teacher too,
    unless it has trained on the same windows before."""
    policy: Literal["none", Way] = Field(default="none", title="Selection policy", json_schema_extra=TRIED)
    """Adds a variant: the line-up's reference, trained on the rows that this policy keeps. The page of
    `selection_study` explains the policies. Where a policy needs a pilot, the reference is the pilot; a training run trains it again on
    windows whose signals it did not store. Batches shrink with
    the rows. Warm the variant up before it goes online, with the same fields; to keep it for good, write it into the line-up's file,
    as the log of the task `plan` shows it."""
    keep: Rate = Field(default=0.1, title="Fraction of the rows", json_schema_extra=TRIED)
    """Share of all rows, clicks included, that the policy keeps, e.g. `0.1`."""
    teacher: Annotated[str | None, BeforeValidator(unless_empty)] = Field(
        default=None, title="With a teacher", json_schema_extra=TRIED
    )
    """A variant of the line-up that teaches the added variant continuously, at weight 1; leave empty for none."""

    def chosen(self) -> tuple[LineUp, tuple[str, ...]]:
        """The line-up on the requested workers, with the added variant, and the names of the chosen variants: none for all.

        The variants that the added one reads are chosen with it.

        Raises:
            BadInput: see `on_workers`; or the line-up has a variant of that name or no such teacher, its reference selects, its click
                rate is not known, or a teacher is named without a policy.
        """
        lineup = self.on_workers()
        if self.policy == "none":
            if self.teacher is not None:
                raise BadInput(
                    f"a teacher is for a selection policy, got {shown(self.teacher)} and no policy: choose one"
                )
            return lineup, self.variants
        with asked("the selection policy"):
            added = self._added(lineup, self.policy)
            if added.name in [variant.name for variant in lineup.variants]:
                raise BadInput(
                    f"line-up {lineup.name!r} has a variant {added.name!r} already: choose it under Variants, and no policy"
                )
            grown = LineUp.model_validate(lineup.model_dump() | {"variants": (*lineup.variants, added)})
        log.info("The added variant, as the line-up's file takes it:\n%s", as_yaml([document(added)]))
        if not self.variants:
            return grown, ()
        sources = sorted({read.source for read in added.reads})
        return grown, tuple(dict.fromkeys((*self.variants, *sources, added.name)))

    def _added(self, lineup: LineUp, way: Way) -> Variant:
        """The model and the optimizer of a line-up's reference on the rows that the policy keeps."""
        reference = lineup.variant(lineup.reference)
        if reference.selection != All():
            raise BadInput(
                f"a policy is tried on all rows, got the reference {reference.name!r}, which selects by {reference.selection.kind!r} "
                "itself: write the variant into the line-up's file"
            )
        model = Variant(name=reference.name, model=reference.model, optimizer=reference.optimizer)
        kept = policy(way, self.keep, click_rate(lineup, model), lineup.reference)
        name = name_of(way, self.keep)
        added = on_few(lineup, model, name if self.teacher is None else f"{name}_of_{self.teacher}", kept, self.keep)
        taught = NoTeacher() if self.teacher is None else Continuous(teacher=self.teacher)
        return Variant.model_validate(added.model_dump() | {"distillation": taught})


class Spanned(Fields):
    """The fields of a form that is about one day, by default the run's own, or about a span."""

    window_date: OptionalDay = Field(default=None, title="Window")
    """One day; leave empty for the run's own."""
    first: OptionalDay = Field(default=None, title="First window of a span")
    """Instead of one day; give the last window too."""
    last: OptionalDay = Field(default=None, title="Last window of a span")
    """Included."""

    def span(self, interval: Interval) -> tuple[Window, Window]:
        """The first and last window given; the run's own window where none is.

        Raises:
            BadInput: only one is given, or they run backward.
        """
        if self.first is None and self.last is None:
            window = resolve_window(self.window_date, interval)
            return window, window
        if self.first is None or self.last is None:
            raise BadInput(f"a span has a first and a last window, got {self.first} and {self.last}: fill in both")
        Window.span(self.first, self.last)
        return self.first, self.last


class Ingest(Spanned, OfLineUp):
    """The fields of the form of `ingest_windows`."""

    force: Flag = Field(default=False, title="Do it again", json_schema_extra=LIMITS)
    """Publish a new generation even where the content is the same."""
    wait_minutes: Minutes = Field(default=36 * 60, title="Wait for files, in minutes", json_schema_extra=LIMITS)
    """Then fail and name what is missing."""
    timeout_minutes: Minutes = Field(default=360, title="Time limit of each job, in minutes", json_schema_extra=LIMITS)
    """A job that runs longer is stopped and its task fails. Windows that are published stay published."""


class Select(Spanned, TriesPolicy):
    """The fields of the form of `select_windows`."""

    force: Flag = Field(default=False, title="Do it again", json_schema_extra=LIMITS)
    """Store new generations even where the selections are stored."""
    wait_minutes: Minutes = Field(default=36 * 60, title="Wait for inputs, in minutes", json_schema_extra=LIMITS)
    """Then fail and name what is missing."""
    timeout_minutes: Minutes = Field(default=360, title="Time limit of each job, in minutes", json_schema_extra=LIMITS)
    """A job that runs longer is stopped and its task fails. Selections that are stored stay stored."""


class Warmup(TriesPolicy):
    """The fields of the form of `historical_warmup`."""

    first: Day = Field(title="First window", json_schema_extra=suggest_first)
    """Training starts here, with new weights."""
    last: Day = Field(title="Last window", json_schema_extra=suggest_online(-1))
    """Included. Usually the day before the first online window; a later one trains on online days too."""
    seeds: OptionalSeeds = Field(default=None, title="Seeds")
    """Each variant is trained once per seed, e.g. `0, 1, 2`; leave empty for the line-up's."""
    force: Flag = Field(default=False, title="Do it again", json_schema_extra=LIMITS)
    """Train again, as new generations, even the steps that are done."""
    timeout_minutes: Minutes = Field(
        default=24 * 60, title="Time limit of each job, in minutes", json_schema_extra=LIMITS
    )
    """A job that runs longer is stopped and its task fails. Steps that are done stay done."""

    def chosen(self) -> tuple[LineUp, tuple[str, ...]]:
        """The same, with the requested seeds."""
        lineup, variants = super().chosen()
        return lineup.model_copy(update={"seeds": self.seeds or lineup.seeds}), variants


class Online(TriesPolicy):
    """The fields of the form of `online_training`."""

    window_date: OptionalDay = Field(default=None, title="Window")
    """The day to train on; leave empty for the run's own day."""
    force: Flag = Field(default=False, title="Do it again", json_schema_extra=LIMITS)
    """Train again, as a new generation, even if the window is done."""
    despite_stale: Flag = Field(default=False, title="Go on from stale checkpoints", json_schema_extra=LIMITS)
    """A checkpoint is stale if its windows or its recipe have changed since, and is refused. With this field on, training goes
    on from it as it is, on this day and on all later ones."""
    wait_minutes: Minutes = Field(default=36 * 60, title="Wait for inputs, in minutes", json_schema_extra=LIMITS)
    """Then fail and name what is missing."""
    timeout_minutes: Minutes = Field(
        default=12 * 60, title="Time limit of each job, in minutes", json_schema_extra=LIMITS
    )
    """A job that runs longer is stopped and its task fails. Steps that are done stay done."""
