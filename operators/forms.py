"""The fields of the DAGs' forms: titles, ranges, choices and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow.sdk import Param

from pipeline.spec.config import SIZES
from pipeline.spec.documents import read_yaml
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUpError, SimulatedSource, load_lineup
from pipeline.spec.lineups import lineup_paths
from pipeline.spec.window import Window
from pipeline.studies.declared import AS_LINEUP, CPU, GPU

LIMITS = "Workers and limits"
"""Folded away at first; fields without a section stand open."""
HISTORY = 8
"""Windows of history suggested where a line-up does not say how many its log has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dates:
    """The days that a form suggests."""

    first: str
    online_start: str

    @classmethod
    def suggested(cls) -> Dates:
        """Those of the line-up that the form suggests, or of the next one where that can't be read."""
        for path in lineup_paths().values():
            try:
                lineup = load_lineup(path)
            except BadInput:
                continue  # a broken file must not take the forms with it
            source, online = lineup.dataset.source, lineup.online_start
            first = source.origin if isinstance(source, SimulatedSource) else source.first
            return cls(first=(first or online.shift(-HISTORY)).name, online_start=online.name)
        raise LineUpError(f"no line-up can be read among {list(lineup_paths().values())}")

    def online(self, days: int) -> str:
        """The day so many days after the first online one."""
        return Window.of(self.online_start).shift(days).name


def dated(text: str) -> str:
    """A DAG's page with the suggested days in the place of `{first}`, `{online_start}` and `{last}`."""
    dates = Dates.suggested()
    days = {"{first}": dates.first, "{online_start}": dates.online_start, "{last}": dates.online(6)}
    for name, suggested in days.items():
        text = text.replace(name, suggested)
    return text


def day(title: str, help_text: str, default: str | None = None, *, required: bool = False) -> Param:
    """A window's date."""
    kind: Any = "string" if required else ["null", "string"]
    return Param(default, type=kind, format="date", title=title, description_md=help_text)


def lineup() -> Param:
    """Which line-up; the one of the settings unless told otherwise."""
    names = list(lineup_paths())
    return Param(
        names[0],
        type="string",
        enum=names,
        title="Line-up",
        description_md="The checked-in YAML that names the data set, its variants and their workers. "
        "`WINDROW_LINEUP` sets the default; its neighbours and those beside the DAGs are the other choices.",
    )


def variants() -> Param:
    """Some of a line-up's variants."""
    return Param(
        [],
        type="array",
        examples=_variant_names(),
        title="Variants",
        description_md="Train these only; leave empty for all of the line-up. A student needs its teacher's scores: "
        "the teacher must be chosen too or have trained on the same windows before.",
    )


def seeds(default: list[int] | None = None) -> Param:
    """Seeds other than the line-up's."""
    return Param(
        default,
        type=["null", "array"],
        items={"type": "integer", "minimum": 0},
        uniqueItems=True,
        title="Seeds",
        description_md="Each variant is trained once per seed, e.g. `[0, 1]`; leave empty for the line-up's.",
    )


def workers() -> dict[str, Param]:
    """How many workers, and of which kind."""
    return {
        "num_workers": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=4096,
            title="Workers",
            description_md="Processes that share the tables and the batch; leave empty for the line-up's number. "
            "Batches are dealt to them differently, so that results of different numbers differ a little.",
            section=LIMITS,
        ),
        "hardware": Param(
            AS_LINEUP,
            type="string",
            enum=[AS_LINEUP, CPU, GPU],
            title="Hardware",
            description_md="CPU workers talk through gloo; GPU workers have one each and talk through NCCL.",
            section=LIMITS,
        ),
    }


def minutes(title: str, help_text: str, default: int) -> Param:
    """A length of time."""
    return Param(
        default, type="integer", minimum=1, maximum=60 * 24 * 14, title=title, description_md=help_text, section=LIMITS
    )


def timeout(default: int) -> Param:
    """How long a job may take."""
    return minutes(
        "Time limit of each job, in minutes",
        "A job that runs longer is stopped and its task fails. Steps that are done stay done.",
        default,
    )


def force(help_text: str) -> Param:
    """Whether to do again what is done."""
    return Param(False, type="boolean", title="Do it again", description_md=help_text, section=LIMITS)


def despite_stale() -> Param:
    """Whether to go on from what is stale."""
    return Param(
        False,
        type="boolean",
        title="Go on from what is stale",
        description_md="A checkpoint that would be trained to something else today, since its windows or its recipe changed, "
        "is refused. With this field on, training goes on from it as it is, on this day and on all later ones.",
        section=LIMITS,
    )


def study(name: str, default_seeds: list[int] | None = None) -> dict[str, Param]:
    """What every study asks first."""
    return {
        "study": Param(
            name,
            type="string",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
            title="Name of the study",
            description_md="Names its MLflow experiment: letters, digits, `.`, `_`, `-`.",
        ),
        "lineup": lineup(),
        "seeds": seeds(default_seeds),
    }


