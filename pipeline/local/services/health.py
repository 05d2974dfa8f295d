"""How the services fare: each is asked, and the supervisor about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import httpx

from pipeline.local.services.folder import run_folder
from pipeline.local.services.supervisor import Kept, Supervisor
from pipeline.local.services.values import ServiceStatus
from pipeline.spec.settings import Settings, without_password

AIRFLOW_PARTS = {"airflow-scheduler": "scheduler", "airflow-dags": "dag_processor", "airflow-triggerer": "triggerer"}


def supervisor_of(settings: Settings) -> Supervisor:
    """The supervisor of a home's services."""
    return Supervisor(home=settings.home, socket=run_folder(settings.home) / "supervisor.sock")


def services_status(settings: Settings | None = None) -> list[ServiceStatus]:
    """Ask every service how it fares, and whether somebody would start it again."""
    settings = settings or Settings()
    token = settings.ray_token()
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    supervisor = supervisor_of(settings)
    kept = supervisor.kept()
    found = [
        *_airflow(settings, kept),
        _mlflow(settings.tracking_uri),
        _ray(settings.ray_dashboard, bearer),
        ServiceStatus(
            name="supervisor",
            address=str(supervisor.log),
            healthy=bool(kept),
            detail="healthy" if kept else "services that end are not started again; `windrow up` starts all of them",
        ),
    ]
    return [
        replace(each, address=without_password(each.address), detail=without_password(each.detail)) for each in found
    ]


def _airflow(settings: Settings, kept: Mapping[str, Kept]) -> list[ServiceStatus]:
    url = settings.airflow_url
    try:
        health = _get(f"{url}/api/v2/monitor/health", {}).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        names = ["airflow-api", *AIRFLOW_PARTS]
        return [ServiceStatus(name=name, address=url, healthy=False, detail=_reason(error)) for name in names]
    parts = [(name, _part(health.get(part) or {}, part, kept.get(name))) for name, part in AIRFLOW_PARTS.items()]
    return [
        ServiceStatus(name=name, address=url, healthy=detail == "healthy", detail=detail)
        for name, detail in [("airflow-api", "healthy"), *parts]
    ]


def _part(found: Mapping[str, str | None], part: str, kept: Kept | None) -> str:
    if kept is not None and not kept.runs:
        return "ended; it is started again soon"
    # Airflow counts a heartbeat of half a minute ago as health, even one from before a restart.
    beat = found.get(f"latest_{part}_heartbeat")
    if beat is None or (kept is not None and datetime.fromisoformat(beat).timestamp() < kept.started):
        return "no sign of life yet"
    return found["status"] or "no status"


def _mlflow(url: str) -> ServiceStatus:
    try:
        _get(f"{url}/health", {}).raise_for_status()
    except httpx.HTTPError as error:
        return ServiceStatus(name="mlflow", address=url, healthy=False, detail=_reason(error))
    return ServiceStatus(name="mlflow", address=url, healthy=True, detail="healthy")


def _ray(url: str, headers: Mapping[str, str]) -> ServiceStatus:
    """Its pages are up before a node has joined that could run a job, and stay up when the last one has gone."""
    alive = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE", "limit": "1"}
    try:
        found = _get(f"{url}/api/v0/nodes", headers, alive).raise_for_status().json()
        num_nodes = found["data"]["result"]["num_filtered"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return ServiceStatus(name="ray", address=url, healthy=False, detail=_reason(error))
    detail = "healthy" if num_nodes else "no node has joined"
    return ServiceStatus(name="ray", address=url, healthy=bool(num_nodes), detail=detail)


def _get(url: str, headers: Mapping[str, str], params: Mapping[str, str] | None = None) -> httpx.Response:
    # A proxy of the environment has no business with these addresses.
    return httpx.get(url, headers=dict(headers), params=params, timeout=5.0, trust_env=False)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
