"""The one door to Ray Train: runs a function on workers that share a process group, or one for each lane of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
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
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.spec.errors import BadInput, TryAgain
from pipeline.spec.lineup import Workers
from pipeline.training.probe import require_room

log = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 2
"""How often a group is started again after a worker was lost; done steps are skipped then."""

LEAVING_S = 1.0
"""Until the cluster has ended the workers of a process that left."""

PATIENCE = timedelta(days=365)
"""A lane waits for the others until they are done; if one of them dies, Ray ends them all."""


class WorkersLost(TryAgain):
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
        work: an importable function; its lane's process group (gloo or NCCL) is up when it starts.
        config: its argument, plain data.
        workers: how many, and on what.
        address: the Ray cluster to join; `local` starts a private one.
        name: names the run; a new one each time, since under a name used before Ray Train would hand the function the
            last reported checkpoint.
        storage: where Ray Train keeps its own records, in a folder of that name.

    Returns:
        What worker 0 returned.

    Raises:
        BadInput: the cluster of this machine has no room for so many.
        BadInput: a worker met what must change first, again after restarts.
        WorkersLost: a worker failed, again after restarts.
    """
    _join(address, workers)
    trainer = TorchTrainer(
        work,
        train_loop_config={**config, "threads": workers.threads},
        torch_config=OneAddress(backend="nccl" if workers.use_gpu else "gloo", lanes=workers.lanes),
        scaling_config=ScalingConfig(num_workers=workers.num_processes, use_gpu=workers.use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            # What goes wrong for good, `fit` raises; the rest stands in Ray's own log files.
            logging_config=LoggingConfig(log_level="CRITICAL"),
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
        own = [getattr(cause, "_base_exc", cause) for cause in error.worker_failures.values()]
        if bad := next((cause for cause in own if isinstance(cause, BadInput)), None):
            raise BadInput(str(bad)) from error  # it met one worker alone, such as a damaged file
        causes = "; ".join(
            f"worker {rank}: {_last_line(cause)}" for rank, cause in sorted(error.worker_failures.items())
        )
        raise WorkersLost(f"training failed on its workers, also when started again: {causes}") from error
    except TrainingFailedError as error:
        raise WorkersLost(f"training failed: {_last_line(error)}") from error


def leave() -> None:
    """Leave the cluster, and with it end the workers of this process, which else go on for a moment after it is stopped."""
    ray.shutdown()
    time.sleep(LEAVING_S)


def _join(address: str, workers: Workers) -> None:
    """Join the cluster, quietly, unless this process is in it already.

    Raises:
        BadInput: the cluster of this machine has no room for so many workers.
    """
    if not ray.is_initialized():
        if not sys.stderr.isatty():
            os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        # Errors are shown also with --quiet: `fit` raises them.
        ray.init(address=address, log_to_driver=log.isEnabledFor(logging.INFO), configure_logging=False)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler aborts the process where it stands.
        signal.signal(signal.SIGTERM, _terminated)
    offered = ray.cluster_resources()
    if address == "local" or address.startswith("127.0.0.1:"):  # others may grow
        require_room(workers, offered, f"the Ray cluster at {address}")
    log.info(
        "starting %d workers on the Ray cluster at %s as soon as a core for each is free, of its %d",
        workers.num_processes,
        address,
        offered.get("CPU", 0),
    )


def _last_line(error: BaseException) -> str:
    """An error of another process in a line: its last, where its traceback stands before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:300]


def quiet(level: int) -> None:
    """Let the first worker of each lane log at this program's level, and every worker warnings.

    TorchRec and FBGEMM log every library, batch and table. To be called before they are imported.

    Args:
        level: of this program's own log.
    """
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(level if dist.get_rank() == 0 else logging.WARNING)
    for about_itself in ("torch.fx._symbolic_trace", "torchrec.distributed.planner.storage_reservations"):
        logging.getLogger(about_itself).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # of TorchRec about itself


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


def lane() -> int:
    """Which lane this worker belongs to."""
    if _meeting is None or _meeting.num_lanes == 1:
        return 0
    return int(train.get_context().get_world_rank()) // dist.get_world_size()


def of_all_lanes(outcome: Any) -> list[Any]:
    """Wait for all lanes and give each what every one of them brought, in their order; every worker calls this.

    Args:
        outcome: plain data; a lane's first worker's counts.
    """
    if _meeting is None or _meeting.num_lanes == 1:
        return [outcome]
    _meeting.num_times += 1
    names = [f"{_meeting.num_times}/{each}" for each in range(_meeting.num_lanes)]
    if dist.get_rank() == 0:
        _meeting.store.set(names[lane()], json.dumps(outcome))
    return [json.loads(_meeting.store.get(name)) for name in names]


@dataclass
class OneAddress(TorchConfig):
    """How workers meet: as Ray Train lets them, but at the node's address alone, which is loopback on a laptop.

    Ray's own way has the first worker listen on every interface, and whoever connects may write there.
    """

    lanes: int = 1
    """Process groups that the workers form, in the order of their ranks."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the process group."""
        return _MeetingBackend


class _MeetingBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: OneAddress) -> None:
        address = worker_group.execute_single(0, _open_meeting)
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group) // backend_config.lanes
        joining = [
            worker_group.execute_single_async(
                rank,
                _join_meeting,
                address,
                rank,
                size,
                backend_config.lanes,
                backend_config.backend,
                backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


@dataclass
class _Meeting:
    """Where all lanes of a job meet."""

    store: dist.Store
    num_lanes: int
    num_times: int = 0


_opened: list[dist.TCPStore] = []
"""Those that this process holds, for as long as it lives."""
_meeting: _Meeting | None = None


def _open_meeting() -> tuple[str, int]:
    host: str = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)
    port = int(listening.getsockname()[1])
    store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    _opened.append(store)
    return host, port


def _join_meeting(
    address: tuple[str, int], rank: int, num_workers: int, num_lanes: int, backend: str, timeout_s: int
) -> None:
    """Join the process group of one's lane, the `num_workers` workers whose ranks follow each other."""
    global _meeting
    timeout = timedelta(seconds=timeout_s)
    own, rank = divmod(rank, num_workers)
    if num_lanes > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_workers)}
        os.environ["LOCAL_WORLD_SIZE"] = str(min(num_workers, int(os.environ["LOCAL_WORLD_SIZE"])))
        whole = dist.TCPStore(*address, is_master=False, timeout=PATIENCE)
        _meeting = _Meeting(dist.PrefixStore("lanes", whole), num_lanes)
    store = dist.PrefixStore(f"lane-{own}", dist.TCPStore(*address, is_master=False, timeout=timeout))
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_workers, timeout=timeout)
