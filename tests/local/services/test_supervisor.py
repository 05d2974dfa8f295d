"""A service that dies comes back, whatever it left behind; and it is said when nobody would bring it back."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.local.services import ServiceError, services_status
from pipeline.local.services.health import supervisor_of
from pipeline.local.services.laptop import up
from pipeline.local.services.processes import MARK, SERVICE, left_of
from pipeline.spec.settings import Settings
from tests.airflow_client import eventually
from tests.conftest import free_ports, fresh_settings
from tests.local.services.light import SERVER, be_light, light
from tests.processes import processes_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home whose path has everything that a configuration file would stumble over."""
    return fresh_settings(tmp_path / "a home; #1, 100 %")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the light server shall serve."""
    (found,) = free_ports(1)
    monkeypatch.setenv("LIGHT_PORT", str(found))
    return found


def servers(settings: Settings) -> dict[bool, psutil.Process]:
    """The server and its child (True), once both run."""

    def found() -> dict[bool, psutil.Process] | None:
        processes = [each for each in processes_of(settings.home) if "server.py" in " ".join(each.cmdline())]
        by_role = {each.cmdline()[-1] == "child": each for each in processes}
        return by_role if len(by_role) == len(processes) == 2 else None

    return eventually(found, 60, "the server and its child run")


def serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_a_killed_service_is_started_again_and_its_orphan_is_ended(settings: Settings, port: int) -> None:
    with light(settings, {"server": SERVER}):
        first = servers(settings)
        eventually(lambda: serves(port), 30, "it serves")
        first[False].kill()
        eventually(lambda: not first[True].is_running(), 30, "the orphan that holds the port is ended")
        second = servers(settings)
        eventually(lambda: serves(port), 30, "it serves again")
        assert {each.pid for each in second.values()}.isdisjoint({each.pid for each in first.values()})
        assert "Address already in use" not in supervisor_of(settings).last_words("server")
    assert not processes_of(settings.home)


def test_a_service_that_ends_at_once_is_named_with_its_last_words_and_its_pauses_grow(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    script = f"import time; open({str(starts)!r}, 'a').write(f'{{time.monotonic()}}\\n'); exit('no such table: runs')"
    be_light(monkeypatch, {"mlflow": [sys.executable, "-c", script]})
    with pytest.raises(ServiceError, match=r"mlflow ends as soon as it starts\.\n(.*\n)*no such table: runs\n"):
        up(settings)
    assert not processes_of(settings.home)
    first, second, third, *_ = map(float, starts.read_text().split())
    assert second - first > 1
    assert third - second > 2


def test_status_says_when_nobody_supervises(settings: Settings, port: int) -> None:
    def supervision() -> tuple[bool, str]:
        (found,) = (status for status in services_status(settings) if status.name == "supervisor")
        return found.healthy, found.detail

    with light(settings, {"server": SERVER}):
        eventually(lambda: supervision()[0], 30, "the supervisor answers")
        server = servers(settings)[False]
        ours = {each.pid for each in processes_of(settings.home)}
        open_ports = {c.laddr.port for c in psutil.net_connections("tcp") if c.pid in ours and c.status == "LISTEN"}
        assert open_ports <= {port}, "it is asked at a socket in a private folder"
        supervisor = supervisor_of(settings).process()
        assert supervisor is not None
        supervisor.kill()
        supervisor.wait()
        assert supervision() == (False, "services that end are not started again; `windrow up` starts all of them")
        assert server.is_running()
    assert not processes_of(settings.home)


def test_a_task_outlives_its_scheduler_and_idle_workers_do_not(settings: Settings) -> None:
    """The titles are those that Airflow's executor gives; the faults' tests hold it against Airflow itself."""
    script = "import setproctitle, sys, time; setproctitle.setproctitle(sys.argv[1]); print(flush=True); time.sleep(60)"
    titles = [
        "airflow worker -- LocalExecutor: <idle>",
        "airflow worker -- LocalExecutor: faulty.job",
        "airflow scheduler",
    ]
    environ = {MARK: str(settings.home), SERVICE: "airflow-scheduler", "SPT_NOENV": "1"}
    workers = [
        psutil.Popen([sys.executable, "-c", script, title], env=environ, stdout=-1, start_new_session=True)
        for title in titles
    ]
    try:
        for worker in workers:
            worker.stdout.readline()
        idle, _, other = workers
        assert {each.pid for each in left_of(settings.home, "airflow-scheduler")} == {idle.pid, other.pid}
        assert left_of(settings.home, "mlflow") == []
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
