"""The account of a log: every record ends in one place, in one run or in one a day, whatever the files look like."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data import ingest as ingest_module
from pipeline.data import intake as intake_module
from pipeline.data import records as records_module
from pipeline.data.account import FileAccount, Imbalance
from pipeline.data.dataset import WindowManifest, read_manifest, read_row_group
from pipeline.data.dated import DatedLog
from pipeline.data.intake import take_in
from pipeline.data.lines import BAD_QUOTES, LineCount, set_aside
from pipeline.data.parsing import hash_text
from pipeline.data.sources import IngestError
from pipeline.data.staging import StagingArea
from pipeline.reporting.dispatch import run_ingest
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import DatasetConfig, LogSource
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.status import chain_statuses
from tests.logs import ingest
from tests.trained import lineup, train

NAMES = ["at", "click", "user", "item", "price"]
COLUMNS: dict[str, Any] = {
    "label": "click",
    "dense": [{"name": "price"}],
    "categorical": [{"name": "item", "hash_size": 1000}, {"name": "user", "hash_size": 2**31 - 1}],
}
SPAN = [Window.of("2024-03-30").shift(day) for day in range(3)]  # summer time begins on the second day in Berlin
TEXT = ["csv", "tsv", "csv.gz", "tsv.gz"]
LINE_FAULTS = {
    "open quote": BAD_QUOTES,
    "text behind": BAD_QUOTES,
    "ragged": "wrong number of columns",
    "latin": "not UTF-8 text",
    "ragged latin": "not UTF-8 text",
}
TIME_FAULTS = {
    "no time": "event time 'at' is missing or unreadable",
    "absurd time": "event time 'at' is before 1990 or after 2099",
}
VALUE_FAULTS = {
    "label": "label 'click' is not 0 or 1",
    "infinite": "column 'price' is infinite",
    "no id": "id column 'user' is missing",
}
TWICE = "the declared id occurs more than once in its window"
FAULTS = [*LINE_FAULTS, *TIME_FAULTS, *VALUE_FAULTS, "twice", "stray", "far"]


@dataclass
class Record:
    """A record of a generated log, and what the generator knows of it."""

    price: int
    """Tells it from all others."""
    at: datetime | None
    """When it happened; None where nobody can tell."""
    user: int | None
    fault: str | None = None
    click: int = 0
    item: str = "x"

    @property
    def reason(self) -> str | None:
        """Why it is quarantined, wherever that is."""
        return {**LINE_FAULTS, **TIME_FAULTS, **VALUE_FAULTS, "twice": TWICE}.get(self.fault or "")


SHAPES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dated": st.booleans(),
        "zone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"]),
        "files_zone": st.sampled_from([None, None, "UTC", "Asia/Tokyo"]),
        "day": st.sampled_from(["utc", "local"]),
        "formats": st.lists(st.sampled_from([*TEXT, "parquet", "parquet"]), min_size=1, max_size=4),
        "user_types": st.lists(st.sampled_from(["int", "float", "decimal", "text"]), min_size=1, max_size=3),
        "ids": st.booleans(),
        "faults": st.lists(st.sampled_from(FAULTS), min_size=2, max_size=2),
        "same_file": st.booleans(),
        "rows": st.integers(0, 12),
        "quote_all": st.booleans(),
        "ends": st.sampled_from(["\n", "\r\n", "\r"]),
        "blank": st.booleans(),
        "mark": st.booleans(),
        "last_end": st.booleans(),
        "header": st.booleans(),
        "naive": st.booleans(),
        "grows": st.booleans(),
        "order": st.permutations(range(len(SPAN))),
    }
)


class Log:
    """A generated log: its files, and where each of their records must end."""

    def __init__(self, shape: dict[str, Any], folder: Path) -> None:
        self.shape, self.folder = shape, folder
        self.random = random.Random(shape["seed"])
        self.zone, self.files_zone = shape["zone"], (shape["files_zone"] if shape["dated"] else None) or shape["zone"]
        self.next_price = 0
        self.files: dict[str, list[Record]] = {}
        self.format_of: dict[str, str] = {}
        self.day_of: dict[str, date] = {}
        if shape["dated"]:
            days = sorted({self.file_day(at) for window in SPAN for at in self.hours(window)})
            self.day_of = {day.isoformat(): day for day in days}
        for number, name in enumerate(self.day_of or [f"part_{number}" for number in range(len(SPAN))]):
            self.files[name] = []
            self.format_of[name] = shape["formats"][number % len(shape["formats"])]
        if not self.text_files:
            self.format_of[next(iter(self.files))] = "csv"
        self.fill()
        for fault in shape["faults"]:
            self.spoil(fault)
        for records in self.files.values():
            self.random.shuffle(records)
        self.addresses = {name: self.write(name) for name in self.files}

    # What the generator knows of days and zones.

    def hours(self, window: Window) -> list[datetime]:
        return [at for hour in range(-30, 60) if self.window_of(at := window.start + timedelta(hours=hour)) == window]

    def window_of(self, at: datetime) -> Window:
        zone = self.zone if self.shape["day"] == "local" else "UTC"
        return Window.of(at.astimezone(ZoneInfo(zone)).date())

    def file_day(self, at: datetime) -> date:
        return at.astimezone(ZoneInfo(self.files_zone)).date()

    def reads(self, window: Window, name: str) -> bool:
        return self.day_of[name] in {self.file_day(at) for at in self.hours(window)}

    # Records.

    @property
    def text_files(self) -> list[str]:
        return [name for name in self.files if self.format_of[name] in TEXT]

    def record(self, at: datetime | None, **known: Any) -> Record:
        self.next_price += 1
        user = 123_456_789_000 + (self.next_price if self.shape["ids"] else self.random.randrange(4))
        if not self.shape["ids"] and self.random.random() < 0.2:
            user = None  # type: ignore[assignment]
        item = self.random.choice(["x", "a,b", 'say "so"', "käse", "", "tab\tbed", "5\u2033"])
        fields = {"user": user, "click": self.random.randrange(2), "item": item, **known}
        return Record(self.next_price, at, **fields)

    def put(self, record: Record) -> None:
        assert record.at is not None
        day = self.file_day(record.at).isoformat()
        self.files[day if day in self.files else self.random.choice(list(self.files))].append(record)

    def fill(self) -> None:
        for number, window in enumerate(SPAN):  # every window has a good row, and a growing log has it in time
            hours = self.hours(window)
            record = self.record(middle := hours[len(hours) // 2])
            name = self.file_day(middle).isoformat() if self.day_of else f"part_{number}"
            self.files[name].append(record)
        for name, day in self.day_of.items():  # and every file has one
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(self.files_zone))
            self.files[name].append(self.record(noon.astimezone(UTC)))
        for _ in range(self.shape["rows"]):
            start = self.random.choice(SPAN).start
            seconds = self.random.choice(
                [0, 1, 1800, 3600 * self.random.randrange(24), self.random.randrange(86_400), 86_399]
            )
            self.put(self.record(start + timedelta(seconds=seconds)))

    def spoil(self, fault: str) -> None:
        anywhere = self.random.choice(self.text_files if fault in LINE_FAULTS else list(self.files))
        if self.shape["same_file"]:
            anywhere = self.text_files[0]
        at = self.random.choice(SPAN).start + timedelta(seconds=self.random.randrange(86_400))
        if fault in LINE_FAULTS | TIME_FAULTS:
            self.files[anywhere].append(self.record(None, fault=fault))
        elif fault == "twice":
            first = self.random.choice([r for records in self.files.values() for r in records if r.at and not r.fault])
            assert first.at is not None
            later = first.at + timedelta(seconds=1)
            known = (
                {"user": first.user, "fault": "twice"}
                if self.shape["ids"] and self.window_of(later) == self.window_of(first.at)
                else {}
            )
            self.put(self.record(later, **known))
        elif fault == "stray":
            window = self.window_of(at)
            others = [name for name in self.day_of if not self.reads(window, name)]
            record = self.record(at)
            self.files[self.random.choice(others)].append(record) if others else self.put(record)
        elif fault == "far":
            self.files[anywhere].append(self.record(at + timedelta(days=self.random.choice([-40, 40]))))
        else:
            wrong = fault if fault != "no id" or self.shape["ids"] else "label"
            self.put(self.record(at, fault=wrong, **({"user": None} if wrong == "no id" else {})))

    # Files.

    def write(self, name: str) -> str:
        form = self.format_of[name]
        path = self.folder / f"{name}.log.{form}" if not self.day_of else self.folder / name / f"log.{form}"
        path.parent.mkdir(exist_ok=True)
        records = self.files[name]
        if form == "parquet":
            pq.write_table(self.table(records), path)
        else:
            text = self.text(records, "\t" if form.startswith("tsv") else ",")
            path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
        return str(path)

    def table(self, records: list[Record]) -> pa.Table:
        user_type = self.random.choice(self.shape["user_types"])
        make: Callable[[int], Any] = {
            "int": int,
            "float": float,
            "decimal": lambda n: Decimal(n).quantize(Decimal("1.00")),
            "text": str,
        }[user_type]
        kind = {"int": pa.int64(), "float": pa.float64(), "decimal": pa.decimal128(20, 2), "text": pa.string()}[
            user_type
        ]
        absurd = datetime(1970, 1, 1, tzinfo=UTC)
        times = [absurd if record.fault == "absurd time" else record.at for record in records]
        return pa.table(
            {
                "item": pa.array([record.item or None for record in records], pa.string()),
                "at": pa.array(times, pa.timestamp("us", "UTC")),
                "click": pa.array([7 if record.fault == "label" else record.click for record in records], pa.int8()),
                "user": pa.array([None if r.user is None else make(r.user) for r in records], kind),
                "price": pa.array([float("inf") if r.fault == "infinite" else float(r.price) for r in records]),
            }
        )

    def text(self, records: list[Record], delimiter: str) -> bytes:
        shape = self.shape
        as_float = self.random.random() < 0.3
        lines = [",".join(NAMES).replace(",", delimiter).encode()] if shape["header"] else []
        for record in records:
            lines.append(self.line(record, delimiter, as_float))
            lines += [b""] if shape["blank"] and self.random.random() < 0.2 else []
        end = shape["ends"].encode()
        mark = b"\xef\xbb\xbf" if shape["mark"] else b""
        return mark + end.join(lines) + (end if shape["last_end"] else b"")

    def line(self, record: Record, delimiter: str, as_float: bool) -> bytes:
        user = "" if record.user is None else f"{record.user}.0" if as_float else str(record.user)
        at = {"no time": self.random.choice(["", "soon"]), "absurd time": "1970-01-01T00:00:00Z"}.get(
            record.fault or ""
        ) or ("" if record.at is None else self.clock(record.at))
        values = [
            "soon" if at == "soon" else at,
            "7" if record.fault == "label" else str(record.click),
            user,
            record.item,
            "-inf" if record.fault == "infinite" else str(record.price),
        ]
        match record.fault:
            case "open quote":
                return delimiter.join([*values[:3], '"' + "open", values[4]]).encode()
            case "text behind":
                return delimiter.join([*values[:3], '"closed" not', values[4]]).encode()
            case "ragged":
                return delimiter.join(self.random.choice([["a", "b"], ["few"], [*"abcdefg"]])).encode()
            case "latin":
                return delimiter.join([*values[:3], "käse", values[4]]).encode("latin-1")
            case "ragged latin":
                return delimiter.join(["käse", "b"]).encode("latin-1")
        out = io.StringIO()
        quoting = csv.QUOTE_ALL if self.shape["quote_all"] else csv.QUOTE_MINIMAL
        csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="").writerow(values)
        return out.getvalue().encode()

    def clock(self, at: datetime) -> str:
        """As the zone's clock showed it, unless it showed the time twice or the log has zones."""
        local = at.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        if self.shape["naive"] and local.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC) == at:
            return local.isoformat(" ")
        return at.isoformat()

    # The truth.

    def home(self, name: str) -> Window:
        if self.day_of:
            return Window.of(self.day_of[name])
        return self.window_of(min(record.at for record in self.files[name] if record.at is not None))

    def end(self, name: str, record: Record) -> tuple[Window | None, str | None]:
        """The window of a record and why it is quarantined there; no window: it is outside."""
        window = self.home(name) if record.at is None else self.window_of(record.at)
        return (window, record.reason) if window in SPAN else (None, None)

    # The log as it is ingested.

    @property
    def source(self) -> LogSource:
        schema = {
            **COLUMNS,
            "event_time": {"column": "at", "zone": self.zone, "day": self.shape["day"]},
            "id_columns": ["user"] if self.shape["ids"] else [],
            "text": {} if self.shape["header"] else {"columns": NAMES},
        }
        path = self.folder.parent / "schema.yaml"
        path.write_text(yaml.safe_dump(schema))
        pattern = "{date}/*" if self.day_of else "*.log.*"
        zone = self.shape["files_zone"] if self.day_of else None
        return LogSource(
            schema_file=str(path), files=(f"{self.folder}/{pattern}",), files_zone=zone, max_quarantine_share=1.0
        )


