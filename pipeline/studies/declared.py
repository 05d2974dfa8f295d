"""A study from a file of answers: the fields of its form, without Airflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import validate_call

from pipeline.spec.documents import read_yaml
from pipeline.spec.errors import BadInput, asked, named, nearest, shown
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import lineup_path, lineup_paths
from pipeline.spec.settings import Settings
from pipeline.spec.study import Study, StudyError
from pipeline.studies.distillation.cells import distillation_study
from pipeline.studies.downsampling.cells import downsampling_study
from pipeline.studies.tuning.cells import tuning_study

RECIPES: dict[str, Callable[..., Study]] = {
    "distillation": distillation_study,
    "downsampling": downsampling_study,
    "tuning": tuning_study,
}
CPU, GPU, AS_LINEUP = "CPU", "GPU", "as the line-up says"
"""Choices of the field `hardware`."""
OPERATIONAL = ("lineup", "study", "num_workers", "hardware", "jobs_at_once", "timeout_minutes")
"""Fields that are no arguments of a recipe."""
DAYS = ("first", "online_start", "last", "judged")


def conf(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind of study that a file of answers asks for, and the answers as its DAG's conf takes them.

    Raises:
        BadInput: the file is missing, or is no mapping with a `kind`.
    """
    answers = read_yaml(path, "a study")
    kind = answers.pop("kind", None) if isinstance(answers, dict) else answers
    if not isinstance(answers, dict) or not isinstance(kind, str) or kind not in RECIPES:
        raise StudyError(f"{path} must be a mapping whose `kind` is one of {', '.join(RECIPES)}, got {shown(kind)}")
    return kind, answers | {day: str(answers[day]) for day in DAYS if answers.get(day)}


def declared(path: Path) -> Study:
    """The study that a file of answers asks for.

    `kind` says which recipe; `lineup` names a line-up beside the settings' one or the DAGs; `study` is the name;
    `num_workers` and `hardware` change its workers; how many jobs the DAG makes of it, and how long they may take, changes
    nothing here. The rest is the recipe's arguments.

    Raises:
        BadInput: the file is missing, is no mapping, or has a field that the recipe does not know.
    """
    kind, answers = conf(path)
    recipe = RECIPES[kind]
    known = [*OPERATIONAL, *(name for name in signature(recipe).parameters if name not in ("base", "name"))]
    for name in answers:
        if name not in known:
            raise StudyError(f"{path}: a {kind} study has no field {shown(name)}: {nearest(name, known)}")
    base = load_lineup(_lineup_of(path, answers.get("lineup")))
    with named(str(path)):
        base = on_workers(base, answers)
    arguments: dict[str, Any] = {
        k: v for k, v in answers.items() if k not in OPERATIONAL and not (k in DAYS and v in (None, ""))
    }
    if missing := [day for day in ("first", "online_start", "last") if day not in arguments]:
        raise StudyError(f"{path}: a study needs {', '.join(missing)}: write each as a day, YYYY-MM-DD")
    seeds = {} if kind == "tuning" else {"seeds": base.seeds}
    with asked(str(path), {"name": "study"}):
        return validate_call(recipe)(base, name=answers.get("study", path.stem), **seeds | arguments)


def _lineup_of(path: Path, name: Any) -> Path:
    """The file of the line-up that a study names: one of those that a form offers."""
    offered = list(lineup_paths())
    if name is not None and name not in offered:
        raise StudyError(
            f"{path}: `lineup` is the name of a line-up's file, without folder and ending, got {shown(name)}: "
            f"{nearest(name, offered)} For one that lies elsewhere set WINDROW_LINEUP to its path and leave the field out"
        )
    return lineup_path(name or Settings().lineup.stem)


def on_workers(base: LineUp, answers: Mapping[str, Any]) -> LineUp:
    """A line-up on as many workers of the kind as the answers say, where they say so."""
    given: dict[str, Any] = {}
    if answers.get("num_workers") is not None:
        given["num_workers"] = answers["num_workers"]
    hardware = answers.get("hardware", AS_LINEUP)
    if hardware not in (CPU, GPU, AS_LINEUP):
        raise BadInput(f"hardware must be {CPU!r}, {GPU!r} or {AS_LINEUP!r}, got {shown(hardware)}")
    if hardware != AS_LINEUP:
        given["use_gpu"] = hardware == GPU
    with asked("the number of workers"):
        return LineUp.model_validate(base.model_dump() | {"workers": base.workers.model_dump() | given})
