"""The DAG that asks which batch size and learning rate suit each arm, before any reported seed is run."""

from __future__ import annotations

from airflow.sdk import DAG

from operators import forms
from operators.study_dag import study_tasks
from pipeline.studies.tuning.cells import TUNING_SEEDS, tuning_study

DOC = """
### Which batch size and learning rate suit each arm?

An arm that wins because another was set badly has shown nothing. This study trains every arm of the other studies (teacher,
no teacher, early cutover, late cutover, continuous, a fraction of the negatives, both together) under **the same grid** of
batch size and learning rate, and says under which setting each loses least.

Give it **seeds that no study will report**, and better tune the teacher first: students listen to it as the line-up has it.
Then write the settings into the line-up, as variants that bear the arms' names, commit it, and run the studies.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing.**
"""


with DAG(
    "tuning_study",
    description="Every arm under the same grid of batch size and learning rate, then the report",
    doc_md=DOC,
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["windrow", "study"],
    params={
        **forms.study("tuning", default_seeds=[*TUNING_SEEDS]),
        **forms.tuning(),
        **forms.span(judged="the first online window"),
        **forms.study_limits(),
    },
):
    study_tasks(tuning_study)
