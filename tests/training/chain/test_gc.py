"""`windrow gc`: what nothing names goes, and what a manifest names never does, whatever lies around it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.dataset import WindowWriter, require_whole
from pipeline.data.simulator import Simulator
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake, _encode
from pipeline.training.upkeep.gc import Leftover, leftovers, sweep
from tests.object_lake import ObjectLake
from tests.trained import DATASET, DAY, lineup, listing, publish, train, windows

HOUR = timedelta(hours=1)
DAYS = timedelta(days=1)
SIMULATOR = Simulator(SimulatorConfig.tiny(rows_per_window=300, num_lists=1, cluster=True))


@pytest.fixture(params=["local", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A lake of either kind."""
    return Lake(str(tmp_path / "lake")) if request.param == "local" else ObjectLake()


def contents(lake: Lake) -> set[str]:
    return {file.path for top in ("windows", "steps", "jobs", "ray-train") for file in lake.files_below(top)}


def but_locks(lake: Lake, older_than: timedelta = HOUR, now: datetime | None = None) -> list[Leftover]:
    return [each for each in leftovers(lake, older_than, now) if each.kind != "lock"]


def in_two_days() -> datetime:
    return datetime.now(UTC) + 2 * DAYS


def test_a_lake_without_leftovers_keeps_all(lake: Lake) -> None:
    publish(lake, windows(2))
    train(lake, lineup(), 2)
    assert but_locks(lake, HOUR, in_two_days()) == []


def test_what_was_replaced_or_given_up_goes_and_the_rest_trains_on(lake: Lake) -> None:
    old = publish(lake, windows(2))
    train(lake, lineup(), 1)
    publish(lake, [DAY], seed=7)
    train(lake, lineup(), 1, force=True)
    lake.put_bytes("steps/sim/0123456789abcdef/gen-dead/checkpoint/x", b"12345")
    lake.put_bytes("ray-train/run-1/checkpoint_manager.json", b"{}")
    before = contents(lake)
    assert but_locks(lake, timedelta(hours=24)) == [], "all of it is young"
    found = but_locks(lake, timedelta(hours=24), in_two_days())
    assert contents(lake) == before, "nothing goes by being listed"
    assert {each.kind for each in found} == {"window files", "step files", "Ray Train record"}
    assert old[0].prefix in {each.path for each in found}
    (dead,) = (each for each in found if "gen-dead" in each.path)
    assert (dead.num_files, dead.num_bytes) == (1, 5)
    assert sweep(lake, found) == found
    assert but_locks(lake, timedelta(hours=24), in_two_days()) == []
    gone = before - contents(lake)
    assert gone == {path for path in before if any(path.startswith(f"{each.path}/") for each in found)}
    assert len(train(lake, lineup(), 2)) == 2


def test_a_running_writers_files_stay_and_what_it_publishes_meanwhile_too(lake: Lake) -> None:
    publish(lake, windows(1))
    with WindowWriter(lake, DATASET, DAY, SIMULATOR.schema, row_group_size=50, part_rows=100) as writer:
        for batch in SIMULATOR.window(DAY):
            writer.write(batch)
        writer._flush(keep=0)
        writer._parts.finish()
        assert any(writer.prefix in path for path in contents(lake))
        assert but_locks(lake, HOUR) == [], "its files are young"
        listed = but_locks(lake, HOUR, in_two_days())
        assert writer.prefix in {each.path for each in listed}
        manifest = writer.publish([], {}, force=True)
    swept = sweep(lake, listed)
    assert manifest.prefix not in {each.path for each in swept}, "looked at once more before it goes"
    require_whole(lake, manifest)


def test_a_generation_that_was_replaced_just_now_stays_for_who_reads_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (old,) = publish(lake, windows(1))
    for path in (lake.root / old.prefix).rglob("*"):
        os.utime(path, (1, 1))
    publish(lake, windows(1), seed=7)
    assert but_locks(lake, HOUR) == []
    assert [each.path for each in but_locks(lake, HOUR, in_two_days())] == [old.prefix]


