"""The DAG that trains variants over a span of past windows, so that they can go online."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, task

from operators.form.answers import answers
from operators.form.params import form
from operators.form.questions import Warmup
from operators.operator import RayJobOperator, planned
from pipeline.spec.job import TrainJob

DOC = """
### Warm up over past windows

The **historical phase**: one pass, in the order of time, over a span of windows, starting from new weights. A teacher
trains first and stores its logits for its students. Each window is scored before it is trained on, so the curves in
MLflow show how a model does on days that it has not seen.

Run it once before `online_training` starts, over a span that ends the day before its first run. If the first run is
later than the line-up's first online window, the days between are trained on as online days, and cutovers on these
days happen. A
**new variant** joins later in the same way: choose it alone, over a span that ends yesterday; checkpoints of other
variants are not changed.

The windows must be published (`ingest_windows`). All of it is one job on the Ray cluster, which keeps its workers.
Triggering the same span again trains only what is missing: steps that are done are skipped and named in the log.
"""

with DAG(
    "historical_warmup",
    description="Train variants over a span of past windows, from new weights",
    doc_md=DOC,
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=4,
    tags=["windrow", "training"],
    params=form(Warmup),
):

    @task(multiple_outputs=True, doc_md="Checks the form and writes the job's document.")
    def plan() -> dict[str, Any]:
        """Check the form and write the job."""
        asked = answers(Warmup)
        lineup, variants = asked.chosen()
        job = TrainJob(
            lineup=lineup,
            variants=variants,
            first=asked.first,
            last=asked.last,
            start="scratch",
            force=asked.force,
        )
        return {"train": job.model_dump(mode="json")}

    plan() >> RayJobOperator(
        task_id="train",
        document=planned("train"),
        timeout_minutes="{{ params.timeout_minutes }}",
        pool="windrow_ray",
        outlets=[Asset(name="checkpoints", uri="windrow://lake/chains")],
        doc_md="Trains the variants over the span, teachers before their students.",
    )
