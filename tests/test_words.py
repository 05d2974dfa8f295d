"""Words: those that were replaced stay out of code, forms and documents, and the glossary defines each word once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.form.questions import Ingest, Online, Select, Warmup
from pipeline.spec.forms.fields import Fields
from pipeline.studies.kinds import kinds

ROOT = Path(__file__).parents[1]

RETIRED = {
    r"\bteachers?('s|s')? scores\b": "teacher logits",
    r"\b(reads?|learn(s|ed)? from|needs?|stores?|leaves?|other) (its |the |their |other )?scores\b": "logits or signals",
    r"\b(listen(s|ed|ing|ers?)?|heard) (to|from)\b": "learns from",
    r"\b(which|head that|all|students) listens?\b": "learns from the teacher",
    r"\bStudent's( t\b| interval\b|-t\b)": "t-interval, t distribution",
    r"\bstep %d of %d\b": "update %d of %d",
    r"\boptimi[sz]er( |'s )steps?\b": "update",
    r"\bschedule\.num_steps\b": "num_updates",
    r"\b_?told\b": "reported, logged, said; `progress: called with ...`",
    r"\btells\b": "says, shows",
    r"\banew\b": "again",
    r"\bwhom\b": "teachers and pilots, or a sentence about the thing",
    r"\bshall\b": "should, must, or the present tense",
    r"\bsmallest that would show\b": "smallest detectable effect",
    r"\bmore than a bound is not known\b": "only a bound is known",
    r"\bstages of a job\b": "kinds of job; a stage is an MLflow run of a phase",
    r"\b(continuous|continual|bare) distillation\b": "a continuous teacher; knowledge distillation",
    r"\bwhat (was|is) asked( for)?\b": "the fields of the form; requested",
}
"""What must not come back, and what to write instead. The glossary names a few of them, as what others call it."""

FORMS: dict[str, type[Fields]] = {
    **{model.__name__: model for model in (Ingest, Select, Warmup, Online)},
    **{f"study {name}": kind.fields for name, kind in kinds().items() if kind.is_built_in},
}


def found(text: str, where: str) -> Iterator[str]:
    """Each retired word of a text, with its line and what to write instead."""
    for number, line in enumerate(text.splitlines(), 1):
        for retired, instead in RETIRED.items():
            if match := re.search(retired, line, re.IGNORECASE):
                yield f"{where}:{number}: {match[0]!r}: write {instead}"


def sources() -> list[Path]:
    """The program's files, with their comments, docstrings and strings."""
    folders = ("pipeline", "operators", "dags")
    kinds_of_file = ("*.py", "*.yaml", "*.html")
    return sorted(path for folder in folders for kind in kinds_of_file for path in (ROOT / folder).rglob(kind))


def documents() -> list[Path]:
    """Pages that are kept up to date; findings with a date stay as they were written."""
    pages = [path for folder in ("", "studies", "reference") for path in sorted((ROOT / "docs" / folder).glob("*.md"))]
    return [path for path in pages if path.name not in ("LOG.md", "glossary.md")]


def faults_of(paths: list[Path]) -> str:
    """The retired words of some files, a line each."""
    assert paths
    return "\n".join(fault for path in paths for fault in found(path.read_text(), str(path.relative_to(ROOT))))


def test_no_retired_word_is_in_the_program() -> None:
    faults = faults_of(sources())
    assert not faults, faults


def test_no_retired_word_is_in_a_document() -> None:
    faults = faults_of(documents())
    assert not faults, faults


def test_no_retired_word_is_in_what_stands_at_the_top() -> None:
    faults = faults_of(sorted(ROOT.glob("*.md")))
    assert not faults, faults


@pytest.mark.parametrize("name", FORMS)
def test_no_retired_word_is_in_a_form(name: str) -> None:
    texts = {
        f"{name}, {field}, {part}": str(schema.get(part, ""))
        for field, schema in FORMS[name].described().items()
        for part in ("title", "description")
    }
    assert all(texts.values()), "each field has a title and a help"
    faults = [fault for where, text in texts.items() for fault in found(text, where)]
    assert not faults, "\n".join(faults)


def test_a_retired_word_is_named_with_its_line_and_what_to_write() -> None:
    assert list(found("fine\nStudents learn from Teacher scores.\n", "a.py")) == [
        "a.py:2: 'Teacher scores': write teacher logits"
    ]


def test_the_glossary_defines_each_word_once_and_the_readme_leads_there() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| **")
    ]
    terms = [row[0].strip("*").lower() for row in rows]
    assert len(terms) > 50
    assert sorted(terms) == sorted(set(terms)), "a word with two meanings"
    assert all(len(row) == 3 and row[1] for row in rows), "term, meaning, elsewhere"
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
