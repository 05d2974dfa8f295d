"""The job contract: what a scheduler hands to the cluster as one JSON document, and where it finds the outcome."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pipeline.spec.config import All, Name, Variant
from pipeline.spec.documents import Flag, Frozen, Seed
from pipeline.spec.errors import BadInput, explain
from pipeline.spec.lineup import DatasetConfig, LineUp
from pipeline.spec.study import Study
from pipeline.spec.window import Window

SPEC_VARIABLE = "WINDROW_SPEC"
"""Environment variable through which a submitted job gets its document."""
SUBMISSION_VARIABLE = "WINDROW_SUBMISSION_ID"
"""Environment variable with the submission's id: the MLflow tag `ray_submission_id`."""
TAGS_VARIABLE = "WINDROW_TAGS"
"""Environment variable with more MLflow tags as JSON: dag_id, dag_run_id, task_id, task_try."""
ENTRYPOINT = f"printenv {SPEC_VARIABLE} | windrow run -"
"""What Ray runs on the cluster's head."""
SUBMISSION_TAG = "ray_submission_id"
"""Tag of every MLflow run that a submission opened."""

GAP_VIEW = "gap"
"""Name of the view, in the MLflow experiment of whatever was compared, of all variants' gaps on one chart."""
MODEL_TRAINING = "workflowType=machine_learning"
"""In an address of MLflow's pages: else they open on language models, where runs are evaluations and models are agents."""


class JobError(BadInput):
    """A job's document cannot be run."""


class IngestJob(Frozen):
    """Publish the windows `first` to `last` of a data set."""

    kind: Literal["ingest"] = "ingest"
    dataset: DatasetConfig
    """Where the windows come from, and what they are called."""
    first: Window
    """The first window of the span."""
    last: Window
    """Its last, included."""
    seeds: tuple[Seed, ...] = Field(default=(0,), max_length=1000)
    """The line-up's seeds: each has a data set of its own where the source is simulated `per_seed`; else ignored."""
    force: Flag = False
    """Publish a new generation even where the content is the same."""

    @model_validator(mode="after")
    def _a_span(self) -> Self:
        Window.span(self.first, self.last)
        return self


class OfVariants(Frozen):
    """What a job says that does something with variants of a line-up over the windows `first` to `last`."""

    lineup: LineUp
    """The whole line-up; the cluster reads no file of it."""
    variants: tuple[Name, ...] = ()
    """Those of the line-up that it is about; all when empty."""
    first: Window
    """The first window of the span."""
    last: Window
    """Its last, included."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.lineup.only(self.variants)
        Window.span(self.first, self.last)
        return self

    @property
    def chosen(self) -> tuple[Variant, ...]:
        """Its variants, teachers before students."""
        return self.lineup.only(self.variants)


class TrainJob(OfVariants):
    """Train variants over a span of windows: a list of steps for one group of workers."""

    kind: Literal["train"] = "train"
    start: Literal["scratch", "parent"]
    """New weights before `first`, or the checkpoint that closed the window before it. A variant that has a later `start`
    of its own begins there, with new weights either way."""
    force: Flag = False
    """Do the steps again, as new generations, even where they are done."""
    despite_stale: bool = False
    """Go on from checkpoints, or learn from teacher logits, that are stale; remembered for the days
    after."""

    @property
    def chains(self) -> list[tuple[int, Variant]]:
        """The seed and variant of each chain that it has something to do for, in the order in which they are trained."""
        return [
            (seed, variant)
            for seed in self.lineup.seeds
            for variant in self.chosen
            if variant.start is None or variant.start <= self.last
        ]


class ReportJob(Frozen):
    """Answer a study from what its cells left in the lake: figures, table, headline, one page."""

    kind: Literal["report"] = "report"
    study: Study
    """What was planned: its line-up, its cells and the fields of its form."""

    @property
    def lineup(self) -> LineUp:
        """The line-up whose cells answer."""
        return self.study.lineup


class CompareJob(OfVariants):
    """Compare variants of a line-up on the same rows of a span of windows."""

    kind: Literal["compare"] = "compare"


class SelectJob(OfVariants):
    """Store what the policies of variants keep of each window of a span; nothing is trained."""

    kind: Literal["select"] = "select"
    force: Flag = False
    """Store it again, as new generations, even where it is stored."""

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if not self.chosen:
            raise ValueError(
                f"none of {[variant.name for variant in self.lineup.only(self.variants)]} has a selection policy: choose a "
                "variant that has one"
            )
        return self

    @property
    def chosen(self) -> tuple[Variant, ...]:
        """Those of its variants that have a policy."""
        return tuple(variant for variant in super().chosen if variant.selection != All())


AnyJob = IngestJob | SelectJob | TrainJob | CompareJob | ReportJob
Job = Annotated[AnyJob, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyJob] = TypeAdapter(Job)


def load_job(text: str) -> AnyJob:
    """Read a job's document.

    Raises:
        JobError: it is not JSON or not a job; the message says where.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise JobError(f"the job's document cannot be run: {explain(error)}") from None
