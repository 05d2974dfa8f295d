"""Waits, deferred, for what a training job needs: its window's manifest and each variant's parent checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.errors import RETRY_DELAY, RETRY_POLICY, DeadlinePassed
from operators.operator import checked_document, checked_timeout
from pipeline.errors import BadInput
from pipeline.job import TrainJob, head_path, load_job, manifest_path
from pipeline.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_S = 20.0
Needed = dict[str, tuple[str, str]]
"""Paths in the lake, each with what it is and what to do when it is missing."""


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
        self.log.info("Waiting until %s", deadline.isoformat())
        self.log.info("%s", told(missing))
        self.defer(
            trigger=InputsTrigger(lake=lake, needed=needed, deadline=deadline.isoformat(), poll_s=self.poll_s),
            method_name="execute_complete",
            timeout=None,
        )

    def execute_complete(self, context: Context, event: dict[str, str]) -> None:
        """Go on, or fail.

        Raises:
            DeadlinePassed: something is still missing; the message names the cure.
        """
        if event["missing"]:
            raise DeadlinePassed(f"the time to wait is over.\n{event['missing']}")
        self.log.info("Everything is there")


class InputsTrigger(BaseTrigger):
    """Fires when all that is needed lies in the lake, or at the deadline with what is missing.

    Args:
        lake: the lake's root.
        needed: what to wait for.
        deadline: an aware time in ISO format.
        poll_s: seconds between two looks.
    """

    def __init__(self, lake: str, needed: Needed, deadline: str, poll_s: float) -> None:
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
        said = ""
        while True:
            missing = await asyncio.to_thread(still_missing, self.lake, self.needed)
            if not missing or datetime.now(UTC) >= deadline:
                yield TriggerEvent({"missing": told(missing)})  # type: ignore[no-untyped-call]
                return
            if said != told(missing):
                said = told(missing)
                self.log.info("%s", said)
            await asyncio.sleep(self.poll_s)


def needed_paths(document: Any) -> Needed:
    """What must lie in the lake before a training job may start.

    Raises:
        BadInput: the document is not a training job.
    """
    job = load_job(checked_document(document))
    if not isinstance(job, TrainJob):
        raise BadInput(f"only a training job has inputs to wait for, got one of kind {job.kind!r}")
    seeds, lineup, first = job.lineup.seeds, job.lineup.name, job.first
    publish = f"Run ingest_windows for line-up {lineup!r} with window_date {first}."
    needed = {
        manifest_path(dataset, first): (f"window {first} of data set {dataset!r}", publish)
        for dataset in map(job.lineup.dataset.under, seeds)
    }
    if job.start == "scratch":
        return needed
    before = first.previous()
    train = (
        f"Run online_training for window {before}; for variants that are new to the line-up, or before its first "
        f"online window, run historical_warmup over a span that ends on {before}."
    )
    for variant in job.lineup.only(job.variants):
        if variant.start is not None and variant.start >= first:
            continue  # it starts with new weights
        for seed in seeds:
            dataset = job.lineup.dataset.under(seed)
            what = f"checkpoint of {variant.name!r} (seed {seed}) that closed window {before}"
            needed[head_path(dataset, lineup, variant.name, seed, before)] = (what, train)
    return needed


def told(missing: Needed) -> str:
    """What is missing, each cure named once."""
    by_cure: dict[str, list[str]] = {}
    for what, cure in missing.values():
        by_cure.setdefault(cure, []).append(what)
    return "\n".join(f"Missing: {', '.join(what)}. {cure}" for cure, what in by_cure.items())


def still_missing(lake: str, needed: Needed) -> Needed:
    """Those of the paths that are not in the lake yet."""
    # Not when a DAG file is parsed: it brings pyarrow.
    from pipeline.lake import Lake

    opened = Lake(lake)
    return {path: named for path, named in needed.items() if opened.read(path) is None}
