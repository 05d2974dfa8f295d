"""Through Ray Train the same bits come out as under plain torch.distributed, and MLflow shows every step."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline.data.simulator import simulate
from pipeline.spec.job import TrainJob
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.tensors import Stored
from pipeline.training.chain.evaluations import EvaluationStore
from pipeline.training.chain.steps import StepManifest, StepStore
from tests.conftest import Stack
from tests.distributed.test_identity import FIRST, LAST, in_four_jobs, in_one_job, line_up
from tests.distributed.worlds import train_in_world
from tests.processes import LOOPBACK, listening
from tests.training.test_checkpoint import Payload, tensor_file

WORKERS = 2
VARIANT = "dcnv2_offset"

pytestmark = [pytest.mark.distributed, pytest.mark.services]


def tensors(lake: Lake, step: StepManifest) -> dict[str, torch.Tensor]:
    """Every piece of a tensor of a step's checkpoint."""
    assert step.checkpoint is not None
    stored = Stored(lake, step.checkpoint, step.checkpoint_files)
    return {
        key: value
        for name in step.checkpoint_files
        if name.endswith(".safetensors")
        for key, value in stored.tensors(name).items()
    }


def test_one_job_through_ray_equals_four_jobs_without_it(stack: Stack, tmp_path: Path) -> None:
    """Two Ray Train workers over four windows leave the checkpoint and metrics that four plain jobs leave."""
    lakes = [Lake(str(tmp_path / name)) for name in ("ray", "plain")]
    config = SimulatorConfig.tiny(rows_per_window=1_900, num_lists=1)
    simulate(lakes[0], "clicks", config, Window.span(FIRST, LAST), row_group_size=128)
    (lakes[1].root / "windows").symlink_to(lakes[0].root / "windows")
    lineup = line_up("through-ray", WORKERS)
    (job,) = in_one_job(lineup, VARIANT)
    spec = tmp_path / "spec.json"
    spec.write_text(job.model_dump_json())
    environ = {**stack.environ, "WINDROW_LAKE": lakes[0].url}
    answer, said = tmp_path / "answer", tmp_path / "said"
    seen: dict[tuple[str, int], str] = {}
    with answer.open("w") as out, said.open("w") as err:
        running = subprocess.Popen(["windrow", "run", spec], env=environ, stdout=out, stderr=err)
        while running.poll() is None:
            seen |= listening(stack.settings.home)
            time.sleep(0.5)
    assert running.returncode == 0, said.read_text()
    assert any("RayTrainWorker" in who for who in seen.values())
    assert {address: who for address, who in seen.items() if address[0] not in LOOPBACK} == {}
    # What a person sees: who trains where, and a line per window. Ray prints more where several clusters run on a machine.
    told = [line for line in said.read_text().splitlines() if "PlacementGroupCleaner" not in line]
    assert len(told) == 5, told
    assert all(
        f"{day} {VARIANT} seed 0: " in line for day, line in zip(Window.span(FIRST, LAST), told[1:], strict=True)
    )
    (chain,) = json.loads(answer.read_text())["chains"]
    assert (chain["variant"], chain["seed"], chain["window"]) == (VARIANT, 0, LAST.name)
    train_in_world(WORKERS, lakes[1], in_four_jobs(lineup, VARIANT))

    ray, plain = (StepStore(lake, "clicks").head(lineup.name, VARIANT, 0, LAST) for lake in lakes)
    assert ray is not None
    assert plain is not None
    ours_before, theirs_before = (
        EvaluationStore(lake, "clicks").require(step, lineup.evaluation, VARIANT).metrics
        for lake, step in zip(lakes, (ray, plain), strict=True)
    )
    assert (ray.key, ours_before, ray.progressive) == (plain.key, theirs_before, plain.progressive)
    ours, theirs = (tensors(lake, step) for lake, step in zip(lakes, (ray, plain), strict=True))
    assert ours.keys() == theirs.keys()
    assert any("momentum" in name for name in ours)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    client = MlflowClient(stack.settings.tracking_uri)
    experiment = client.get_experiment_by_name(lineup.name)
    assert experiment is not None
    (curve,) = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'variant'")
    history = client.get_metric_history(curve.info.run_id, "log_loss")
    assert [point.step for point in history] == [0, 1, 2, 3]
    assert history[-1].value == ours_before["log_loss"]
    stages = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'stage'")
    assert sorted(run.data.tags["windrow.phase"] for run in stages) == ["historical", "online"]
    assert {run.info.status for run in (curve, *stages)} == {"FINISHED"}
    assert sum(len(run.inputs.dataset_inputs) for run in stages) == 4


@pytest.mark.long
@pytest.mark.parametrize("known", [False, True], ids=["digest differs", "digest rewritten"])
def test_a_worker_runs_nothing_that_lies_in_the_lake(stack: Stack, tmp_path: Path, known: bool) -> None:
    """A pickle under the name of torch's own index, and one in the place of the tensors: refused by name, never opened."""
    lake = Lake(str(tmp_path / "lake"))
    simulate(lake, "clicks", SimulatorConfig.tiny(rows_per_window=500, num_lists=1), Window.span(FIRST, FIRST.next()))
    lineup = line_up("malice", 1)
    parent = TrainJob(lineup=lineup, variants=(VARIANT,), first=FIRST, last=FIRST, start="scratch")
    train_in_world(1, lake, [parent])
    store = StepStore(lake, "clicks")
    step = store.head(lineup.name, VARIANT, 0, FIRST)
    assert step is not None
    assert step.checkpoint is not None
    mark = tmp_path / "ran"
    code = pickle.dumps(Payload(mark))
    name = tensor_file(step)
    for each in (name, ".metadata"):
        (lake.root / step.checkpoint / each).write_bytes(code)
    if known:
        files = {**step.checkpoint_files, name: hashlib.sha256(code).hexdigest()}
        path = store.path(step.key)
        lake.replace(path, {**step.model_dump(mode="json"), "checkpoint_files": files}, lake.read(path))
    spec = tmp_path / "spec.json"
    day = FIRST.next()
    go_on = TrainJob(lineup=lineup, variants=(VARIANT,), first=day, last=day, start="parent")
    spec.write_text(go_on.model_dump_json())
    environ = {**stack.environ, "WINDROW_LAKE": lake.url}
    done = subprocess.run(
        ["windrow", "run", spec], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"{name} cannot be trusted, nothing of it was used" in " ".join(done.stderr.split())
    assert not mark.exists()
    assert store.head(lineup.name, VARIANT, 0, day) is None
