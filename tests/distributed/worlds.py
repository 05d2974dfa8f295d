"""Runs the stage engine in worlds of several gloo processes, and shows what is left in memory and in the lake."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Iterable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed._shard.sharded_tensor import ShardedTensor

from pipeline.spec.job import TrainJob, load_job
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.evaluations import Closed
from pipeline.training.train import Trainer


def train_in_world(world_size: int, lake: Lake, jobs: Iterable[TrainJob], meeting: Path) -> list[dict[str, Any]]:
    """Run jobs one after the other in one world of processes; for each, what its last chain left (see `_outcome`)."""
    context = mp.get_context("spawn")
    answers: Queue[Any] = context.Queue()
    documents = [job.model_dump_json() for job in jobs]
    meeting.unlink(missing_ok=True)
    processes = [
        context.Process(target=_work, args=(rank, world_size, lake.url, documents, str(meeting), answers))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found = answers.get(timeout=300)
    for process in processes:
        process.join(60)
    if isinstance(found, str):
        raise RuntimeError(found)
    return list(found)


def _work(rank: int, world_size: int, lake: str, documents: list[str], meeting: str, answers: Queue[Any]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
        found = []
        for document in documents:
            job = load_job(document)
            assert isinstance(job, TrainJob)
            engine = Engine(Lake(lake), job, None, torch.device("cpu"))
            found.append(_outcome(engine, engine.run()[-1]))
        if rank == 0:
            answers.put(found)
        dist.destroy_process_group()
    except BaseException:
        answers.put(traceback.format_exc())
        raise


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
