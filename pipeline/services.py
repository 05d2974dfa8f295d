"""The laptop's services (Airflow, an MLflow server, a one-node Ray cluster): up, down and how they fare."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import typer
from filelock import FileLock

from pipeline.lineups import at_home
from pipeline.settings import Settings

# Only the services and what they start carry it, never a person's shell: `down` goes by it.
MARK = "WINDROW_SERVICES_OF"
POOL = "windrow_ray"
USER = "admin"
LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
NUM_STARTS_TOLERATED = 3
Say = Callable[[str], object]


def to_stderr(line: str) -> None:
    """Tell a person, and leave standard output to answers that programs read."""
    typer.echo(line, err=True)


class ServiceError(RuntimeError):
    """A service does not start, with its last words and the cure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where a person finds the services, and the log-in."""

    airflow: str
    """Airflow's pages."""
    mlflow: str
    """MLflow's pages."""
    ray: str
    """Ray's dashboard."""
    user: str
    """Airflow's user."""
    password: str
    """That user's password, made at random for this home."""
    ray_token: str
    """What Ray's dashboard asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatus:
    """How one service fares."""

    name: str
    """`airflow-api`, `airflow-scheduler`, `airflow-dags`, `airflow-triggerer`, `mlflow` or `ray`."""
    address: str
    """Where it was asked."""
    healthy: bool
    """Whether it answered, and well."""
    detail: str
    """What it answered, or why it did not."""


def environment(settings: Settings | None = None) -> dict[str, str]:
    """What the services and their clients add to their environment to find each other.

    Includes the token, so it is for processes and never for a log.
    """
    settings = settings or Settings()
    shared = {str(field.title): str(getattr(settings, name)) for name, field in Settings.model_fields.items()}
    # Ray sets it for its own jobs, and `ray start` must not read it.
    del shared["RAY_ADDRESS"]
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY", os.environ.get("no_proxy")), LOOPBACK, "localhost"]))
    return shared | {
        "PATH": os.pathsep.join([str(_bin()), os.environ.get("PATH", os.defpath)]),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "AIRFLOW_HOME": str(settings.home / "airflow"),
        "AIRFLOW_CONN_WINDROW_RAY": json.dumps(
            {"conn_type": "http", "host": settings.ray_dashboard, "password": settings.ray_token()}
        ),
        "AIRFLOW_CONN_WINDROW_MLFLOW": json.dumps({"conn_type": "http", "host": settings.tracking_uri}),
        # Never left to a stray token file, which would turn it on for some processes only.
        "RAY_AUTH_MODE": "token" if settings.ray_token() else "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Eight idle processes of 180 MB for jobs of its language-model features.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Without it a process that sets its title wipes out the environment that others see, and so its mark.
        "SPT_NOENV": "1",
    }


def up(settings: Settings | None = None, say: Say = to_stderr, timeout_s: float = START_TIMEOUT_S) -> Addresses:
    """Start what does not run yet and wait until all of it is healthy.

    Services whose address lies elsewhere (a shared tracking server, a cluster) are asked, not started.

    Raises:
        ServiceError: one does not come up; the message holds its last words and the cure, and nothing stays behind.
    """
    settings = settings or Settings()
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    at_home(settings)
    with FileLock(settings.home / "services.lock"):
        _make_secrets(settings)
        if _supervisor(settings) and all(status.healthy for status in services_status(settings)):
            say("Everything runs already.")
            return _announced(settings, say)
        try:
            if not _supervisor(settings):
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


def services_status(settings: Settings | None = None) -> list[ServiceStatus]:
    """Ask every service how it fares."""
    settings = settings or Settings()
    token = settings.ray_token()
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    return [
        *_airflow_status(settings),
        _asked("mlflow", f"{settings.tracking_uri}/health", {}),
        _asked("ray", f"{settings.ray_dashboard}/api/jobs/", bearer),
    ]


def addresses(settings: Settings | None = None) -> Addresses:
    """Where the services of this home are, and the log-in."""
    settings = settings or Settings()
    passwords = settings.home / "secrets" / "airflow-passwords.json"
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


def supervise(settings: Settings) -> int:
    """Run the services in the foreground until told to stop: what `up` leaves behind in the background."""
    # Only this process needs it, and not where the services run elsewhere.
    from honcho.manager import Manager
    from honcho.printer import Printer

    manager = Manager(Printer(sys.stdout))
    for name, command in _commands(settings).items():
        # One that dies comes back, as under any supervisor in production; honcho alone would end all the others.
        again = f"echo {name} ended with status $?, starting it again"
        manager.add_process(name, f"while :; do {shlex.join(command)}; {again}; sleep 2; done", cwd=settings.home)
    manager.loop()
    return int(manager.returncode)


def _commands(settings: Settings) -> dict[str, list[str]]:
    """The services of this machine: those whose address is the default one."""
    commands = {
        "airflow-api": ["airflow", "api-server"],
        # The API server reads the logs' files itself; serving them would open a port on every interface.
        "airflow-scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
        "airflow-dags": ["airflow", "dag-processor"],
        "airflow-triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    }
    if settings.tracking_uri == f"http://{LOOPBACK}:{settings.mlflow_port}":
        commands["mlflow"] = _mlflow_command(settings)
    if settings.ray_dashboard == f"http://{LOOPBACK}:{settings.ray_dashboard_port}":
        commands["ray"] = _ray_command(settings)
    return commands


def _mlflow_command(settings: Settings) -> list[str]:
    return [
        *("mlflow", "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{settings.home / 'mlflow.db'}"),
        *("--artifacts-destination", str(settings.home / "mlartifacts")),
    ]


def _ray_command(settings: Settings) -> list[str]:
    agent_port, client_port = _free_ports(2)
    return [
        *("ray", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", LOOPBACK, "--port", str(settings.ray_port), "--num-cpus", str(settings.ray_cpus)),
        *("--include-dashboard", "true", "--dashboard-host", LOOPBACK),
        *("--dashboard-port", str(settings.ray_dashboard_port), "--dashboard-agent-listen-port", str(agent_port)),
        *("--ray-client-server-port", str(client_port), "--temp-dir", str(_ray_folder(settings))),
        # Zero lets the system choose: the default range would collide with a second cluster's ports.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
    ]


def _start(settings: Settings, say: Say) -> None:
    _check_ports(settings)
    _write_airflow_config(settings)
    _ray_folder(settings).mkdir(mode=0o700)
    environ = {**os.environ, **environment(settings), MARK: str(settings.home)}
    environ.pop("RAY_ADDRESS", None)
    log = _log_path(settings)
    log.parent.mkdir(exist_ok=True)
    say(f"Starting {', '.join(_commands(settings))}; their log is {log}")
    _airflow(["db", "migrate"], settings, environ)
    with log.open("w") as stream:
        # A session of its own, so that closing the terminal does not end it.
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "pipeline.services"],
            env=environ,
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_path(settings).write_text(f"{supervisor.pid}\n")
    # Deferred tasks hold their slot: it stands for the Ray job that they wait for.
    pool = ["pools", "set", "--include-deferred", POOL, str(settings.pool_slots), "Ray jobs that may run at once"]
    _airflow(pool, settings, environ)


def _await_health(settings: Settings, say: Say, deadline: float) -> None:
    told: set[str] = set()
    while sick := [status for status in services_status(settings) if not status.healthy]:
        told |= _tell(say, told, sick, settings)
        for status in sick:
            if _num_ends(settings, status.name) >= NUM_STARTS_TOLERATED:
                raise ServiceError(f"{status.name} ends as soon as it starts.\n{_last_words(settings, status.name)}")
        if not _supervisor(settings):
            raise ServiceError(f"the services ended while starting.\n{_last_words(settings, sick[0].name)}")
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{sick[0].name} is not healthy in time: {sick[0].detail}.\n{_last_words(settings, sick[0].name)}\n"
                "Try again when the machine is less busy."
            )
        time.sleep(0.5)
    _tell(say, told, [], settings)


def _tell(say: Say, told: set[str], sick: list[ServiceStatus], settings: Settings) -> set[str]:
    """Name the services that came up since `told`, and return them."""
    news = [name for name in _commands(settings) if name not in told and name not in {status.name for status in sick}]
    for name in news:
        say(f"  {name} is up")
    return set(news)


def _stop(settings: Settings, say: Say) -> None:
    processes = _processes(settings)
    if processes:
        say(f"Stopping {len(processes)} processes")
    if supervisor := _supervisor(settings):
        # It ends its services in order before it ends itself.
        _signal(supervisor, psutil.Process.terminate)
        psutil.wait_procs([supervisor], timeout=STOP_TIMEOUT_S)
    # Airflow's tasks and Ray's workers have process groups of their own and outlive their parents.
    for act in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (processes := _processes(settings)) and time.monotonic() < deadline:
            for process in processes:
                _signal(process, act)
            psutil.wait_procs(processes, timeout=3.0)
    if processes:
        raise ServiceError(f"processes {[process.pid for process in processes]} do not end; end them by hand")
    _pid_path(settings).unlink(missing_ok=True)
    shutil.rmtree(_ray_folder(settings), ignore_errors=True)


def _signal(process: psutil.Process, act: Callable[[psutil.Process], None]) -> None:
    try:
        act(process)
    except psutil.NoSuchProcess:
        return


def _processes(settings: Settings) -> list[psutil.Process]:
    """Every process that carries this home's mark, and what it started, without ourselves and our parents."""
    marked = {process for process in psutil.process_iter() if _mark(process) == str(settings.home)}
    for process in list(marked):
        try:
            marked.update(process.children(recursive=True))
        except psutil.Error:
            continue
    own = psutil.Process()
    return [process for process in marked - {own, *own.parents()} if process.is_running()]


