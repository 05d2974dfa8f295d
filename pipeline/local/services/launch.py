"""Starts a service in the place of this process, once nothing is left of its last life.

A service's orphan would hold its port, and each new start would fail on it for ever.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipeline.local.services.processes import MARK, SERVICE, end, left_of

COMMANDS = "services.json"
"""In the home: the command of each service."""

PATIENCE_S = 5.0


def log_path(home: Path, name: str) -> Path:
    """Where a service writes what it says."""
    return home / "logs" / f"{name}.log"


def launch(name: str) -> None:
    """Become the service.

    Its log is a file and no pipe: an Airflow task goes on writing when the scheduler that it began under is gone.
    """
    home = Path(os.environ[MARK])
    command = json.loads((home / COMMANDS).read_text())[name]
    log = os.open(log_path(home, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if stuck := end(lambda: left_of(home, name), PATIENCE_S):
        sys.exit(f"processes {[process.pid for process in stuck]} of its last life do not end")
    os.environ[SERVICE] = name
    os.execvp(command[0], command)


if __name__ == "__main__":
    launch(sys.argv[1])
