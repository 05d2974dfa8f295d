"""The DAG that asks how many negatives can be left out, and what that costs as time goes by."""

from __future__ import annotations

from airflow.sdk import DAG

from operators import forms
from operators.study_dag import study_tasks
from pipeline.studies.downsampling.cells import downsampling_study

DOC = """
### How many negatives can be left out?

Most examples are negatives that teach little. **Negative downsampling** keeps all clicks and a fraction of the rest, and
corrects for it, so that predictions stay calibrated. This study trains the same model on less and less, compares it on
the same rows with one that sees everything, and recommends the lowest rate whose loss you can afford.

It varies one factor at a time around *a tenth of the negatives, in both phases, corrected by an offset, drawn uniformly,
with the batch scaled to the rows*:

| axis | beside the centre |
|---|---|
| `rate` (always) | the rates you list, tested downwards |
| `scope` | sampled in the historical phase only |
| `correction` | by weight |
| `policy` | drawn in proportion to the odds that a teacher, or an older checkpoint, gives |
| `batch` | held at its full size |
| `combined` | together with a continuous teacher: what neither reaches alone |
| `theory` | every rate by both policies and both corrections, held against what theory predicts |

Fill in the form and trigger. `report` writes one page with the penalty, its slope over time, and the recommendation.
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the line-up `tiny`.
"""


with DAG(
    "downsampling_study",
    description="One model on fewer and fewer negatives, then the report",
    doc_md=DOC,
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["windrow", "study"],
    params={
        **forms.study("downsampling"),
        **forms.downsampling(),
        **forms.span(judged="the first online window"),
        **forms.study_limits(),
    },
):
    study_tasks(downsampling_study)
