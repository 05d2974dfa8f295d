"""The one door to Ray Train: runs a function on a group of workers that share a process group."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.lineup import Workers

MAX_WORKER_FAILURES = 2
"""How often a group is started again after a worker was lost; done steps are skipped then."""


class WorkersLost(RuntimeError):
    """The workers died, and starting them again did not help."""


def run_on_workers(
    work: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    workers: Workers,
    *,
    address: str,
    name: str,
    storage: str,
) -> Any:
    """Call `work(config)` on every worker and wait.

    The run's name is new each time: under a name used before, Ray Train would hand the function the last reported
    checkpoint. What is done already is decided by the lake alone.

    Args:
        work: an importable function; a process group (gloo or NCCL) is up when it starts.
        config: its argument, plain data.
        workers: how many, and on what.
        address: the Ray cluster to join; `local` starts a private one.
        name: names the run, for people.
        storage: where Ray Train keeps its own records.

    Returns:
        What worker 0 returned.

    Raises:
        WorkersLost: a worker failed, again after restarts.
    """
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=True, configure_logging=False)
    trainer = TorchTrainer(
        work,
        train_loop_config={**config, "threads": workers.threads},
        torch_config=OneAddress(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=MAX_WORKER_FAILURES, controller_failure_limit=1, max_preemption_failures=10
            ),
        ),
    )
    try:
        return trainer.fit().return_value
    except WorkerGroupError as error:
        causes = "; ".join(f"worker {rank}: {cause}" for rank, cause in sorted(error.worker_failures.items()))
        raise WorkersLost(f"training failed on its workers: {causes}") from error
    except TrainingFailedError as error:
        raise WorkersLost(f"training failed: {error}") from error


def worker_device(threads: int) -> torch.device:
    """This worker's device, with its share of the node's cores set.

    Args:
        threads: CPU threads; 0 for the node's cores over its workers.
    """
    device: torch.device = train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        return device
    cores = os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // train.get_context().get_local_world_size()))
    return device


@dataclass
class OneAddress(TorchConfig):
    """How workers meet: as Ray Train lets them, but at the node's address alone, which is loopback on a laptop.

    Ray's own way has the first worker listen on every interface, and whoever connects may write there.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the process group."""
        return _MeetingBackend


class _MeetingBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: OneAddress) -> None:
        address = worker_group.execute_single(0, _open_meeting)
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                rank, _join_meeting, address, rank, len(worker_group), backend_config.backend, backend_config.timeout_s
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


_meetings: list[dist.TCPStore] = []
"""Those that this process holds, for as long as it lives."""


def _open_meeting() -> tuple[str, int]:
    host: str = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)
    port = int(listening.getsockname()[1])
    store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    _meetings.append(store)
    return host, port


def _join_meeting(address: tuple[str, int], rank: int, num_workers: int, backend: str, timeout_s: int) -> None:
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(*address, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_workers, timeout=timeout)
