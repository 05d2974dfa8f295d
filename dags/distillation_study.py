"""The DAG that asks when a student shall stop listening to its teacher: never, early, late, or not at all."""

from __future__ import annotations

from airflow.sdk import DAG

from operators import forms
from operators.study_dag import study_tasks
from pipeline.studies.distillation.cells import distillation_study

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

*Also vary* adds, one at a time: **start** (the same students with less and less history, which shows how much data each
schedule needs to converge), **size** and **age** of the teacher, the **head** that listens, the **weight** of its loss.

Fill in the form and trigger. `report` writes one page with the answer, its interval and its figures; while a job runs,
its task's *Details* hold buttons: *Ray job*, *MLflow run* and *MLflow curves* (every variant on the same charts).
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the line-up `tiny`.
"""


with DAG(
    "distillation_study",
    description="Teacher, then students with and without it, then the report",
    doc_md=DOC,
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["windrow", "study"],
    params={
        **forms.study("distillation"),
        **forms.distillation(),
        **forms.span(judged="a choice well after the late cutover, if there is room"),
        **forms.study_limits(),
    },
):
    study_tasks(distillation_study)
