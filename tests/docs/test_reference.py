"""The reference says what the models say today, and every field and option has a help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from pipeline.cli import app
from pipeline.spec.job import CompareJob, IngestJob, OfVariants, ReportJob, SelectJob, TrainJob
from pipeline.spec.study import Cell, Study
from tests.docs.reference import FOLDER, LINEUP, PAGES, SCHEMA, is_a_kind, page, policies

NO_MODELS_OF_A_PAGE = (IngestJob, SelectJob, TrainJob, CompareJob, ReportJob, OfVariants, Study, Cell)
CONFIGS = [*(part.model for part in (*SCHEMA, *LINEUP, *policies())), *NO_MODELS_OF_A_PAGE]


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == page(name), "write it again with `python -m tests.docs.reference`"


def test_no_page_of_the_reference_is_kept_by_hand() -> None:
    assert {path.name for path in Path(FOLDER).iterdir()} == set(PAGES)


def parts_of(model: type[BaseModel], found: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The models that a model's fields hold, those inside them too."""
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            if inner not in found:
                found.add(inner)
                yield inner
                yield from parts_of(inner, found)


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)


def test_no_part_of_a_line_up_or_a_schema_lacks_a_section() -> None:
    roots = (SCHEMA[0].model, LINEUP[0].model)
    inside = {inner.__name__ for root in roots for inner in parts_of(root, set())}
    assert inside - {model.__name__ for model in CONFIGS} == {"Policy"}, "each policy has a section of its own"


@pytest.mark.parametrize("model", CONFIGS, ids=lambda model: model.__name__)
def test_every_field_of_a_configuration_has_a_help(model: type[BaseModel]) -> None:
    assert [n for n, field in model.model_fields.items() if not field.description and not is_a_kind(field)] == []


def test_every_option_of_the_program_itself_has_a_help() -> None:
    command = typer.main.get_command(app)
    assert command.params
    assert [option.name for option in command.params if not getattr(option, "help", None)] == []
