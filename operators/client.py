"""Ray's job REST API, as an async client that never blocks and takes nothing but the status for the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowException

ACTIVE = frozenset({"PENDING", "RUNNING"})
REQUEST_TIMEOUT_S = 30.0
STOP_AGAIN_S = 5.0
"""Longer than the cluster gives a job between the polite signal and the kill."""
STOP_TIMEOUT_S = 20.0
"""Shorter than the half minute that Airflow grants a trigger that is killed."""


class RayError(AirflowException):
    """The cluster cannot be reached or refuses a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayJob:
    """What the cluster says of a submitted job."""

    submission_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    """Ray's own words on the status."""
    exit_code: int | None
    """How the entrypoint ended, if it did."""
    started: datetime
    """When it was submitted, by the cluster's clock."""
    metadata: Mapping[str, str]
    """What was handed in with the submission."""

    @property
    def active(self) -> bool:
        """Whether it may still do something."""
        return self.status in ACTIVE


class RayJobs:
    """The jobs of one cluster, reached through its dashboard.

    Args:
        address: the dashboard's URL.
        token: what the cluster asks for when it runs with token authentication.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S))

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """The cluster of an Airflow connection: the host is the dashboard's URL, the password its token."""
        return cls(address(connection), connection.password)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def submit(
        self, submission_id: str, entrypoint: str, *, environment: Mapping[str, str], metadata: Mapping[str, str]
    ) -> bool:
        """Hand in a job; False when the cluster knows that id already.

        Raises:
            RayError: the cluster refuses, or cannot be reached.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            # The entrypoint only drives; its workers ask for what they need.
            "entrypoint_num_cpus": 0,
            "runtime_env": {"env_vars": dict(environment)},
            "metadata": dict(metadata),
        }
        status, answer = await self._ask("POST", "/api/jobs/", body)
        if status == 200:
            return True
        # A taken id is a 500 among others, and the first answer to a repeated request may have got lost.
        if status == 500 and await self.get(submission_id) is not None:
            return False
        raise RayError(f"Ray at {self.address} refused job {submission_id} ({status}): {_last_line(answer)}")

    async def get(self, submission_id: str) -> RayJob | None:
        """What the cluster says of a job, or None where it knows none of that id."""
        status, answer = await self._ask("GET", f"/api/jobs/{submission_id}")
        if status == 404:
            return None
        if status != 200 or not isinstance(answer, dict):
            raise RayError(f"Ray at {self.address} has no answer about job {submission_id} ({status}): {answer!r:.500}")
        return RayJob(
            submission_id=submission_id,
            status=answer["status"],
            message=answer.get("message") or "",
            exit_code=answer.get("driver_exit_code"),
            started=datetime.fromtimestamp(answer["start_time"] / 1000, UTC),
            metadata=answer.get("metadata") or {},
        )

    async def stop(self, submission_id: str, timeout_s: float = STOP_TIMEOUT_S) -> RayJob | None:
        """Stop a job and wait until it has ended; what became of it, or None where there is none.

        The first request may be answered with yes and do nothing while the job is still pending, so it is repeated.
        """
        deadline = time.monotonic() + timeout_s
        ask_again = 0.0
        while (job := await self.get(submission_id)) is not None and job.active and time.monotonic() < deadline:
            if time.monotonic() >= ask_again:
                ask_again = time.monotonic() + STOP_AGAIN_S
                await self._ask("POST", f"/api/jobs/{submission_id}/stop")
            await asyncio.sleep(0.5)
        return job

    async def log(self, submission_id: str) -> str:
        """Everything that the job has written so far."""
        status, answer = await self._ask("GET", f"/api/jobs/{submission_id}/logs")
        return str(answer.get("logs") or "") if status == 200 and isinstance(answer, dict) else ""

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        try:
            async with self._session.request(method, self.address + path, json=body) as response:
                is_json = response.content_type == "application/json"
                return response.status, await (response.json() if is_json else response.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RayError(f"Ray at {self.address} cannot be reached: {type(error).__name__}: {error}") from error


def address(connection: Connection) -> str:
    """The URL that a connection stands for, with or without scheme and port in its host."""
    host = connection.host or ""
    if "://" not in host:
        host = f"{connection.schema or 'http'}://{host}"
    return f"{host}:{connection.port}" if connection.port else host


def _last_line(answer: Any) -> str:
    return (str(answer).strip().splitlines() or ["no reason given"])[-1]
