"""The main job as a person would run it from Airflow's pages: ingest, warm-up, daily runs by backfill, comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from pipeline.local.services import Addresses
from pipeline.spec.errors import BadInput, TryAgain, Unreachable
from pipeline.spec.job import GAP_VIEW, MODEL_TRAINING
from pipeline.spec.lineup import LineUp, SimulatedSource
from pipeline.spec.window import Window

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
        """Wait until the DAG has been read."""
        deadline = time.monotonic() + timeout_s
        while self.client.get(f"/api/v2/dags/{dag}").status_code == httpx.codes.NOT_FOUND:
            if time.monotonic() > deadline:
                raise MainJobFailed(f"Airflow does not know the DAG {dag}: see its import errors at {self.address}")
            time.sleep(1)

    def unpause(self, dag: str) -> None:
        """Let a DAG's runs start: those that wait, and from now on one a day if it has a schedule."""
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any], say: Say) -> None:
        """Trigger a DAG and wait for its run."""
        self.await_dag(dag)
        run = self.call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})["dag_run_id"]
        self.unpause(dag)
        say(f"{dag}: {self.address}/dags/{dag}/runs/{run}")
        started = time.monotonic()
        while (state := self.call("GET", f"/dags/{dag}/dagRuns/{run}")["state"]) not in TERMINAL:
            time.sleep(POLL_SECONDS)
        self._check(dag, run, state)
        say(f"{dag}: {state} after {time.monotonic() - started:.0f} s")

    def backfill(self, dag: str, first: Window, last: Window, conf: dict[str, Any], say: Say) -> None:
        """Backfill a DAG's windows in order and wait for all of their runs.

        A day has one run: where the scheduler has started one already, Airflow leaves it to that.
        """
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
        self.unpause(dag)  # only now: the scheduler then finds a run of the last day
        say(f"{dag}: backfill {backfill} of {first} to {last}, {self.address}/dags/{dag}/backfills")
        started = time.monotonic()
        days = list(Window.span(first, last))
        for number, day in enumerate(days, 1):
            run = self._await_run_of(dag, day)
            self._check(dag, run["dag_run_id"], run["state"])
            say(f"{dag}: {day} {run['state']} ({number} of {len(days)}, {time.monotonic() - started:.0f} s)")

    def _await_run_of(self, dag: str, day: Window) -> Any:
        """The run of a day, once it has ended."""
        instant = day.start.isoformat()
        query = {"logical_date_gte": instant, "logical_date_lte": instant}
        while True:
            for run in self.call("GET", f"/dags/{dag}/dagRuns", params=query)["dag_runs"]:
                if run["state"] in TERMINAL:
                    return run
            time.sleep(POLL_SECONDS)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The windows of a line-up's main job."""

    first: Window
    """Where history starts."""
    online_start: Window
    last: Window
    """The last window of the online phase."""
    daily: int
    """How many of the last windows are days of their own; one job trains on all before them."""

    @classmethod
    def of(cls, lineup: LineUp, *, first: str | None, last: Window, daily: int) -> Span:
        """The span of a line-up, from its simulated log's day zero by default.

        Raises:
            BadInput: nobody knows where it starts.
        """
        source = lineup.dataset.source
        if first is not None:
            start = Window.of(first)
        elif isinstance(source, SimulatedSource):
            start = source.origin
        else:
            raise BadInput(f"--first is needed: {lineup.dataset.name!r} is a log, whose first window only you know")
        return cls(first=start, online_start=lineup.online_start, last=last, daily=daily)

    @property
    def first_daily(self) -> Window:
        """The first window that is a run of its own."""
        return max(self.online_start, self.last.shift(1 - self.daily))


def main_job(airflow: Airflow, name: str, span: Span, say: Say) -> None:
    """Ingest a span, train on all but its last days in one job, and on those day by day; what is done is skipped.

    Args:
        airflow: logged in.
        name: the line-up as the DAGs' forms call it.
        span: the windows.
        say: called with a line about progress.
    """
    given = {"lineup": name, "first": span.first.name}
    airflow.trigger("ingest_windows", {**given, "last": span.last.name}, say)
    airflow.trigger("historical_warmup", {**given, "last": span.first_daily.previous().name}, say)
    airflow.backfill("online_training", span.first_daily, span.last, {"lineup": name}, say)


def pages(mlflow: str, experiment: str) -> dict[str, str]:
    """Where MLflow shows what came out: the variants' curves on one chart, and the picture with its bands.

    Past its start page, which is about agents.
    """
    with httpx.Client(base_url=f"{mlflow}/api/2.0/mlflow", timeout=30, trust_env=False) as client:
        found = client.get("/experiments/get-by-name", params={"experiment_name": experiment})
        if found.is_error:
            return {"MLflow": mlflow}
        number = found.json()["experiment"]["experiment_id"]
        asked = {
            "experiment_ids": [number],
            "filter": "tags.`windrow.kind` = 'comparison'",
            "order_by": ["attributes.start_time DESC"],
            "max_results": 1,
        }
        runs = client.post("/runs/search", json=asked).raise_for_status().json().get("runs", [])
    shown = f"{mlflow}/#/experiments/{number}/runs"
    found_pages = {"Curves": f"{shown}?viewStateShareKey={GAP_VIEW}&compareRunsMode=CHART&{MODEL_TRAINING}"}
    for run in runs:
        found_pages["Picture"] = f"{shown}/{run['info']['run_id']}/artifacts/gap_by_window.png?{MODEL_TRAINING}"
    return found_pages
