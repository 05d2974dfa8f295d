"""The ports that services listen on: refused by name where they are taken, found where any will do."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil

from pipeline.local.services.values import LOOPBACK, ServiceError


def check_free(ports: Mapping[str, int]) -> None:
    """Refuse ports that are taken before anything is started.

    Args:
        ports: each with the variable that chooses another one.

    Raises:
        ServiceError: one is taken; the message names its holder and the cure.
    """
    for variable, port in ports.items():
        if _is_taken(port):
            raise ServiceError(
                f"port {port} is taken by {_holder(port)}: stop that, or choose another port with {variable}"
            )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def _holder(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            try:
                return f"process {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:120]})"
            except psutil.Error:
                break
    return "another process"