def whole(lake: Lake, manifest: WindowManifest) -> pa.Table:
    return pa.concat_tables(read_row_group(lake, manifest, index) for index in range(manifest.num_row_groups))


def check(log: Log, lake: Lake) -> dict[Window, str]:
    """Each window holds exactly what the generator says, and so does its account; the digests."""
    buckets: dict[int | None, set[int]] = {}
    digests = {}
    for window in SPAN:
        manifest = read_manifest(lake, "log", window)
        assert manifest is not None
        digests[window] = manifest.digest
        ends = {name: [(r, log.end(name, r)) for r in records] for name, records in log.files.items()}
        good = [r for records in ends.values() for r, end in records if end == (window, None)]
        bad = [end[1] for records in ends.values() for _, end in records if end[0] == window and end[1] is not None]
        rows = whole(lake, manifest)
        assert sorted(rows["price"].to_pylist()) == sorted(record.price for record in good)
        assert manifest.quarantined == dict(Counter(bad))
        kept = lake.root / manifest.prefix / "quarantine.parquet"
        assert Counter(pq.read_table(kept)["reason"].to_pylist() if bad else []) == Counter(bad)
        expected = {}
        for name, records in ends.items():
            published = sum(end == (window, None) for _, end in records)
            quarantined = sum(end[0] == window and end[1] is not None for _, end in records)
            if published + quarantined:
                outside = len(records) - published - quarantined
                address = log.addresses[name]
                expected[address] = FileAccount(address, len(records), published, quarantined, outside)
        assert {each.file: each for each in manifest.account} == expected
        by_price = {record.price: record.user for record in good}
        for price, bucket in zip(rows["price"].to_pylist(), rows["user"].to_pylist(), strict=True):
            buckets.setdefault(by_price[int(price)], set()).add(bucket)
    assert all(len(found) == 1 for found in buckets.values()), "one id, one bucket, whatever its type that day"
    assert len(set.union(*buckets.values())) == len(buckets)
    return digests


