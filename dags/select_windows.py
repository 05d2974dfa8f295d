"""The DAG that stores what selection policies keep of a day's window, ahead of the training that reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, task

from operators.form.answers import answers, interval
from operators.form.params import filled_in, form
from operators.form.questions import Select
from operators.inputs import AwaitInputs
from operators.operator import RayJobOperator, planned
from pipeline.spec.job import SelectJob

DOC = """
### Select from windows

A **selection** is what a policy keeps of a window: the rows, each with the number of rows that it stands for, its weight and its
offset, and with soft labels where the policy is `distilled`. Training makes the selections that it needs by itself. This DAG makes
them ahead: on other workers, at another hour, or to look at them before anything trains on them (`windrow inspect`).

1. `plan` decides which windows this run is about and writes the job.
2. `await_inputs` waits, without holding a worker, for the windows, and for the **pilots** that policies ask: a pilot must train on a
   window before a policy can use its signals for that window. A pilot stores a signal only if some variant of its line-up reads it.
3. `select` stores the selections: of each variant that has a policy, or of the variant that the form adds. MLflow shows a run for
   each variant and seed, with what was kept of each window and what that was made of.

* **Every day** it selects from the day before, once you unpause it.
* **One day or a span by hand**: trigger it and fill in the dates.
* **Many days, each a run of its own**: `airflow backfill create --dag-id select_windows --from-date {first}
  --to-date {last} --dag-run-conf '{"lineup": "{lineup}"}'`, in a shell with `export AIRFLOW_HOME={airflow_home}`.

A selection that is stored already is left as it is and costs seconds. Training finds it by what it was made of: where a window is
published again, or a pilot trained again, the old one is not read and a new one is made.
"""

with DAG(
    "select_windows",
    description="Store what selection policies keep of a day's window, or of a span of days",
    doc_md=filled_in(DOC),
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2014, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=4,
    tags=["windrow", "data"],
    params=form(Select),
):

    @task(multiple_outputs=True, doc_md="Decides which windows, checks the form, writes the job's document.")
    def plan() -> dict[str, Any]:
        """Check the form and write the job."""
        asked = answers(Select)
        (lineup, variants), (first, last) = asked.chosen(), asked.span(interval())
        job = SelectJob(lineup=lineup, variants=variants, first=first, last=last, force=asked.force)
        return {"select": job.model_dump(mode="json")}

    (
        plan()
        >> AwaitInputs(
            task_id="await_inputs",
            document=planned("select"),
            wait_minutes="{{ params.wait_minutes }}",
            doc_md="Waits, deferred, for the windows and for the pilots' steps on them.",
        )
        >> RayJobOperator(
            task_id="select",
            document=planned("select"),
            timeout_minutes="{{ params.timeout_minutes }}",
            pool="windrow_ray",
            outlets=[Asset(name="selections", uri="windrow://lake/selections")],
            doc_md="Stores what each policy keeps of each window, in bounded memory.",
        )
    )
