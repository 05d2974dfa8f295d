"""Checkpoints: bit for bit what was written, or refused by name; and nothing that lies in the lake can execute."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pipeline.spec.job import JobError, load_job
from pipeline.storage import tensors
from pipeline.storage.damage import Damaged
from pipeline.storage.lake import Lake
from pipeline.storage.tensors import INDEX, MissingCheckpoint, SpoiledCheckpoint, Stored
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.train import Trainer
from tests.trained import DATASET, DAY, lineup, listing, publish, steps, train, windows
from tests.training.chain.test_engine import trainer_of
from tests.training.chain.test_steps import state, weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two windows of a simulated log, trained on the first."""
    lake = Lake(str(tmp_path_factory.mktemp("trained") / "lake"))
    publish(lake, windows(2))
    train(lake, lineup(), 1)
    return lake


@pytest.fixture
def lake(trained: Lake, tmp_path: Path) -> Lake:
    """The same, for one test."""
    shutil.copytree(trained.root, tmp_path / "lake")
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def step(lake: Lake) -> StepManifest:
    """What the first window left."""
    return steps(lake, lineup(), 1)["plain", DAY]


@pytest.fixture(scope="module")
def trainer(trained: Lake) -> Trainer:
    """A model of the step's shape."""
    return trainer_of(trained, steps(trained, lineup(), 1)["plain", DAY])


def restore(lake: Lake, trainer: Trainer) -> None:
    """Read the first window's checkpoint, as its manifest says now."""
    step = steps(lake, lineup(), 1)["plain", DAY]
    assert step.checkpoint is not None
    load_checkpoint(lake, step.checkpoint, step.checkpoint_files, trainer.model, trainer.optimizer)


class Payload:
    """What touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._mark,)


def tensor_file(step: StepManifest) -> str:
    return next(name for name in step.checkpoint_files if name.startswith("shards"))


def lay(lake: Lake, step: StepManifest, name: str, content: bytes, *, known: bool) -> None:
    """Put a file into a checkpoint; `known` if whoever did it could write the manifest too."""
    assert step.checkpoint is not None
    (lake.root / step.checkpoint / name).write_bytes(content)
    if known:
        files = {**step.checkpoint_files, name: hashlib.sha256(content).hexdigest()}
        rewrite(lake, step, checkpoint_files=files)


def rewrite(lake: Lake, step: StepManifest, **changes: Any) -> None:
    """Let the step's manifest say something else, under a digest that fits."""
    path = StepStore(lake, DATASET).path(step.key)
    lake.replace(path, {**step.model_dump(mode="json"), **changes}, lake.read(path))


def index_of(lake: Lake, step: StepManifest) -> dict[str, Any]:
    assert step.checkpoint is not None
    return dict(json.loads((lake.root / step.checkpoint / INDEX).read_text()))


def test_a_pickle_beside_a_checkpoint_is_never_opened(lake: Lake, step: StepManifest, tmp_path: Path) -> None:
    """Torch's own format keeps its index as a pickle under this name."""
    payload = pickle.dumps(Payload(tmp_path / "ran"))
    lay(lake, step, ".metadata", payload, known=True)
    with pytest.raises(Damaged, match=r"manifest.json is damaged: .*checkpoint_files.*got '.metadata'"):
        train(lake, lineup(), 1, first=DAY.shift(1), start="parent")
    rewrite(lake, step)
    train(lake, lineup(), 1, first=DAY.shift(1), start="parent")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("known", [False, True], ids=["digest differs", "digest rewritten"])
@pytest.mark.parametrize("disguise", ["pickle", "torch.save"])
@pytest.mark.parametrize("place", ["tensors", "index"])
def test_a_file_that_would_run_code_is_refused_by_name(
    lake: Lake, step: StepManifest, tmp_path: Path, disguise: str, place: str, known: bool
) -> None:
    payload: Any = Payload(tmp_path / "ran")
    content = io.BytesIO()
    pickle.dump(payload, content) if disguise == "pickle" else torch.save({"weight": payload}, content)
    name = tensor_file(step) if place == "tensors" else INDEX
    lay(lake, step, name, content.getvalue(), known=known)
    before = listing(lake)
    with pytest.raises(SpoiledCheckpoint, match=f"{name} cannot be trusted, nothing of it was used.*with `--force`"):
        train(lake, lineup(), 1, first=DAY.shift(1), start="parent")
    assert not (tmp_path / "ran").exists()
    assert listing(lake) == before, "nothing was published"


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensor, chunk: (chunk if name in chunk else tensor).update({name: value})


MANIPULATIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "file outside": put("file", "../../../secret.safetensors"),
    "unknown file": put("file", "dense-00000-00009.safetensors"),
    "other file": put("file", "dense-00000-00000.safetensors"),
    "unknown type": put("dtype", "object"),
    "other type": put("dtype", "float64"),
    "other shape": lambda tensor, chunk: (tensor.update(shape=[7, 8]), chunk.update(sizes=[7, 8])),  # type: ignore[func-returns-value]
    "hole": put("sizes", [7, 8]),
    "negative": put("offsets", [-1, 0]),
    "enormous": lambda tensor, chunk: (tensor.update(shape=[10**30, 8]), chunk.update(sizes=[10**30, 8])),  # type: ignore[func-returns-value]
    "overlap": lambda tensor, chunk: tensor.update(chunks=[{**chunk, "sizes": [10, 8]}] * 2),
    "shard is gone": put("chunks", []),
    "new field": put("run", "import os"),
}


@pytest.mark.parametrize("how", [*MANIPULATIONS, "tensor is gone", "one more", "other format"])
def test_a_manipulated_index_is_refused_even_with_its_digest(
    lake: Lake, step: StepManifest, trainer: Trainer, how: str
) -> None:
    found = index_of(lake, step)
    name = next(n for n in found["tensors"] if "table" in n and n.startswith("model"))
    if how == "tensor is gone":
        del found["tensors"][name]
    elif how == "one more":
        found["others"]["model.more"] = {"__reduce__": "os.system"}
    elif how == "other format":
        found["format"] = "pickle"
    else:
        tensor = found["tensors"][name]
        MANIPULATIONS[how](tensor, tensor["chunks"][0])
    changed = json.dumps(found).encode()
    lay(lake, step, INDEX, changed, known=True)
    with pytest.raises(MissingCheckpoint, match=r"/checkpoint.* with `--force`") as refused:
        restore(lake, trainer)
    assert len(str(refused.value)) < 1000
    lay(lake, step, INDEX, changed, known=False)
    rewrite(lake, step)
    with pytest.raises(SpoiledCheckpoint, match=f"{INDEX} cannot be trusted.*its sha256 is not"):
        restore(lake, trainer)


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": "../../../outside"},
        {"checkpoint": "/etc"},
        {"signals": [{"files": [{"path": "../outside.parquet"}]}]},
        {"checkpoint_files": {"../../outside": "0" * 64}},
        {"checkpoint_files": {INDEX: "no digest"}},
        {"parent": "../../../outside"},
        {"key": "f" * 64},
        {"run": "import os"},
        {"config": {"!!python/object/apply:os.system": ["touch ran"]}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_malicious_step_manifest_is_refused_by_name(lake: Lake, step: StepManifest, changes: dict[str, Any]) -> None:
    rewrite(lake, step, **changes)
    store = StepStore(lake, DATASET)
    with pytest.raises(
        Damaged, match=f"{lake.root}/{store.path(step.key)} is damaged: .*train the window of step .* again with"
    ):
        train(lake, lineup(), 1, first=DAY.shift(1), start="parent")
    if "run" in changes:
        train(lake, lineup(), 1, force=True)
        assert len(train(lake, lineup(), 2)) == 2, "the cure works"


@pytest.mark.parametrize(
    "text",
    [
        pickle.dumps({"kind": "train"}).decode("latin-1"),
        "!!python/object/apply:os.system ['touch ran']",
        '{"kind": "train", "__reduce__": ["os.system", ["touch ran"]]}',
    ],
)
def test_a_malicious_job_is_refused_by_name(text: str) -> None:
    with pytest.raises(JobError, match="the job's document cannot be run"):
        load_job(text)


def test_a_torn_read_is_read_once_more(lake: Lake, step: StepManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, torn = Lake.read_bytes, []

    def tear(self: Lake, path: str) -> bytes | None:
        found = whole(self, path)
        if path in torn or found is None or "checkpoint" not in path:
            return found
        torn.append(path)
        return found[:-1]

    monkeypatch.setattr(Lake, "read_bytes", tear)
    again = train(lake, lineup(), 1, first=DAY.shift(1), start="parent")
    assert len(torn) == len(step.checkpoint_files) >= 3
    monkeypatch.undo()
    (lake.root / StepStore(lake, DATASET).path(again["plain", DAY.shift(1)].key)).unlink()
    assert weights(lake, train(lake, lineup(), 2)["plain", DAY.shift(1)]) == weights(lake, again["plain", DAY.shift(1)])


def test_a_lake_that_does_not_answer_is_no_bad_input(
    lake: Lake, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer the next time."""

    def fail(*_: Any) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(Lake, "read_bytes", fail)
    with pytest.raises(OSError, match="connection reset"):
        restore(lake, trainer)


@pytest.mark.parametrize("limit", [1, 700, 2_000])
def test_a_shard_larger_than_a_file_is_cut_and_put_together(
    lake: Lake, step: StepManifest, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """And files stay small: two parts of one table can lie in one."""
    restore(lake, trainer)
    before = state(trainer)
    monkeypatch.setattr(tensors, "FILE_BYTES", limit)
    digests = save_checkpoint(lake, "cut", trainer.model, trainer.optimizer)
    assert len(digests) > len(step.checkpoint_files)
    stored = Stored(lake, "cut", digests)
    assert any(len(tensor.chunks) > 1 for tensor in stored.index().tensors.values())
    for name in digests:
        if name != INDEX:
            found = stored.tensors(name)
            assert len(found) == 1 or sum(value.nbytes for value in found.values()) <= limit
    for value in trainer.model.state_dict().values():
        value.local_shards()[0].tensor.zero_() if hasattr(value, "local_shards") else value.zero_()
    assert state(trainer) != before
    load_checkpoint(lake, "cut", digests, trainer.model, trainer.optimizer)
    assert state(trainer) == before


def test_what_is_no_tensor_travels_as_json(lake: Lake, trainer: Trainer) -> None:
    """Nothing of the kind is in today's state; what cannot be JSON is refused when it is saved."""
    import torch.distributed.checkpoint as dcp

    writer = tensors.ShardWriter(lake, "aside", 0)
    dcp.save({"a": {"b": [1, "x", None]}, "w": torch.ones(2)}, storage_writer=writer, planner=tensors.JsonSavePlanner())
    stored = Stored(lake, "aside", writer.digests)
    into: dict[str, Any] = {"a": {"b": [0, "", 1]}, "w": torch.zeros(2)}
    reader = tensors.ShardReader(stored, stored.index())
    dcp.load(into, storage_reader=reader, planner=tensors.JsonLoadPlanner(stored))
    assert into["a"] == {"b": [1, "x", None]}
    assert into["w"].tolist() == [1, 1]
    odd = {"a": {1: (2, 3)}}
    with pytest.raises(dcp.api.CheckpointException, match="a checkpoint holds tensors and JSON, got"):
        dcp.save(odd, storage_writer=tensors.ShardWriter(lake, "odd", 0), planner=tensors.JsonSavePlanner())


def test_a_checkpoint_of_another_model_says_so(lake: Lake, step: StepManifest, trainer: Trainer) -> None:
    assert step.checkpoint is not None
    name = tensor_file(step)
    assert isinstance(load((lake.root / step.checkpoint / name).read_bytes()), dict)
    found = index_of(lake, step)
    found["tensors"] = {f"{key}x": value for key, value in found["tensors"].items()}
    lay(lake, step, INDEX, json.dumps(found).encode(), known=True)
    with pytest.raises(MissingCheckpoint, match="is another model's: .* missing in the checkpoint"):
        restore(lake, trainer)


def test_other_numbers_under_the_same_names_are_refused(lake: Lake, step: StepManifest, trainer: Trainer) -> None:
    """The digest alone tells: every name, shape and type is right."""
    assert step.checkpoint is not None
    path = lake.root / step.checkpoint / tensor_file(step)
    path.write_bytes(save({key: value + 1 for key, value in load(path.read_bytes()).items()}))
    with pytest.raises(SpoiledCheckpoint, match="its sha256 is not"):
        restore(lake, trainer)
