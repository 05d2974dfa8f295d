"""Runs the engine in worlds of several processes, on CPUs or a GPU each, and shows what is left in memory and in the lake."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor

from pipeline.spec.job import TrainJob, load_job
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.evaluations import Closed
from pipeline.training.train import Trainer
from tests.conftest import free_ports


@cache
def _processes(world_size: int) -> ProcessPoolExecutor:
    """Processes that have imported everything once, for all worlds of that size: TorchRec expects them to have the same past."""
    return ProcessPoolExecutor(world_size, mp_context=get_context("spawn"))


def train_in_world(world_size: int, lake: Lake, jobs: Iterable[TrainJob], device: str = "cpu") -> list[dict[str, Any]]:
    """Run jobs one after the other in one world of processes; for each, what its last chain left (see `_outcome`)."""
    documents = [job.model_dump_json() for job in jobs]
    # Not by a file: a process that ends would look for one that is gone, at full speed for minutes.
    (meeting,) = free_ports(1)
    pool = _processes(world_size)
    working = [pool.submit(_work, rank, world_size, lake.url, documents, meeting, device) for rank in range(world_size)]
    done, waiting = wait(working, timeout=300, return_when=FIRST_EXCEPTION)
    if waiting:  # one has failed and the other waits for it, or both hang
        _processes.cache_clear()
        for process in pool._processes.values():
            process.kill()
    for each in done:
        each.result()
    return working[0].result(timeout=0)


def _work(
    rank: int, world_size: int, lake: str, documents: list[str], meeting: int, device: str
) -> list[dict[str, Any]]:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    place = torch.device(device, rank) if device == "cuda" else torch.device(device)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{meeting}",
        rank=rank,
        world_size=world_size,
    )
    found = []
    for document in documents:
        job = load_job(document)
        assert isinstance(job, TrainJob)
        engine = Engine(Lake(lake), job, None, place)
        found.append(_outcome(engine, engine.run()[-1]))
    dist.destroy_process_group()
    return found


def _outcome(engine: Engine, last: Closed) -> dict[str, Any]:
    """The last step's key and metrics, and a digest of every worker's weights and optimizer state, bit for bit."""
    assert engine._models._live is not None, "the last step of the job was skipped"
    digests: list[Any] = [None] * engine.world_size
    dist.all_gather_object(digests, state_digests(engine._models._live[1]))
    return {
        "key": last.step.key,
        "checkpoint": last.step.checkpoint,
        "metrics": last.evaluation.metrics,
        "progressive": last.step.progressive,
        "state": digests,
    }


def state_digests(trainer: Trainer) -> dict[str, str]:
    """sha256 of each tensor of this worker: weights, fused and dense optimizer state."""
    found: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                add(f"{name}@{shard.metadata.shard_offsets}", shard.tensor)
        elif isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            found[name] = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
        elif isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)

    add("model", dict(trainer.model.state_dict()))
    add("optimizer", trainer.optimizer.state_dict())
    return found
