"""Checkpoints: everything that training needs to go on bit for bit, sharded, readable by any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.spec.config import ModelConfig
from pipeline.storage.lake import Lake
from pipeline.storage.tensors import JsonLoadPlanner, JsonSavePlanner, ShardReader, ShardWriter, Stored
from pipeline.storage.together import of_all, on_first
from pipeline.training.model import build_model
from pipeline.training.models.features import Features
from pipeline.training.models.network import Network


def _state(model: DistributedModelParallel, optimizer: CombinedOptimizer) -> dict[str, Any]:
    """Weights with fused and dense optimizer state. The model alone would restart Adagrad's accumulators."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def save_checkpoint(
    lake: Lake, folder: str, model: DistributedModelParallel, optimizer: CombinedOptimizer
) -> dict[str, str]:
    """Write a checkpoint; every worker calls this. It counts once a step's manifest names it.

    Returns:
        The sha256 of each of its files by name, for that manifest.
    """
    writer = ShardWriter(lake, folder, dist.get_rank())
    with _plain_errors():
        dcp.save(_state(model, optimizer), storage_writer=writer, planner=JsonSavePlanner())
    return on_first(lambda: writer.digests)


def load_checkpoint(
    lake: Lake, folder: str, digests: Mapping[str, str], model: DistributedModelParallel, optimizer: CombinedOptimizer
) -> None:
    """Read a checkpoint, made by however many workers, into a model of the same shape; every worker calls this.

    Args:
        lake: where it lies.
        folder: the checkpoint's.
        digests: what `save_checkpoint` returned.
        model: is given the checkpoint's weights.
        optimizer: is given its state.

    Raises:
        MissingCheckpoint: it is gone, or is another model's.
        SpoiledCheckpoint: a file is not as it was written.
    """
    stored = Stored(lake, folder, dict(digests))
    index = on_first(stored.index)
    state = _state(model, optimizer)
    with _plain_errors():
        dcp.load(state, storage_reader=ShardReader(stored, index), planner=JsonLoadPlanner(stored))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def load_served(
    lake: Lake, folder: str, digests: Mapping[str, str], features: Features, config: ModelConfig
) -> Network:
    """The model of a checkpoint as it serves: features in, logits out; no process group and no other worker is needed.

    Args:
        lake: where it lies.
        folder: the checkpoint's.
        digests: what `save_checkpoint` returned.
        features: what the model sees, by `Features.of`.
        config: the model's.

    Returns:
        The network in host memory, in evaluation mode.

    Raises:
        MissingCheckpoint: it is gone, or is another model's.
        SpoiledCheckpoint: a file is not as it was written.
    """
    stored = Stored(lake, folder, dict(digests))
    model = build_model(features, config, seed=0)
    state = {"model": model.state_dict()}
    with _plain_errors():
        reader, planner = ShardReader(stored, stored.index()), JsonLoadPlanner(stored, whole=False)
        dcp.load(state, storage_reader=reader, planner=planner, no_dist=True)
    model.load_state_dict(state["model"])
    return model.network.eval()


def not_finite(model: DistributedModelParallel, optimizer: CombinedOptimizer) -> str | None:
    """The name of something in this worker's state that is no number, or None."""
    return next((name for name, value in _local(_state(model, optimizer)) if not _is_finite(value)), None)


def _local(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """This worker's tensors by name, of sharded ones its shards."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _local(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, ShardedTensor):
        for shard in state.local_shards():
            yield name, shard.tensor
    elif isinstance(state, torch.Tensor):
        yield name, state


def _is_finite(value: torch.Tensor) -> bool:
    """Whether all of it are numbers; as large as a table may be, nothing of its size is made."""
    if value.numel() == 0 or not value.is_floating_point():
        return True
    return all(bool(edge.isfinite()) for edge in torch.aminmax(value.detach()))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The first worker's own error, on every worker, in the place of torch's collection of tracebacks."""
    try:
        yield
    except dcp.api.CheckpointException as error:
        raise of_all(min(error.failures.items())[1][0]) from None
