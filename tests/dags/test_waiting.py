"""A run that waits leaves room for the run that it asks for."""

from __future__ import annotations

import pytest

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