def conserve(shape: dict[str, Any]) -> None:
    """Ingest a log in one run and in one a day: each record ends where the generator says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "logs"
        folder.mkdir()
        log = Log(shape, folder)
        once, daily = Lake(f"{name}/once"), Lake(f"{name}/daily")
        taken = take_in(once, "log", log.source, SPAN)
        for account in taken.files:
            (file,) = (file for file, address in log.addresses.items() if address == account.file)
            ends = [log.end(file, record) for record in log.files[file]]
            published = sum(window is not None and reason is None for window, reason in ends)
            quarantined = sum(reason is not None for _, reason in ends)
            assert asdict(account) == {
                "file": account.file,
                "records": len(ends),
                "published": published,
                "quarantined": quarantined,
                "outside": len(ends) - published - quarantined,
            }
        assert len(taken.files) == len(log.files)

        hidden = sorted(folder.glob("part_*")) if shape["grows"] and not log.day_of else []
        for each in hidden:
            each.rename(f"{name}/{each.name}")
        for number in range(len(SPAN)):
            if hidden:
                Path(f"{name}/{hidden[number].name}").rename(hidden[number])
            take_in(daily, "log", log.source, [SPAN[number if hidden else shape["order"][number]]])
        assert check(log, once) == check(log, daily)


LENIENT = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=40, deadline=None, suppress_health_check=LENIENT)
@given(shape=SHAPES)
def test_every_record_ends_in_exactly_one_place(shape: dict[str, Any]) -> None:
    conserve(shape)


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=LENIENT)
@given(shape=SHAPES)
def test_every_record_ends_in_exactly_one_place_in_many_more_logs(shape: dict[str, Any]) -> None:
    conserve(shape)


FIRST = Window.of("2024-06-01")
SCHEMA: dict[str, Any] = {**COLUMNS, "event_time": {"column": "at", "zone": "Europe/Berlin"}}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def source(
    folder: Path, files: str = "{date}.csv", *, schema: dict[str, Any] | None = None, **options: Any
) -> LogSource:
    path = folder / "schema.yaml"
    path.write_text(yaml.safe_dump(SCHEMA | (schema or {})))
    return LogSource(schema_file=str(path), files=(f"{folder}/{files}",), **options)


def lines(folder: Path, name: str, *rows: str) -> Path:
    path = folder / f"{name}.csv"
    path.write_text("\n".join([",".join(NAMES), *rows]) + "\n")
    return path


def berlin(folder: Path, num_days: int = 3, first: Window = FIRST) -> None:
    """Daily files cut at midnight in Berlin, each with a row half an hour after it."""
    for day in range(num_days):
        name = first.shift(day).name
        rows = [f"{name} {hour:02}:30:00,{hour % 2},7,x,{100 * day + hour}" for hour in range(24)]
        lines(folder, name, *rows)


def daily(lake: Lake, chosen: LogSource, day: Window, **options: Any) -> dict[str, Any]:
    """What the DAG runs each day."""
    job = IngestJob(dataset=DatasetConfig(name="log", source=chosen), first=day, last=day, **options)
    return run_ingest(job, lake)


def prices(lake: Lake, window: Window) -> list[int]:
    manifest = read_manifest(lake, "log", window)
    return [] if manifest is None else sorted(map(int, whole(lake, manifest)["price"].to_pylist()))


def test_files_cut_at_a_local_midnight_lose_no_row_to_the_neighbouring_day(tmp_path: Path, lake: Lake) -> None:
    berlin(tmp_path)
    for day in (FIRST, FIRST.next()):
        daily(lake, source(tmp_path), day)
    assert prices(lake, FIRST) == [*range(2, 24), 100, 101]
    assert prices(lake, FIRST.next()) == [*range(102, 124), 200, 201]
    message = r"window 2024-06-03 needs the files of 2024-06-04, got none at .*2024-06-04\.csv.*`files_zone`"
    with pytest.raises(IngestError, match=message):
        daily(lake, source(tmp_path), FIRST.shift(2))


def test_the_same_rows_are_there_if_nobody_says_where_files_are_cut(tmp_path: Path, lake: Lake) -> None:
    """Each day then brings late rows of the day before, which is published again."""
    berlin(tmp_path)
    told = [daily(lake, source(tmp_path, files_zone="UTC"), FIRST.shift(day))["windows"] for day in range(3)]
    assert told == [["2024-06-01"], ["2024-06-01", "2024-06-02"], ["2024-06-02", "2024-06-03"]]
    assert prices(lake, FIRST) == [*range(2, 24), 100, 101]
    again = daily(lake, source(tmp_path, files_zone="UTC"), FIRST, force=True)
    assert prices(lake, FIRST) == [*range(2, 24), 100, 101], "what came late is noted for whoever publishes it again"
    assert [file["outside"] for file in again["files"]] == [2, 22]


def test_windows_cut_at_the_local_midnight_need_no_neighbour(tmp_path: Path, lake: Lake) -> None:
    berlin(tmp_path)
    local = {"event_time": {**SCHEMA["event_time"], "day": "local"}}
    for day in range(3):
        outcome = daily(lake, source(tmp_path, schema=local), FIRST.shift(day))
        assert prices(lake, FIRST.shift(day)) == list(range(100 * day, 100 * day + 24))
        assert [(file["published"], file["outside"]) for file in outcome["files"]] == [(24, 0)]
    manifest = read_manifest(lake, "log", FIRST)
    assert manifest is not None
    first = whole(lake, manifest)["event_time"].to_pylist()[0]
    assert first == datetime(2024, 6, 1, 0, 30, tzinfo=UTC), "as the clock in Berlin showed it"


def test_a_row_that_comes_late_makes_a_new_generation_and_its_steps_stale(tmp_path: Path, lake: Lake) -> None:
    days = [FIRST, FIRST.next(), FIRST.shift(2)]
    small = {"event_time": {"column": "at"}, "categorical": [{"name": "user", "hash_size": 100}]}
    chosen = source(tmp_path, schema=small)
    for number, day in enumerate(days):
        rows = [f"{day.name}T{n % 24:02}:00:00,{n % 2},{n},x,{1000 * number + n}" for n in range(100)]
        late = [f"{FIRST.name}T05:00:00,1,5,x,9999"] if number == 2 else []
        lines(tmp_path, day.name, *rows, *late)
    for day in days[:2]:
        daily(lake, chosen, day)
    line_up = lineup(dataset=DatasetConfig(name="log", source=chosen), online_start=days[1])
    train(lake, line_up, 2, first=FIRST)
    (before,) = chain_statuses(lake, line_up)
    assert before.stale == {}
    outcome = daily(lake, chosen, days[2])
    assert outcome["windows"] == [FIRST.name, days[2].name]
    assert 9999 in prices(lake, FIRST)
    (after,) = chain_statuses(lake, line_up)
    assert after.stale[FIRST] == "its window was published again with other rows"
    assert "is stale" in after.stale[days[1]]
    assert daily(lake, chosen, days[2])["windows"] == [FIRST.name, days[2].name], "nothing more happens the second time"
    assert prices(lake, FIRST).count(9999) == 1


def test_an_early_row_waits_for_its_window(tmp_path: Path, lake: Lake) -> None:
    chosen = source(tmp_path, schema={"event_time": {"column": "at"}})
    lines(tmp_path, FIRST.name, f"{FIRST}T12:00:00,1,1,x,1", f"{FIRST.shift(2)}T12:00:00,1,1,x,2")
    for day in (1, 2):
        lines(tmp_path, FIRST.shift(day).name, f"{FIRST.shift(day)}T13:00:00,0,2,y,{10 + day}")
    assert daily(lake, chosen, FIRST)["files"][0]["outside"] == 1
    daily(lake, chosen, FIRST.next())
    daily(lake, chosen, FIRST.shift(2))
    assert prices(lake, FIRST.shift(2)) == [2, 12]


def test_a_row_that_another_run_finds_meanwhile_is_not_lost(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run notes the file, sees no manifest yet, and leaves the window to this one, which has looked before."""
    chosen = source(tmp_path, schema={"event_time": {"column": "at"}})
    lines(tmp_path, FIRST.name, f"{FIRST}T12:00:00,1,1,x,1")
    lines(tmp_path, FIRST.next().name, f"{FIRST.next()}T12:00:00,1,1,x,2", f"{FIRST}T13:00:00,1,1,x,3")
    real, raced = intake_module.ingest, []

    def race(*arguments: Any, **options: Any) -> Any:
        if not raced:
            raced.append(True)
            daily(lake, chosen, FIRST.next())
        return real(*arguments, **options)

    monkeypatch.setattr(intake_module, "ingest", race)
    daily(lake, chosen, FIRST)
    assert prices(lake, FIRST) == [1, 3]


