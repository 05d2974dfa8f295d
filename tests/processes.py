"""Processes and ports that belong to a home."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from pipeline.local.services.processes import MARK, variable

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def processes_of(home: Path) -> list[psutil.Process]:
    """Whatever still runs for a home."""
    return [process for process in psutil.process_iter() if variable(process, MARK) == str(home)]


def listening(home: Path) -> dict[tuple[str, int], str]:
    """Every address where a process of a home listens, with its command line."""
    ours = {process.pid: process for process in processes_of(home)}
    found: dict[tuple[str, int], str] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in ours:
            with contextlib.suppress(psutil.Error):  # it has just ended
                found[connection.laddr] = " ".join(ours[connection.pid].cmdline())
    return found
