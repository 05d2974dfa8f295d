"""A leash: as long as it is held, a home's services end with the process that holds it, even if that is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RELEASED = b"released"


@contextmanager
def leash(home: Path) -> Iterator[None]:
    """Hold a leash for as long as the block runs.

    A process of its own watches, so that nothing that happens to this one, nor to its terminal, can hinder it.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-m", "pipeline.local.services", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.communicate(RELEASED)


def was_released() -> bool:
    """In the watcher: wait until the holder lets go; False if it is gone instead."""
    return sys.stdin.buffer.read() == RELEASED