def _mark(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None  # somebody else's, or just gone


def _supervisor(settings: Settings) -> psutil.Process | None:
    try:
        process = psutil.Process(int(_pid_path(settings).read_text()))
    except (OSError, ValueError, psutil.Error):
        return None
    return process if _mark(process) == str(settings.home) else None


def _airflow_status(settings: Settings) -> list[ServiceStatus]:
    url = f"{settings.airflow_url}/api/v2/monitor/health"
    named = {"airflow-scheduler": "scheduler", "airflow-dags": "dag_processor", "airflow-triggerer": "triggerer"}
    try:
        health = _get(url, {}).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        names = ["airflow-api", *named]
        return [ServiceStatus(name=name, address=url, healthy=False, detail=_reason(error)) for name in names]
    # Airflow counts a heartbeat of half a minute ago as health, even one from before a restart.
    supervisor = _supervisor(settings)
    since = supervisor.create_time() if supervisor else 0.0
    parts = [(name, _airflow_part(health.get(part) or {}, part, since)) for name, part in named.items()]
    return [
        ServiceStatus(name=name, address=url, healthy=detail == "healthy", detail=detail)
        for name, detail in [("airflow-api", "healthy"), *parts]
    ]


def _airflow_part(found: Mapping[str, str | None], part: str, since: float) -> str:
    beat = found.get(f"latest_{part}_heartbeat")
    if beat is None or datetime.fromisoformat(beat).timestamp() < since:
        return "no sign of life yet"
    return found["status"] or "no status"


def _asked(name: str, url: str, headers: Mapping[str, str]) -> ServiceStatus:
    try:
        _get(url, headers).raise_for_status()
    except httpx.HTTPError as error:
        return ServiceStatus(name=name, address=url, healthy=False, detail=_reason(error))
    return ServiceStatus(name=name, address=url, healthy=True, detail="healthy")


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    # A proxy of the environment has no business with these addresses.
    return httpx.get(url, headers=dict(headers), timeout=5.0, trust_env=False)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check_ports(settings: Settings) -> None:
    """Refuse ports that are taken, by name, before anything is started."""
    commands = _commands(settings)
    ports = {"WINDROW_AIRFLOW_PORT": settings.airflow_port}
    if "mlflow" in commands:
        ports["WINDROW_MLFLOW_PORT"] = settings.mlflow_port
    if "ray" in commands:
        ports |= {"WINDROW_RAY_PORT": settings.ray_port, "WINDROW_RAY_DASHBOARD_PORT": settings.ray_dashboard_port}
    for variable, port in ports.items():
        if _is_taken(port):
            raise ServiceError(
                f"port {port} is taken by {_holder(port)}: stop that, or choose another port with {variable}"
            )


def _is_taken(port: int) -> bool:
    for host in (LOOPBACK, "0.0.0.0"):  # Ray's own port is bound to every interface whatever we say
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
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


def _free_ports(num_ports: int) -> list[int]:
    with ExitStack() as probes:
        held = [probes.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in held:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in held]


def _make_secrets(settings: Settings) -> None:
    if not settings.ray_token():
        _secret(settings.ray_token_path, lambda: secrets.token_hex(32))
    folder = settings.home / "secrets"
    _secret(folder / "airflow-passwords.json", lambda: json.dumps({USER: secrets.token_urlsafe(12)}))


def _secret(path: Path, make: Callable[[], str]) -> str:
    """The secret kept at `path`, made at the first call, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(handle, "w") as stream:
        stream.write(secret := make())
    return secret


def _write_airflow_config(settings: Settings) -> None:
    """Airflow's own file, so that its secrets are in no environment that a Ray job inherits."""
    folder = settings.home / "airflow"
    folder.mkdir(exist_ok=True)
    kept = settings.home / "secrets"
    sections: dict[str, dict[str, Any]] = {
        "core": {
            "executor": "LocalExecutor",
            "parallelism": settings.parallelism,
            "dags_folder": settings.dags,
            "load_examples": False,
            "fernet_key": _secret(kept / "airflow-fernet", lambda: urlsafe_b64encode(secrets.token_bytes(32)).decode()),
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": kept / "airflow-passwords.json",
            "execution_api_server_url": f"{settings.airflow_url}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{folder / 'airflow.db'}"},
        "api": {
            "host": LOOPBACK,
            "port": settings.airflow_port,
            "base_url": settings.airflow_url,
            "workers": 1,
            "secret_key": _secret(kept / "airflow-api", lambda: secrets.token_hex(32)),
            "instance_name": "Windrow",
        },
        "api_auth": {"jwt_secret": _secret(kept / "airflow-jwt", lambda: secrets.token_hex(32))},
        "dag_processor": {"refresh_interval": 30},
        "logging": {"base_log_folder": folder / "logs"},
        "usage_data_collection": {"enabled": False},
    }
    lines = [
        f"[{section}]\n" + "".join(f"{key} = {value}\n".replace("%", "%%") for key, value in options.items())
        for section, options in sections.items()
    ]
    path = folder / "airflow.cfg"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines))


