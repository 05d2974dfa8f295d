"""A study that is killed goes on where it was: no finished step is run again, and the answer is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from pipeline.data.simulator import simulate
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import Workers
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.studies.jobs import study_jobs
from pipeline.training.chain.steps import StepManifest
from tests.airflow_client import eventually
from tests.conftest import Stack
from tests.planned import planned
from tests.trained import DAY, TINY, lineup, train, variant

pytestmark = [pytest.mark.faults, pytest.mark.services, pytest.mark.long]

NUM_WINDOWS = 24
CONFIG = SimulatorConfig.tiny(rows_per_window=2_000)


KINDS: dict[str, dict[str, Any]] = {
    "distillation": {"teacher_size": "small", "student_size": "tiny"},  # a teacher and four schedules
    "iso_compute": {"budgets": [6e10], "num_sizes": 4},  # all rows, and four sizes, each on a stored selection
}


def study(name: str, kind: str = "distillation") -> Study:
    """Five variants over the same windows."""
    base = lineup(variant(model=TINY.model_copy(update={"prior": 0.05})), name="base", workers=Workers(threads=1))
    span = {"first": DAY, "online_start": DAY.shift(8), "last": DAY.shift(NUM_WINDOWS - 1)}
    return planned(kind, base, study=name, **span, **KINDS[kind])


def whole(asked: Study) -> TrainJob:
    """All of a study's steps as one job, so that one group of workers is there to be killed."""
    (first, rest) = study_jobs(asked)
    return rest.model_copy(update={"variants": (*first.variants, *rest.variants)})


def steps(lake: Lake) -> dict[str, StepManifest]:
    """Every finished step by its key."""
    paths = [str(path.relative_to(lake.root)) for path in lake.root.glob("steps/sim/*/manifest.json")]
    found = [step for path in paths if (step := lake.load(path, StepManifest)) is not None]
    return {step.key: step for step in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_goes_on_after_its_driver_and_then_its_worker_was_killed(
    stack: Stack, tmp_path: Path, kind: str
) -> None:
    name = f"killed_{kind}"
    asked = study(name, kind)
    lake = Lake(str(tmp_path / "lake"))
    simulate(lake, "sim", CONFIG, Window.span(DAY, DAY.shift(NUM_WINDOWS - 1)))
    spec = tmp_path / "spec.json"
    spec.write_text(whole(asked).model_dump_json())
    environ = {**stack.environ, "WINDROW_LAKE": lake.url}

    driver = subprocess.Popen(["windrow", "run", spec], env=environ, stderr=subprocess.DEVNULL)
    eventually(lambda: len(steps(lake)) >= 10, 180, "the study has begun")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    eventually(lambda: not workers(lake), 60, "the killed driver's workers are gone")
    after_driver = steps(lake)
    assert len(after_driver) < 5 * NUM_WINDOWS // 2

    resumed = subprocess.Popen(["windrow", "run", spec], env=environ, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(steps(lake)) >= len(after_driver) + 10, 180, "the study goes on")
    (worker,) = workers(lake)
    os.kill(worker, signal.SIGKILL)
    before_worker = {key: step.generation for key, step in steps(lake).items()}
    _, log = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, log[-3000:]

    done = steps(lake)
    for key, step in after_driver.items():
        assert done[key].generation == step.generation, "a finished step was run again"
    assert {key: done[key].generation for key in before_worker} == before_worker
    generations = [path for path in lake.root.glob("evaluations/sim/*/gen-*/predictions.parquet")]
    assert len(generations) <= len(done) + 2, "only what a kill interrupted was begun twice"

    assert set(run_statuses(stack, name, "variant")) == {"FINISHED"}
    assert {"KILLED", "FAILED"} <= set(run_statuses(stack, name, "stage")) <= {"KILLED", "FAILED", "FINISHED"}

    alone = Lake(str(tmp_path / "undisturbed"))
    simulate(alone, "sim", CONFIG, Window.span(DAY, DAY.shift(NUM_WINDOWS - 1)))
    train(alone, asked.lineup, NUM_WINDOWS)
    expected = steps(alone)
    assert done.keys() == expected.keys()
    assert {key: step.progressive for key, step in done.items()} == {
        key: step.progressive for key, step in expected.items()
    }


def test_of_two_commands_at_once_one_waits_and_one_that_is_stopped_closes_its_runs(
    stack: Stack, tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    simulate(lake, "sim", CONFIG, Window.span(DAY, DAY.shift(NUM_WINDOWS - 1)))
    spec = tmp_path / "spec.json"
    spec.write_text(whole(study("twice")).model_dump_json())
    environ = {**stack.environ, "WINDROW_LAKE": lake.url}

    def start(name: str) -> subprocess.Popen[bytes]:
        with (tmp_path / name).open("w") as log:
            return subprocess.Popen(["windrow", "run", spec], env=environ, stdout=log, stderr=log)

    first = start("first")
    eventually(lambda: len(steps(lake)) >= 10, 300, "the first trains")
    second = start("second")
    eventually(lambda: "waiting for it" in (tmp_path / "second").read_text(), 120, "the second waits")
    assert len(workers(lake)) == 1
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) != 0
    assert set(run_statuses(stack, "twice", "stage")) <= {"KILLED", "FAILED", "FINISHED"}, "closed at once"
    assert "Stopped. Steps that are done stay done" in (tmp_path / "first").read_text()
    done = steps(lake)
    assert second.wait(timeout=600) == 0, (tmp_path / "second").read_text()[-3000:]
    assert all(steps(lake)[key].generation == step.generation for key, step in done.items())
    assert set(run_statuses(stack, "twice", "variant")) == {"FINISHED"}


def run_statuses(stack: Stack, experiment: str, kind: str) -> list[str]:
    """How the runs of a kind stand in MLflow."""
    client = MlflowClient(stack.settings.tracking_uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], f"tags.`windrow.kind` = '{kind}'")
    return [str(run.info.status) for run in runs]


def workers(lake: Lake) -> list[int]:
    """Processes of Ray Train workers that train in this lake."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "open_files"])
        if re.search(r"ray::.*RayTrainWorker", " ".join(process.info["cmdline"] or []))
        and any(str(lake.root) in file.path for file in process.info["open_files"] or [])
    ]
