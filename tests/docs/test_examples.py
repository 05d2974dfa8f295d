"""What a person may copy from a page: commands that the program has, and YAML that it reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.cli import app
from pipeline.spec.config import Policy, Variant
from pipeline.spec.documents import parse_yaml
from pipeline.spec.lineup import Workers
from pipeline.spec.schema import Schema
from pipeline.studies.kinds import kind_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name != "LOG.md")]
PROGRAM: Any = typer.main.get_command(app)
OUTSIDE = {"disputed", "width"}
"""Kinds that the page on extending makes up."""


def blocks(page: Path, language: str) -> list[str]:
    """The examples of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Each `windrow ...` of a page's examples, as a shell splits it."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "windrow" in words:
                yield words[words.index("windrow") + 1 :]


def parse(words: list[str]) -> None:
    """Read a command as the program does, and run nothing."""
    name, *arguments = words
    command = PROGRAM.commands[name]
    with typer.Context(command, info_name=name) as context:
        command.make_parser(context).parse_args(arguments)


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=lambda page: page.stem)
def test_every_command_of_a_page_is_one_of_the_program(page: Path) -> None:
    for words in commands(page):
        parse(words)
        for word in words:
            if word.startswith("dags/"):
                assert (ROOT / word).is_file(), word


def test_an_option_that_there_is_not_is_found() -> None:
    with pytest.raises(Exception, match="no such option|No such option"):
        parse(["train", "--moons", "3"])


EXAMPLES = [(page, block) for page in PAGES if page.parent.name != "results" for block in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "block"), EXAMPLES, ids=[f"{page.stem}-{place}" for place, (page, _) in enumerate(EXAMPLES)]
)
def test_every_example_in_yaml_is_read(page: Path, block: str) -> None:
    found = parse_yaml(block, page.name)
    if isinstance(found, list):
        assert [Variant.model_validate(each).name for each in found]
    elif "label" in found:
        assert Schema.of(found, page.name).features
    elif "workers" in found:
        assert Workers.model_validate(found["workers"])
    elif "kind" in found:
        assert kind_of(found.pop("kind")).fields.read({"study": "example", **found}, page.name)
    elif found["selection"]["kind"] not in OUTSIDE:
        assert isinstance(Variant.model_validate({"name": "example", **found}).selection, Policy)