def _airflow(arguments: list[str], settings: Settings, environ: Mapping[str, str]) -> None:
    done = subprocess.run(["airflow", *arguments], env=environ, cwd=settings.home, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ServiceError(
            f"`airflow {' '.join(arguments)}` failed:\n{last}\n"
            f"If {settings.home / 'airflow'} comes from another version of Airflow, remove it and start again."
        )


def _num_ends(settings: Settings, name: str) -> int:
    return sum(f"| {name} ended with status" in line for line in _log_lines(settings))


def _last_words(settings: Settings, name: str) -> str:
    lines = [line for line in _log_lines(settings) if f" {name} " in line.partition("|")[0] + " "]
    return "\n".join([*lines[-15:], f"(all of it: {_log_path(settings)})"])


def _log_lines(settings: Settings) -> list[str]:
    path = _log_path(settings)
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _log_path(settings: Settings) -> Path:
    return settings.home / "logs" / "services.log"


def _pid_path(settings: Settings) -> Path:
    return settings.home / "services.pid"


def _ray_folder(settings: Settings) -> Path:
    """A short path whatever the home's: a socket's may have no more than 107 bytes."""
    home = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"windrow-{os.getuid()}-{home}"


def _bin() -> Path:
    """Where this environment's programs are."""
    return Path(sys.executable).parent


if __name__ == "__main__":
    sys.exit(supervise(Settings()))
