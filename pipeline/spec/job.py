"""The job contract: what a scheduler hands to the cluster as one JSON document, and where it finds the outcome."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pipeline.spec.config import Name, Variant
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


class JobError(BadInput):
    """A job's document cannot be run."""


class IngestJob(Frozen):
    """Publish the windows `first` to `last` of a data set."""

    kind: Literal["ingest"] = "ingest"
    dataset: DatasetConfig
    first: Window
    last: Window
    seeds: tuple[Seed, ...] = Field(default=(0,), max_length=1000)
    """The line-up's seeds: each has a data set of its own where the source is simulated `per_seed`; else ignored."""
    force: Flag = False
    """Publish a new generation even where the content is the same."""

    @model_validator(mode="after")
    def _a_span(self) -> Self:
        Window.span(self.first, self.last)
        return self


class TrainJob(Frozen):
    """Train variants over the windows `first` to `last`: a list of steps for one group of workers."""

    kind: Literal["train"] = "train"
    lineup: LineUp
    variants: tuple[Name, ...] = ()
    """Those of the line-up to train, teachers before students; all when empty."""
    first: Window
    last: Window
    start: Literal["scratch", "parent"]
    """New weights before `first`, or the checkpoint that closed the window before it. A variant that has a later `start`
    of its own begins there, with new weights either way."""
    force: Flag = False
    """Do the steps again, as new generations, even where they are done."""
    despite_stale: bool = False
    """Go on from checkpoints, or learn from scores, that would be made of something else today; remembered for the days
    after."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.lineup.only(self.variants)
        Window.span(self.first, self.last)
        return self

    @property
    def chains(self) -> list[tuple[int, Variant]]:
        """The seed and variant of each chain that it has something to do for, in the order in which they are trained."""
        return [
            (seed, variant)
            for seed in self.lineup.seeds
            for variant in self.lineup.only(self.variants)
            if variant.start is None or variant.start <= self.last
        ]


class ReportJob(Frozen):
    """Answer a study from what its cells left in the lake: figures, table, headline, one page."""

    kind: Literal["report"] = "report"
    study: Study

    @property
    def lineup(self) -> LineUp:
        """The line-up whose cells answer."""
        return self.study.lineup


class CompareJob(Frozen):
    """Compare variants of a line-up on the same rows of the windows `first` to `last`."""

    kind: Literal["compare"] = "compare"
    lineup: LineUp
    variants: tuple[Name, ...] = ()
    """Those of the line-up to compare; all when empty."""
    first: Window
    last: Window

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.lineup.only(self.variants)
        Window.span(self.first, self.last)
        return self


AnyJob = IngestJob | TrainJob | CompareJob | ReportJob
Job = Annotated[AnyJob, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyJob] = TypeAdapter(Job)


def load_job(text: str) -> AnyJob:
    """Read a job's document.

    Raises:
        JobError: it is not JSON or not a job; the message tells where.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise JobError(f"the job's document cannot be run: {explain(error)}") from None


def manifest_path(dataset: str, window: Window) -> str:
    """Where the manifest of a window lies in the lake."""
    return f"windows/{dataset}/window={window}/manifest.json"


def head_path(dataset: str, lineup: str, variant: str, seed: int, window: Window) -> str:
    """Where a chain tells which step closed a window; it exists once that step is done."""
    return f"chains/{dataset}/{lineup}/{variant}/seed={seed}/window={window}.json"


def result_path(submission_id: str) -> str:
    """Where a submitted job leaves its outcome, once it has succeeded."""
    return f"jobs/{submission_id}.json"


def page_path(study: str) -> str:
    """Where the page of a study lies."""
    return f"studies/{study}/report.html"


def study_jobs(study: Study, num_groups: int = 1) -> list[TrainJob]:
    """A study's training jobs: those that others read from first, the rest in groups that may run at the same time.

    Where nobody reads from anybody, the reference comes first.

    Seeds share nothing and are dealt first. Variants of one seed that start on the same day share what their schedules have
    in common, so they stay in one group, which trains it once.
    """
    chosen, seeds = study.lineup.only(()), study.lineup.seeds
    first = study.lineup.teachers or {study.lineup.reference}
    read_from = [v.name for v in chosen if v.name in first]
    by_start: dict[str, list[str]] = {}
    for variant in chosen:
        if variant.name not in read_from:
            by_start.setdefault(str(variant.start or study.first), []).append(variant.name)
    per_seed = num_groups // min(num_groups, len(seeds))
    groups: list[list[str]] = [[] for _ in range(max(1, min(per_seed, len(by_start))))]
    for family in sorted(by_start.values(), key=len, reverse=True):
        min(groups, key=len).extend(family)

    def jobs(names: list[str], dealt: int) -> list[TrainJob]:
        return [
            TrainJob(
                lineup=study.lineup.model_copy(update={"seeds": seeds[place::dealt]}),
                variants=tuple(names),
                first=study.first,
                last=study.last,
                start="scratch",
            )
            for place in range(dealt)
        ]

    return [
        *jobs(read_from, 1),
        *(job for names in groups if names for job in jobs(names, min(num_groups, len(seeds)))),
    ]
