"""A study from a file of answers, which a form may name as its preset: the fields of the form, without Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.spec.documents import read_yaml
from pipeline.spec.errors import BadInput, named, nearest, shown
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.settings import Settings
from pipeline.spec.study import Study, StudyError
from pipeline.studies.kinds import Kind, kind_of


def declared(path: Path, seeds: str | None = None) -> Study:
    """The study that a file of answers describes: `kind` says which, the rest are the fields of its form.

    How many jobs a DAG makes of it, and how long they may take, changes nothing here.

    Args:
        path: the file.
        seeds: in place of its own, as people type them.

    Raises:
        BadInput: the file is missing, is no mapping, or has a field that cannot be used.
    """
    kind, asked = read(path, seeds)
    with named(str(path)):
        return kind.study(asked.on_workers(), asked)


def conf(path: Path, seeds: str | None = None) -> tuple[str, dict[str, Any]]:
    """The kind of study that a file names, and its answers as its DAG's conf takes them.

    Raises:
        BadInput: see `declared`.
    """
    kind, asked = read(path, seeds)
    return kind.name, asked.model_dump(mode="json", exclude_unset=True)


def read(path: Path, seeds: str | None = None) -> tuple[Kind, StudyFields]:
    """The kind and the answers of a file; a study that has no name has the file's. Seeds that are given replace the file's.

    Raises:
        BadInput: see `declared`.
    """
    answers = read_yaml(path, "a study")
    if not isinstance(answers, dict):
        raise StudyError(f"{path} must be a mapping with a `kind` and the fields of its form, got {answers!r:.80}")
    with named(str(path)):
        kind = kind_of(answers.pop("kind", None))
    given = {} if seeds is None else {"seeds": seeds}
    asked = kind.fields.read({"study": path.stem, **answers, **given}, str(path))
    if asked.preset is not None:
        raise StudyError(
            f"{path}: a file is itself what a form's `preset` names, got {asked.preset!r} in it: leave it out"
        )
    return kind, asked


def presets(kind: str) -> dict[str, Path]:
    """The files of answers to a kind of study beside the DAGs, by name; what is none is left out."""
    found = {}
    for path in sorted((Settings().dags / "studies").glob("*.yaml")):
        with suppress(BadInput):
            answers = read_yaml(path, "a study")
            if isinstance(answers, dict) and answers.get("kind") == kind:
                found[path.stem] = path
    return found


def of_form(kind: Kind, answers: Mapping[str, Any], where: str) -> StudyFields:
    """The answers of a form, or of the preset that it names.

    Raises:
        BadInput: a field cannot be used, or there is no such preset.
    """
    asked = kind.fields.read(answers, where)
    if asked.preset is None:
        return asked
    known = presets(kind.name)
    if asked.preset not in known:
        raise StudyError(f"{where}: no preset {shown(asked.preset)}: {nearest(asked.preset, known)}")
    return read(known[asked.preset])[1]
