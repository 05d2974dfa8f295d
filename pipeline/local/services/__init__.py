"""The laptop's services (Airflow, an MLflow server, a one-node Ray cluster): up, down and how they fare."""

from __future__ import annotations

from pipeline.local.services.commands import environment
from pipeline.local.services.health import services_status
from pipeline.local.services.laptop import POOL, addresses, down, running, up
from pipeline.local.services.processes import MARK
from pipeline.local.services.values import Addresses, ServiceError, ServiceStatus

__all__ = [
    "MARK",
    "POOL",
    "Addresses",
    "ServiceError",
    "ServiceStatus",
    "addresses",
    "down",
    "environment",
    "running",
    "services_status",
    "up",
]
