"""A study from a file of answers: the fields of its form, without Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.spec.documents import read_yaml
from pipeline.spec.errors import named
from pipeline.spec.study import Study, StudyError
from pipeline.studies.asked import StudyFields
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
    return kind, kind.fields.read({"study": path.stem, **answers, **given}, str(path))
