"""The DAG that compares ways to learn from a teacher: not at all, until an early or late cutover, continuously."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, get_current_context, task

from operators import forms
from operators.answers import Answers
from operators.operator import RayJobOperator, planned
from pipeline.job import CompareJob, IngestJob, TrainJob
from pipeline.recipes import TEACHER, distillation_study
from pipeline.window import Window

DOC = """
### When should a student stop listening to its teacher?

A **teacher** is a larger model whose predictions the **students** also learn from (knowledge distillation). This study
trains one teacher and the same student in several ways over the same windows, and compares them on the same rows:

| variant | listens to the teacher |
|---|---|
| `no_teacher` | never: the reference |
| `early_cutover` | until the online phase begins |
| `late_cutover` | four windows longer |
| `continuous` | always, while the teacher keeps training |
| `continuous_downsampled_…` | always, on a fraction of the negatives (if you ask for it) |

Fill in the form and trigger. While a job runs, its task's *Details* hold buttons: *Ray job*, *MLflow run* (once
`compare` is green: the table and the figures) and *MLflow curves* (every variant on the same charts).
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the line-up `tiny`.
"""

with DAG(
    "distillation_study",
    description="Teacher, then students with and without it, then their comparison",
    doc_md=DOC,
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["windrow", "study"],
    params={
        **forms.distillation_study(),
        "first": forms.day("First window", "Where everybody starts, with new weights.", "2024-01-01", required=True),
        "online_start": forms.day("First online window", "The early cutover.", "2024-01-09", required=True),
        "last": forms.day("Last window", "Included.", "2024-01-15", required=True),
        **forms.workers(),
        "timeout_minutes": forms.timeout(24 * 60),
    },
):

    @task(doc_md="Checks the form and writes the documents of all jobs.")
    def plan() -> list[dict[str, Any]]:
        """Check the form and write all jobs of the study; returns the students', since only these can be mapped."""
        context = get_current_context()
        asked = Answers.of(context)
        first, last = asked.span
        online_start = Window.of(asked["online_start"])
        if not first < online_start <= last:
            raise ValueError(f"the first online window lies after {first} and not after {last}, got {online_start}")
        knobs = ("teacher_size", "student_size", "soft_weight", "negative_rate", "num_seeds")
        lineup = distillation_study(
            asked.lineup, name=asked["study"], online_start=online_start, **{knob: asked[knob] for knob in knobs}
        )
        train = {
            variant.name: TrainJob(lineup=lineup, variants=(variant.name,), first=first, last=last, start="scratch")
            for variant in lineup.variants
        }
        jobs = {
            "ingest": IngestJob(dataset=lineup.dataset, first=first, last=last),
            "teacher": train.pop(TEACHER),
            "compare": CompareJob(lineup=lineup, first=first, last=last),
        }
        for name, job in jobs.items():
            context["ti"].xcom_push(key=name, value=job.model_dump(mode="json"))
        return [job.model_dump(mode="json") for job in train.values()]

    written: Any = plan()
    limits: dict[str, Any] = {"timeout_minutes": "{{ params.timeout_minutes }}", "pool": "windrow_ray"}
    ingest = RayJobOperator(
        task_id="ingest", document=planned("ingest"), doc_md="Publishes the windows that are missing.", **limits
    )
    teacher = RayJobOperator(
        task_id="teacher", document=planned("teacher"), doc_md="Trains the teacher and stores its scores.", **limits
    )
    students = RayJobOperator.partial(
        task_id="students",
        map_index_template="{{ task.document['variants'][0] }}",
        doc_md="Trains every student over the same windows, as many at a time as the pool has slots.",
        **limits,
    ).expand(document=written)
    compare = RayJobOperator(
        task_id="compare",
        document=planned("compare"),
        outlets=[Asset(name="comparisons", uri="windrow://mlflow/comparisons")],
        doc_md="Compares the variants on the same rows and draws their curves.",
        **limits,
    )
    written >> ingest >> teacher >> students >> compare
