"""Whatever dies, a job is run once; whoever kills a task or lets it run too long stops its job."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline.local.services import MARK, services_status
from pipeline.local.services.processes import variable
from tests.airflow_client import Airflow, eventually
from tests.conftest import Stack

pytestmark = pytest.mark.faults
KILL_LIMIT_S = 30


class Faulty:
    """One run of the DAG `faulty`, seen from all sides."""

    def __init__(self, stack: Stack, airflow: Airflow, folder: Path, name: str, **conf: Any) -> None:
        self.stack, self.airflow, self.folder = stack, airflow, folder / name
        self.run_id = airflow.trigger("faulty", {"name": name, **conf})

    @property
    def submissions(self) -> list[str]:
        """The submission of every time that the job ran."""
        runs = self.folder / "runs"
        return runs.read_text().split() if runs.exists() else []

    @property
    def state(self) -> str:
        """The task's."""
        return str(self.airflow.task("faulty", self.run_id, "job")["state"])

    def job_status(self, submission: str) -> str:
        """What Ray says."""
        headers = {"Authorization": f"Bearer {self.stack.addresses.ray_token}"}
        url = f"{self.stack.addresses.ray}/api/jobs/{submission}"
        return str(httpx.get(url, headers=headers, trust_env=False).raise_for_status().json()["status"])

    def run_status(self, submission: str) -> str | None:
        """What MLflow says."""
        body = {"experiment_ids": ["0"], "filter": f"tags.ray_submission_id = '{submission}'"}
        url = f"{self.stack.addresses.mlflow}/api/2.0/mlflow/runs/search"
        runs = httpx.post(url, json=body, trust_env=False, timeout=30).raise_for_status().json().get("runs", [])
        assert len(runs) <= 1
        return str(runs[0]["info"]["status"]) if runs else None

    def await_job(self, num_runs: int = 1) -> str:
        """The submission of the job's latest run, once it runs and MLflow knows it."""
        eventually(lambda: len(self.submissions) >= num_runs, 90, "the job runs")
        submission = self.submissions[-1]
        eventually(lambda: self.run_status(submission) == "RUNNING", 30, "MLflow knows the run")
        return submission

    def await_state(self, state: str, timeout_s: float) -> None:
        """Wait for the task's state."""
        eventually(lambda: self.state == state, timeout_s, f"the task is {state}, it is {self.state}")

    def assert_stopped(self, submission: str, since: float) -> None:
        """The job is stopped and its run killed within the promised time."""
        left = KILL_LIMIT_S - (time.monotonic() - since)
        eventually(lambda: self.job_status(submission) == "STOPPED", left, "Ray's job is stopped")
        left = KILL_LIMIT_S - (time.monotonic() - since)
        eventually(lambda: self.run_status(submission) == "KILLED", left, "MLflow's run is killed")


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Airflow:
    client = Airflow(stack.addresses)
    client.await_dag("faulty")
    return client


def service(stack: Stack, *words: str) -> psutil.Process:
    """The process that the supervisor started: the oldest with these words in its command."""
    found = [
        process
        for process in psutil.process_iter()
        if variable(process, MARK) == str(stack.settings.home) and set(words) <= set(_words(process))
    ]
    assert found, f"{words} runs"
    return min(found, key=lambda process: process.create_time())


def restart(process: psutil.Process, how: signal.Signals) -> None:
    """End a service; its supervisor starts it again."""
    process.send_signal(how)
    psutil.wait_procs([process], timeout=60)


def _words(process: psutil.Process) -> list[str]:
    """A process's command, programs without their folders."""
    try:
        return [Path(word).name for word in process.cmdline()]
    except psutil.Error:
        return []


def test_a_task_marked_failed_stops_its_job_and_its_run_is_killed(stack: Stack, airflow: Airflow) -> None:
    run = Faulty(stack, airflow, stack.faults, "marked")
    submission = run.await_job()
    run.await_state("deferred", 30)
    eventually(
        lambda: "counted" in airflow.log("faulty", run.run_id, "job"), 20, "the job's log is in the task's, live"
    )
    log = airflow.log("faulty", run.run_id, "job")
    assert "reading $HOME/{date}" in log, "a document reaches its job as it is"
    assert "Could not read" not in log, "every part of the log is read where it lies"
    links = eventually(
        lambda: (found := airflow.links("faulty", run.run_id, "job")) and all(found.values()) and found,
        30,
        "all links are there while the job runs",
    )
    assert links["Ray job"] == f"{stack.addresses.ray}/#/jobs/{submission}"
    assert str(links["MLflow run"]).startswith(f"{stack.addresses.mlflow}/#/experiments/0/runs/")

    killed = time.monotonic()
    airflow.mark("faulty", run.run_id, "job", "failed")
    run.assert_stopped(submission, killed)
    assert run.submissions == [submission]


def test_a_cleared_task_stops_its_job_and_runs_it_anew(stack: Stack, airflow: Airflow) -> None:
    run = Faulty(stack, airflow, stack.faults, "cleared")
    first = run.await_job()
    run.await_state("deferred", 30)
    cleared = time.monotonic()
    airflow.clear("faulty", run.run_id, "job")
    run.assert_stopped(first, cleared)
    second = run.await_job(num_runs=2)
    assert second != first
    airflow.mark("faulty", run.run_id, "job", "failed")
    run.assert_stopped(second, time.monotonic())
    assert len(run.submissions) == 2


def test_a_task_killed_before_it_defers_takes_its_job_over_and_restarts_of_airflow_pass_it_by(
    stack: Stack, airflow: Airflow
) -> None:
    run = Faulty(stack, airflow, stack.faults, "survivor", pause=True, seconds=75)
    submission = run.await_job()
    pid_file = run.folder / "pid"
    eventually(pid_file.exists, 30, "the task waits between submit and defer")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    run.await_state("deferred", 60)
    assert airflow.task("faulty", run.run_id, "job")["try_number"] == 2
    assert run.submissions == [submission]

    idle = service(stack, "airflow", "scheduler").children()
    restart(service(stack, "airflow", "scheduler"), signal.SIGKILL)
    restart(service(stack, "airflow", "triggerer"), signal.SIGTERM)
    tracking = service(stack, "mlflow", "server")
    orphan = service(stack, "uvicorn")
    assert orphan in tracking.children()
    restart(tracking, signal.SIGKILL)
    assert run.job_status(submission) == "RUNNING"
    eventually(lambda: not any(p.is_running() for p in (orphan, *idle)), 60, "what the dead left behind is ended")
    eventually(lambda: all(s.healthy for s in services_status(stack.settings)), 90, "all services are back")
    assert service(stack, "uvicorn") in service(stack, "mlflow", "server").children()

    run.await_state("success", 150)
    assert run.submissions == [submission]
    assert run.job_status(submission) == "SUCCEEDED"
    assert run.run_status(submission) == "FINISHED"


def test_a_job_past_its_deadline_is_stopped_and_its_task_fails_at_once(stack: Stack, airflow: Airflow) -> None:
    run = Faulty(stack, airflow, stack.faults, "late", timeout_minutes=0.2)
    submission = run.await_job()
    run.await_state("failed", 60)
    assert run.job_status(submission) == "STOPPED"
    assert run.run_status(submission) == "KILLED"
    assert run.submissions == [submission]
    assert "ran past its deadline" in airflow.log("faulty", run.run_id, "job")
