"""Waits for a Ray job without holding a worker: copies its log, keeps its deadline, stops it when the task is killed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import BaseHook, BaseXCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.client import RayError, RayJob, RayJobs
from operators.links import CURVES_KEY, MLFLOW_KEY
from operators.open_runs import Ending, Pages, TrackingError, TrackingServer

POLL_S = 3.0
LOG_SHARE = 20.0
"""The API hands out a log only whole, so fetching it takes no more than this fraction (one in ...) of the time."""
LINK_POLL_S = 15.0
UNREACHABLE_S = 300.0
"""A cluster that does not answer for so long is given up; the task's next try finds the job if it still runs."""
CLOSING_TRIES = 3
LAST_LINES = 12
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Colours, which a task's log shows as noise."""
_STOPPING: set[asyncio.Task[None]] = set()
"""The event loop keeps only weak references to its tasks."""
Outcome = Literal["ended", "deadline", "lost", "unreachable"]
"""How the wait was over; `lost` when the cluster no longer knows the job."""


class RayJobTrigger(BaseTrigger):
    """Fires once, when the job has ended, is lost, or has run past its deadline and was stopped.

    Args:
        submission_id: the job.
        deadline: an aware time in ISO format; the job is stopped then.
        ray_conn_id: the Airflow connection to the cluster.
        mlflow_conn_id: the Airflow connection to the tracking server.
        experiment: the name of the MLflow experiment that the job writes to, if it writes to one.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        submission_id: str,
        deadline: str,
        ray_conn_id: str,
        mlflow_conn_id: str,
        experiment: str | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.submission_id = submission_id
        self.deadline = deadline
        self.ray_conn_id = ray_conn_id
        self.mlflow_conn_id = mlflow_conn_id
        self.experiment = experiment
        self.poll_s = poll_s
        self._stored_pages: Pages | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer needs to go on."""
        return f"{__name__}.RayJobTrigger", {
            "submission_id": self.submission_id,
            "deadline": self.deadline,
            "ray_conn_id": self.ray_conn_id,
            "mlflow_conn_id": self.mlflow_conn_id,
            "experiment": self.experiment,
            "poll_s": self.poll_s,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the end. Nothing here stops the job when the triggerer itself is restarted."""
        async with RayJobs.of(await BaseHook.aget_connection(self.ray_conn_id)) as jobs:
            log = _LogCopy(jobs, self.submission_id, self._say)
            self._say(f"Following Ray job {self.submission_id}, at the latest until {self.deadline}; its log:")
            outcome, job = await self._await_end(jobs, log)
            await log.copy()
            # A cluster that does not answer may still run the job: its runs stay open.
            if outcome != "unreachable":
                # A job that has succeeded leaves one open where MLflow did not answer as it ended.
                statuses: dict[str, Ending] = {"FAILED": "FAILED", "SUCCEEDED": "FINISHED"}
                await self._close_runs(statuses.get(job.status, "KILLED") if job else "KILLED")
            await self._store_links()
            yield _event(
                {
                    "outcome": outcome,
                    "submission_id": self.submission_id,
                    "status": job.status if job else None,
                    "exit_code": job.exit_code if job else None,
                    "message": job.message[:1000] if job else "",
                    "last_lines": log.last_lines,
                }
            )

    async def on_kill(self) -> None:
        """A person cleared or marked the task: stop the job and say so in MLflow."""
        # Airflow cancels this coroutine again at its next heartbeat, a second later; the work has to outlive it.
        work = asyncio.create_task(self._stop_job())
        _STOPPING.add(work)
        work.add_done_callback(_STOPPING.discard)
        await asyncio.shield(work)

    async def _stop_job(self) -> None:
        self._say(f"The task was killed: stopping Ray job {self.submission_id}")
        async with RayJobs.of(await BaseHook.aget_connection(self.ray_conn_id)) as jobs:
            job = await jobs.stop(self.submission_id)
        self._say(f"Ray job {self.submission_id} is {job.status if job else 'gone'}")
        await self._close_runs("KILLED")

    async def _await_end(self, jobs: RayJobs, log: _LogCopy) -> tuple[Outcome, RayJob | None]:
        deadline = datetime.fromisoformat(self.deadline)
        last_answer = next_links = time.monotonic()
        while True:
            try:
                job = await jobs.get(self.submission_id)
                if job is None or not job.active:
                    return ("lost", None) if job is None else ("ended", job)
                if datetime.now(UTC) >= deadline:
                    self._say(f"The deadline {self.deadline} has passed: stopping the job")
                    return "deadline", await jobs.stop(self.submission_id)
                await log.copy_if_cheap()
                last_answer = time.monotonic()
                if last_answer >= next_links:
                    await self._store_links()
                    next_links = time.monotonic() + LINK_POLL_S
            except RayError as error:
                self._say(f"{error}; asking again")
                if time.monotonic() - last_answer > UNREACHABLE_S:
                    return "unreachable", None
            await asyncio.sleep(self.poll_s)

    async def _close_runs(self, status: Ending) -> None:
        for attempt in range(1, CLOSING_TRIES + 1):
            try:
                async with TrackingServer.of(await BaseHook.aget_connection(self.mlflow_conn_id)) as tracking:
                    closed = await tracking.close(self.submission_id, status)
            except TrackingError as error:
                self._say(f"{error} (attempt {attempt} of {CLOSING_TRIES})")
                await asyncio.sleep(1.0)
            else:
                self._say(f"MLflow runs now {status}: {', '.join(closed) or 'none was left open'}")
                return

    async def _store_links(self) -> None:
        """Store the links to the pages in MLflow that show most by now."""
        task = self.task_instance
        try:
            async with TrackingServer.of(await BaseHook.aget_connection(self.mlflow_conn_id)) as tracking:
                pages = await tracking.pages(self.submission_id, self.experiment)
        except TrackingError as error:
            self._say(f"no links to MLflow yet: {error}")
            return
        if task is None or pages is None or pages == self._stored_pages:
            return
        for key, value in {MLFLOW_KEY: pages.run, CURVES_KEY: pages.curves}.items():
            await BaseXCom.aset(
                key=key,
                value=value,
                dag_id=task.dag_id,
                task_id=task.task_id,
                run_id=task.run_id,
                map_index=task.map_index,
            )
        self._stored_pages = pages

    def _say(self, line: str) -> None:
        self.log.info("%s", line)


class _LogCopy:
    """What of a job's log was copied, by its length."""

    def __init__(self, jobs: RayJobs, submission_id: str, say: Callable[[str], None]) -> None:
        self._jobs = jobs
        self._submission_id = submission_id
        self._say = say
        self._copied = 0
        self._not_before = 0.0
        self.last_lines: list[str] = []

    async def copy_if_cheap(self) -> None:
        if time.monotonic() >= self._not_before:
            began = time.monotonic()
            await self._take(complete_lines_only=True)
            self._not_before = began + LOG_SHARE * (time.monotonic() - began)

    async def copy(self) -> None:
        """The rest, a last line without its end included."""
        try:
            await self._take(complete_lines_only=False)
        except RayError as error:
            self._say(f"the end of the log is missing: {error}")

    async def _take(self, *, complete_lines_only: bool) -> None:
        text = await self._jobs.log(self._submission_id)
        end = text.rfind("\n") + 1 if complete_lines_only else len(text)
        for line in ANSI.sub("", text[self._copied : end]).splitlines():
            self._say(line)
            if line.strip():
                self.last_lines = [*self.last_lines, line][-LAST_LINES:]
        self._copied = max(self._copied, end)


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
