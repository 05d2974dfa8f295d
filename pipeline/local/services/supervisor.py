"""Keeps the services running: supervisord starts one that ends again, after a pause that grows while it fails."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from pipeline.local.services.launch import COMMANDS, log_path
from pipeline.local.services.processes import MARK, end, of_home, signal, variable

STEADY_S = 60
"""A service that ran that long came up well; each one that ends sooner adds a second to the pause before the next."""

STOP_S = 10
"""How long a service may take to end by itself."""

KNOWN_S = 10.0
"""How long a supervisor that has just begun may take to be known by its mark."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the supervisor knows of a service."""

    started: float
    """When it was last started, in seconds since 1970; 0 before."""
    runs: bool
    """Whether a process of it lives."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The supervisor of a home.

    Args:
        home: where commands, configuration, logs and process id lie.
        socket: where it can be asked; a private folder's, for whoever may write there may stop the services.
    """

    home: Path
    socket: Path

    def start(self, commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> None:
        """Start the services in the background, in a session of their own: closing the terminal does not end them."""
        logs = self.home / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        for name in commands:
            log_path(self.home, name).write_text("")
        (self.home / COMMANDS).write_text(json.dumps(commands, indent=1))
        (self.home / "services.conf").write_text(_config(list(commands), self.socket))
        self.log.write_text("")
        with self.log.open("a") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "--configuration", "services.conf"],
                env={**environ, MARK: str(self.home)},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_path.write_text(f"{process.pid}\n")
        # For a moment after it has begun, a program's environment can't be read, and it would seem to have ended.
        deadline = time.monotonic() + KNOWN_S
        while process.poll() is None and not self.process() and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self, patience_s: float) -> list[psutil.Process]:
        """End every process of the home; those that can't be ended are returned."""
        if process := self.process():
            # It ends its services in order before it ends itself.
            signal(process, psutil.Process.terminate)
            psutil.wait_procs([process], timeout=patience_s)
        # Airflow's tasks and Ray's workers have process groups of their own and outlive their parents.
        left = end(lambda: of_home(self.home), patience_s)
        if not left:
            self._pid_path.unlink(missing_ok=True)
        return left

    def process(self) -> psutil.Process | None:
        """Its process, where it runs."""
        try:
            process = psutil.Process(int(self._pid_path.read_text()))
        except (OSError, ValueError, psutil.Error):
            return None
        return process if variable(process, MARK) == str(self.home) else None

    def kept(self) -> dict[str, Kept]:
        """What it knows of each service; nothing where it does not answer."""
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=5.0) as client:
                question = xmlrpc.client.dumps((), "supervisor.getAllProcessInfo")
                answer = client.post("http://supervisor/RPC2", content=question, headers={"Content-Type": "text/xml"})
            ((found,), _) = xmlrpc.client.loads(answer.raise_for_status().text)
        except (httpx.HTTPError, xmlrpc.client.Error):
            return {}
        services: list[dict[str, int]] = found  # type: ignore[assignment]
        return {str(each["name"]): Kept(float(each["start"]), bool(each["pid"])) for each in services}

    def last_words(self, name: str) -> str:
        """The end of a service's log, and where all of it is."""
        path = log_path(self.home, name)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return "\n".join([*lines[-15:], f"(all of it: {path})"])

    @property
    def log(self) -> Path:
        """Its own log: which service ended when, and how."""
        return self.home / "logs" / "supervisor.log"

    @property
    def _pid_path(self) -> Path:
        return self.home / "services.pid"


def _config(names: list[str], socket: Path) -> str:
    """Its configuration; paths are relative to the home."""
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "logfile": "logs/supervisor.log",
            "logfile_maxbytes": "5MB",
            "logfile_backups": 1,
            "pidfile": "logs/supervisord.pid",  # not ours: it empties the file before it writes it
        },
        "unix_http_server": {"file": socket},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        # One group, so that they are stopped at once and not one after the other.
        "group:windrow": {"programs": ",".join(names)},
        **{
            f"program:{name}": {
                "command": shlex.join([sys.executable, "-m", "pipeline.local.services.launch", name]),
                "autorestart": "true",
                "startsecs": STEADY_S,
                # Never given up: what it lacks (a disk, memory) may be there again tomorrow.
                "startretries": 2**31,
                "stopwaitsecs": STOP_S,
                "stdout_logfile": "NONE",
                "stderr_logfile": "NONE",
            }
            for name in names
        },
    }
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n".replace("%", "%%") for key, value in options.items())
        for section, options in sections.items()
    )
