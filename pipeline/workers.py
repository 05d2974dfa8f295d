"""The one door to Ray Train: runs a function on a group of workers that share a process group."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
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

    What is done already is decided by the lake alone.

    Args:
        work: an importable function; a process group (gloo or NCCL) is up when it starts.
        config: its argument, plain data.
        workers: how many, and on what.
        address: the Ray cluster to join; `local` starts a private one.
        name: names the run; a new one each time, since under a name used before Ray Train would hand the function the
            last reported checkpoint.
        storage: where Ray Train keeps its own records, in a folder of that name.

    Returns:
        What worker 0 returned.

    Raises:
        WorkersLost: a worker failed, again after restarts.
    """
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=True, configure_logging=False)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler aborts the process where it stands.
        signal.signal(signal.SIGTERM, _terminated)
    trainer = TorchTrainer(
        work,
        train_loop_config={**config, "threads": workers.threads},
        torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=MAX_WORKER_FAILURES, controller_failure_limit=1, max_preemption_failures=10
            ),
        ),
    )
    try:
        return trainer.fit().return_value
    except SystemExit as error:
        if error.code:
            raise
        raise KeyboardInterrupt from error  # Ray Train's answer to Ctrl-C is to end the process with 0
    except WorkerGroupError as error:
        causes = "; ".join(f"worker {rank}: {cause}" for rank, cause in sorted(error.worker_failures.items()))
        raise WorkersLost(f"training failed on its workers: {causes}") from error
    except TrainingFailedError as error:
        raise WorkersLost(f"training failed: {error}") from error


def _terminated(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


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
