"""Airflow's REST API as the tests use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from pipeline.local.services import Addresses

T = TypeVar("T")


class Airflow:
    """A log-in to a running Airflow."""

    def __init__(self, addresses: Addresses) -> None:
        login = {"username": addresses.user, "password": addresses.password}
        token = httpx.post(f"{addresses.airflow}/auth/token", json=login, trust_env=False).raise_for_status().json()
        self.http = httpx.Client(
            base_url=f"{addresses.airflow}/api/v2",
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=120,
            trust_env=False,
        )

    def await_dag(self, dag_id: str, timeout_s: float = 90) -> None:
        """Wait until a DAG is known, and unpause it."""
        eventually(lambda: self.http.get(f"/dags/{dag_id}").status_code == 200, timeout_s, f"DAG {dag_id}")
        self.http.patch(f"/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str, conf: dict[str, Any], logical_date: str | None = None) -> str:
        """Trigger a run; returns its id."""
        body = {"logical_date": logical_date, "conf": conf}
        answer = self.http.post(f"/dags/{dag_id}/dagRuns", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """How a run fares."""
        return str(self.http.get(f"/dags/{dag_id}/dagRuns/{run_id}").raise_for_status().json()["state"])

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance."""
        answer = self.http.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}").raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """What a task has left for others under a key."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.http.get(path, params={"deserialize": True}).raise_for_status().json()["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """A task's log, as one text."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.http.get(path, params={"full_content": True}).raise_for_status().json()["content"]
        return "\n".join(_words(line) for line in content)

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """A task's buttons."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        found: dict[str, str | None] = self.http.get(path).raise_for_status().json()["extra_links"]
        return found

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task, as the button does."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.http.patch(path, json={"new_state": state}).raise_for_status()

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task, as the button does."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        self.http.post(f"/dags/{dag_id}/clearTaskInstances", json=body).raise_for_status()


def _words(line: Any) -> str:
    """A line of a log, with the message of the error that it tells of, if it does."""
    if not isinstance(line, dict):
        return str(line)
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or []]
    return "\n".join([line["event"], *errors])


def eventually(check: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.5) -> T:
    """The first true answer of `check`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(every_s)
    return answer
