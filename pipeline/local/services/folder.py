"""A private folder at a short path, for sockets and for what Ray opens to everybody."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from pipeline.local.services.values import ServiceError

MAX_SOCKET_BYTES = 107
"""A longer path can't be a socket's."""

LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
"""Ray names its sockets by time and process."""


def run_folder(home: Path) -> Path:
    """Where a home's services have their sockets: short whatever the home's path."""
    return Path(tempfile.gettempdir()) / f"windrow-{os.getuid()}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"


def make_private(path: Path) -> None:
    """Make a folder that its owner alone may enter, empty.

    Others may write beside it, so whatever lies there already is only replaced if it is a folder of ours.

    Raises:
        ServiceError: it can't be made; the message names the cure.
    """
    cure = "remove it, or choose another place with TMPDIR"
    longest = len(os.fsencode(path / LONGEST_SOCKET))
    if longest > MAX_SOCKET_BYTES:
        raise ServiceError(
            f"{path.parent} is too long a path for sockets, by {longest - MAX_SOCKET_BYTES} bytes: "
            "choose a shorter one with TMPDIR"
        )
    if fault := _not_ours(path):
        raise ServiceError(f"{path}, where the services keep their sockets, {fault}: {cure}")
    remove_private(path)
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise ServiceError(
            f"{path}, where the services keep their sockets, can't be made: {error.strerror}; {cure}"
        ) from None


def remove_private(path: Path) -> None:
    """Remove what `make_private` made, and nothing that others put in its place."""
    if not _not_ours(path):
        shutil.rmtree(path, ignore_errors=True)


def _not_ours(path: Path) -> str | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    return None if found.st_uid == os.geteuid() else f"belongs to somebody else (user {found.st_uid})"
