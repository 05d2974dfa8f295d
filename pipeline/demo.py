"""The main job as a person would run it from Airflow's pages: ingest, warm-up, daily runs by backfill, comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from pipeline.errors import TryAgain, Unreachable
from pipeline.lineup import LineUp
from pipeline.services import Addresses
from pipeline.window import Window

Say = Callable[[str], None]
POLL_SECONDS = 3.0
TERMINAL = ("success", "failed")


class MainJobFailed(TryAgain):
    """A DAG run failed; the message says where to look."""


@dataclass
class Airflow:
    """Airflow's REST API, as far as the main job needs it."""

    address: str
    client: httpx.Client

    @classmethod
    def login(cls, addresses: Addresses) -> Airflow:
        """Log in with the services' own account.

        Raises:
            Unreachable: nobody answers there.
        """
        client = httpx.Client(base_url=addresses.airflow, timeout=60, trust_env=False)  # loopback, past any proxy
        try:
            answer = client.post("/auth/token", json={"username": addresses.user, "password": addresses.password})
        except httpx.TransportError as error:
            raise Unreachable(
                f"Airflow does not answer at {addresses.airflow} ({error}): run `windrow up` first, or set WINDROW_AIRFLOW"
            ) from None
        client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
        return cls(addresses.airflow, client)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request below `/api/v2`.

        Raises:
            MainJobFailed: Airflow refused it.
        """
        answer = self.client.request(method, f"/api/v2{path}", **arguments)
        if answer.is_error:
            raise MainJobFailed(f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}")
        return answer.json()

    def await_dag(self, dag: str, timeout_s: float = 120) -> None:
        """Wait until the DAG has been read, and let its runs start."""
        deadline = time.monotonic() + timeout_s
        while self.client.get(f"/api/v2/dags/{dag}").status_code == httpx.codes.NOT_FOUND:
            if time.monotonic() > deadline:
                raise MainJobFailed(f"Airflow does not know the DAG {dag}: see its import errors at {self.address}")
            time.sleep(1)
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any], say: Say) -> None:
        """Trigger a DAG and wait for its run."""
        self.await_dag(dag)
        run = self.call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})["dag_run_id"]
        say(f"{dag}: {self.address}/dags/{dag}/runs/{run}")
        started = time.monotonic()
        while (state := self.call("GET", f"/dags/{dag}/dagRuns/{run}")["state"]) not in TERMINAL:
            time.sleep(POLL_SECONDS)
        self._check(dag, run, state)
        say(f"{dag}: {state} after {time.monotonic() - started:.0f} s")

    def backfill(self, dag: str, first: Window, last: Window, conf: dict[str, Any], say: Say) -> None:
        """Backfill a DAG's windows in order and wait for all of its runs."""
        self.await_dag(dag)
        body = {
            "dag_id": dag,
            "from_date": first.start.isoformat(),
            "to_date": last.start.isoformat(),
            "max_active_runs": 1,
            "reprocess_behavior": "completed",
            "dag_run_conf": conf,
        }
        backfill = self._create_backfill(body)
        say(f"{dag}: backfill {backfill} of {first} to {last}, {self.address}/dags/{dag}/backfills")
        told: set[str] = set()
        wanted = {w.name for w in Window.span(first, last)}
        started = time.monotonic()
        while told < wanted:
            time.sleep(POLL_SECONDS)
            for day in sorted(wanted - told)[:1]:  # in order, one at a time
                query = {
                    "run_type": "backfill",
                    "logical_date_gte": f"{day}T00:00:00Z",
                    "logical_date_lte": f"{day}T00:00:00Z",
                }
                for run in self.call("GET", f"/dags/{dag}/dagRuns", params=query)["dag_runs"]:
                    if run["state"] not in TERMINAL:
                        continue
                    self._check(dag, run["dag_run_id"], run["state"])
                    told.add(day)
                    say(
                        f"{dag}: {day} {run['state']} ({len(told)} of {len(wanted)}, {time.monotonic() - started:.0f} s)"
                    )

    def _create_backfill(self, body: dict[str, Any], tries: int = 30) -> int:
        """SQLite may be locked for a moment by another of Airflow's processes; Airflow answers 503 then."""
        for _ in range(tries):
            answer = self.client.post("/api/v2/backfills", json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(POLL_SECONDS)
        if answer.is_error:
            raise MainJobFailed(f"Airflow answered {answer.status_code} to the backfill: {answer.text[:500]}")
        return int(answer.json()["id"])

    def _check(self, dag: str, run: str, state: str) -> None:
        if state != "success":
            raise MainJobFailed(f"{dag} failed: read the log of its red task at {self.address}/dags/{dag}/runs/{run}")


def curves_page(mlflow: str, experiment: str) -> str:
    """Where MLflow shows an experiment's variants on the same charts; a link past its start page, which is about agents."""
    with httpx.Client(base_url=mlflow, timeout=30, trust_env=False) as client:
        found = client.get("/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": experiment})
    if found.is_error:
        return mlflow
    number = found.json()["experiment"]["experiment_id"]
    chosen = quote("tags.`windrow.kind` = 'summary'", safe="")
    return f"{mlflow}/#/experiments/{number}/runs?searchFilter={chosen}&compareRunsMode=CHART"


def main_job(airflow: Airflow, name: str, lineup: LineUp, first: Window, last: Window, say: Say) -> None:
    """Ingest a span, warm the line-up up until its online phase, and run that day by day.

    Args:
        airflow: logged in.
        name: the line-up as the DAGs' forms call it.
        lineup: its content.
        first: where history starts.
        last: the last window of the online phase.
        say: told how far it is.
    """
    span = {"lineup": name, "first": first.name, "last": last.name}
    airflow.trigger("ingest_windows", span, say)
    history = {**span, "last": lineup.online_start.previous().name}
    airflow.trigger("historical_warmup", history, say)
    airflow.backfill("online_training", lineup.online_start, last, {"lineup": name}, say)
