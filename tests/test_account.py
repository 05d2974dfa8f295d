"""The account of a log: every record ends in one place, in one run or in one a day, whatever the files look like."""

from __future__ import annotations

import csv
import gzip
import io
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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

from pipeline import ingest as ingest_module
from pipeline import records as records_module
from pipeline.account import FileAccount, Imbalance
from pipeline.dataset import WindowManifest, read_manifest, read_row_group
from pipeline.ingest import ingest
from pipeline.intake import take_in
from pipeline.job import IngestJob
from pipeline.lake import Lake
from pipeline.lineup import DatasetConfig, LogSource
from pipeline.schema import Schema
from pipeline.sources import IngestError
from pipeline.stages import run_ingest
from pipeline.staging import Stage
from pipeline.status import chain_statuses
from pipeline.window import Window
from tests.training import lineup, train

NAMES = ["at", "click", "user", "item", "price"]
COLUMNS: dict[str, Any] = {
    "label": "click",
    "dense": [{"name": "price"}],
    "categorical": [{"name": "item", "hash_size": 1000}, {"name": "user", "hash_size": 2**31 - 1}],
}
SPAN = [Window.of("2024-03-30").shift(day) for day in range(3)]  # summer time begins on the second day in Berlin
TEXT = ["csv", "tsv", "csv.gz", "tsv.gz"]
LINE_FAULTS = {
    "open quote": "a quote that its line does not close, or text behind one that closes",
    "text behind": "a quote that its line does not close, or text behind one that closes",
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
        name = self.file_day(record.at).isoformat() if self.day_of else self.random.choice(list(self.files))
        self.files[name].append(record)

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


@settings(max_examples=100, deadline=None, suppress_health_check=LENIENT)
@given(shape=SHAPES)
def test_every_record_ends_in_exactly_one_place(shape: dict[str, Any]) -> None:
    conserve(shape)


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=LENIENT)
@given(shape=SHAPES)
def test_every_record_ends_in_exactly_one_place_in_many_more_logs(shape: dict[str, Any]) -> None:
    conserve(shape)
