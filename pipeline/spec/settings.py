"""Where things are on this machine, read from the environment, with defaults that work on a laptop."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlparse

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.spec.errors import BadInput, asked, shown

CHECKOUT = Path(__file__).resolve().parents[2]
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]
CANNOT = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""Errors of a path that trying again does not change."""


def _default_home() -> Path:
    """Beside the checkout's `dags/`, so that two clones never share one; else below the working directory."""
    return (CHECKOUT if (CHECKOUT / "dags").is_dir() else Path.cwd()) / ".windrow"


def _loopback(port_field: str) -> Any:
    return lambda data: f"http://127.0.0.1:{data[port_field]}"


def _absolute_unless_url(lake: str) -> str:
    """Processes with other working directories must find the same lake."""
    return lake if "://" in lake else str(Path(lake).absolute())


def _is_url(address: str) -> str:
    found = urlparse(address)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError(f"must be a URL such as http://127.0.0.1:8080, got {shown(address)}")
    return address


def _is_ray_address(address: str) -> str:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address not in ("local", "auto") and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"must be host:port, `local` or `auto`, got {shown(address)}")
    return address


Url = Annotated[str, AfterValidator(_is_url)]


def make_folder(path: Path, what: str, variable: str) -> None:
    """Make a folder, unless it is there.

    Args:
        path: the folder.
        what: what people call it.
        variable: the setting that names it.

    Raises:
        BadInput: it cannot be made; the message names the setting. A full disk is no fault of the path, and stays an OSError.
    """
    try:
        path.mkdir(mode=0o777, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in CANNOT:
            raise
        reason = "there is a file" if path.is_file() else getattr(error, "strerror", str(error))
        raise BadInput(
            f"{what} is a folder that can be made and written, got {shown(str(path))}: {reason}: set {variable} to another"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadInput(
            f"{what} is a folder that can be written, got {path}: permission denied: set {variable} to another"
        )


class Settings(BaseModel):
    """Settings of the machine, never of an experiment: nothing here may change a result.

    `Settings()` reads the environment variable that each field's title names; one that is set to nothing counts
    as not set. An argument takes precedence over the environment. What cannot be used is `BadInput` with the variable's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    home: AbsolutePath = Field(default_factory=_default_home, title="WINDROW_HOME")
    """Folder for everything that the local services write: databases, logs, secrets."""

    lake: Annotated[str, AfterValidator(_absolute_unless_url)] = Field(
        default_factory=lambda data: str(data["home"] / "lake"), title="WINDROW_LAKE"
    )
    """The lake's root: a folder or a URL such as `s3://bucket/prefix`."""

    lineup: AbsolutePath = Field(
        default_factory=lambda data: data["home"] / "lineups" / "demo.yaml", title="WINDROW_LINEUP"
    )
    """The line-up that the daily run trains; a form's other choices are the files beside it and those in
    `$WINDROW_DAGS/lineups`. The default is the demo's: `windrow up` writes it, with dates that end on the day before."""

    airflow_port: Port = Field(default=8080, title="WINDROW_AIRFLOW_PORT")
    """Port of the local Airflow."""

    mlflow_port: Port = Field(default=5000, title="WINDROW_MLFLOW_PORT")
    """Port of the local MLflow server."""

    ray_port: Port = Field(default=6379, title="WINDROW_RAY_PORT")
    """Port of the local Ray cluster's control store; its other inner ports are chosen freely."""

    ray_dashboard_port: Port = Field(default=8265, title="WINDROW_RAY_DASHBOARD_PORT")
    """Port of the local Ray dashboard, which serves the job API as well."""

    airflow_url: Url = Field(default_factory=_loopback("airflow_port"), title="WINDROW_AIRFLOW")
    """Address of Airflow."""

    tracking_uri: str = Field(default_factory=_loopback("mlflow_port"), title="MLFLOW_TRACKING_URI")
    """Address of the MLflow tracking server."""

    ray_dashboard: Url = Field(default_factory=_loopback("ray_dashboard_port"), title="WINDROW_RAY_DASHBOARD")
    """Address of Ray's dashboard and job API."""

    ray_address: Annotated[str, AfterValidator(_is_ray_address)] = Field(
        default_factory=lambda data: f"127.0.0.1:{data['ray_port']}", title="RAY_ADDRESS"
    )
    """The Ray cluster that a job started by hand joins; `local` starts a private one. Ray sets it for its own jobs."""

    ray_token_path: AbsolutePath = Field(
        default_factory=lambda data: data["home"] / "secrets" / "ray-token", title="RAY_AUTH_TOKEN_PATH"
    )
    """File that holds the token for Ray's ports; `windrow up` makes one. `RAY_AUTH_TOKEN` takes precedence."""

    ray_cpus: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, title="WINDROW_RAY_CPUS")
    """Cores that the local Ray cluster offers."""

    pool_slots: int = Field(
        default_factory=lambda data: max(1, data["ray_cpus"] // 2), ge=1, title="WINDROW_POOL_SLOTS"
    )
    """Ray jobs that may run at once: the slots of Airflow's pool `windrow_ray`."""

    parallelism: int = Field(default=4, ge=1, title="WINDROW_AIRFLOW_PARALLELISM")
    """Airflow tasks that may run at once; they defer while a job runs, so few are needed."""

    store_timeout_s: float = Field(default=5.0, gt=0, le=3600, allow_inf_nan=False, title="WINDROW_STORE_TIMEOUT_S")
    """Seconds in which an object store must answer for the first time."""

    dags: AbsolutePath = Field(default_factory=lambda: CHECKOUT / "dags", title="WINDROW_DAGS")
    """Folder of the DAG files."""

    def __init__(self, environ: Mapping[str, str] | None = None, /, **given: Any) -> None:
        environ = os.environ if environ is None else environ
        named = {name: environ.get(variable) for name, variable in _VARIABLES.items()}
        with asked("the settings", _VARIABLES):
            super().__init__(**{name: value for name, value in named.items() if value} | given)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """The settings that an environment other than this process's own makes."""
        return cls(environ)

    def ray_token(self) -> str | None:
        """The token for Ray's ports, or None where the cluster has none."""
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            return token
        return self.ray_token_path.read_text().strip() if self.ray_token_path.is_file() else None


_VARIABLES = {name: str(field.title) for name, field in Settings.model_fields.items()}


def settings_table() -> list[tuple[str, str, str]]:
    """Each setting as (environment variable, default, meaning), for people."""
    return [
        (str(field.title), _DEFAULTS.get(name, str(field.default)), str(field.description))
        for name, field in Settings.model_fields.items()
    ]


def settings_in_use(environ: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """By environment variable, the value in use, without passwords, and where it comes from: `environment` or `default`.

    Raises:
        BadInput: a variable holds what cannot be used.
    """
    environ = os.environ if environ is None else environ
    found = Settings.of(environ)
    return {
        variable: (without_password(str(getattr(found, name))), "environment" if environ.get(variable) else "default")
        for name, variable in _VARIABLES.items()
    }


def without_password(address: str) -> str:
    """An address as it may be shown: without a user's name and password, and without what a URL asks behind a question mark."""
    shown = re.sub(r"(?<=://).*@", "...@", address)
    return re.sub(r"\?.*", "?...", shown) if "://" in shown else shown


_DEFAULTS = {
    "home": "`.windrow` in the checkout",
    "lake": "`$WINDROW_HOME/lake`",
    "lineup": "`$WINDROW_HOME/lineups/demo.yaml`",
    "airflow_url": "`http://127.0.0.1:$WINDROW_AIRFLOW_PORT`",
    "tracking_uri": "`http://127.0.0.1:$WINDROW_MLFLOW_PORT`",
    "ray_dashboard": "`http://127.0.0.1:$WINDROW_RAY_DASHBOARD_PORT`",
    "ray_address": "`127.0.0.1:$WINDROW_RAY_PORT`",
    "ray_token_path": "`$WINDROW_HOME/secrets/ray-token`",
    "ray_cpus": "all cores",
    "pool_slots": "half the cores, at least 1",
    "dags": "`dags` in the checkout",
}
