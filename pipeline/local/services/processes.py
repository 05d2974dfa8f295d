"""The processes of a home: known from all others by a mark that they inherit, and ended together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "WINDROW_SERVICES_OF"
"""Holds the home. Only the services and what they start carry it, never a person's shell."""

SERVICE = "WINDROW_SERVICE"
"""Holds the name of the service that a process belongs to; those that start and watch the services have none."""

KILLED_S = 30.0
"""How long a killed process may take to be gone, on a machine that is busy with others."""

BUSY = "airflow worker -- LocalExecutor"
IDLE = "<idle>"


def of_home(home: Path) -> list[psutil.Process]:
    """Every process that carries this home's mark, and what it started, without ourselves and our parents."""
    marked = [process for process in psutil.process_iter() if variable(process, MARK) == str(home)]
    own = psutil.Process()
    return [process for process in _with_children(marked) - {own, *own.parents()} if process.is_running()]


def left_of(home: Path, service: str) -> list[psutil.Process]:
    """What is left of a service that has ended: its orphans hold its ports, or wait for work that never comes.

    An Airflow task is no such orphan: it reports to the API server, and outlives the scheduler that started it.
    """
    ours = {process for process in of_home(home) if variable(process, SERVICE) == service}
    return list(_with_children(ours) - _with_children(process for process in ours if _runs_a_task(process)))


def end(find: Callable[[], list[psutil.Process]], patience_s: float) -> list[psutil.Process]:
    """End what `find` finds, again and again, since they start others: asked first, then killed.

    Args:
        find: looks for the processes that are to end.
        patience_s: seconds until those that were asked are killed.

    Returns:
        Those that can't be ended.
    """
    processes: list[psutil.Process] = []
    for act, limit_s in ((psutil.Process.terminate, patience_s), (psutil.Process.kill, KILLED_S)):
        deadline = time.monotonic() + limit_s
        while (processes := find()) and time.monotonic() < deadline:
            for process in processes:
                signal(process, act)
            psutil.wait_procs(processes, timeout=min(limit_s, 3.0))
    return processes


def signal(process: psutil.Process, act: Callable[[psutil.Process], None]) -> None:
    """Signal a process that may have ended meanwhile."""
    try:
        act(process)
    except psutil.NoSuchProcess:
        return


def variable(process: psutil.Process, name: str) -> str | None:
    """A variable of a process's environment; None where it has none, is gone, or is somebody else's."""
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(name)
    except (psutil.Error, OSError):
        return None


def _with_children(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in processes:
        found.add(process)
        try:
            found.update(process.children(recursive=True))
        except psutil.Error:
            continue
    return found


def _runs_a_task(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith(BUSY) and IDLE not in title
