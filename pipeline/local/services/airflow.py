"""The laptop's Airflow: its configuration with secrets drawn at random, and its command."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.local.services.values import LOOPBACK, ServiceError
from pipeline.spec.settings import Settings

USER = "admin"


def passwords_path(settings: Settings) -> Path:
    """Where the log-in is kept."""
    return settings.home / "secrets" / "airflow-passwords.json"


def make_secrets(settings: Settings) -> None:
    """Draw Ray's token and the log-in, once."""
    if not settings.ray_token():
        _secret(settings.ray_token_path, lambda: secrets.token_hex(32))
    _secret(passwords_path(settings), lambda: json.dumps({USER: secrets.token_urlsafe(12)}))


def write_airflow_config(settings: Settings) -> None:
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
            "simple_auth_manager_passwords_file": passwords_path(settings),
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
        "logging": {"base_log_folder": folder / "logs", "logging_config_class": "operators.local_logs.LOGGING"},
        "usage_data_collection": {"enabled": False},
    }
    lines = [
        f"[{section}]\n" + "".join(f"{key} = {value}\n".replace("%", "%%") for key, value in options.items())
        for section, options in sections.items()
    ]
    path = folder / "airflow.cfg"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines))


def run_airflow(arguments: list[str], settings: Settings, environ: Mapping[str, str]) -> None:
    """Run Airflow's command.

    Raises:
        ServiceError: it failed, with its last words.
    """
    done = subprocess.run(["airflow", *arguments], env=environ, cwd=settings.home, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ServiceError(
            f"`airflow {' '.join(arguments)}` failed:\n{last}\n"
            f"If {settings.home / 'airflow'} comes from another version of Airflow, remove it and start again."
        )


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
