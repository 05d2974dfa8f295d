"""Starts and ends the services of a home: all of them healthy, or none left."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from filelock import FileLock

from pipeline.local.services.airflow import USER, make_secrets, passwords_path, run_airflow, write_airflow_config
from pipeline.local.services.commands import commands, environment, ports
from pipeline.local.services.folder import make_private, remove_private, run_folder
from pipeline.local.services.health import services_status, supervisor_of
from pipeline.local.services.leash import leash
from pipeline.local.services.ports import check_free
from pipeline.local.services.processes import MARK, of_home
from pipeline.local.services.supervisor import Kept
from pipeline.local.services.values import Addresses, ServiceError, ServiceStatus
from pipeline.spec.lineups import at_home
from pipeline.spec.settings import Settings

POOL = "windrow_ray"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
NUM_ENDS_TOLERATED = 2
Say = Callable[[str], object]


def to_stderr(line: str) -> None:
    """Print for a person, and leave standard output to answers that programs read."""
    typer.echo(line, err=True)


def up(settings: Settings | None = None, say: Say = to_stderr, timeout_s: float = START_TIMEOUT_S) -> Addresses:
    """Start what does not run yet and wait until all of it is healthy.

    Services whose address lies elsewhere (a shared tracking server, a cluster) are asked, not started.

    Raises:
        ServiceError: one does not come up; the message holds its last words and the cure, and nothing stays behind,
            nor when this process is ended meanwhile.
    """
    settings = settings or Settings()
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    at_home(settings)
    with FileLock(settings.home / "services.lock"):
        make_secrets(settings)
        if all(status.healthy for status in services_status(settings)):
            say("Everything runs already.")
            return _announced(settings, say)
        with leash(settings.home), _signals_as_exceptions():
            try:
                if not supervisor_of(settings).process():
                    _stop(settings, say)
                    _start(settings, say)
                _await_health(settings, say, time.monotonic() + timeout_s)
            except BaseException:
                _stop(settings, say)
                raise
        return _announced(settings, say)


def down(settings: Settings | None = None, say: Say = to_stderr) -> None:
    """End every process of this home: the services, their tasks and jobs. Other homes' are left alone."""
    settings = settings or Settings()
    if not settings.home.is_dir():
        return
    with FileLock(settings.home / "services.lock"):
        _stop(settings, say)


@contextmanager
def running(settings: Settings, say: Say = to_stderr) -> Iterator[Addresses]:
    """The services, for as long as the block runs: they end with it, and with this process however that ends."""
    with leash(settings.home):
        try:
            yield up(settings, say)
        finally:
            down(settings, say)


def addresses(settings: Settings | None = None) -> Addresses:
    """Where the services of this home are, and the log-in."""
    settings = settings or Settings()
    passwords = passwords_path(settings)
    return Addresses(
        airflow=settings.airflow_url,
        mlflow=settings.tracking_uri,
        ray=settings.ray_dashboard,
        user=USER,
        password=json.loads(passwords.read_text())[USER] if passwords.is_file() else "",
        ray_token=settings.ray_token() or "",
    )


def _announced(settings: Settings, say: Say) -> Addresses:
    found = addresses(settings)
    say(f"Airflow  {found.airflow}  user {found.user}, password {found.password}")
    say(f"MLflow   {found.mlflow}")
    say(f"Ray      {found.ray}  token in {settings.ray_token_path}")
    return found


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """A request to end raises, as Ctrl-C does, so that what was started is ended first."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # where signals can't be caught
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(settings: Settings, say: Say) -> None:
    check_free(ports(settings))
    write_airflow_config(settings)
    make_private(run_folder(settings.home))
    environ = {**os.environ, **environment(settings), MARK: str(settings.home)}
    environ.pop("RAY_ADDRESS", None)
    started = commands(settings)
    say(f"Starting {', '.join(started)}; their logs are in {settings.home / 'logs'}")
    run_airflow(["db", "migrate"], settings, environ)
    supervisor_of(settings).start(started, environ)
    # Deferred tasks hold their slot: it stands for the Ray job that they wait for.
    pool = ["pools", "set", "--include-deferred", POOL, str(settings.pool_slots), "Ray jobs that may run at once"]
    run_airflow(pool, settings, environ)


def _await_health(settings: Settings, say: Say, deadline: float) -> None:
    supervisor = supervisor_of(settings)
    announced: set[str] = set()
    starts: dict[str, set[float]] = {}
    while sick := [status for status in services_status(settings) if not status.healthy]:
        announced |= _announce(say, announced, sick, settings)
        for name, kept in supervisor.kept().items():
            if _num_ends(starts.setdefault(name, set()), kept) > NUM_ENDS_TOLERATED:
                raise ServiceError(f"{name} ends as soon as it starts.\n{supervisor.last_words(name)}")
        if not supervisor.process():
            raise ServiceError(f"the services ended while starting.\n{supervisor.last_words('supervisor')}")
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{sick[0].name} is not healthy in time: {sick[0].detail}.\n{supervisor.last_words(sick[0].name)}\n"
                "Try again when the machine is less busy."
            )
        time.sleep(0.5)
    _announce(say, announced, [], settings)


def _num_ends(starts: set[float], kept: Kept) -> int:
    """How often a service has ended, as seen by looking at it again and again."""
    if kept.started:
        starts.add(kept.started)
    return len(starts) - kept.runs


def _announce(say: Say, announced: set[str], sick: list[ServiceStatus], settings: Settings) -> set[str]:
    """Name the services that came up since `announced`, and return them."""
    news = [
        name for name in commands(settings) if name not in announced and name not in {status.name for status in sick}
    ]
    for name in news:
        say(f"  {name} is up")
    return set(news)


def _stop(settings: Settings, say: Say) -> None:
    if processes := of_home(settings.home):
        say(f"Stopping {len(processes)} processes")
    if left := supervisor_of(settings).stop(STOP_TIMEOUT_S):
        raise ServiceError(f"processes {[process.pid for process in left]} do not end; end them by hand")
    remove_private(run_folder(settings.home))
