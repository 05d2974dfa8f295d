"""A whole stack for tests that kill parts of it, with a DAG of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.services import environment, running
from tests.conftest import Stack, fresh_settings


@pytest.fixture(scope="session")
def fault_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the jobs count themselves."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def fault_stack(tmp_path_factory: pytest.TempPathFactory, fault_folder: Path) -> Iterator[Stack]:
    """Started once; every test leaves it healthy."""
    dags = Path(__file__).parent / "dags"
    settings = fresh_settings(tmp_path_factory.mktemp("fault-stack")).model_copy(update={"dags": dags})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINDROW_FAULT_FOLDER", str(fault_folder))
        with running(settings) as addresses:
            yield Stack(settings=settings, addresses=addresses, environ={**os.environ, **environment(settings)})