def test_late_rows_of_a_window_from_another_log_are_reported(tmp_path: Path, lake: Lake) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        for day in range(2):
            lines(folder, FIRST.shift(day).name, f"{FIRST.shift(day)}T12:00:00,1,1,x,{day}")
    lines(there, FIRST.next().name, f"{FIRST.next()}T12:00:00,1,1,x,2", f"{FIRST}T13:00:00,1,1,x,3")
    times = {"event_time": {"column": "at"}}
    daily(lake, source(here, schema=times), FIRST)
    with pytest.raises(
        IngestError, match="2024-06-01 came late or early in .*but the window was published from other f"
    ):
        daily(lake, source(there, schema=times), FIRST.next())
    assert prices(lake, FIRST) == [0], "it is not replaced by the little that the other log has of it"
    assert prices(lake, FIRST.next()) == [2]


def test_a_dated_file_full_of_other_days_is_refused(tmp_path: Path, lake: Lake) -> None:
    lines(tmp_path, FIRST.name, *(f"{FIRST.shift(-n % 9)}T12:00:00,1,1,x,{n}" for n in range(180)))
    with pytest.raises(
        IngestError, match=r"2024-06-01.csv must hold rows of 2024-06-01, got 160 of 180 .*`files_zone`"
    ):
        daily(lake, source(tmp_path, files_zone="UTC", schema={"event_time": {"column": "at"}}), FIRST)
    assert not list(lake.root.rglob("*.json"))


