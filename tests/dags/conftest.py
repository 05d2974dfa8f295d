"""The DAGs as Airflow reads them, in a home of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.timezone import parse
from airflow.serialization.serialized_objects import DagSerialization

def interval(dag):
    found = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable.infer_manual_data_interval(
        run_after=parse("2014-10-26T12:00:00Z")
    )
    return [found.start.isoformat(), found.end.isoformat()]

def fields(dag):
    params = {name: dag.params.get_param(name) for name in dag.params}
    return {name: {"default": param.value, "schema": param.schema} for name, param in params.items()}

def tasks(dag):
    names = ("task_type", "doc_md", "pool")
    return {
        task.task_id: {"downstream": sorted(task.downstream_task_ids)}
        | {name: getattr(task, name, None) or getattr(task, "partial_kwargs", {}).get(name) for name in names}
        for task in dag.tasks
    }

bag = DagBag(sys.argv[1])
heavy = ["torch", "torchrec", "ray", "mlflow", "numpy", "pyarrow", "pandas", "obstore"]
imported = [name for name in heavy if name in sys.modules]
dags = {
    name: {"doc_md": dag.doc_md, "fields": fields(dag), "tasks": tasks(dag), "interval": interval(dag)}
    for name, dag in bag.dags.items()
}
print("RESULT" + json.dumps({"errors": bag.import_errors, "heavy": imported, "dags": dags}))
"""


@pytest.fixture(scope="session")
def parsed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Import errors, heavy modules that parsing brought in, and what the DAGs declare."""
    home = tmp_path_factory.mktemp("airflow")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "WINDROW"))},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    command = [sys.executable, "-c", PARSE, str(root / "dags")]
    done = subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT")[2])
    return result
