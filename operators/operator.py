"""The operator: hands a job's document to a Ray cluster, defers until the job has ended, and never runs it twice."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook, BaseOperator

from operators.client import RayError, RayJob, RayJobs
from operators.failures import RETRY_DELAY, RETRY_POLICY, DeadlinePassed, JobFailed
from operators.links import RAY_KEY, CurvesLink, MLflowLink, RayJobLink
from operators.open_runs import TrackingServer
from operators.submission import TaskTry
from operators.trigger import POLL_S, RayJobTrigger
from pipeline.spec.documents import canonical_json, content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.job import (
    ENTRYPOINT,
    SPEC_VARIABLE,
    SUBMISSION_VARIABLE,
    TAGS_VARIABLE,
    IngestJob,
    ReportJob,
    load_job,
)

if TYPE_CHECKING:
    from airflow.sdk import Connection, Context

REFUSED = 2
"""Exit code of a job whose document, configuration or data cannot be used."""
MAX_DOCUMENT_BYTES = 120_000
"""Linux passes on no single environment variable of 128 KiB or more."""
FORWARDED = ("WINDROW_LAKE", "MLFLOW_TRACKING_URI")
"""Settings that a job shares with Airflow, where Airflow's environment has them."""
DOCUMENT_DIGEST = "document_digest"