TIMELESS: dict[str, Any] = {"event_time": "synthetic"}


def test_a_file_per_window_with_a_date_and_a_first_works_on_every_day(tmp_path: Path, lake: Lake) -> None:
    for day in range(3):
        for part in "ab":
            lines(tmp_path, f"{FIRST.shift(day)}_{part}", *(f"?,1,1,x,{10 * day + n}" for n in (1, 2)))
    chosen = source(tmp_path, "{date}_*.csv", schema=TIMELESS, cut="file_per_window", first=FIRST)
    for day in range(3):
        daily(lake, chosen, FIRST.shift(day))
        assert prices(lake, FIRST.shift(day)) == [10 * day + 1] * 2 + [10 * day + 2] * 2, "all files of its day"
    once = Lake(str(tmp_path / "once"))
    job = IngestJob(dataset=DatasetConfig(name="log", source=chosen), first=FIRST, last=FIRST.shift(2))
    assert run_ingest(job, once)["rows"] == 12
    for day in range(3):
        one, other = (read_manifest(each, "log", FIRST.shift(day)) for each in (lake, once))
        assert one is not None
        assert other is not None
        assert one.digest == other.digest


def test_every_stray_quote_spoils_its_own_line_alone(tmp_path: Path, lake: Lake) -> None:
    rows = [f"{FIRST}T12:00:00,{n % 2},{n},x,{n}" for n in range(200)]
    for spoilt in (50, 110):
        rows[spoilt] = rows[spoilt].replace(",x,", ',"x,')
    path = lines(tmp_path, "log", *rows)
    schema = Schema.of(COLUMNS | {"event_time": {"column": "at"}}, "the test")
    (manifest,) = ingest(lake, "log", schema, [str(path)])
    assert prices(lake, FIRST) == [n for n in range(200) if n not in (50, 110)]
    assert manifest.account == (FileAccount(str(path), 200, 198, 2, 0),)
    kept = pq.read_table(lake.root / manifest.prefix / "quarantine.parquet")
    assert kept["line"].to_pylist() == [rows[50], rows[110]]
    document = lake.read(f"windows/log/window={FIRST}/manifest.json")
    assert document is not None
    assert document["account"][0] == {
        "file": str(path),
        "records": 200,
        "published": 198,
        "quarantined": 2,
        "outside": 0,
    }


