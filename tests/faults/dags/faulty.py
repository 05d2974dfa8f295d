"""A DAG whose one job only counts its own runs and sleeps, to be killed in every way."""

from __future__ import annotations

import os
import shlex
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

from operators.operator import RayJobOperator

FOLDER = Path(os.environ.get("WINDROW_FAULT_FOLDER", "."))
SPEC = {
    "kind": "ingest",
    "dataset": {"name": "d", "source": {"kind": "log", "schema_file": "s", "files": ["$HOME/{date}"]}},
    "first": "2024-01-01",
    "last": "2024-01-01",
}


class PausingOperator(RayJobOperator):
    """Tells its process and waits between submit and defer, in the first try alone, where the run asks for it."""

    def defer(self, **kwargs: Any) -> None:  # type: ignore[override]
        folder = FOLDER / self.params["name"]
        if self.params["pause"] and not (folder / "pid").exists():
            folder.mkdir(exist_ok=True)
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(120)
        super().defer(**kwargs)


with DAG(
    "faulty",
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    is_paused_upon_creation=False,
    params={
        "name": Param("nobody", type="string"),
        "seconds": Param(300, type="integer"),
        "pause": Param(False, type="boolean"),
        "timeout_minutes": Param(60, type="number"),
    },
):
    PausingOperator(
        task_id="job",
        document=SPEC,
        timeout_minutes="{{ params.timeout_minutes }}",
        entrypoint=shlex.join([sys.executable, os.environ.get("WINDROW_FAULT_JOB", "counting_job.py")])
        + " '{{ params.name }}' {{ params.seconds }}",
        environment={"WINDROW_FAULT_FOLDER": str(FOLDER)},
        poll_s=1.0,
        retry_delay=timedelta(seconds=1),
    )
