"""The DAG that publishes windows of a raw or simulated log, one a day or a span at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, task

from operators.form.answers import answers, interval
from operators.form.params import filled_in, form
from operators.form.questions import Ingest
from operators.inputs import AwaitInputs
from operators.operator import RayJobOperator, planned
from pipeline.spec.job import IngestJob

DOC = """
### Publish windows

A **window** is one day of examples, from midnight to midnight UTC (or of the log's own zone, with `day: local` in its
schema). This DAG reads a day of the raw log (or of the simulator), gives each example a stable id, sets bad rows aside
with the reason, and publishes the window in the lake. Everything else trains on published windows only.

1. `plan` decides which windows this run is about and writes the job.
2. `await_inputs` waits, without holding a worker, for every file with a day in its name that can hold rows of the windows.
   When the time is over it fails and names the file. Files cut at another midnight than windows are needed from the next
   day as well.
3. `ingest` reads them. A row that came late, in the file of another day, has its window published again; `windrow status`
   then shows what was trained on the old one.

* **Every day** it publishes the day before, once you unpause it.
* **One day or a span by hand**: trigger it and fill in the dates.
* **Many days, each a run of its own**: `airflow backfill create --dag-id ingest_windows --from-date {first}
  --to-date {last} --dag-run-conf '{"lineup": "{lineup}"}'`, in a shell with `export AIRFLOW_HOME={airflow_home}`.

While it is paused, runs triggered by hand and backfills stay queued. Unpausing starts the latest day only, not all
days since 2014. A window that is published already, from the same content, is left as it is and costs seconds.
"""

with DAG(
    "ingest_windows",
    description="Publish a day of the raw log as a window, or a span of days",
    doc_md=filled_in(DOC),
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2014, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=4,
    tags=["windrow", "data"],
    params=form(Ingest),
):

    @task(multiple_outputs=True, doc_md="Checks the form and writes the job's document.")
    def plan() -> dict[str, Any]:
        """Check the form and write the job."""
        asked = answers(Ingest)
        first, last = asked.span(interval())
        lineup = asked.base()
        job = IngestJob(dataset=lineup.dataset, first=first, last=last, seeds=lineup.seeds, force=asked.force)
        return {"ingest": job.model_dump(mode="json")}

    (
        plan()
        >> AwaitInputs(
            task_id="await_inputs",
            document=planned("ingest"),
            wait_minutes="{{ params.wait_minutes }}",
            doc_md="Waits, deferred, for every file that can hold rows of the windows.",
        )
        >> RayJobOperator(
            task_id="ingest",
            document=planned("ingest"),
            timeout_minutes="{{ params.timeout_minutes }}",
            pool="windrow_ray",
            outlets=[Asset(name="windows", uri="windrow://lake/windows")],
            doc_md="Reads, checks and publishes the windows, in bounded memory.",
        )
    )