def test_a_ragged_row_with_a_foreign_byte_is_one_row(tmp_path: Path, lake: Lake) -> None:
    path = lines(tmp_path, "log", *(f"{FIRST}T12:00:00,1,1,x,{n}" for n in range(99)))
    path.write_bytes(path.read_bytes() + "käse,1\n".encode("latin-1"))
    schema = Schema.of(COLUMNS | {"event_time": {"column": "at"}}, "the test")
    (manifest,) = ingest(lake, "log", schema, [str(path)])
    assert (manifest.num_rows, manifest.quarantined) == (99, {"not UTF-8 text": 1})


def test_values_go_over_lines_where_the_schema_says_so(tmp_path: Path, lake: Lake) -> None:
    at = f"{FIRST}T12:00:00"
    path = lines(tmp_path, "log", f'{at},1,1,"two\nlines",1', f"{at},1,1,x,2", "too,few", f"{at},0,1,x,3")
    text = {"text": {"newlines_in_values": True}}
    schema = Schema.of(COLUMNS | {"event_time": {"column": "at"}} | text, "the test")
    (manifest,) = ingest(lake, "log", schema, [str(path)], max_quarantine_share=0.5)
    assert prices(lake, FIRST) == [1, 2, 3]
    assert manifest.account == (FileAccount(str(path), 4, 3, 1, 0),)
    by_line = Schema.of(COLUMNS | {"event_time": {"column": "at"}}, "the test")
    (manifest,) = ingest(lake, "log", by_line, [str(path)], max_quarantine_share=0.9)
    assert manifest.account == (FileAccount(str(path), 5, 2, 3, 0),)


