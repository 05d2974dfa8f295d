"""A GPU trains what a CPU trains: bit for bit over days, close to the CPU's losses, and on its checkpoints; also through Ray."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline.spec.config import Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp
from pipeline.storage.lake import Lake
from pipeline.training.chain.steps import StepStore
from tests.distributed.test_identity import FIRST, LAST, in_four_jobs, in_one_job, line_up, one_job_equals_four
from tests.distributed.test_identity import windows as windows  # the fixture
from tests.distributed.test_ray import tensors
from tests.distributed.worlds import train_in_world

pytestmark = pytest.mark.gpu

CLOSE = 2e-4
"""Of a log-loss: sums in another order, carried over thirty updates."""
ROUNDED = 5e-3
"""The same where both devices round to bfloat16, each in its own kernels."""


@pytest.fixture
def lake_of(windows: Path, tmp_path: Path) -> Callable[[str], Lake]:
    """Makes lakes with the same windows."""

    def make(name: str) -> Lake:
        lake = Lake(str(tmp_path / name))
        (lake.root / "windows").symlink_to(windows / "windows")
        return lake

    return make


def test_four_windows_in_one_job_equal_four_jobs_bit_for_bit_on_a_gpu(windows: Path, tmp_path: Path) -> None:
    one_job_equals_four(1, windows, tmp_path, "cuda")


def test_losses_are_those_of_a_cpu(lake_of: Callable[[str], Lake]) -> None:
    """Every kind of variant: each one's teacher and pilot were trained on the same device."""
    lineup = line_up("devices", 1)
    jobs = [job for variant in lineup.variants for job in in_one_job(lineup, variant.name)]
    cpu, gpu = (train_in_world(1, lake_of(device), jobs, device) for device in ("cpu", "cuda"))
    for variant, there, here in zip(lineup.variants, cpu, gpu, strict=True):
        bound = ROUNDED if variant.model.precision == "bfloat16" else CLOSE
        if not variant.reads:  # else the key holds the digest of what was read, whose last bits are the device's
            assert here["key"] == there["key"], "a device is no part of a step's identity"
        assert here["metrics"]["log_loss"] == pytest.approx(there["metrics"]["log_loss"], rel=bound), variant.name
        assert here["progressive"]["log_loss"] == pytest.approx(there["progressive"]["log_loss"], rel=bound), (
            variant.name
        )


@pytest.mark.parametrize(("makes", "goes_on"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_goes_on_on_the_other_device(makes: str, goes_on: str, lake_of: Callable[[str], Lake]) -> None:
    """The evaluation before the last window comes from the checkpoint alone; then both train on from it."""
    lake, lineup = lake_of("moved"), line_up("moved", 1)
    variants = ("dlrm_all", "dcnv2_offset")
    made = [
        TrainJob(lineup=lineup, variants=(v,), first=FIRST, last=LAST.previous(), start="scratch") for v in variants
    ]
    train_in_world(1, lake, made, makes)
    for variant in variants:
        job = TrainJob(lineup=lineup, variants=(variant,), first=LAST, last=LAST, start="parent", force=True)
        ((same,), (other,)) = (train_in_world(1, lake, [job], device) for device in (makes, goes_on))
        assert other["metrics"]["log_loss"] == pytest.approx(same["metrics"]["log_loss"], rel=1e-6), variant
        assert other["progressive"]["log_loss"] == pytest.approx(same["progressive"]["log_loss"], rel=CLOSE), variant


def through_ray(lineup: LineUp, variant: Variant, lake: Lake, folder: Path, mlflow_server: str) -> str:
    """Run one job with `windrow run` in a cluster of its own; what it said."""
    (job,) = in_one_job(lineup, variant.name)
    spec = folder / "spec.json"
    spec.write_text(job.model_dump_json())
    environ = os.environ | {
        "RAY_ADDRESS": "local",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "WINDROW_HOME": str(folder / "home"),
        "WINDROW_LAKE": lake.url,
    }
    done = subprocess.run(
        ["windrow", "run", str(spec)], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (chain,) = json.loads(done.stdout)["chains"]
    assert (chain["variant"], chain["window"]) == (variant.name, LAST.name)
    return done.stderr


def test_a_ray_worker_with_a_gpu_leaves_the_same_bits(
    lake_of: Callable[[str], Lake], tmp_path: Path, mlflow_server: str
) -> None:
    """One Ray Train worker, NCCL and a GPU leave what a plain process with that GPU leaves in four jobs."""
    plain, ray = lake_of("plain"), lake_of("ray")
    lineup = line_up("gpu-through-ray", 1)
    variant = next(v for v in lineup.variants if v.name == "dcnv2_offset")
    train_in_world(1, plain, in_four_jobs(lineup, variant.name), "cuda")
    on_gpu = lineup.model_copy(update={"workers": lineup.workers.model_copy(update={"use_gpu": True})})
    through_ray(on_gpu, variant, ray, tmp_path, mlflow_server)
    theirs, ours = (StepStore(lake, "clicks").head(lineup.name, variant.name, 0, LAST) for lake in (plain, ray))
    assert theirs is not None
    assert ours is not None
    assert (ours.key, ours.progressive) == (theirs.key, theirs.progressive)
    left, right = tensors(plain, theirs), tensors(ray, ours)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name(lineup.name)
    assert experiment is not None
    (curve,) = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'variant'")
    assert len(client.get_metric_history(curve.info.run_id, "log_loss")) == 4