def span(*, judged: str) -> dict[str, Param]:
    """The windows of a study."""
    dates = Dates.suggested()
    return {
        "first": day(
            "First window", "Where everybody with full history starts, with new weights.", dates.first, required=True
        ),
        "online_start": day("First online window", "The early cutover.", dates.online_start, required=True),
        "last": day("Last window", "Included.", dates.online(6), required=True),
        "judged": day(
            "First judged window",
            f"All are judged from here to the last window; leave empty for {judged}.",
        ),
    }


def study_limits() -> dict[str, Param]:
    """How much of a cluster a study may take, and for how long."""
    return {
        "jobs_at_once": Param(
            1,
            type="integer",
            minimum=1,
            maximum=64,
            title="Training jobs at once",
            description_md="Into how many Ray jobs the students are dealt, seeds first; as many of them run together as the pool "
            "has slots. Each job starts workers of its own.",
            section=LIMITS,
        ),
        **workers(),
        "timeout_minutes": timeout(24 * 60),
    }


def distillation() -> dict[str, Param]:
    """What a study of knowledge distillation compares."""
    return {
        "teacher_size": _size("Size of the teacher", "small"),
        "student_size": _size("Size of the students", "tiny"),
        "soft_weight": _soft_weight(),
        "negative_rate": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=1,
            title="Also with a fraction of the negatives",
            description_md="Adds a continuous student that trains on all clicks and this fraction of the rest, "
            "e.g. `0.1`; leave empty for none.",
        ),
        "axes": _axes(["start", "size", "age", "head", "weight"], []),
        "num_starts": Param(
            7,
            type="integer",
            minimum=2,
            maximum=40,
            title="Number of starts",
            description_md="At so many points of history students start anew, if `start` is varied.",
        ),
        "epsilons": _numbers(
            [0.1, 0.2, 0.5],
            "Epsilons, percent",
            "Two models within so much log-loss of each other count as equal; the first is the headline's.",
            maximum=100,
        ),
    }


def tuning() -> dict[str, Param]:
    """What a tuning tries."""
    return {
        "teacher_size": _size("Size of the teacher", "small"),
        "student_size": _size("Size of the students", "tiny"),
        "soft_weight": _soft_weight(),
        "centre": _centre("Of the arms that are sampled."),
        "batch_sizes": Param(
            [1024, 4096],
            type="array",
            items={"type": "integer", "minimum": 1},
            minItems=1,
            uniqueItems=True,
            title="Batch sizes",
            description_md="Rows per update; where negatives are left out they shrink with the rows.",
        ),
        "learning_rates": _numbers(
            [0.02, 0.04, 0.08],
            "Learning rates",
            "Of the embeddings; the dense layers keep the ratio that the line-up has.",
            maximum=10,
        ),
    }


def downsampling() -> dict[str, Param]:
    """What a study of negative downsampling compares."""
    return {
        "size": _size("Size of the model", "tiny"),
        "rates": _numbers(
            [0.5, 0.25, 0.1, 0.05],
            "Fractions of the negatives",
            "To be tried downwards until the penalty is more than you can afford.",
            maximum=1,
        ),
        "centre": _centre("Where the other axes vary their one factor."),
        "axes": _axes(
            ["scope", "correction", "policy", "batch", "combined", "theory"], ["scope", "correction", "batch"]
        ),
        "affordable": Param(
            0.5,
            type="number",
            exclusiveMinimum=0,
            maximum=100,
            title="Loss you can afford, percent",
            description_md="The lowest rate whose penalty surely stays below is recommended.",
        ),
        "teacher_size": _size("Size of the teacher", "small"),
        "soft_weight": _soft_weight(),
    }


def _centre(help_text: str) -> Param:
    return Param(
        0.1,
        type="number",
        exclusiveMinimum=0,
        exclusiveMaximum=1,
        title="Fraction of negatives at the centre",
        description_md=help_text,
    )


def _axes(names: list[str], default: list[str]) -> Param:
    return Param(
        default,
        type="array",
        items={"type": "string", "enum": names},
        uniqueItems=True,
        examples=names,
        title="Also vary",
        description_md="One at a time; each adds variants to train. The DAG's page explains them.",
    )


def _numbers(default: list[float], title: str, help_text: str, *, maximum: float) -> Param:
    return Param(
        default,
        type="array",
        items={"type": "number", "exclusiveMinimum": 0, "maximum": maximum},
        minItems=1,
        uniqueItems=True,
        title=title,
        description_md=help_text,
    )


def _soft_weight() -> Param:
    return Param(
        3.0,
        type="number",
        exclusiveMinimum=0,
        maximum=100,
        title="Weight of the teacher's loss",
        description_md="Beside the loss on the labels, which has weight 1.",
    )


def _size(title: str, default: str) -> Param:
    return Param(
        default,
        type="string",
        enum=list(SIZES),
        title=title,
        description_md="Each size is about four times the compute of the one before.",
    )


def _variant_names() -> list[str]:
    """Every variant of every line-up, unchecked: a broken file must not take the forms with it."""
    names: dict[str, None] = {}
    for path in lineup_paths().values():
        try:
            document = read_yaml(path, "a line-up")
            names |= {str(variant["name"]): None for variant in document["variants"]}
        except (BadInput, KeyError, TypeError):
            continue
    return list(names)
