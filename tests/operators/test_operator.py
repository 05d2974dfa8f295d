"""The operator submits each piece of work once, whatever became of the try before."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import TaskDeferred

from operators.client import RayError
from operators.failures import RETRY_POLICY, BadInput, DeadlinePassed, JobFailed
from operators.operator import MAX_DOCUMENT_BYTES, RayJobOperator, checked_document, checked_timeout, failure
from operators.submission import TaskTry
from operators.trigger import RayJobTrigger
from pipeline.spec.job import load_job
from tests.operators.fakes import FakeMlflow, FakeRay

DOCUMENT = {
    "kind": "ingest",
    "dataset": {"name": "d", "source": {"kind": "log", "schema_file": "s", "files": ["$LOGS/{date}.csv"]}},
    "first": "2024-01-01",
    "last": "2024-01-02",
}


def a_try(try_number: int, max_tries: int = 2) -> TaskTry:
    place: dict[str, Any] = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": -1}
    return TaskTry(**place, try_number=try_number, max_tries=max_tries, retries=2)


def execute(try_number: int = 1, max_tries: int = 2, document: Any = DOCUMENT) -> RayJobTrigger:
    """What the task defers to in that try."""
    operator = RayJobOperator(task_id="task", document=document, timeout_minutes="30")
    ti = SimpleNamespace(
        dag_id="dag",
        run_id="run",
        task_id="task",
        map_index=-1,
        try_number=try_number,
        max_tries=max_tries,
        xcom_push=lambda key, value: None,
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    trigger = deferred.value.trigger
    assert isinstance(trigger, RayJobTrigger)
    return trigger


async def executed(**how: Any) -> RayJobTrigger:
    """The operator brings its own event loop, so it needs a thread of its own beside the fakes."""
    return await asyncio.to_thread(execute, **how)


def test_an_asset_says_what_made_it() -> None:
    windows = Asset(name="windows", uri="windrow://lake/windows")
    operator = RayJobOperator(task_id="task", document=DOCUMENT, outlets=[windows])
    events = {windows: SimpleNamespace(extra={})}
    ended = {"submission_id": "a", "outcome": "ended", "status": "SUCCEEDED"}
    assert operator.execute_complete({"outlet_events": events}, ended) == "a"  # type: ignore[typeddict-item]
    assert events[windows].extra == {
        "dataset": "d",
        "first": "2024-01-01",
        "last": "2024-01-02",
        "ray_submission_id": "a",
    }


@pytest.mark.usefixtures("connections")
class TestSubmission:
    async def test_a_retry_takes_over_the_job_that_still_runs(self, ray: FakeRay) -> None:
        first = await executed()
        assert (await executed(try_number=2)).submission_id == first.submission_id
        assert ray.num_submits == 1

    async def test_a_retry_takes_over_the_job_that_has_succeeded(self, ray: FakeRay) -> None:
        first = await executed()
        ray.jobs[first.submission_id]["status"] = "SUCCEEDED"
        assert (await executed(try_number=2)).submission_id == first.submission_id
        assert ray.num_submits == 1

    async def test_a_retry_after_a_failed_job_submits_another(self, ray: FakeRay) -> None:
        first = await executed()
        ray.jobs[first.submission_id]["status"] = "FAILED"
        assert (await executed(try_number=2)).submission_id != first.submission_id
        assert ray.num_submits == 2

    async def test_a_retry_with_another_document_stops_the_job_and_submits_its_own(self, ray: FakeRay) -> None:
        first = await executed()
        second = await executed(try_number=2, document={**DOCUMENT, "last": "2024-01-03"})
        assert ray.jobs[first.submission_id]["status"] == "STOPPED"
        assert ray.jobs[second.submission_id]["status"] == "RUNNING"

    async def test_a_cleared_task_stops_the_job_of_before_and_closes_its_runs(
        self, ray: FakeRay, mlflow: FakeMlflow
    ) -> None:
        first = await executed()
        run = mlflow.add(first.submission_id, "stage")
        second = await executed(try_number=2, max_tries=3)
        assert ray.jobs[first.submission_id]["status"] == "STOPPED"
        assert mlflow.status(run) == "KILLED"
        assert ray.jobs[second.submission_id]["status"] == "RUNNING"

    async def test_a_submission_whose_answer_got_lost_is_not_repeated(self, ray: FakeRay) -> None:
        ray.lose_next_answer = True
        trigger = await executed()
        assert ray.num_submits == 1
        assert ray.jobs[trigger.submission_id]["status"] == "RUNNING"

    async def test_a_run_made_again_under_its_old_name_gets_a_job_of_its_own(self, ray: FakeRay) -> None:
        first = await executed()
        ray.jobs[first.submission_id]["status"] = "SUCCEEDED"
        again = await executed()
        assert again.submission_id != first.submission_id
        assert ray.num_submits == 2

    async def test_taking_a_job_over_gives_it_no_more_time(self, ray: FakeRay) -> None:
        first = await executed()
        await asyncio.sleep(0.05)
        assert (await executed(try_number=2)).deadline == first.deadline

    async def test_the_job_finds_its_document_untouched_and_knows_who_it_is(self, ray: FakeRay) -> None:
        trigger = await executed()
        environment = ray.jobs[trigger.submission_id]["runtime_env"]["env_vars"]
        assert json.loads(environment["WINDROW_SPEC"])["dataset"]["source"]["files"] == ["$LOGS/{date}.csv"]
        assert "$" not in environment["WINDROW_SPEC"], "Ray would fill in what it takes for a variable"
        assert load_job(environment["WINDROW_SPEC"]) == load_job(json.dumps(DOCUMENT))
        assert environment["WINDROW_SUBMISSION_ID"] == trigger.submission_id
        tags = {"dag_id": "dag", "dag_run_id": "run", "task_id": "task", "task_try": "1"}
        assert json.loads(environment["WINDROW_TAGS"]) == tags


@pytest.mark.parametrize(("try_number", "max_tries"), [(1, 2), (2, 2), (3, 2), (3, 4), (4, 4), (7, 8)])
def test_every_earlier_try_is_of_this_generation_or_of_an_earlier_one(try_number: int, max_tries: int) -> None:
    one = a_try(try_number, max_tries)
    assert sorted([*one.earlier_tries, *one.earlier_generations]) == list(range(1, try_number))


def test_mapped_tasks_and_runs_never_share_a_submission() -> None:
    places = [
        {"dag_id": dag, "run_id": run, "task_id": task, "map_index": index}
        for dag in ("a", "a-b")
        for run in ("r1", "r2")
        for task in ("b-c", "c")
        for index in (-1, 0, 1)
    ]
    tries = [TaskTry(**place, try_number=1, max_tries=2, retries=2) for place in places]  # type: ignore[arg-type]
    assert len({one.submission_id(1) for one in tries}) == len(places)


@pytest.mark.parametrize(
    "document",
    ["not json", {"kind": "bake"}, {**DOCUMENT, "flour": 1}, {**DOCUMENT, "first": "yesterday"}, None, {"x": {1, 2}}],
)
def test_what_is_not_a_job_is_refused_before_anything_is_submitted(document: Any) -> None:
    with pytest.raises(BadInput):
        checked_document(document)


def test_a_document_too_long_for_the_environment_is_refused_with_the_cure() -> None:
    source = {"kind": "log", "schema_file": "s", "files": ["x" * MAX_DOCUMENT_BYTES]}
    with pytest.raises(BadInput, match="globs"):
        checked_document({**DOCUMENT, "dataset": {"name": "d", "source": source}})


@pytest.mark.parametrize("given", ["", "soon", None, 0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_length_of_time_is_refused(given: Any) -> None:
    with pytest.raises(BadInput):
        checked_timeout(given)


def ended(**changes: Any) -> dict[str, Any]:
    event = {"outcome": "ended", "status": "FAILED", "exit_code": 1, "message": "", "last_lines": ["the last words"]}
    return event | changes


@pytest.mark.parametrize(
    ("event", "error", "action"),
    [
        (ended(), JobFailed, RetryAction.RETRY),
        (ended(exit_code=2), BadInput, RetryAction.FAIL),
        (ended(status="STOPPED", exit_code=None), JobFailed, RetryAction.RETRY),
        (ended(outcome="lost"), JobFailed, RetryAction.RETRY),
        (ended(outcome="unreachable"), JobFailed, RetryAction.RETRY),
        (ended(outcome="deadline", status="STOPPED"), DeadlinePassed, RetryAction.FAIL),
    ],
)
def test_only_what_another_try_may_mend_is_tried_again(
    event: dict[str, Any], error: type[Exception], action: RetryAction
) -> None:
    raised = failure("id", event)
    assert type(raised) is error
    assert RETRY_POLICY.evaluate(raised, 1, 2).action == action


def test_a_refused_job_is_quoted() -> None:
    assert "the last words" in str(failure("id", ended(exit_code=2)))


def test_an_unreachable_cluster_is_tried_again() -> None:
    assert RETRY_POLICY.evaluate(RayError("no answer"), 1, 2).action == RetryAction.RETRY
