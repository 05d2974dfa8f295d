"""A study as its kind plans it, from a base line-up and some answers."""

from __future__ import annotations

from typing import Any

from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Study
from pipeline.studies.kinds import kind_of


def planned(name: str, base: LineUp, **answers: Any) -> Study:
    """The study of a kind; each field that is not answered has its default."""
    kind = kind_of(name)
    return kind.study(base, kind.fields.read({"study": "s", **answers}, "the test"))
