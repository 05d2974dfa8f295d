"""What the services are: the command of each, and the environment in which they find each other."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipeline.local.services.folder import run_folder
from pipeline.local.services.ports import free_port
from pipeline.local.services.values import LOOPBACK
from pipeline.spec.settings import Settings


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
        # Where this environment's programs are.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
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
        **(_LOOPBACK_RAY if _joins_own_ray(settings) else {}),
    }


_LOOPBACK_RAY = {
    # Ray has no better way to say that a cluster of one machine stays on loopback: with any other value, 127.0.0.1
    # is taken for the machine's outer address, and every port of Ray is bound to all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Training workers talk to each other by gloo, which would choose the machine's outer address as well.
    "GLOO_SOCKET_IFNAME": "lo",
}


def commands(settings: Settings) -> dict[str, list[str]]:
    """The services of this machine: those whose address is the default one."""
    found = {
        "airflow-api": ["airflow", "api-server"],
        # The API server reads the logs' files itself; serving them would open a port on every interface.
        "airflow-scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
        "airflow-dags": ["airflow", "dag-processor"],
        "airflow-triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    }
    if settings.tracking_uri == f"http://{LOOPBACK}:{settings.mlflow_port}":
        found["mlflow"] = _mlflow(settings)
    if settings.ray_dashboard == f"http://{LOOPBACK}:{settings.ray_dashboard_port}":
        found["ray"] = _ray(settings)
    return found


def ports(settings: Settings) -> dict[str, int]:
    """The ports that the services are asked for at, each with the variable that chooses it."""
    started = commands(settings)
    found = {"WINDROW_AIRFLOW_PORT": settings.airflow_port}
    if "mlflow" in started:
        found["WINDROW_MLFLOW_PORT"] = settings.mlflow_port
    if "ray" in started:
        found |= {"WINDROW_RAY_PORT": settings.ray_port, "WINDROW_RAY_DASHBOARD_PORT": settings.ray_dashboard_port}
    return found


def _joins_own_ray(settings: Settings) -> bool:
    """Whether a driver joins the cluster that `up` started here: its folder is there from `up` to `down`."""
    return settings.ray_address == f"{LOOPBACK}:{settings.ray_port}" and run_folder(settings.home).is_dir()


def _mlflow(settings: Settings) -> list[str]:
    return [
        *("mlflow", "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{settings.home / 'mlflow.db'}"),
        *("--artifacts-destination", str(settings.home / "mlartifacts")),
    ]


def _ray(settings: Settings) -> list[str]:
    return [
        *("ray", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", LOOPBACK, "--port", str(settings.ray_port), "--num-cpus", str(settings.ray_cpus)),
        *("--include-dashboard", "true", "--dashboard-host", LOOPBACK),
        *("--dashboard-port", str(settings.ray_dashboard_port), "--dashboard-agent-listen-port", "0"),
        # Ray opens its folder to everybody, so it lies inside one that is ours alone.
        *("--ray-client-server-port", str(free_port()), "--temp-dir", str(run_folder(settings.home) / "ray")),
        # Zero lets the system choose: the default range would collide with a second cluster's ports.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
    ]
