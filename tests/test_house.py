"""The house: few rooms, few files in each, no two of one name, and a page that has a line for every file."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "house.md"
HOUSES = ("dags", "operators", "pipeline", "benchmarks")
OF_A_KIND = {"fields", "cells", "answer"}
"""Files that every kind of study has."""
MOST_FILES, MOST_ROOMS = 12, 10
BEGIN, END = "<!-- files -->\n", "<!-- end of files -->\n"


def modules() -> list[Path]:
    """Every module but those that open a package, relative to the root."""
    found = [path.relative_to(ROOT) for house in HOUSES for path in sorted((ROOT / house).rglob("*.py"))]
    return [path for path in found if not path.stem.startswith("__")]


def sentence(path: Path) -> str:
    """A file's first sentence."""
    documented = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert documented, f"{path} opens with a sentence that says what it is"
    return documented.splitlines()[0]


def tree() -> str:
    """Every file under its folder, with its first sentence."""
    lines: list[str] = []
    for house in HOUSES:
        for folder in sorted({path.parent for path in modules() if path.parts[0] == house}):
            opened = folder / "__init__.py"
            what = f": {sentence(opened)}" if (ROOT / opened).exists() else ""
            lines.append(f"\n**`{folder}/`**{what}\n")
            lines += [f"- `{path.name}`: {sentence(path)}" for path in modules() if path.parent == folder]
    return "\n".join(lines) + "\n"


def test_no_two_modules_have_one_name() -> None:
    names = Counter(path.stem for path in modules() if path.stem not in OF_A_KIND)
    assert [name for name, count in names.items() if count > 1] == []


def test_no_room_holds_more_than_a_dozen_files() -> None:
    counts = Counter(path.parent for path in modules() if path.parts[-2:-1] != ("policies",))
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_the_pipeline_has_few_rooms() -> None:
    rooms = {path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.name for path in (ROOT / "pipeline").glob("*.py")}
    assert len(rooms) <= MOST_ROOMS
    assert files == {"__init__.py", "cli.py"}


def test_every_kind_of_study_has_its_three_files() -> None:
    folders = [path.parent for path in (ROOT / "pipeline" / "studies").glob("*/fields.py")]
    assert folders
    for folder in folders:
        assert OF_A_KIND <= {path.stem for path in folder.glob("*.py")}, folder.name


def test_the_page_has_a_line_for_every_file() -> None:
    text = PAGE.read_text()
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == tree(), "write it anew with `python -m tests.test_house`"


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + tree() + text[text.index(END) :])
    sys.stdout.write(tree())
