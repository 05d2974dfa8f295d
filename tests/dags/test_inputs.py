"""What a job waits for: a window in every data set that it trains on, and parents of the chains that have one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operators.inputs import AwaitInputs, InputsTrigger, missing_inputs, missing_lines, needed_paths
from pipeline.spec.config import Variant
from pipeline.spec.job import IngestJob, SelectJob, TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, LogSource, SimulatedSource
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.paths import head_path, manifest_path

DAY = Window.of("2024-01-05")


def test_a_chain_that_starts_today_needs_no_parent_and_each_seed_has_its_data() -> None:
    starts = {"long": None, "running": DAY.previous(), "today": DAY, "later": DAY.next()}
    lineup = LineUp(
        name="mine",
        dataset=DatasetConfig(name="sim", source=SimulatedSource(origin=DAY, per_seed=True)),
        variants=tuple(Variant(name=name, start=start) for name, start in starts.items()),
        reference="long",
        online_start=DAY,
        seeds=(0, 7),
    )
    job = TrainJob(lineup=lineup, first=DAY, last=DAY, start="parent")
    expected = {manifest_path(f"sim-seed{seed}", DAY) for seed in (0, 7)} | {
        head_path(f"sim-seed{seed}", "mine", name, seed, DAY.previous())
        for seed in (0, 7)
        for name in ("long", "running")
    }
    assert set(needed_paths(job.model_dump(mode="json"))) == expected


def test_a_job_that_selects_needs_its_windows_and_the_pilots_that_its_policies_ask() -> None:
    variants = (
        {"name": "plain"},
        {"name": "few", "selection": {"kind": "uniform", "rate": 0.5}},
        {"name": "told", "selection": {"kind": "distilled", "rate": 0.5, "pilot": "plain"}, "start": DAY.next()},
    )
    lineup = LineUp(
        name="mine",
        dataset=DatasetConfig(name="sim", source=SimulatedSource(origin=DAY)),
        variants=tuple(map(Variant.model_validate, variants)),
        reference="plain",
        online_start=DAY,
    )
    needed = needed_paths(SelectJob(lineup=lineup, first=DAY, last=DAY.next()).model_dump(mode="json"))
    assert set(needed) == {
        manifest_path("sim", DAY),
        manifest_path("sim", DAY.next()),
        head_path("sim", "mine", "plain", 0, DAY.next()),
    }
    lines = missing_lines(needed)
    assert "Missing: what 'plain' (seed 0) says of window 2024-01-06. Train 'plain' on it: run online_training" in lines
    few = SelectJob(lineup=lineup, variants=("few",), first=DAY, last=DAY)
    assert set(needed_paths(few.model_dump(mode="json"))) == {manifest_path("sim", DAY)}


SCHEMA = """
label: click
event_time: {column: at, zone: Europe/Berlin}
categorical: [{name: item, hash_size: 100}]
"""


def log(folder: Path, files: str = "{date}.csv", **options: Any) -> DatasetConfig:
    """A log whose files are cut at midnight in Berlin."""
    (folder / "schema.yaml").write_text(SCHEMA)
    source = LogSource(schema_file=str(folder / "schema.yaml"), files=(f"{folder}/{files}",), **options)
    return DatasetConfig(name="log", source=source)


def ingest(dataset: DatasetConfig, first: Window = DAY, last: Window = DAY) -> str:
    return IngestJob(dataset=dataset, first=first, last=last).model_dump_json()


def test_an_ingest_waits_for_every_file_that_can_hold_its_rows(tmp_path: Path) -> None:
    document = ingest(log(tmp_path))
    (tmp_path / f"{DAY}.csv").touch()
    missing = missing_inputs(document, str(tmp_path))
    assert missing_lines(missing).startswith(
        f"Missing: file {tmp_path}/2024-01-06.csv. Window 2024-01-05 needs it: wait until"
    )
    (tmp_path / "2024-01-06.csv").touch()
    assert missing_inputs(document, str(tmp_path)) == {}
    many = missing_lines(missing_inputs(ingest(log(tmp_path), DAY.next(), DAY.shift(20)), str(tmp_path)))
    assert "2024-01-11.csv, 15 more files. Window 2024-01-06 to 2024-01-25 needs it" in many


def test_an_ingest_waits_for_the_end_of_its_day(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    today = Window.of(datetime.now(UTC))
    for window in (today, today.next(), today.shift(2)):
        (tmp_path / f"{window}.csv").touch()
    assert f"the end of window {today.next()} at " in missing_lines(
        missing_inputs(ingest(log(tmp_path), today, today.next()), "")
    )


def test_what_cannot_be_known_from_here_is_left_to_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    simulated = DatasetConfig(name="sim", source=SimulatedSource(origin=DAY))
    unset = DatasetConfig(name="log", source=LogSource(schema_file="upworthy", files=("$NO_SUCH_FOLDER/{date}.csv",)))
    for dataset in (log(tmp_path, "elsewhere/{date}.csv"), log(tmp_path, "log.csv"), unset, simulated):
        assert missing_inputs(ingest(dataset), str(tmp_path)) == {}
    unknown = DatasetConfig(name="log", source=LogSource(schema_file="upworthy", files=("nowhere://x/{date}.csv",)))
    AwaitInputs(task_id="x", document=ingest(unknown), wait_minutes=1, lake=str(tmp_path)).execute({})  # type: ignore[typeddict-item]


def test_a_missing_window_names_the_file_that_it_waits_for(tmp_path: Path) -> None:
    line_up = LineUp(name="mine", dataset=log(tmp_path), variants=(Variant(name="a"),), reference="a", online_start=DAY)
    document = TrainJob(lineup=line_up, first=DAY, last=DAY, start="parent").model_dump_json()
    said = missing_lines(missing_inputs(document, str(tmp_path / "lake")))
    files = f"file {tmp_path}/2024-01-05.csv, file {tmp_path}/2024-01-06.csv"
    assert f"Missing: window 2024-01-05 of data set 'log' (it needs {files}). Run ingest_windows" in said
    Lake(str(tmp_path / "lake")).create(manifest_path("log", DAY), {})
    assert ".csv" not in missing_lines(missing_inputs(document, str(tmp_path / "lake")))


async def test_the_trigger_fires_once_the_file_is_there_and_at_its_deadline(tmp_path: Path) -> None:
    document = ingest(log(tmp_path))
    (tmp_path / f"{DAY}.csv").touch()
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    trigger = InputsTrigger(str(tmp_path), document, soon, poll_s=0.01)
    path, arguments = trigger.serialize()
    assert path == "operators.inputs.InputsTrigger"
    firing = asyncio.ensure_future(anext(InputsTrigger(**arguments).run()))
    await asyncio.sleep(0.2)
    assert not firing.done()
    (tmp_path / "2024-01-06.csv").touch()
    assert (await firing).payload == {"missing": ""}
    (tmp_path / f"{DAY}.csv").unlink()
    late = InputsTrigger(str(tmp_path), document, datetime.now(UTC).isoformat(), poll_s=0.01)
    assert "2024-01-05.csv" in (await anext(late.run())).payload["missing"]