def test_results_stay_a_week_and_locks_while_they_are_held(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.create("jobs/one.json", {"kind": "train"})
    lake.replace("windows/a.json", {}, None)
    assert leftovers(lake, HOUR) == []
    assert [each.kind for each in leftovers(lake, HOUR, in_two_days())] == ["lock"]
    later = in_two_days() + 7 * DAYS
    assert [each.kind for each in leftovers(lake, HOUR, later)] == ["lock", "job result"]
    (lock,) = (lake.root / ".locks").iterdir()
    with FileLock(lock):
        assert [each.kind for each in sweep(lake, leftovers(lake, HOUR, later))] == ["job result"]
        assert lock.exists()
    assert [each.kind for each in sweep(lake, leftovers(lake, HOUR, later))] == ["lock"]
    assert not lock.exists()
    lake.replace("windows/a.json", {"b": 1}, {})


NOW = datetime(2024, 6, 1, tzinfo=UTC)
HOME = ("windows/sim/window=2024-01-01", "windows/sim/window=2024-01-02", "steps/sim/00aa", "steps/other/00aa")
NAMES = ("gen-1", "gen-2", "gen-12", "gen-a.b")
GENERATION = st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.booleans())
MANIFEST = st.sampled_from(["none", "old", "young", "broken", "no generation", "no object"])
PLACE = st.tuples(st.sampled_from(HOME), st.lists(GENERATION, unique_by=lambda g: g[0]), MANIFEST, st.integers(0, 3))


def lay(lake: Lake, path: str, content: str, *, old: bool) -> str:
    place = lake.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    when = (NOW - (2 * DAYS if old else HOUR)).timestamp()
    os.utime(place, (when, when))
    return path


PLACES = st.lists(PLACE, unique_by=lambda place: place[0])


@settings(max_examples=50, deadline=None)
@given(PLACES)
def test_whatever_lies_there_what_is_named_stays_and_what_is_not_goes(places: list[Any]) -> None:
    """States that kills and replacements can leave, and some that they cannot."""
    with TemporaryDirectory() as root:
        check(Lake(root), places)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None)
@given(PLACES)
def test_in_thousands_of_states_what_is_named_stays_and_what_is_not_goes(places: list[Any]) -> None:
    """The same, many times over."""
    with TemporaryDirectory() as root:
        check(Lake(root), places)


def check(lake: Lake, places: list[Any]) -> None:
    stays, goes = set(), set()
    for home, generations, kind, chosen in places:
        named = NAMES[chosen]
        for name, num_files, old in generations:
            files = {lay(lake, f"{home}/{name}/part-{n}.parquet", "x", old=old or n > 0) for n in range(num_files)}
            doubtful = kind in ("broken", "no generation", "no object", "young")
            (stays if doubtful or not old or (kind == "old" and name == named) else goes).update(files)
        content = {"generation": named[4:], "parts": [{"path": f"{home}/{named}/part-0.parquet"}]}
        document = _encode(content).decode()
        text = {"broken": document[:-5], "no generation": _encode({}).decode(), "no object": "[1]"}.get(kind, document)
        if kind != "none":
            stays.add(lay(lake, f"{home}/manifest.json", text, old=kind != "young"))
    sweep(lake, leftovers(lake, DAYS, NOW))
    assert contents(lake) == stays
    assert not contents(lake) & goes


def test_a_folder_that_died_before_its_first_file_goes(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    folder = lake.root / "windows/sim/window=2024-01-01/gen-dead"
    folder.mkdir(parents=True)
    assert leftovers(lake, HOUR) == []
    assert len(sweep(lake, leftovers(lake, HOUR, in_two_days()))) == 1
    assert not folder.exists()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Lake]:
    """The command's lake, with one dead generation."""
    with mock.patch.dict(os.environ, {"WINDROW_HOME": str(tmp_path), "COLUMNS": "200"}):
        os.environ.pop("WINDROW_LAKE", None)
        lake = Lake(str(tmp_path / "lake"))
        publish(lake, windows(1))
        dead = lay(lake, "steps/sim/0123456789abcdef/gen-dead/checkpoint/x", "12345", old=True)
        assert dead in contents(lake)
        yield lake


def test_the_command_lists_and_deletes_only_with_delete(home: Lake) -> None:
    before = listing(home)
    ran = CliRunner().invoke(app, ["gc", "--json"])
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.stdout)
    assert document["total"] == {"places": 1, "files": 1, "bytes": 5}
    assert document["deleted"] is False
    (each,) = document["leftovers"]
    assert (each["path"], each["kind"]) == ("steps/sim/0123456789abcdef/gen-dead", "step files")
    told = CliRunner().invoke(app, ["gc"])
    assert "gen-dead" in told.stdout
    assert "Nothing was removed: --delete does." in told.stdout
    assert listing(home) == before
    assert CliRunner().invoke(app, ["gc", "--older-than", "0"]).exit_code == 2, "a running job's files are young"
    assert CliRunner().invoke(app, ["gc", "--delete"]).exit_code == 0
    assert listing(home) == {path: digest for path, digest in before.items() if "gen-dead" not in path}
