"""Checkpoints: everything that training needs to go on bit for bit, sharded, readable by any number of workers."""

from __future__ import annotations

from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.errors import BadInput
from pipeline.lake import Lake


class MissingCheckpoint(BadInput):
    """A checkpoint that a step builds on cannot be read."""


def _state(model: DistributedModelParallel, optimizer: CombinedOptimizer) -> dict[str, Any]:
    """Weights with fused and dense optimizer state. The model alone would restart Adagrad's accumulators."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def save_checkpoint(lake: Lake, path: str, model: DistributedModelParallel, optimizer: CombinedOptimizer) -> None:
    """Write a checkpoint; every worker calls this. It counts once a step's manifest names it."""
    address = lake.address(path)
    writer = FileSystemWriter(address, sync_files=False) if lake.is_local else _remote("writer", address)
    dcp.save(_state(model, optimizer), storage_writer=writer)


def load_checkpoint(lake: Lake, path: str, model: DistributedModelParallel, optimizer: CombinedOptimizer) -> None:
    """Read a checkpoint, made by however many workers, into a model of the same shape; every worker calls this.

    Raises:
        MissingCheckpoint: it is gone, unreadable or of another shape.
    """
    address = lake.address(path)
    state = _state(model, optimizer)
    try:
        reader = FileSystemReader(address) if lake.is_local else _remote("reader", address)
        dcp.load(state, storage_reader=reader)
    except (OSError, dcp.api.CheckpointException) as error:
        raise MissingCheckpoint(
            f"the checkpoint {address} cannot be read ({type(error).__name__}): train its window again with "
            "`force`, or restore the folder"
        ) from error
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def _remote(kind: str, address: str) -> Any:
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    return FsspecWriter(address) if kind == "writer" else FsspecReader(address)
