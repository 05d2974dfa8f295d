"""A job that notes that it ran, opens an MLflow run with its submission's tag, says so, and sleeps."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def main(name: str, seconds: float) -> None:
    submission = os.environ["WINDROW_SUBMISSION_ID"]
    spec = json.loads(os.environ["WINDROW_SPEC"])
    folder = Path(os.environ["WINDROW_FAULT_FOLDER"]) / name
    folder.mkdir(exist_ok=True)
    with (folder / "runs").open("a") as runs:
        runs.write(submission + "\n")
    now = int(time.time() * 1000)
    tags = {"ray_submission_id": submission, "windrow.kind": "stage", **json.loads(os.environ["WINDROW_TAGS"])}
    body = {
        "experiment_id": "0",
        "start_time": now,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    run_id = ask("runs/create", body)["run"]["info"]["run_id"]
    sys.stdout.write(f"reading {spec['dataset']['source']['files'][0]}\ncounted\n")
    sys.stdout.flush()
    time.sleep(seconds)
    ask("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": now})


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
