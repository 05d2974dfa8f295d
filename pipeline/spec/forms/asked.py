"""Fields that several forms share: a line-up, its workers, and those of every kind of study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic.config import JsonDict

from pipeline.spec.config import Name
from pipeline.spec.documents import Whole
from pipeline.spec.errors import BadInput, asked, nearest, shown
from pipeline.spec.forms.fields import LIMITS, Day, Fields, Minutes, OptionalDay, OptionalSeeds
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import Dates, lineup_path, lineup_paths
from pipeline.spec.settings import Settings
from pipeline.spec.study import Study

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""What a form holds a name to."""
NO_PRESET = "none"
"""What a form says where the fields are filled in by hand."""
Hardware = Literal["as the line-up says", "CPU", "GPU"]


def _offer_lineups(schema: JsonDict) -> None:
    names: list[Any] = list(lineup_paths())
    schema.pop("anyOf", None)
    schema |= {"type": "string", "enum": names, "default": names[0]}


def suggest_first(schema: JsonDict) -> None:
    """The day on which the suggested line-up's history begins."""
    schema["default"] = Dates.suggested().first


def suggest_online(days: int = 0) -> Callable[[JsonDict], None]:
    """The day so many days after the suggested line-up's first online one."""

    def suggest(schema: JsonDict) -> None:
        schema["default"] = Dates.suggested().online(days)

    return suggest


class OfLineUp(Fields):
    """The field that names a line-up."""

    lineup: str | None = Field(default=None, title="Line-up", json_schema_extra=_offer_lineups)
    """The YAML file that names the data set, its variants and their workers. `WINDROW_LINEUP` sets the default; the other
    choices are the files in the same folder and those in `dags/lineups`."""

    def base(self) -> LineUp:
        """The chosen line-up as its file has it.

        Raises:
            BadInput: there is none of that name, or it cannot be run.
        """
        offered = list(lineup_paths())
        if self.lineup is not None and self.lineup not in offered:
            raise BadInput(
                "`lineup` is the name of a line-up's file, without folder and ending, got "
                f"{shown(self.lineup)}: {nearest(self.lineup, offered)}; for one that lies elsewhere set WINDROW_LINEUP to its "
                "path and leave the field out"
            )
        return load_lineup(lineup_path(self.lineup or Settings().lineup.stem))


class OnWorkers(OfLineUp):
    """The fields of a form that trains a line-up."""

    num_workers: Annotated[Whole, Field(ge=1, le=4096)] | None = Field(
        default=None, title="Workers", json_schema_extra=LIMITS
    )
    """Processes that share the tables and the batch; leave empty for the line-up's number. Another number divides batches
    differently, so results differ a little."""
    lanes: Annotated[Whole, Field(ge=1, le=4096)] | None = Field(default=None, title="Lanes", json_schema_extra=LIMITS)
    """Groups of that many workers, which train different seeds and variants at the same time; leave empty for the line-up's
    number. Small models on CPUs train fastest with one worker a lane and a lane for each core; results stay the same."""
    hardware: Hardware = Field(default="as the line-up says", title="Hardware", json_schema_extra=LIMITS)
    """CPU workers talk through gloo; GPU workers have one each and talk through NCCL."""

    def on_workers(self) -> LineUp:
        """The chosen line-up on the requested workers.

        Raises:
            BadInput: see `base`; or a batch cannot be dealt to so many.
        """
        base, given = self.base(), dict[str, Any]()
        if self.num_workers is not None:
            given["num_workers"] = self.num_workers
        if self.lanes is not None:
            given["lanes"] = self.lanes
        if self.hardware != "as the line-up says":
            given["use_gpu"] = self.hardware == "GPU"
        with asked("the number of workers"):
            return LineUp.model_validate(base.model_dump() | {"workers": base.workers.model_dump() | given})


class StudyFields(OnWorkers):
    """The fields of every study; a kind of study adds its own."""

    preset: Annotated[str | None, BeforeValidator(lambda given: None if given in ("", NO_PRESET) else given)] = Field(
        default=None, title="Preset"
    )
    """A study that is filled in already, a file of `dags/studies`: its fields are taken, its name too, and of this form only the time limit."""
    study: Name = Field(title="Name of the study", json_schema_extra={"pattern": NAME})
    """Names its MLflow experiment and its page: letters, digits, `.`, `_`, `-`."""
    seeds: OptionalSeeds = Field(default=None, title="Seeds")
    """Each variant is trained once per seed, e.g. `0, 1, 2` or `0-7`; leave empty for the line-up's."""
    first: Day = Field(title="First window", json_schema_extra=suggest_first)
    """Variants with full history start here, with new weights."""
    online_start: Day = Field(title="First online window", json_schema_extra=suggest_online())
    """The online phase begins here."""
    last: Day = Field(title="Last window", json_schema_extra=suggest_online(6))
    """Included."""
    judged: OptionalDay = Field(default=None, title="First judged window")
    """Variants are compared from here to the last window; leave empty for the first online window."""
    jobs_at_once: Annotated[Whole, Field(ge=1, le=64)] = Field(
        default=1, title="Training jobs at once", json_schema_extra=LIMITS
    )
    """The students are divided among this many Ray jobs, first by seed. Jobs run at the same time as far as the Airflow pool
    has slots. Each job starts its own workers."""
    timeout_minutes: Minutes = Field(
        default=24 * 60, title="Time limit of each job, in minutes", json_schema_extra=LIMITS
    )
    """A job that runs longer is stopped and its task fails. Steps that are done stay done."""

    @classmethod
    def of(cls, study: Study) -> Self:
        """The fields with which a study was planned."""
        return cls.model_validate(study.asked)