class RayJobOperator(BaseOperator):
    """Run one job on a Ray cluster.

    A retry takes over the job of the try before it, if that still runs or has succeeded; a cleared task stops the job
    of before and submits a new one. Killing the task or passing the deadline stops the job, and MLflow says KILLED.

    Args:
        document: the job (see `pipeline.spec.job`), as a mapping or as JSON; templated.
        timeout_minutes: the job is stopped so long after it was submitted; templated.
        entrypoint: what the cluster runs; it finds the document in the environment; templated.
        environment: more variables for the job.
        ray_conn_id: connection to the cluster: host is the dashboard's URL, password its token.
        mlflow_conn_id: connection to the tracking server.
        poll_s: seconds between two looks at the job.
    """

    template_fields: Sequence[str] = ("document", "timeout_minutes", "entrypoint")
    template_fields_renderers: ClassVar[dict[str, str]] = {"document": "json"}
    operator_extra_links = (RayJobLink(), MLflowLink(), CurvesLink())
    ui_color = "#dfeff5"

    def __init__(
        self,
        *,
        document: Any,
        timeout_minutes: Any = 24 * 60,
        entrypoint: str = ENTRYPOINT,
        environment: Mapping[str, str] | None = None,
        ray_conn_id: str = "windrow_ray",
        mlflow_conn_id: str = "windrow_mlflow",
        poll_s: float = POLL_S,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", RETRY_POLICY)
        kwargs.setdefault("retries", 2)
        kwargs.setdefault("retry_delay", RETRY_DELAY)
        super().__init__(**kwargs)
        self.document = document
        self.timeout_minutes = timeout_minutes
        self.entrypoint = entrypoint
        self.environment = environment
        self.ray_conn_id = ray_conn_id
        self.mlflow_conn_id = mlflow_conn_id
        self.poll_s = poll_s
        self._submission_id: str | None = None
        # Fetched before anything is submitted: in `on_kill` it is too late to ask for them.
        self._connections: tuple[Connection, Connection]

    def execute(self, context: Context) -> None:
        """Submit the job, or find the one of an earlier try, and defer.

        Raises:
            BadInput: the document cannot be run.
            RayError: the cluster cannot be reached.
        """
        document = checked_document(self.document)
        timeout = checked_timeout(self.timeout_minutes)
        self._connections = (BaseHook.get_connection(self.ray_conn_id), BaseHook.get_connection(self.mlflow_conn_id))
        job = asyncio.run(self._attach_or_submit(document, _task_try(context, self.retries), context))
        self.defer(
            trigger=RayJobTrigger(
                submission_id=job.submission_id,
                # Taking a job over does not give it more time.
                deadline=(job.started + timeout).isoformat(),
                ray_conn_id=self.ray_conn_id,
                mlflow_conn_id=self.mlflow_conn_id,
                experiment=experiment_of(document),
                poll_s=self.poll_s,
            ),
            method_name="execute_complete",
            # The trigger keeps the deadline: Airflow's own would end the wait and leave the job running.
            timeout=None,
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> str:
        """Judge how the job ended; the submission's id when it has succeeded.

        Raises:
            BadInput: the job refused its document, its configuration or its data.
            DeadlinePassed: the job was stopped for it.
            JobFailed: anything else; another try may succeed.
        """
        submission_id = str(event["submission_id"])
        if event["outcome"] == "ended" and event["status"] == "SUCCEEDED":
            self._leave_lineage(context, submission_id)
            return submission_id
        raise failure(submission_id, event)

    def _leave_lineage(self, context: Context, submission_id: str) -> None:
        """Leave with each asset that is new what made it: windows, line-up or data set, and the job on Ray."""
        if not self.outlets:
            return
        job = load_job(checked_document(self.document))
        name = {"dataset": job.dataset.name} if isinstance(job, IngestJob) else {"lineup": job.lineup.name}
        span = job.study if isinstance(job, ReportJob) else job
        made_by = {**name, "first": span.first.name, "last": span.last.name, "ray_submission_id": submission_id}
        for asset in self.outlets:
            context["outlet_events"][asset].extra |= made_by

    def on_kill(self) -> None:
        """The task is killed before it could defer: stop what it has submitted."""
        submission_id = self._submission_id
        if submission_id is None:
            return
        self.log.info("The task was killed: stopping Ray job %s", submission_id)
        # Called from a signal handler, perhaps while this thread runs an event loop.
        worker = threading.Thread(target=asyncio.run, args=(self._stop(submission_id),))
        worker.start()
        worker.join()

    async def _attach_or_submit(self, document: str, task_try: TaskTry, context: Context) -> RayJob:
        async with self._cluster() as jobs:
            digest = content_key(json.loads(document))
            job = await self._taken_over(jobs, task_try, digest)
            if job is None:
                job = await self._submitted(jobs, task_try, document, {DOCUMENT_DIGEST: digest}, context)
            self._submission_id = job.submission_id
            context["ti"].xcom_push(key=RAY_KEY, value=f"{jobs.address}/#/jobs/{job.submission_id}")
            return job

    async def _taken_over(self, jobs: RayJobs, task_try: TaskTry, digest: str) -> RayJob | None:
        """The job of an earlier try that this one goes on with, after those that nobody wants any more are stopped."""
        for number in task_try.earlier_generations:
            async for job in _jobs_of(jobs, task_try, number):
                await self._stop_if_active(jobs, job, "the task was cleared since")
        for number in task_try.earlier_tries:
            async for job in _jobs_of(jobs, task_try, number):
                if await self._takes_over(jobs, job, digest):
                    return job
        return None

    async def _submitted(
        self, jobs: RayJobs, task_try: TaskTry, document: str, metadata: Mapping[str, str], context: Context
    ) -> RayJob:
        """A new job under this try's name."""
        repeat = -1
        while True:
            repeat += 1
            # Known before the request is sent, so that a kill in between finds it.
            self._submission_id = task_try.submission_id(task_try.try_number, repeat)
            environment = self._job_environment(document, self._submission_id, context)
            is_new = await jobs.submit(self._submission_id, self.entrypoint, environment=environment, metadata=metadata)
            job = await jobs.get(self._submission_id)
            if job is None:
                raise RayError(f"Ray at {jobs.address} lost job {self._submission_id} at once")
            if is_new or job.active:
                self.log.info("%s Ray job %s", "Submitted" if is_new else "Found", self._submission_id)
                return job
            # It ended before this try began: the run was deleted and made again under its old name.

    async def _takes_over(self, jobs: RayJobs, job: RayJob, digest: str) -> bool:
        if job.metadata.get(DOCUMENT_DIGEST) != digest:
            await self._stop_if_active(jobs, job, "it runs another document")
            return False
        if job.active or job.status == "SUCCEEDED":
            self.log.info("Taking over Ray job %s of an earlier try; it is %s", job.submission_id, job.status)
            return True
        return False

    async def _stop_if_active(self, jobs: RayJobs, job: RayJob, reason: str) -> None:
        if job.active:
            self.log.info("Stopping Ray job %s: %s", job.submission_id, reason)
            await jobs.stop(job.submission_id)
            async with TrackingServer.of(self._connections[1]) as tracking:
                await tracking.close(job.submission_id, "KILLED")

    async def _stop(self, submission_id: str) -> None:
        async with self._cluster() as jobs:
            job = await jobs.get(submission_id)
            if job is not None:
                await self._stop_if_active(jobs, job, "the task was killed")

    def _cluster(self) -> RayJobs:
        return RayJobs.of(self._connections[0])

    def _job_environment(self, document: str, submission_id: str, context: Context) -> dict[str, str]:
        ti = context["ti"]
        tags = {"dag_id": ti.dag_id, "dag_run_id": ti.run_id, "task_id": ti.task_id, "task_try": str(ti.try_number)}
        return {
            **{name: os.environ[name] for name in FORWARDED if os.environ.get(name)},
            # A log has no terminal to ask for its width.
            "COLUMNS": "160",
            **(self.environment or {}),
            SPEC_VARIABLE: document,
            SUBMISSION_VARIABLE: submission_id,
            TAGS_VARIABLE: json.dumps(tags),
        }


def planned(name: str) -> str:
    """The template of a document that the task `plan` has written under that name.

    A template and not the task's output itself, which would draw an edge from `plan` to every other task.
    """
    return "{{ ti.xcom_pull(task_ids='plan', key='" + name + "') | tojson }}"


def checked_document(given: Any) -> str:
    """A job's document as one line of JSON that survives the way through an environment variable.

    Raises:
        BadInput: it is not a job, or too long.
    """
    text = given if isinstance(given, str) else _as_json(given)
    load_job(text)
    # Ray would fill in `$NAME` in the values of variables; in JSON a dollar can only stand inside a string.
    text = canonical_json(json.loads(text)).replace("$", "\\u0024")
    if len(text.encode()) > MAX_DOCUMENT_BYTES:
        raise BadInput(
            f"the job's document has {len(text.encode())} bytes, more than the {MAX_DOCUMENT_BYTES} that fit into an "
            "environment variable: name fewer files, with globs or {date}"
        )
    return text


def _as_json(given: Any) -> str:
    try:
        return canonical_json(given)
    except (TypeError, ValueError) as error:  # of the value in hand: nothing is read here
        raise BadInput(f"the job's document is not JSON: {error}") from None


def experiment_of(document: str) -> str | None:
    """The MLflow experiment that a job writes to: its line-up's."""
    job = load_job(document)
    return None if isinstance(job, IngestJob) else job.lineup.name


def checked_timeout(given: Any) -> timedelta:
    """Minutes, as a number or as text, as a positive length of time.

    Raises:
        BadInput: they are neither.
    """
    try:
        minutes = float(given)
    except (TypeError, ValueError):
        raise BadInput(f"timeout_minutes is a number, got {given!r}") from None
    if not 0 < minutes < float("inf"):
        raise BadInput(f"timeout_minutes is more than 0, got {given!r}")
    return timedelta(minutes=minutes)


def failure(submission_id: str, event: Mapping[str, Any]) -> Exception:
    """The error that says how a job ended."""
    last = "\n".join(event["last_lines"]) or event["message"] or "(it wrote nothing)"
    match event["outcome"], event["exit_code"]:
        case "deadline", _:
            return DeadlinePassed(
                f"Ray job {submission_id} ran past its deadline and was stopped (now {event['status']}). Steps that "
                "are done stay done: trigger again to go on, with a longer timeout_minutes if it needs one"
            )
        case "lost", _:
            return JobFailed(f"the Ray cluster no longer knows job {submission_id}: was it restarted?")
        case "unreachable", _:
            return JobFailed(f"the Ray cluster does not answer; job {submission_id} may still run, the next try looks")
        case _, code if code == REFUSED:
            return BadInput(f"Ray job {submission_id} refused its input. Its last lines:\n{last}")
    return JobFailed(f"Ray job {submission_id} is {event['status']}: {event['message']}\nIts last lines:\n{last}")


async def _jobs_of(jobs: RayJobs, task_try: TaskTry, number: int) -> AsyncIterator[RayJob]:
    """The jobs that a try has submitted, the first first."""
    repeat = 0
    while (job := await jobs.get(task_try.submission_id(number, repeat))) is not None:
        yield job
        repeat += 1


def _task_try(context: Context, retries: int | None) -> TaskTry:
    ti = context["ti"]
    return TaskTry(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        max_tries=ti.max_tries,
        retries=retries or 0,
    )
