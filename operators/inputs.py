"""Waits, deferred, for what a job needs: to ingest, files; to select, windows and pilots; to train, a window and checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.failures import RETRY_DELAY, RETRY_POLICY, DeadlinePassed
from operators.operator import checked_document, checked_timeout
from pipeline.spec.errors import BadInput
from pipeline.spec.job import IngestJob, OfVariants, SelectJob, TrainJob, load_job
from pipeline.spec.lineup import LogSource, SimulatedSource
from pipeline.spec.settings import Settings
from pipeline.spec.window import Window
from pipeline.storage.paths import head_path, manifest_path

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_S = 20.0
Needed = dict[str, tuple[str, str]]
"""Paths, each with what it is and what to do when it is missing."""

_SHOWN = 5


class AwaitInputs(BaseOperator):
    """Wait for the inputs of a job, up to a set time, and then fail with the cure.

    Args:
        document: the job that runs next: it ingests, selects or trains; templated.
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
            BadInput: the document is not such a job.
        """
        document = checked_document(self.document)
        lake = self.lake or Settings().lake
        if not isinstance(load_job(document), TrainJob | SelectJob | IngestJob):
            raise BadInput("only a job that ingests, selects or trains has inputs to wait for")
        try:
            missing = missing_inputs(document, lake)
        except BadInput as error:
            self.log.info(
                "Not waiting, since the log cannot be looked at from here; the job itself will say: %s", error
            )
            return
        if not missing:
            self.log.info("Everything is there")
            return
        deadline = datetime.now(UTC) + checked_timeout(self.wait_minutes)
        self.log.info("Waiting until %s", deadline.isoformat())
        self.log.info("%s", missing_lines(missing))
        self.defer(
            trigger=InputsTrigger(lake=lake, document=document, deadline=deadline.isoformat(), poll_s=self.poll_s),
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
    """Fires when all that a job needs is there, or at the deadline with what is missing.

    Args:
        lake: the lake's root.
        document: the job.
        deadline: an aware time in ISO format.
        poll_s: seconds between two looks.
    """

    def __init__(self, lake: str, document: str, deadline: str, poll_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lake = lake
        self.document = document
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer needs to go on."""
        return f"{__name__}.InputsTrigger", {
            "lake": self.lake,
            "document": self.document,
            "deadline": self.deadline,
            "poll_s": self.poll_s,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sleep, look again."""
        deadline = datetime.fromisoformat(self.deadline)
        said = ""
        while True:
            missing = await asyncio.to_thread(self._look)
            if not missing or datetime.now(UTC) >= deadline:
                yield TriggerEvent({"missing": missing_lines(missing)})  # type: ignore[no-untyped-call]
                return
            if said != missing_lines(missing):
                said = missing_lines(missing)
                self.log.info("%s", said)
            await asyncio.sleep(self.poll_s)

    def _look(self) -> Needed:
        try:
            return missing_inputs(self.document, self.lake)
        except BadInput as error:  # a bucket that does not answer for a while
            return {"": (str(error), "Waiting for it to answer.")}


def missing_inputs(document: str, lake: str) -> Needed:
    """What a job needs and is not there yet.

    Raises:
        BadInput: the document is of no job that ingests, selects or trains; or the log cannot be looked at.
    """
    job = load_job(document)
    if isinstance(job, IngestJob):
        return missing_files(job.dataset.source, list(Window.span(job.first, job.last)))
    missing = still_missing(lake, needed_paths(document))
    if isinstance(job, TrainJob | SelectJob):
        source, windows = job.lineup.dataset.source, {manifest_path(name, job.first) for name in _names(job)}
        with suppress(BadInput):  # then only the window is named
            if missing.keys() & windows and (files := missing_files(source, [job.first])):
                needs = ", ".join(what for what, _ in files.values())
                missing |= {p: (f"{missing[p][0]} (it needs {needs})", missing[p][1]) for p in windows & missing.keys()}
    return missing


def _names(job: OfVariants) -> list[str]:
    return list(job.lineup.dataset.names(job.lineup.seeds))


def missing_files(source: LogSource | SimulatedSource, windows: list[Window]) -> Needed:
    """What of a log windows need and is not there yet; nothing where only the job can know.

    Raises:
        BadInput: the log cannot be looked at.
    """
    if not isinstance(source, LogSource) or not source.is_dated:
        return {}
    # Not when a DAG file is parsed: it brings pyarrow.
    from pipeline.data.dated import DatedLog
    from pipeline.spec.schema import Schema

    try:
        dated = DatedLog(source, Schema.load(source.schema_file))
    except BadInput:  # a variable that only the workers have, a schema on their disk
        return {}
    if not dated.is_in_sight():
        return {}
    files = dated.missing(windows)
    span = f"{windows[0]}" if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
    cure = f"Window {span} needs it: wait until it is written, or see whether the line-up names the right path."
    missing = {file: (f"file {file}", cure) for file in files[:_SHOWN]}
    if len(files) > _SHOWN:
        missing["more"] = (f"{len(files) - _SHOWN} more files", cure)
    if dated.has_times and (end := dated.end(windows[-1])) > datetime.now(UTC):
        missing["end"] = (f"the end of window {windows[-1]} at {end.isoformat()}", "Its day is not over.")
    return missing


def needed_paths(document: Any) -> Needed:
    """What must lie in the lake before a job that selects or trains may start.

    Raises:
        BadInput: the document is of no such job.
    """
    job = load_job(checked_document(document))
    if isinstance(job, SelectJob):
        return {path: named for window in Window.span(job.first, job.last) for path, named in _selected(job, window)}
    if not isinstance(job, TrainJob):
        raise BadInput(
            f"only a job that ingests, selects or trains has inputs to wait for, got one of kind {job.kind!r}"
        )
    seeds, lineup, first = job.lineup.seeds, job.lineup.name, job.first
    needed = dict(_published(job, first))
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


def _published(job: OfVariants, window: Window) -> Iterator[tuple[str, tuple[str, str]]]:
    """A window in every data set of a job."""
    cure = f"Run ingest_windows for line-up {job.lineup.name!r} with window_date {window}."
    for dataset in _names(job):
        yield manifest_path(dataset, window), (f"window {window} of data set {dataset!r}", cure)


def _selected(job: SelectJob, window: Window) -> Iterator[tuple[str, tuple[str, str]]]:
    """A window, and the steps on it of the pilots that policies ask."""
    yield from _published(job, window)
    for variant in job.chosen:
        for seed in job.lineup.seeds if variant.start is None or variant.start <= window else ():
            for read in job.lineup.pilot_reads(variant, window, seed).values():
                what = f"what {read.source!r} (seed {seed}) says of window {window}"
                cure = (
                    f"Train {read.source!r} on it: run online_training for window {window}, or historical_warmup over a span that "
                    "ends there."
                )
                yield (
                    head_path(job.lineup.dataset.under(seed), job.lineup.name, read.source, seed, window),
                    (what, cure),
                )


def missing_lines(missing: Needed) -> str:
    """What is missing, each cure named once."""
    by_cure: dict[str, list[str]] = {}
    for what, cure in missing.values():
        by_cure.setdefault(cure, []).append(what)
    return "\n".join(f"Missing: {', '.join(what)}. {cure}" for cure, what in by_cure.items())


def still_missing(lake: str, needed: Needed) -> Needed:
    """Those of the paths that are not in the lake yet."""
    # Not when a DAG file is parsed: it brings pyarrow.
    from pipeline.storage.lake import Lake

    opened = Lake(lake)
    return {path: named for path, named in needed.items() if opened.read(path) is None}
