"""Fixtures that every test may use; whatever starts a process lives here, so that all its users share it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from pipeline.local.services import Addresses, environment, running, services_status
from pipeline.spec.settings import Settings
from tests.processes import processes_of
from tests.tracking_server import Wire, serving

hypothesis.settings.register_profile("windrow", deadline=None)  # machines are busy: no example is timed
hypothesis.settings.load_profile("windrow")

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A whole Windrow that runs for the tests: Airflow, MLflow and Ray on free ports in a home of its own."""

    settings: Settings
    addresses: Addresses
    environ: dict[str, str]
    """A complete environment for a client's process."""
    faults: Path
    """Where the jobs of the DAG `faulty` count themselves."""

    @property
    def lake(self) -> str:
        """The lake's root."""
        return self.settings.lake


def free_ports(num_ports: int) -> list[int]:
    """Ports that nobody listens on, held until all are found."""
    with ExitStack() as probes:
        held = [probes.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in held:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in held]


def fresh_settings(home: Path) -> Settings:
    """Settings on free ports, deaf to whatever the developer's shell exports."""
    airflow, mlflow, ray, dashboard = free_ports(4)
    return Settings.of(
        {
            "WINDROW_HOME": str(home),
            "WINDROW_AIRFLOW_PORT": str(airflow),
            "WINDROW_MLFLOW_PORT": str(mlflow),
            "WINDROW_RAY_PORT": str(ray),
            "WINDROW_RAY_DASHBOARD_PORT": str(dashboard),
        }
    )


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a stack needs services: `make test` runs these tests in a process of their own."""
    for item in items:
        if any("stack" in name for name in getattr(item, "fixturenames", ())):
            item.add_marker("services")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server, started once for all tests that need no more; its address."""
    with serving(tmp_path_factory.mktemp("mlflow-server"), *free_ports(1)) as url:
        yield url


@pytest.fixture
def wire(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A way to that server that a test can cut; MLflow's client asks once, and waits as long as a busy machine needs."""
    for name, value in {"TIMEOUT": "120", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    wire = Wire(mlflow_server)
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, with a DAG that is there to be killed, started once for all tests that need it (half a minute, 2 GB)."""
    dags, faults = (tmp_path_factory.mktemp(name) for name in ("dags", "faults"))
    shutil.copytree(ROOT / "dags", dags, dirs_exist_ok=True)
    shutil.copy(ROOT / "tests" / "faults" / "dags" / "faulty.py", dags)
    settings = fresh_settings(tmp_path_factory.mktemp("stack")).model_copy(update={"dags": dags})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINDROW_FAULT_FOLDER", str(faults))
        patch.setenv("WINDROW_FAULT_JOB", str(ROOT / "tests" / "faults" / "counting_job.py"))
        with running(settings) as addresses:
            environ = {**os.environ, **environment(settings)}
            yield Stack(settings=settings, addresses=addresses, environ=environ, faults=faults)
    assert not processes_of(settings.home), "what was started is ended, whatever the tests did to it"
    assert not any(status.healthy for status in services_status(settings))