def lose_lines(patch: pytest.MonkeyPatch) -> None:
    real = records_module.set_aside
    patch.setattr(records_module, "set_aside", lambda *given: (real(*given)[0].rstrip().rpartition(b"\n")[0], []))


def lose_quarantined(patch: pytest.MonkeyPatch) -> None:
    real = StagingArea.add
    patch.setattr(StagingArea, "add", lambda stage, day, kind, rows: kind == "rows" and real(stage, day, kind, rows))


def lose_staged(patch: pytest.MonkeyPatch) -> None:
    real = StagingArea.add
    patch.setattr(StagingArea, "add", lambda stage, day, kind, rows: real(stage, day, kind, rows[1:]))


def double_staged(patch: pytest.MonkeyPatch) -> None:
    real = StagingArea.add
    patch.setattr(StagingArea, "add", lambda stage, *rows: [real(stage, *rows), real(stage, *rows)])


def lose_sorted(patch: pytest.MonkeyPatch) -> None:
    real = ingest_module._Sorter.rows
    patch.setattr(ingest_module._Sorter, "rows", lambda sorter: (batch[1:] for batch in real(sorter)))


@pytest.mark.parametrize("lose", [lose_lines, lose_quarantined, lose_staged, double_staged, lose_sorted])
def test_a_loss_is_an_error_before_anything_is_published(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch, lose: Callable[[pytest.MonkeyPatch], None]
) -> None:
    path = lines(tmp_path, "log", *(f"{FIRST}T12:00:00,1,{n},x,{n}" for n in range(8)), "too,few")
    schema = Schema.of(COLUMNS | {"event_time": {"column": "at"}}, "the test")
    lose(monkeypatch)
    with pytest.raises(Imbalance, match="records, but .* were .*nothing of this has been published"):
        ingest(lake, "log", schema, [str(path)], max_quarantine_share=0.5)
    assert not issubclass(Imbalance, ValueError), "it is no bad input"
    assert not list(lake.root.rglob("*.json"))
    assert not list(lake.root.rglob("*.parquet"))


