"""The forms of the daily DAGs: to ingest, to warm up over past windows, to train on a day."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.config import JsonDict

from operators.form.run_window import Interval, resolve_window
from pipeline.spec.documents import Flag
from pipeline.spec.errors import BadInput
from pipeline.spec.forms.asked import OfLineUp, OnWorkers, suggest_first, suggest_online
from pipeline.spec.forms.fields import LIMITS, Day, Minutes, OptionalDay, OptionalSeeds
from pipeline.spec.lineup import LineUp
from pipeline.spec.lineups import variant_names
from pipeline.spec.window import Window


def _offer_variants(schema: JsonDict) -> None:
    names = list(variant_names())
    schema |= {"type": ["array", "null"], "examples": [*names]}


Variants = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: () if given is None else given),
    Field(json_schema_extra=_offer_variants),
]


class Ingest(OfLineUp):
    """The fields of the form of `ingest_windows`."""

    window_date: OptionalDay = Field(default=None, title="Window")
    """One day to publish; leave empty for the run's own day."""
    first: OptionalDay = Field(default=None, title="First window of a span")
    """Instead of one day; give the last window too."""
    last: OptionalDay = Field(default=None, title="Last window of a span")
    """Included."""
    force: Flag = Field(default=False, title="Do it again", json_schema_extra=LIMITS)
    """Publish a new generation even where the content is the same."""
    wait_minutes: Minutes = Field(default=36 * 60, title="Wait for files, in minutes", json_schema_extra=LIMITS)
    """Then fail and name what is missing."""
    timeout_minutes: Minutes = Field(default=360, title="Time limit of each job, in minutes", json_schema_extra=LIMITS)
    """A job that runs longer is stopped and its task fails. Windows that are published stay published."""

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


class Warmup(OnWorkers):
    """The fields of the form of `historical_warmup`."""

    variants: Variants = Field(default=(), title="Variants")
    """Train these only; leave empty for all of the line-up. A student needs its teacher's logits: choose the teacher too,
    unless it has trained on the same windows before."""
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

    def seeded(self) -> LineUp:
        """The chosen line-up on the workers and with the requested seeds."""
        chosen = self.on_workers()
        return chosen.model_copy(update={"seeds": self.seeds or chosen.seeds})


class Online(OnWorkers):
    """The fields of the form of `online_training`."""

    variants: Variants = Field(default=(), title="Variants")
    """Train these only; leave empty for all of the line-up. A student needs its teacher's logits: choose the teacher too,
    unless it has trained on the same window before."""
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
