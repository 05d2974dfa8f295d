"""What a caller of the services gets: addresses, how each fares, and the error of one that does not start."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.spec.errors import TryAgain

LOOPBACK = "127.0.0.1"


class ServiceError(TryAgain):
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
    """`airflow-api`, `airflow-scheduler`, `airflow-dags`, `airflow-triggerer`, `mlflow`, `ray`, or `supervisor`,
    which keeps the others running."""
    address: str
    """Where a person finds it: its pages, or its log."""
    healthy: bool
    """Whether it answered, and well."""
    detail: str
    """What it answered, or why it did not."""