NUMBERS = [123_456_789_012, 7, 0, -3, 2**53 - 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([*map(float, NUMBERS), None]),
        pa.array([*map(float, NUMBERS), float("nan")]),
        pa.array([*map(Decimal, NUMBERS), None], pa.decimal128(20, 3)),
        pa.array([*map(str, NUMBERS), None]),
        pa.array([*(f"{number}.0" for number in NUMBERS), ""]),
        pa.array([*map(float, NUMBERS), None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_one_number_has_one_hash_whatever_its_columns_type(column: pa.Array) -> None:
    expected = hash_text(pa.array([*NUMBERS, None], pa.int64())).keyed("id")
    assert hash_text(column).keyed("id").tolist() == expected.tolist()


def test_what_is_no_integer_keeps_its_text() -> None:
    floats = hash_text(pa.array([0.5, 1e300, 2.0**63])).keyed("id").tolist()
    assert floats == hash_text(pa.array(["0.5", str(int(1e300)), str(2**63)])).keyed("id").tolist()
    assert hash_text(pa.array([2**63], pa.uint64())).keyed("id").tolist() == floats[2:]
    texts = ["1.00", "01.0", "v1.0", "1.0.0", "-0.0.0", ".0"]
    assert len(set(hash_text(pa.array([*texts, "1"])).keyed("id").tolist())) == len(texts) + 1


def test_entries_of_lists_hash_alike_too(tmp_path: Path, lake: Lake) -> None:
    schema = {"label": "click", "event_time": {"column": "at"}, "lists": [{"name": "tags", "hash_size": 2**31 - 1}]}
    found = []
    for name, tags in (("ints", [[1, 123_456_789_012]]), ("floats", [[1.0, None, 123_456_789_012.0, float("nan")]])):
        table = pa.table({"at": [FIRST.start], "click": [1], "tags": pa.array(tags)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        (manifest,) = ingest(lake, name, Schema.of(schema, "x"), [str(tmp_path / f"{name}.parquet")])
        found.append(whole(lake, manifest).select(["example_id", "tags"]))
    assert found[0].equals(found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files_zone": "Mars/Olympus"}, "files_zone must be an IANA name .* got 'Mars/Olympus'"),
        ({"cut": "equal", "count": 3}, "one window a day, got a `count` of 3"),
        ({"files_zone": "UTC", "files": "log.csv"}, "`files_zone` is for files with {date}"),
    ],
)
def test_a_dated_log_that_contradicts_itself_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(tmp_path, **options)


@given(st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu", "Etc/GMT+12"]), st.integers(0, 5000), st.sampled_from(["utc", "local"]))  # fmt: skip
def test_a_window_reads_the_files_of_all_days_that_it_overlaps(zone: str, days: int, cut: str) -> None:
    schema = Schema.of(COLUMNS | {"event_time": {"column": "at", "zone": "Asia/Tokyo", "day": cut}}, "the test")
    log = DatedLog(LogSource(schema_file="x", files=("{date}",), files_zone=zone), schema)
    window = Window.of("2008-01-01").shift(days)
    start = datetime.combine(
        window.start.date(), datetime.min.time(), ZoneInfo("Asia/Tokyo" if cut == "local" else "UTC")
    )
    expected = {(start + timedelta(minutes=15 * n)).astimezone(ZoneInfo(zone)).date() for n in range(96)}
    assert [day.start.date() for day in log.days(window)] == sorted(expected)
    assert all(window in log.readers(day) for day in log.days(window))
    assert log.home(window) in log.readers(window) if log.readers(window) else True


STREAM = st.lists(st.sampled_from([b'"', b'""', b",", b"a", b"\n", b"\r", b"\r\n", b"\xe9", "é".encode(), b"\t", b" "]))


@given(STREAM, st.integers(1, 7))
def test_lines_are_set_aside_as_a_strict_reader_would(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    expected: list[tuple[str, str]] = []
    good = []
    for line in filter(None, re.split(rb"[\r\n]", data)):
        try:
            next(csv.reader([line.decode()], strict=True))
            good.append(line)
        except UnicodeDecodeError:
            expected.append((line.decode(errors="backslashreplace"), "not UTF-8 text"))
        except csv.Error:
            expected.append((line.decode(), BAD_QUOTES))
    kept, told = set_aside(data, ",", '"')
    assert told == expected
    assert [line for line in re.split(rb"[\r\n]", kept) if line] == good
    count = LineCount()
    for start in range(0, len(data), size):
        count.add(data[start : start + size])
    assert count.total == len(good) + len(expected)
