"""Waits, deferred, for what a training job needs: its window's manifest and each variant's parent checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.errors import RETRY_DELAY, RETRY_POLICY, BadInput, DeadlinePassed
from operators.operator import checked_document, checked_timeout
from pipeline.job import TrainJob, head_path, load_job, manifest_path
from pipeline.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_S = 20.0


class AwaitInputs(BaseOperator):
    """Wait for the inputs of a training job, up to a set time, and then fail with the cure.

    Args:
        document: the training job that shall run next; templated.
        wait_minutes: how long to wait; templated.
        lake: the lake's root; the settings' when not given.
        poll_s: seconds between two looks.
    """

    template_fields: Sequence[str] = ("document", "wait_minutes")
    template_fields_renderers: ClassVar[dict[str, str]] = {"document": "json"}
    ui_color = "#f3efd9"

    def __init__(
        self, *, document: Any, wait_minutes: Any, lake: str | None = None, poll_s: float = POLL_S, **kwargs: Any
    ) -> None:
        kwargs.setdefault("retry_policy", RETRY_POLICY)
        kwargs.setdefault("retries", 2)
        kwargs.setdefault("retry_delay", RETRY_DELAY)
        super().__init__(**kwargs)
        self.document = document
        self.wait_minutes = wait_minutes
        self.lake = lake
        self.poll_s = poll_s

    def execute(self, context: Context) -> None:
        """Look once, and defer if something is missing.

        Raises:
            BadInput: the document is not a training job.
        """
        needed = needed_paths(self.document)
        lake = self.lake or Settings().lake
        missing = still_missing(lake, needed)
        if not missing:
            self.log.info("Everything is there: %s", ", ".join(needed))
            return
        deadline = datetime.now(UTC) + checked_timeout(self.wait_minutes)
        self.log.info("Waiting until %s for:\n%s", deadline.isoformat(), "\n".join(missing.values()))
        self.defer(
            trigger=InputsTrigger(lake=lake, needed=needed, deadline=deadline.isoformat(), poll_s=self.poll_s),
            method_name="execute_complete",
            timeout=None,
        )

    def execute_complete(self, context: Context, event: dict[str, list[str]]) -> None:
        """Go on, or fail.

        Raises:
            DeadlinePassed: something is still missing; the message names the cure.
        """
        if event["missing"]:
            raise DeadlinePassed("the time to wait is over. " + " ".join(event["missing"]))
        self.log.info("Everything is there")


class InputsTrigger(BaseTrigger):
    """Fires when all that is needed lies in the lake, or at the deadline with what is missing.

    Args:
        lake: the lake's root.
        needed: paths in the lake, each with the sentence that says what to do when it is missing.
        deadline: an aware time in ISO format.
        poll_s: seconds between two looks.
    """

    def __init__(self, lake: str, needed: dict[str, str], deadline: str, poll_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lake = lake
        self.needed = needed
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer needs to go on."""
        return f"{__name__}.InputsTrigger", {
            "lake": self.lake,
            "needed": self.needed,
            "deadline": self.deadline,
            "poll_s": self.poll_s,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sleep, look again."""
        deadline = datetime.fromisoformat(self.deadline)
        told: set[str] = set()
        while True:
            missing = await asyncio.to_thread(still_missing, self.lake, self.needed)
            if not missing or datetime.now(UTC) >= deadline:
                yield TriggerEvent({"missing": list(missing.values())})  # type: ignore[no-untyped-call]
                return
            if told != set(missing):
                told = set(missing)
                self.log.info("Still missing: %s", ", ".join(missing))
            await asyncio.sleep(self.poll_s)


def needed_paths(document: Any) -> dict[str, str]:
    """What must lie in the lake before a training job may start, each with its cure.

    Raises:
        BadInput: the document is not a training job.
    """
    job = load_job(checked_document(document))
    if not isinstance(job, TrainJob):
        raise BadInput(f"only a training job has inputs to wait for, got one of kind {job.kind!r}")
    dataset, lineup, first = job.lineup.dataset.name, job.lineup.name, job.first
    needed = {
        manifest_path(dataset, first): f"Window {first} of data set {dataset!r} is not published: run ingest_windows "
        f"for line-up {lineup!r} with window_date {first}."
    }
    if job.start == "scratch":
        return needed
    before = first.previous()
    for variant in job.lineup.only(job.variants):
        for seed in job.lineup.seeds:
            needed[head_path(dataset, lineup, variant.name, seed, before)] = (
                f"Variant {variant.name!r} (seed {seed}) has no checkpoint that closed window {before}: run "
                f"online_training for window {before}, or, where the variant is new, historical_warmup for it over a "
                f"span that ends on {before}."
            )
    return needed


def still_missing(lake: str, needed: dict[str, str]) -> dict[str, str]:
    """Those of the paths that are not in the lake yet."""
    # Not when a DAG file is parsed: it brings pyarrow.
    from pipeline.lake import Lake

    opened = Lake(lake)
    return {path: cure for path, cure in needed.items() if opened.read(path) is None}
