"""The tasks that every study has after its plan: windows, teachers, students, comparison, report."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from airflow.sdk import Asset, chain, get_current_context, task

from operators.answers import Answers
from operators.operator import RayJobOperator, planned
from pipeline.spec.job import CompareJob, IngestJob, ReportJob, study_jobs
from pipeline.spec.study import Study


def study_tasks(recipe: Callable[..., Study]) -> None:
    """Declare a study's tasks in the DAG around: a plan, and a chain of jobs that finishes what is missing.

    Args:
        recipe: makes the study of the chosen line-up and of those answers that bear its arguments' names.
    """

    @task(doc_md="Checks the form and writes the documents of all jobs.")
    def plan() -> list[dict[str, Any]]:
        """Check the form and write all jobs of the study; returns the students', since only these can be mapped."""
        context = get_current_context()
        asked = Answers.of(context)
        study = recipe(asked.lineup, **asked.arguments(signature(recipe).parameters))
        lineup = study.lineup
        first, *rest = study_jobs(study, asked["jobs_at_once"])
        curves = tuple(dict.fromkeys(cell.variant for cell in study.cells if cell.axis != "start"))
        jobs = {
            "ingest": IngestJob(dataset=lineup.dataset, first=study.first, last=study.last, seeds=lineup.seeds),
            "teacher": first,
            "compare": CompareJob(lineup=lineup, variants=curves, first=study.first, last=study.last),
            "report": ReportJob(study=study),
        }
        for name, job in jobs.items():
            context["ti"].xcom_push(key=name, value=job.model_dump(mode="json"))
        return [job.model_dump(mode="json") for job in rest]

    limits: dict[str, Any] = {"timeout_minutes": "{{ params.timeout_minutes }}", "pool": "windrow_ray"}
    written: Any = plan()
    chain(
        written,
        RayJobOperator(
            task_id="ingest", document=planned("ingest"), doc_md="Publishes the windows that are missing.", **limits
        ),
        RayJobOperator(
            task_id="teacher",
            document=planned("teacher"),
            doc_md="Trains whom others read from, and stores their scores; without such a one, the reference.",
            **limits,
        ),
        RayJobOperator.partial(
            task_id="students",
            map_index_template="{{ task.document['variants'][0] }} and {{ task.document['variants'] | length - 1 }} more, seeds "
            "{{ task.document['lineup']['seeds'] | join(', ') }}",
            doc_md="Trains all others over the same windows; what their schedules share is trained once.",
            **limits,
        ).expand(document=written),
        RayJobOperator(
            task_id="compare",
            document=planned("compare"),
            outlets=[Asset(name="comparisons", uri="windrow://mlflow/comparisons")],
            doc_md="Compares the variants on the same rows and draws their curves.",
            **limits,
        ),
        RayJobOperator(
            task_id="report",
            document=planned("report"),
            outlets=[Asset(name="reports", uri="windrow://lake/studies")],
            doc_md="Answers the study's question with intervals, on one page that needs no network.",
            **limits,
        ),
    )
