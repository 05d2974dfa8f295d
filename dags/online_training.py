"""The DAG that trains the line-up on one window a day, each variant from its checkpoint of the day before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, task

from operators.form.answers import answers, interval
from operators.form.params import filled_in, form
from operators.form.questions import Online
from operators.form.run_window import resolve_window
from operators.inputs import AwaitInputs
from operators.operator import RayJobOperator, planned
from pipeline.spec.job import CompareJob, TrainJob

DOC = """
### Train on yesterday

The **online phase**: every day each variant of the line-up scores the new window with the weights of the day before,
then trains on it. The teacher goes first. Afterwards all variants are compared on the same rows since the phase began.

1. `plan` decides which window this run is about and writes the jobs.
2. `await_inputs` waits, without holding a worker, for the window (`ingest_windows`) and for each variant's checkpoint
   of the day before. It says what is missing and what to run, and goes on once that is done; when the time is over it
   fails. Several runs may wait at once, each for its own day.
3. `train` is one job for all variants, `compare` a short one after it.

Before the first day run `historical_warmup`. While this DAG is paused, runs triggered by hand and backfills stay
queued; unpausing starts the latest day only. To run past days in order, finished ones again too: `airflow backfill create
--dag-id online_training --from-date {online_start} --to-date {last} --max-active-runs 1 --reprocess-behavior completed
--dag-run-conf '{"lineup": "{lineup}"}'`, in a shell with `export AIRFLOW_HOME={airflow_home}`.

A window that is done already is skipped, and the log says so. When something before it changed (a window was published
again, a recipe was edited), its chain is **stale**: `windrow status` says what and why, and a day that would go on from
it is refused. `windrow status` prints the command that corrects it, such as the backfill above: only what changed is trained again. Without `--reprocess-behavior completed` Airflow skips days that it has run before.
"""

with DAG(
    "online_training",
    description="Each day: score the new window, train on it, compare the variants",
    doc_md=filled_in(DOC),
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2014, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    # Each run waits for its own parents, so their order is kept; with 1, whatever a waiting run asks for would stay queued.
    max_active_runs=16,
    tags=["windrow", "training"],
    params=form(Online),
):

    @task(multiple_outputs=True, doc_md="Decides which window, checks the form, writes the jobs' documents.")
    def plan() -> dict[str, Any]:
        """Decide the window, check the form and write the jobs."""
        asked = answers(Online)
        (lineup, variants), window = asked.chosen(), resolve_window(asked.window_date, interval())
        train = TrainJob(
            lineup=lineup,
            variants=variants,
            first=window,
            last=window,
            start="parent",
            force=asked.force,
            despite_stale=asked.despite_stale,
        )
        compare = CompareJob(lineup=lineup, variants=variants, first=min(lineup.online_start, window), last=window)
        return {"train": train.model_dump(mode="json"), "compare": compare.model_dump(mode="json")}

    limits: dict[str, Any] = {"timeout_minutes": "{{ params.timeout_minutes }}", "pool": "windrow_ray"}
    (
        plan()
        >> AwaitInputs(
            task_id="await_inputs",
            document=planned("train"),
            wait_minutes="{{ params.wait_minutes }}",
            doc_md="Waits, deferred, for the window's manifest and every variant's parent checkpoint.",
        )
        >> RayJobOperator(
            task_id="train",
            document=planned("train"),
            outlets=[Asset(name="checkpoints", uri="windrow://lake/chains")],
            doc_md="Scores and then trains on the window, teachers before their students.",
            **limits,
        )
        >> RayJobOperator(
            task_id="compare",
            document=planned("compare"),
            doc_md="Compares the variants on the same rows since the online phase began.",
            **limits,
        )
    )
