"""A light set of services in the place of Airflow, MLflow and Ray: what supervises them is real."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.local.services import laptop
from pipeline.spec.settings import Settings
from tests.conftest import fresh_settings

SERVER = [sys.executable, str(Path(__file__).parent / "server.py")]
"""A server that is served by a child, as MLflow's is: a kill of the parent leaves an orphan that holds the port."""


def be_light(patch: pytest.MonkeyPatch, commands: dict[str, Sequence[str]]) -> None:
    """Let `up` start these."""
    patch.setattr(laptop, "commands", lambda settings: commands)
    patch.setattr(laptop, "run_airflow", lambda *arguments: None)


@contextlib.contextmanager
def light(settings: Settings, commands: dict[str, Sequence[str]]) -> Iterator[None]:
    """The set, running, though `up` would wait for Airflow for ever."""
    with pytest.MonkeyPatch.context() as patch:
        be_light(patch, commands)
        settings.home.mkdir(parents=True, exist_ok=True)
        try:
            laptop._start(settings, say=lambda line: None)
            yield
        finally:
            laptop.down(settings, say=lambda line: None)


if __name__ == "__main__":
    # `up` in a process of its own, to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    be_light(pytest.MonkeyPatch(), {"server": SERVER})
    laptop.up(fresh_settings(Path(sys.argv[1])))
