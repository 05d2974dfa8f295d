"""Chains trained side by side leave what chains trained one after the other leave, bit for bit, and fail as loudly."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from pipeline.data.simulator import simulate
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import Continuous
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp, Workers
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.training.chain.lanes import deal
from tests.distributed.test_ray import tensors
from tests.trained import DATASET, DAY, STEPS, lineup, metrics, steps, train, variant, windows

NUM_WINDOWS = 2

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def in_lanes(lanes: int, name: str, **choices: Any) -> LineUp:
    """A teacher with its student, twins that share all but their name, and two that share nothing."""
    return lineup(
        variant("teacher"),
        variant("student", distillation=Continuous(teacher="teacher")),
        variant("kept", selection=NegativeDownsampling(rate=0.5)),
        variant("kept_twin", selection=NegativeDownsampling(rate=0.5)),
        variant("weighted", selection=NegativeDownsampling(rate=0.2, correction="weight")),
        variant("steep", **choices),
        name=name,
        seeds=(0, 1),
        workers=Workers(lanes=lanes, threads=1),
    )


def run(chosen: LineUp, lake: Lake, server: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Train all of a line-up's chains on a Ray cluster of its own."""
    job = TrainJob(lineup=chosen, first=DAY, last=DAY.shift(NUM_WINDOWS - 1), start="scratch")
    spec = folder / f"{chosen.name}.json"
    spec.write_text(job.model_dump_json())
    environ = {**os.environ, "WINDROW_LAKE": lake.url, "MLFLOW_TRACKING_URI": server, "RAY_ADDRESS": "local"}
    return subprocess.run(
        ["windrow", "run", spec], env=environ, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture
def lakes(tmp_path: Path) -> list[Lake]:
    """Two lakes with the same windows."""
    found = [Lake(str(tmp_path / name)) for name in ("one", "two")]
    simulate(found[0], DATASET, SimulatorConfig.tiny(rows_per_window=1_000), windows(NUM_WINDOWS), row_group_size=128)
    (found[1].root / "windows").symlink_to(found[0].root / "windows")
    return found


def test_two_lanes_leave_the_steps_that_one_leaves(lakes: list[Lake], mlflow_server: str, tmp_path: Path) -> None:
    steeper = {"optimizer": STEPS.model_copy(update={"dense_lr": 0.1})}
    train(lakes[0], in_lanes(1, "in-1-lanes", **steeper), NUM_WINDOWS)
    done = run(in_lanes(2, "in-2-lanes", **steeper), lakes[1], mlflow_server, tmp_path)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert not outcome["warnings"]
    assert len(outcome["chains"]) == 12
    ours, theirs = (steps(lake, in_lanes(1, f"in-{n}-lanes"), NUM_WINDOWS) for n, lake in enumerate(lakes, 1))
    assert ours.keys() == theirs.keys()
    for place, step in ours.items():
        other = theirs[place]
        assert (step.key, step.progressive) == (other.key, other.progressive), place
        assert metrics(lakes[0], step) == metrics(lakes[1], other), place
    for name in ("student", "weighted"):
        last = (name, DAY.shift(NUM_WINDOWS - 1))
        left, right = tensors(lakes[0], ours[last]), tensors(lakes[1], theirs[last])
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[key]) for key, value in left.items())

    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("in-2-lanes")
    assert experiment is not None
    curves = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'variant'")
    assert len(curves) == 12
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FINISHED"}
    for curve in curves:
        assert [point.step for point in client.get_metric_history(curve.info.run_id, "log_loss")] == [0, 1]


def test_a_lane_that_fails_fails_the_job_and_the_others_finish(
    lakes: list[Lake], mlflow_server: str, tmp_path: Path
) -> None:
    chosen = in_lanes(2, "failing", optimizer=STEPS.model_copy(update={"dense_lr": 1e30}))
    lanes = deal(TrainJob(lineup=chosen, first=DAY, last=DAY.shift(NUM_WINDOWS - 1), start="scratch"))
    done = run(chosen, lakes[0], mlflow_server, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "'steep' diverged" in " ".join(done.stderr.split())
    left = {variant for variant, _ in steps(lakes[0], chosen, NUM_WINDOWS)}
    assert "steep" not in left
    whole = [lane for lane in lanes if all(each.name != "steep" for _, each in lane)]
    assert all(each.name in left for lane in whole for seed, each in lane if seed == 0)
