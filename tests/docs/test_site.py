"""The documentation as a site: whole, every link leads somewhere, and nothing is fetched from elsewhere when it is opened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = sorted(ROOT.glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FETCHED = re.compile(
    r"""(?:<(?:script|img|iframe)[^>]*\ssrc=|<link[^>]*\shref=|url\(|@import\s)\s*["']?((?:https?:)?//[^"')\s]+)"""
)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in an address."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", AT_THE_TOP, ids=lambda page: page.name)
def test_a_link_at_the_top_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        file, _, heading = link.partition("#")
        target = page if not file else ROOT / file
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_the_site_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    """Warnings are errors: a link that leads nowhere, a page that no menu has."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    files = [path for kind in ("*.html", "*.css") for path in tmp_path.rglob(kind)]
    assert len(files) > 40
    assert {str(path.relative_to(tmp_path)): url for path in files for url in FETCHED.findall(path.read_text())} == {}


def test_every_path_that_a_page_names_is_there() -> None:
    """Paths of files in code style, from the root; a page of results says what was there when it was made."""
    pages = [*AT_THE_TOP, *(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "results")]
    houses = "pipeline|operators|dags|tests|docs|docker|benchmarks|requirements"
    named = {
        (page.name, path)
        for page in pages
        if page.name != "LOG.md"
        for path in re.findall(rf"`((?:{houses})/[\w./-]*)`", page.read_text())
    }
    assert len(named) > 20
    made_by_people = {"docker/.env"}
    assert (
        sorted((page, path) for page, path in named if not (ROOT / path).exists() and path not in made_by_people) == []
    )
