"""The trigger reports the end of a job as the cluster's status has it, copies the whole log once, and stops what it must."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operators.client import RayError, RayJobs
from operators.open_runs import TrackingServer
from operators.trigger import RayJobTrigger
from pipeline.spec.job import GAP_VIEW, MODEL_TRAINING
from tests.operators.fakes import FakeMlflow, FakeRay

pytestmark = pytest.mark.usefixtures("connections")


def trigger(deadline_s: float = 60.0) -> RayJobTrigger:
    deadline = (datetime.now(UTC) + timedelta(seconds=deadline_s)).isoformat()
    return RayJobTrigger("job", deadline, "windrow_ray", "windrow_mlflow", poll_s=0.05)


async def fired(running: RayJobTrigger) -> dict[str, Any]:
    """The payload of its one event."""
    events = [event.payload async for event in running.run()]
    assert len(events) == 1
    payload: dict[str, Any] = events[0]
    return payload


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that reach the task's log."""
    lines: list[str] = []
    monkeypatch.setattr(RayJobTrigger, "_say", lambda _self, line: lines.append(line))
    return lines


async def test_the_log_arrives_while_the_job_runs_each_line_once_and_whole(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(monkeypatch)
    ray.add("job", "RUNNING")
    ray.log = "one\n\x1b[36mtw"
    waiting = asyncio.create_task(fired(trigger()))
    await asyncio.sleep(0.3)
    assert "one" in lines
    assert "tw" not in lines
    ray.log = "one\n\x1b[36mtwo\x1b[0m\nthree"
    ray.jobs["job"] |= {"status": "SUCCEEDED", "driver_exit_code": 0}
    event = await waiting
    assert [line for line in lines if line in {"one", "tw", "two", "three"}] == ["one", "two", "three"]
    assert event["status"] == "SUCCEEDED"


async def test_a_job_past_its_deadline_is_stopped_before_the_event(ray: FakeRay, mlflow: FakeMlflow) -> None:
    ray.add("job", "RUNNING")
    run = mlflow.add("job", "stage")
    event = await fired(trigger(deadline_s=0.2))
    assert (event["outcome"], event["status"]) == ("deadline", "STOPPED")
    assert mlflow.status(run) == "KILLED"


async def test_a_failed_job_leaves_no_run_open(ray: FakeRay, mlflow: FakeMlflow) -> None:
    ray.add("job", "FAILED", driver_exit_code=137, message="killed")
    run = mlflow.add("job", "stage")
    event = await fired(trigger())
    assert event["exit_code"] == 137
    assert mlflow.status(run) == "FAILED"


async def test_a_job_that_the_cluster_forgot_is_lost(ray: FakeRay) -> None:
    assert (await fired(trigger()))["outcome"] == "lost"


async def test_a_kill_stops_the_job_even_where_the_first_request_does_nothing(
    ray: FakeRay, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operators.client.STOP_AGAIN_S", 0.2)
    ray.add("job", "PENDING")
    ray.ignored_stops = 2
    run = mlflow.add("job", "stage")
    await trigger().on_kill()
    assert ray.jobs["job"]["status"] == "STOPPED"
    assert mlflow.status(run) == "KILLED"


async def test_a_kill_is_carried_out_although_airflow_cancels_it_again(ray: FakeRay, mlflow: FakeMlflow) -> None:
    ray.add("job", "RUNNING")
    run = mlflow.add("job", "stage")
    killing = asyncio.create_task(trigger().on_kill())
    await asyncio.sleep(0)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    for _ in range(100):
        await asyncio.sleep(0.05)
        if mlflow.status(run) == "KILLED":
            break
    assert ray.jobs["job"]["status"] == "STOPPED"
    assert mlflow.status(run) == "KILLED"


async def test_a_triggerer_that_ends_leaves_the_job_alone(ray: FakeRay) -> None:
    ray.add("job", "RUNNING")
    waiting = asyncio.create_task(fired(trigger()))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ray.jobs["job"]["status"] == "RUNNING"


async def test_the_link_leads_to_the_run_that_tells_most(ray: FakeRay, mlflow: FakeMlflow) -> None:
    async with TrackingServer(mlflow.url) as tracking:

        async def run() -> str:
            pages = await tracking.pages("job")
            assert pages is not None
            for each in (pages.run, pages.curves):
                assert each.endswith(MODEL_TRAINING), "not where language models are shown"
            return pages.run.removeprefix(f"{mlflow.url}/#/experiments/7/").removesuffix(f"?{MODEL_TRAINING}")

        assert await tracking.pages("job") is None
        done = await tracking.pages("job", "all of it was done before")
        assert done is not None
        assert done.run == f"{mlflow.url}/#/experiments/7?{MODEL_TRAINING}"
        stage = mlflow.add("job", "stage")
        assert await run() == f"runs/{stage}"
        variant = mlflow.add("job", "variant")
        assert await run() == f"runs/{variant}"
        mlflow.add("job", "variant")
        assert (await run()).startswith("runs?searchFilter=")
        pages = await tracking.pages("job")
        assert pages is not None
        assert "%27variant%27" in pages.curves
        comparison = mlflow.add("job", "comparison")
        assert await run() == f"runs/{comparison}"
        mlflow.add("job", "summary")
        pages = await tracking.pages("job")
        assert pages is not None
        assert f"viewStateShareKey={GAP_VIEW}&" in pages.curves, "straight to the chart of the gaps"
        mlflow.add("reporting", "report")
        pages = await tracking.pages("reporting")
        assert pages is not None
        assert f"viewStateShareKey={GAP_VIEW}&" in pages.curves, "a report comes after the comparison"


async def test_closing_runs_touches_no_other_submission(mlflow: FakeMlflow) -> None:
    other, done = mlflow.add("other", "stage"), mlflow.add("job", "stage", "FINISHED")
    async with TrackingServer(mlflow.url) as tracking:
        assert await tracking.close("job", "KILLED") == []
    assert (mlflow.status(other), mlflow.status(done)) == ("RUNNING", "FINISHED")


async def test_a_refused_token_is_not_taken_for_an_unknown_job(ray: FakeRay) -> None:
    async with RayJobs(ray.url, "token") as jobs:
        assert await jobs.get("nobody") is None
        assert await jobs.stop("nobody") is None
    async with RayJobs(ray.url, "guess") as jobs:
        with pytest.raises(RayError, match="401"):
            await jobs.get("nobody")
