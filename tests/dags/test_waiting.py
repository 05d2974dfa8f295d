"""A run that waits leaves room for the run that it asks for, and goes on once its inputs are there."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from pipeline.data.dataset import require_manifest
from pipeline.reporting.dispatch import run_ingest
from pipeline.selection.stored import SelectionStore
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from tests.airflow_client import Airflow, eventually
from tests.conftest import Stack

pytestmark = [pytest.mark.services]


def test_while_a_run_waits_the_run_that_its_message_names_can_start(stack: Stack) -> None:
    """Both lack their inputs here: it is enough that the second waits for its own, and not for the first."""
    airflow = Airflow(stack.addresses)
    airflow.await_dag("online_training")
    runs = {}
    try:
        for day in ("2024-01-09", "2024-01-08"):
            runs[day] = airflow.trigger("online_training", {"lineup": "tiny", "window_date": day})
            eventually(
                lambda run=runs[day]: airflow.task("online_training", run, "await_inputs")["state"] == "deferred",  # type: ignore[misc]
                90,
                f"the run for {day} waits for its inputs",
            )
            assert f"Run ingest_windows for line-up 'tiny' with window_date {day}." in airflow.log(
                "online_training", runs[day], "await_inputs"
            )
        assert "Run online_training for window 2024-01-08" in airflow.log(
            "online_training", runs["2024-01-09"], "await_inputs"
        )
        assert {airflow.run_state("online_training", run) for run in runs.values()} == {"running"}
    finally:
        airflow.http.patch("/dags/online_training", json={"is_paused": True})
        for run in runs.values():
            airflow.mark("online_training", run, "await_inputs", "failed")


def test_a_selection_waits_for_its_window_and_says_what_it_was_made_of(stack: Stack) -> None:
    airflow, lake, lineup = Airflow(stack.addresses), Lake(stack.lake), load_lineup(lineup_path("tiny"))
    airflow.await_dag("select_windows")
    day = Window.of("2024-01-20")
    conf = {"lineup": "tiny", "window_date": day.name, "policy": "uniform", "keep": 0.25}
    run = airflow.trigger("select_windows", conf)
    state = lambda task: airflow.task("select_windows", run, task)["state"]  # noqa: E731
    try:
        eventually(lambda: state("await_inputs") == "deferred", 90, "it waits for its window")
        run_ingest(IngestJob(dataset=lineup.dataset, first=day, last=day), lake)
        eventually(lambda: airflow.run_state("select_windows", run) in {"success", "failed"}, 240, "it goes on")
        assert {task: state(task) for task in ("plan", "await_inputs", "select")} == {
            "plan": "success",
            "await_inputs": "success",
            "select": "success",
        }
    finally:
        airflow.http.patch("/dags/select_windows", json={"is_paused": True})

    manifest = require_manifest(lake, lineup.dataset.name, day)
    (selection,) = SelectionStore(lake, lineup.dataset.name).of_window(manifest)
    assert selection.num_rows == pytest.approx(manifest.num_rows / 4, rel=0.2)
    found = airflow.http.get("/assets/events", params={"source_dag_id": "select_windows"}).raise_for_status().json()
    (event,) = found["asset_events"]
    assert {name: event["extra"][name] for name in ("lineup", "first", "last")} == {
        "lineup": "tiny",
        "first": day.name,
        "last": day.name,
    }
    assert event["extra"]["ray_submission_id"]
    client = MlflowClient(stack.addresses.mlflow)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'selection'")
    assert recorded.data.metrics["kept/num_rows"] == selection.num_rows
    assert recorded.data.tags["dag_id"] == "select_windows"
