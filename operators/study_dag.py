"""The DAG of a kind of study: its form, a plan, and a chain of jobs that finishes what is missing."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Asset, chain, get_current_context, task

from operators.form.answers import filled_in
from operators.form.params import form
from operators.operator import RayJobOperator, planned
from pipeline.spec.forms.asked import NO_PRESET
from pipeline.spec.job import CompareJob, IngestJob, ReportJob
from pipeline.spec.settings import Settings
from pipeline.studies.declared import of_form, presets
from pipeline.studies.estimate import estimate
from pipeline.studies.jobs import study_jobs
from pipeline.studies.kinds import kind_of

log = logging.getLogger(__name__)


def study_dag(name: str) -> DAG:
    """The DAG `NAME_study` of a kind of study; its page and its form are the kind's own.

    Raises:
        StudyError: no kind of that name is installed.
    """
    kind = kind_of(name)
    with DAG(
        f"{name}_study",
        description=kind.question,
        doc_md=kind.page,
        schedule=None,
        is_paused_upon_creation=False,
        max_active_runs=1,
        tags=["windrow", "study"],
        params=form(kind.fields, {"preset": [NO_PRESET, *presets(name)]}, study=name),
    ) as dag:
        _tasks(name)
    return dag


def _tasks(name: str) -> None:
    """The tasks of a study: windows, teachers, students, comparison, report."""

    @task(doc_md="Checks the form, says in its log what the study will take, and writes the documents of all jobs.")
    def plan() -> list[dict[str, Any]]:
        """Check the form and write all jobs of the study; returns the students', since only these can be mapped."""
        from pipeline.storage.lake import Lake  # heavy: not where the file is parsed

        context = get_current_context()
        kind = kind_of(name)
        asked = of_form(kind, *filled_in(context))
        study = kind.study(asked.on_workers(), asked)
        takes = estimate(study, Lake(Settings().lake)).words()
        log.info("%s", takes)
        context["ti"].xcom_push(key="takes", value=takes)
        lineup = study.lineup
        first, *rest = study_jobs(study, asked.jobs_at_once)
        shown = dict.fromkeys(cell.variant for cell in study.cells)
        curves = tuple(variant for variant in shown if lineup.variant(variant).start is None)
        jobs = {
            "ingest": IngestJob(dataset=lineup.dataset, first=study.first, last=study.last, seeds=lineup.seeds),
            "teacher": first,
            "compare": CompareJob(lineup=lineup, variants=curves, first=study.first, last=study.last),
            "report": ReportJob(study=study),
        }
        for key, job in jobs.items():
            context["ti"].xcom_push(key=key, value=job.model_dump(mode="json"))
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
            doc_md="Trains teachers and pilots, and stores their logits; the reference, if the study has neither.",
            **limits,
        ),
        RayJobOperator.partial(
            task_id="students",
            map_index_template="{{ task.document['variants'][0] }} and {{ task.document['variants'] | length - 1 }} more, seeds "
            "{{ task.document['lineup']['seeds'] | join(', ') }}",
            doc_md="Trains all other variants over the same windows; what their schedules share is trained once.",
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
