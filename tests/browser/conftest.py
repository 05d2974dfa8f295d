"""A fresh browser for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

expect.set_options(timeout=60_000)  # a page of MLflow's may take its time beside a study that trains


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1500, "height": 1100})
        opened.set_default_timeout(30_000)
        yield opened
        opened.screenshot(path=tmp_path / "last.png")
        browser.close()


def _chromium() -> str | None:
    """The system's browser where there is one; else playwright's own."""
    found = Path("/usr/bin/chromium")
    return str(found) if found.exists() else None
