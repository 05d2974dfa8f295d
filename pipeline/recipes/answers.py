"""A study from a file of answers: the fields of its form, without Airflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import asked
from pipeline.lineup import LineUp, load_lineup
from pipeline.lineups import lineup_path
from pipeline.recipes.distillation import distillation_study
from pipeline.recipes.downsampling import downsampling_study
from pipeline.recipes.tuning import tuning_study
from pipeline.settings import Settings
from pipeline.study import Study, StudyError
from pipeline.window import Window

RECIPES: dict[str, Callable[..., Study]] = {
    "distillation": distillation_study,
    "downsampling": downsampling_study,
    "tuning": tuning_study,
}
CPU, GPU = "CPU", "GPU"
"""Choices of the field `hardware`; whatever else it says leaves the line-up's."""
OPERATIONAL = ("lineup", "study", "num_workers", "hardware", "jobs_at_once", "timeout_minutes")
"""Fields that are no arguments of a recipe."""
DAYS = ("first", "online_start", "last", "judged")


def conf(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind of study that a file of answers asks for, and the answers as its DAG's conf takes them.

    Raises:
        StudyError: the file is missing, or is no mapping with a `kind`.
    """
    try:
        answers = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"cannot read answers from {path}: {error}") from None
    if not isinstance(answers, dict) or answers.get("kind") not in RECIPES:
        raise StudyError(f"{path} must be a mapping whose `kind` is one of {list(RECIPES)}, got {answers!r:.200}")
    kind = answers.pop("kind")
    return kind, answers | {day: str(answers[day]) for day in DAYS if answers.get(day)}


def declared(path: Path) -> Study:
    """The study that a file of answers asks for.

    `kind` says which recipe; `lineup` names a line-up beside the settings' one or the DAGs; `study` is the name;
    `num_workers` and `hardware` change its workers; how many jobs the DAG makes of it, and how long they may take, changes
    nothing here. The rest is the recipe's arguments.

    Raises:
        StudyError: the file is missing, is no mapping, or has a field that the recipe does not know.
    """
    kind, answers = conf(path)
    recipe = RECIPES[kind]
    base = load_lineup(lineup_path(str(answers.get("lineup") or Settings().lineup.stem)))
    base = on_workers(base, answers)
    arguments: dict[str, Any] = {k: v for k, v in answers.items() if k not in OPERATIONAL}
    arguments |= {day: Window.of(arguments[day]) for day in DAYS if arguments.get(day)}
    known = signature(recipe).parameters
    if unknown := sorted(set(arguments) - set(known)):
        raise StudyError(f"{path}: a {kind} study has no field {unknown}; it has {sorted(known)}")
    if missing := [day for day in ("first", "online_start", "last") if day not in arguments]:
        raise StudyError(f"{path}: a study needs {missing}, each a day as YYYY-MM-DD")
    seeds = {} if kind == "tuning" else {"seeds": base.seeds}
    with asked(str(path)):
        return recipe(base, name=answers.get("study", path.stem), **seeds | arguments)


def on_workers(base: LineUp, answers: Mapping[str, Any]) -> LineUp:
    """A line-up on as many workers of the kind as the answers say, where they say so."""
    given: dict[str, Any] = {}
    if answers.get("num_workers"):
        given["num_workers"] = answers["num_workers"]
    if answers.get("hardware") in (CPU, GPU):
        given["use_gpu"] = answers["hardware"] == GPU
    with asked("the number of workers"):
        return LineUp.model_validate(base.model_dump() | {"workers": base.workers.model_dump() | given})
