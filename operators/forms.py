"""The fields of the DAGs' forms: titles, ranges, choices and help."""

from __future__ import annotations

from typing import Any

import yaml
from airflow.sdk import Param

from operators.answers import AS_LINEUP, CPU, GPU, lineup_paths

LIMITS = "Workers and limits"
"""Folded away at first; fields without a section stand open."""


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
        "`WINDROW_LINEUP` sets the default; the files beside it are the other choices.",
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


def seeds() -> Param:
    """Seeds other than the line-up's."""
    return Param(
        None,
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


def distillation_study() -> dict[str, Param]:
    """What a study of knowledge distillation compares."""
    return {
        "study": Param(
            "distillation",
            type="string",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
            title="Name of the study",
            description_md="Names its MLflow experiment: letters, digits, `.`, `_`, `-`.",
        ),
        "lineup": lineup(),
        "teacher_size": _size("Teacher", "small"),
        "student_size": _size("Students", "tiny"),
        "soft_weight": Param(
            3.0,
            type="number",
            exclusiveMinimum=0,
            maximum=100,
            title="Weight of the teacher's loss",
            description_md="Beside the loss on the labels, which has weight 1.",
        ),
        "negative_rate": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=1,
            title="Also with a fraction of the negatives",
            description_md="Adds a continuous student that trains on all clicks and this fraction of the rest, "
            "e.g. `0.1`; leave empty for none.",
        ),
        "num_seeds": Param(
            1,
            type="integer",
            minimum=1,
            maximum=20,
            title="Number of seeds",
            description_md="Every variant is trained once per seed; from two on, the comparison shows a band.",
        ),
    }


def _size(title: str, default: str) -> Param:
    return Param(
        default,
        type="string",
        enum=["tiny", "small", "medium", "large"],
        title=f"Size of the {title.lower()}",
        description_md="Each size is about four times the compute of the one before.",
    )


def _variant_names() -> list[str]:
    """Every variant of every line-up, unchecked: a broken file must not take the forms with it."""
    names: dict[str, None] = {}
    for path in lineup_paths().values():
        try:
            document = yaml.safe_load(path.read_text())
            names |= {str(variant["name"]): None for variant in document["variants"]}
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return list(names)
