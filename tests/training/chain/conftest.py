"""What the tests of chains share: a lake with a few windows of a simulated log."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.storage.lake import Lake
from tests.trained import publish, windows


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Four windows of a simulated log."""
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(4))
    return lake
