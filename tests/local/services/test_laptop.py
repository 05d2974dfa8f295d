"""The local services: on loopback, behind a token, started once, ended without a trace, and named when they fail."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.local.services import MARK, POOL, ServiceError, down, laptop, up
from pipeline.local.services.commands import commands
from pipeline.local.services.folder import run_folder
from pipeline.spec.settings import Settings
from tests.conftest import Stack, fresh_settings
from tests.processes import LOOPBACK, listening, processes_of


def is_private(folder: Path) -> bool:
    """Whether nobody but its owner may enter."""
    return not stat.S_IMODE(folder.stat().st_mode) & 0o077


def test_services_are_private_and_started_once(stack: Stack) -> None:
    settings, first = stack.settings, stack.addresses
    ports = listening(settings.home)
    assert {settings.airflow_port, settings.mlflow_port, settings.ray_port, settings.ray_dashboard_port} <= {
        port for _, port in ports
    }
    assert {address: who for address, who in ports.items() if address[0] not in LOOPBACK} == {}
    ours = {process.pid for process in processes_of(settings.home)}
    sockets = {c.laddr for c in psutil.net_connections("unix") if c.pid in ours and c.laddr.startswith("/")}
    assert any("plasma" in path for path in sockets)
    assert stat.S_IMODE(run_folder(settings.home).stat().st_mode) == 0o700
    assert {path for path in sockets if not any(is_private(parent) for parent in Path(path).parents)} == set()

    jobs = f"{first.ray}/api/jobs/"
    assert httpx.get(jobs).status_code in {401, 403}
    assert httpx.get(jobs, headers={"Authorization": "Bearer guess"}).status_code in {401, 403}
    assert httpx.get(jobs, headers={"Authorization": f"Bearer {first.ray_token}"}).status_code == 200
    assert httpx.get(f"{first.airflow}/api/v2/pools").status_code in {401, 403}
    for secret in (settings.home / "secrets").iterdir():
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600

    supervisor = (settings.home / "services.pid").read_text()
    assert up(settings) == first
    assert (settings.home / "services.pid").read_text() == supervisor

    token = httpx.post(f"{first.airflow}/auth/token", json={"username": first.user, "password": first.password})
    bearer = {"Authorization": f"Bearer {token.json()['access_token']}"}
    pool = httpx.get(f"{first.airflow}/api/v2/pools/{POOL}", headers=bearer).json()
    assert (pool["slots"], pool["include_deferred"]) == (settings.pool_slots, True)


def test_down_ends_what_left_its_group_and_spares_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laptop, "STOP_TIMEOUT_S", 1.0)
    ours, theirs = (Settings.of({"WINDROW_HOME": str(tmp_path / name)}) for name in ("ours", "theirs"))
    command = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for settings in (ours, theirs):
            settings.home.mkdir()
            environ = {MARK: str(settings.home)}
            started.append(subprocess.Popen(command, env=environ, start_new_session=True, stdout=subprocess.PIPE))
            stdout = started[-1].stdout
            assert stdout
            stdout.readline()  # by now it is deaf to SIGTERM
        down(ours)
        assert not processes_of(ours.home)
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_taken_port_is_named_with_its_holder_and_the_cure(tmp_path: Path) -> None:
    settings = fresh_settings(tmp_path / "home")
    with socket.create_server(("127.0.0.1", settings.mlflow_port)):
        with pytest.raises(ServiceError, match=rf"port {settings.mlflow_port} is taken by .*WINDROW_MLFLOW_PORT"):
            up(settings)
    assert not processes_of(settings.home)


def test_a_shared_tracking_server_is_not_started_here(tmp_path: Path) -> None:
    settings = Settings.of({"WINDROW_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "https://mlflow.example.org"})
    assert "mlflow" not in commands(settings)
    assert "ray" in commands(settings)
