"""A real MLflow server for the tests, and a wire to it that can be cut, jammed and listened to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import httpx

REQUEST = re.compile(rb"(GET|POST|PATCH|PUT|DELETE) (\S+) HTTP/1\.1\r\n")


@contextmanager
def serving(folder: Path, port: int, timeout_s: float = 120) -> Iterator[str]:
    """Serve MLflow on loopback; yields its address."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


class Wire:
    """A port of one's own that leads to a server: `open`, `cut` (refuses) or `jammed` (takes all and answers nothing)."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._state: Literal["open", "cut", "jammed"] = "open"
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        """Method and path of each request that came by."""
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, state: Literal["open", "cut", "jammed"]) -> None:
        """Change how it behaves, for connections that are open too."""
        self._state = state
        while self._open:
            connection = self._open.pop()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self.set("cut")
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._state == "cut":
                    client.close()
                    continue
                self._open.append(client)
                if self._state == "open":
                    server = socket.create_connection(self._server)
                    self._open.append(server)
                    for ends in ((client, server, True), (server, client, False)):
                        threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, listens: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if listens:
                    self.requests += [f"{m[0].decode()} {m[1].decode()}" for m in REQUEST.findall(data)]
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
