"""Ingest: any log into whole windows, whatever its files' order, cut and format, and nothing where it cannot be."""

from __future__ import annotations

import csv
import gzip
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import WindowManifest, read_manifest, read_row_group, require_manifest
from pipeline.data.ingest import IngestError
from pipeline.data.parsing import transformed
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake, LakeError
from tests.logs import ingest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("WINDROW_TEST_DATA", ROOT / ".." / "shared" / "data"))
FIRST = Window.of("2024-03-01")
NAMES = ["at", "click", "user", "item", "price", "tags"]
SCHEMA = Schema.of(
    {
        "label": "click",
        "event_time": {"column": "at"},
        "cluster": "user",
        "dense": [{"name": "price", "transform": "log1p", "fill": -1.0}],
        "categorical": [{"name": "item", "hash_size": 1000}, {"name": "user", "hash_size": 1000}],
        "lists": [{"name": "tags", "hash_size": 1000}],
    },
    "the test",
)
TIMELESS = Schema.of(
    {
        "label": "click",
        "event_time": "synthetic",
        "categorical": [{"name": "item", "hash_size": 1000}],
        "dense": [{"name": "price"}],
    },
    "the test",
)

Row = dict[str, Any]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an ingest keeps what waits on disk; empty again after every test."""
    root = tmp_path / "staging"
    root.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    return root


@pytest.fixture(autouse=True)
def _leaves_nothing(staging: Path, lake: Lake) -> Any:
    yield
    assert list(staging.iterdir()) == [], "staged files are always removed"
    named = set()
    for path in lake.root.rglob("manifest.json"):
        manifest = WindowManifest.model_validate(lake.read(str(path.relative_to(lake.root))))
        named |= {manifest.prefix}
    generations = {str(path.relative_to(lake.root)) for path in lake.root.rglob("gen-*")}
    assert named <= generations
    for orphan in generations - named:  # a generation that another one replaced is whole; nothing else may lie about
        assert list((lake.root / orphan).glob("part-*.parquet"))


def rows(num_rows: int, days: int = 2, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(num_rows):
        at = FIRST.start + timedelta(seconds=int(random.integers(0, 40)) * 2160 * days)
        made.append(
            {
                "at": at.isoformat(),
                "click": str(random.integers(0, 2)),
                "user": f"u{random.integers(0, 2)}",
                "item": random.choice(["x", "y", ""]),
                "price": random.choice(["", "0.5", "3", "-2"]),
                "tags": "|".join(random.choice(["a", "b", "c"], random.integers(0, 3))),
            }
        )
    return made


def text(log: Sequence[Row], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, NAMES, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return out.getvalue().encode()


def as_csv(log: Sequence[Row], path: Path) -> str:
    path.with_suffix(".csv").write_bytes(text(log))
    return str(path.with_suffix(".csv"))


def as_tsv_gz(log: Sequence[Row], path: Path) -> str:
    path.with_suffix(".tsv.gz").write_bytes(gzip.compress(text(log, "\t")))
    return str(path.with_suffix(".tsv.gz"))


def as_parquet(log: Sequence[Row], path: Path) -> str:
    table = pa.table(
        {
            "tags": [row["tags"].split("|") if row["tags"] else [] for row in log],
            "item": pa.array([row["item"] or None for row in log], pa.string()).dictionary_encode(),
            "at": pa.array([datetime.fromisoformat(row["at"]) for row in log], pa.timestamp("ms", "UTC")),
            "click": pa.array([int(row["click"]) for row in log], pa.int8()),
            "user": [row["user"] for row in log],
            "price": pa.array([float(row["price"]) if row["price"] else None for row in log], pa.float64()),
        }
    )
    pq.write_table(table, path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


def read(lake: Lake, manifests: Sequence[WindowManifest]) -> pa.Table:
    return pa.concat_tables(
        read_row_group(lake, manifest, index) for manifest in manifests for index in range(manifest.num_row_groups)
    )


def digests(manifests: Sequence[WindowManifest]) -> list[str]:
    return [manifest.digest for manifest in manifests]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_do_not_depend_on_the_order_cut_or_format_of_files(
    tmp_path: Path, lake: Lake, data: st.DataObject
) -> None:
    log = rows(60, seed=3)
    whole = ingest(lake, "whole", SCHEMA, [as_csv(log, tmp_path / "whole")])
    shuffled = data.draw(st.permutations(log))
    cut = data.draw(st.integers(1, 59))
    one, other = data.draw(st.permutations([as_csv, as_tsv_gz, as_parquet]))[:2]
    files = [one(shuffled[:cut], tmp_path / "one"), other(shuffled[cut:], tmp_path / "other")]
    again = ingest(lake, "whole", SCHEMA, data.draw(st.permutations(files)), force=True)
    assert digests(again) == digests(whole)
    assert read(lake, again).equals(read(lake, whole))


def test_rows_come_sorted_and_ids_are_unique_among_identical_rows(tmp_path: Path, lake: Lake) -> None:
    log = rows(40) * 3
    manifests = ingest(lake, "log", SCHEMA, [as_csv(log, tmp_path / "log")])
    found = read(lake, manifests)
    assert found.num_rows == 120
    assert len(set(found["example_id"].to_pylist())) == 120
    pairs = list(zip(found["event_time"].to_pylist(), found["example_id"].to_pylist(), strict=True))
    assert pairs == sorted(pairs)


def test_an_id_knows_nothing_of_the_label_and_survives_more_copies(tmp_path: Path, lake: Lake) -> None:
    log = rows(30)
    flipped = [{**row, "click": "1"} for row in log]
    ids = [
        set(read(lake, ingest(lake, name, SCHEMA, [as_csv(each, tmp_path / name)]))["example_id"].to_pylist())
        for name, each in (("log", log), ("flipped", flipped), ("twice", log * 2))
    ]
    assert ids[0] == ids[1]
    assert ids[0] < ids[2], "the first of identical rows keeps its id whatever comes after"


def test_values_are_transformed_filled_and_hashed_by_column(tmp_path: Path, lake: Lake) -> None:
    base = {"at": "2024-03-01T12:00:00+02:00", "click": "1", "user": "x", "item": "x", "price": "", "tags": "x||y"}
    log = [base, {**base, "price": "-2", "item": "", "tags": ""}]
    found = read(lake, ingest(lake, "log", SCHEMA, [as_csv(log, tmp_path / "log")])).to_pylist()
    by_price = {row["price"]: row for row in found}
    assert set(by_price) == {-1.0, 0.0}, "missing is filled after the transform, and log1p of -2 is defined"
    full, bare = by_price[-1.0], by_price[0.0]
    assert full["event_time"] == datetime(2024, 3, 1, 10, tzinfo=UTC)
    assert full["item"] != full["user"], "the same text in two columns"
    assert bare["item"] != full["item"], "missing is a category of its own"
    assert (len(full["tags"]), bare["tags"]) == (2, [])
    assert full["cluster"] == bare["cluster"]
    assert all(0 <= bucket < 1000 for bucket in (full["item"], full["user"], *full["tags"]))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_transforms_are_total_and_monotone(values: list[float]) -> None:
    for name in ("identity", "log1p", "signed_log1p"):
        out = transformed(np.sort(np.array(values)), name)  # type: ignore[arg-type]
        assert np.isfinite(out).all()
        assert (np.diff(out) >= 0).all()


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        ({"zone": "Europe/Berlin"}, "2024-03-01 13:30:00"),
        ({}, "2024-03-01T12:30Z"),
        ({}, " 2024-03-01T12:30:00.000000000+00:00"),
        ({"format": "epoch_s"}, "1709296200"),
        ({"format": "epoch_ms"}, "1709296200000.0"),
        ({"format": "%d.%m.%Y %H:%M", "zone": "Asia/Kolkata"}, "01.03.2024 18:00"),
    ],
)
def test_times_are_read_in_their_zone(tmp_path: Path, lake: Lake, spec: Row, written: str) -> None:
    schema = Schema.of({**SCHEMA.model_dump(), "event_time": {"column": "at", **spec}}, "x")
    path = as_csv([{**rows(1)[0], "at": written}], tmp_path / "log")
    assert read(lake, ingest(lake, "log", schema, [path]))["event_time"].to_pylist() == [
        datetime(2024, 3, 1, 12, 30, tzinfo=UTC)
    ]


BAD = {
    "click": ["2", "", "yes"],
    "price": ["inf", "-Infinity", "1e300", "cheap"],
    "at": ["", "soon", "1970-01-01T00:00:00Z", "2024-13-01", "2200-01-01"],
}


def test_bad_rows_are_quarantined_with_their_reason_and_raw_values(tmp_path: Path, lake: Lake) -> None:
    schema = Schema.of({**SCHEMA.model_dump(), "dense": [{"name": "price"}]}, "x")
    good = rows(50)
    bad = [{**good[0], column: value} for column, values in BAD.items() for value in values]
    clean = ingest(lake, "clean", schema, [as_csv(good, tmp_path / "clean")])
    path = tmp_path / "log.csv"
    path.write_bytes(text([*good[:20], *bad, *good[20:]]) + b"too,few\n")
    dirty = ingest(lake, "dirty", schema, [str(path)], max_quarantine_share=0.5)
    assert digests(dirty) == digests(clean)
    counts: dict[str, int] = {}
    for manifest in dirty:
        kept = lake.root / manifest.prefix / "quarantine.parquet"
        found = pq.read_table(kept).to_pylist() if kept.exists() else []
        assert len(found) == sum(manifest.quarantined.values())
        for row in found:
            counts[row["reason"]] = counts.get(row["reason"], 0) + 1
            if row["line"] is None:
                assert any(row[column] in {value or None for value in values} for column, values in BAD.items())
            else:
                assert row["line"] == "too,few"
    assert counts == {
        "label 'click' is not 0 or 1": 3,
        "column 'price' is infinite": 3,
        "column 'price' is not a number": 1,
        "event time 'at' is missing or unreadable": 3,
        "event time 'at' is before 1990 or after 2099": 2,
        "wrong number of columns": 1,
    }


def test_too_much_quarantine_is_an_error_that_says_why(tmp_path: Path, lake: Lake) -> None:
    log = rows(98, days=1)
    bad = [{**log[0], "price": "cheap"}] * 2
    path = as_csv([*log, *bad], tmp_path / "log")
    with pytest.raises(IngestError, match=r"at most 1.00% .* got 2 of 100 .*'price' is not a number: 2 times.*'cheap'"):
        ingest(lake, "log", SCHEMA, [path])
    assert read_manifest(lake, "log", FIRST) is None
    assert ingest(lake, "log", SCHEMA, [path], max_quarantine_share=0.02)[0].num_rows == 98


def test_one_bad_window_is_not_hidden_by_good_ones(tmp_path: Path, lake: Lake) -> None:
    log = [row for row in rows(400, days=2) if row["at"] < FIRST.end.isoformat()]
    bad = [{**log[0], "at": FIRST.end.isoformat(), "click": "?"}]
    with pytest.raises(IngestError, match="one window .* got 1 of 1 "):
        ingest(lake, "log", SCHEMA, [as_csv(log + bad, tmp_path / "log")])
    assert read_manifest(lake, "log", FIRST) is None, "nothing is published of a log that is refused"


def test_of_a_declared_id_the_earliest_row_stays_whatever_the_order(tmp_path: Path, lake: Lake) -> None:
    schema = Schema.of({**SCHEMA.model_dump(), "id_columns": ["user", "item"]}, "x")
    log = [{**row, "user": f"u{number}", "item": "x"} for number, row in enumerate(rows(100, days=1))]
    later = {**log[7], "at": (FIRST.end - timedelta(seconds=1)).isoformat(), "click": "1", "price": "77"}
    one = ingest(lake, "log", schema, [as_csv([*log, later], tmp_path / "log")])
    other = ingest(lake, "log", schema, [as_csv([later, *reversed(log)], tmp_path / "log")], force=True)
    clean = ingest(lake, "clean", schema, [as_csv(log, tmp_path / "clean")])
    assert digests(one) == digests(other) == digests(clean)
    assert one[0].quarantined == {"the declared id occurs more than once in its window": 1}
    kept = pq.read_table(lake.root / other[0].prefix / "quarantine.parquet").to_pylist()
    assert [(row["user"], row["price"]) for row in kept] == [("u7", "77")]
    with pytest.raises(IngestError, match="got 50 of 150 .*id occurs more than once in its window: 50 times"):
        ingest(lake, "twice", schema, [as_csv(log + log[:50], tmp_path / "twice")])


def test_repeated_ids_of_every_equal_cut_count(tmp_path: Path, lake: Lake) -> None:
    schema = Schema.of({**TIMELESS.model_dump(), "id_columns": ["user"]}, "x")
    log = [{**row, "user": f"u{number}"} for number, row in enumerate(rows(40))]
    path = as_csv([log[0], *log, log[0]], tmp_path / "log")  # the id is twice in the first cut and once in the second
    options: Row = {"cut": "equal", "count": 2, "first": FIRST}
    with pytest.raises(IngestError, match="got 1 of 42 .*more than once in its window: 1 times"):
        ingest(lake, "log", schema, [path], **options)
    days = ingest(lake, "log", schema, [path], max_quarantine_share=0.1, **options)
    assert [day.num_rows for day in days] == [20, 21]


def test_a_declared_id_alone_names_an_example(tmp_path: Path, lake: Lake) -> None:
    schema = Schema.of({**SCHEMA.model_dump(), "id_columns": ["user"]}, "x")
    log = [{**row, "user": f"u{number}"} for number, row in enumerate(rows(20))]
    priced = [{**row, "price": "9", "tags": "z"} for row in log]
    one, other = (
        read(lake, ingest(lake, name, schema, [as_csv(each, tmp_path / name)]))
        for name, each in (("one", log), ("other", priced))
    )
    assert set(one["example_id"].to_pylist()) == set(other["example_id"].to_pylist())


def test_a_daily_run_publishes_its_own_day_as_a_run_over_all_would(tmp_path: Path, lake: Lake) -> None:
    path = as_csv(rows(80, days=3), tmp_path / "log")
    every = ingest(lake, "every", SCHEMA, [path])
    told: list[str] = []
    single = ingest(lake, "daily", SCHEMA, [path], windows=[FIRST.next()], progress=told.append)
    assert [manifest.window for manifest in single] == [FIRST.next()]
    assert single[0].digest == every[1].digest
    assert single[0].quarantined == {}
    assert read_manifest(lake, "daily", FIRST) is None
    assert "of other windows" in told[0]
    with pytest.raises(IngestError, match="got none for 2024-03-09 .*check the sources"):
        ingest(lake, "daily", SCHEMA, [path], windows=[FIRST.next(), FIRST.shift(8)])


def test_a_daily_run_weighs_unplaceable_rows_against_the_whole_log(tmp_path: Path, lake: Lake) -> None:
    log = rows(1000, days=10)
    path = as_csv([*log, *[{**log[0], "at": "soon"}] * 9], tmp_path / "log")
    (home,) = ingest(lake, "log", SCHEMA, [path], windows=[FIRST])
    assert home.quarantined == {"event time 'at' is missing or unreadable": 9}
    (other,) = ingest(lake, "log", SCHEMA, [path], windows=[FIRST.next()])
    assert other.quarantined == {}, "the day of the file's earliest time is the home of those without one"
    with pytest.raises(IngestError, match="at most 0.50% of the rows of the log .* got 9 of 1,009"):
        ingest(lake, "log", SCHEMA, [path], windows=[FIRST.next()], max_quarantine_share=0.005)


def test_the_same_again_is_left_as_it_is(tmp_path: Path, lake: Lake) -> None:
    path = as_csv(rows(30), tmp_path / "log")
    told: list[str] = []
    first = ingest(lake, "log", SCHEMA, [path])
    assert ingest(lake, "log", SCHEMA, [path], progress=told.append) == first
    assert sum("already published" in line for line in told) == len(first)


def test_a_log_without_times_is_cut_in_natural_order_whatever_the_order_given(tmp_path: Path, lake: Lake) -> None:
    log = rows(90)
    parts = [as_csv(log[start : start + 30], tmp_path / f"day_{name}") for start, name in ((0, 1), (30, 2), (60, 10))]
    options: Row = {"cut": "file_per_window", "first": FIRST}
    days = ingest(lake, "log", TIMELESS, [parts[2], parts[0], parts[1]], **options)
    assert [(day.window.name, day.num_rows, Path(day.sources[0]).stem) for day in days] == [
        ("2024-03-01", 30, "day_1"),
        ("2024-03-02", 30, "day_2"),
        ("2024-03-03", 30, "day_10"),
    ]
    whole = as_csv(log, tmp_path / "whole")
    equal = ingest(lake, "equal", TIMELESS, [whole], cut="equal", count=3, first=FIRST)
    split = ingest(lake, "split", TIMELESS, list(reversed(parts)), cut="equal", count=3, first=FIRST)
    assert digests(equal) == digests(days) == digests(split)
    assert len(set(read(lake, equal)["example_id"].to_pylist())) == 90, "equal rows of two days are two examples"
    alone = ingest(lake, "alone", TIMELESS, parts[1:2], cut="file_per_window", first=FIRST.next())
    assert alone[0].digest == days[1].digest, "a day ingested by itself is the same day"


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        (TIMELESS, {}, "without times is cut by 'file_per_window' or 'equal', got cut 'event_time'"),
        (TIMELESS, {"cut": "equal", "count": 2}, "needs its first window, got none: give `first`"),
        (TIMELESS, {"cut": "equal", "first": FIRST}, "`count` is the number of windows"),
        (TIMELESS, {"cut": "equal", "first": FIRST, "count": 99}, "got 30 for 99: lower `count`"),
        (SCHEMA, {"cut": "equal", "count": 2}, "with event times is cut by them, got cut 'equal'"),
        (SCHEMA, {"first": FIRST}, "`first` is for logs without times, got 2024-03-01"),
        (SCHEMA, {"windows": []}, "names one window or more, got none"),
        (SCHEMA, {"max_quarantine_share": 2.0}, "must be in .0, 1., got 2.0"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(
    tmp_path: Path, lake: Lake, schema: Schema, options: Row, message: str
) -> None:
    with pytest.raises(IngestError, match=message):
        ingest(lake, "log", schema, [as_csv(rows(30), tmp_path / "log")], **options)


def cut_short(path: Path) -> str:
    whole = gzip.compress(text(rows(5000)))
    path.with_suffix(".csv.gz").write_bytes(whole[: len(whole) // 2])
    return str(path.with_suffix(".csv.gz"))


def empty(path: Path) -> str:
    path.touch()
    return str(path)


def header_alone(path: Path) -> str:
    path.write_bytes(text([]))
    return str(path)


def without_price(path: Path) -> str:
    path.write_bytes(b"at,click,user,item,tags\n2024-03-01,1,u,i,t\n")
    return str(path)


def price_twice(path: Path) -> str:
    path.write_bytes(b"at,click,user,item,tags,price,price\n2024-03-01,1,u,i,t,1,2\n")
    return str(path)


def wrong_type(path: Path) -> str:
    table = pq.read_table(as_parquet(rows(5), path))
    pq.write_table(table.set_column(5, "price", pa.array([[1.0]] * 5)), path)
    return str(path)


def half_a_parquet(path: Path) -> str:
    whole = Path(as_parquet(rows(50), path)).read_bytes()
    path.write_bytes(whole[:-40])
    return str(path)


def latin_1_header(path: Path) -> str:
    path.write_bytes("käse,".encode("latin-1") + text(rows(5)))
    return str(path)


def utf_16(path: Path) -> str:
    path.write_bytes(text(rows(5)).decode().encode("utf-16"))
    return str(path)


def long_line(path: Path) -> str:
    path.write_bytes(text(rows(5)) + b"x" * 5_000_000)
    return str(path)


def open_header(path: Path) -> str:
    path.write_bytes(b'"' + text(rows(5)))
    return str(path)


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_short, r"\.csv\.gz must be a whole gzip file, got one that is truncated .*fetch or write the file again"),
        (empty, "must hold rows, got an empty file: leave it out"),
        (header_alone, "must hold rows, got a header alone"),
        (without_price, "must have one column 'price', got none among at, click, user.*name the right column"),
        (price_twice, "must have one column 'price', got two or more"),
        (wrong_type, "column 'price' of .* must hold numbers, got type list<.*say in the schema"),
        (half_a_parquet, "must be a whole table in text or Parquet .*fetch or write the file again"),
        (latin_1_header, "must be UTF-8 text or Parquet, got other bytes in its header: write the file again as UTF-8"),
        (utf_16, "must be UTF-8 text or Parquet, got UTF-16: write the file again as UTF-8"),
        (long_line, "must have lines of at most 4,194,304 bytes, got a longer one: fetch or write the file again"),
        (
            open_header,
            "must have closed quotes in its header, got '\"at,click.*write the file again, or say in the sch",
        ),
        (pipe, "a source is a file or a folder, got a pipe or a device at .*: write it to a file"),
        (lambda path: str(path), "a source names one file or more, got none at .*check the path"),
        (lambda path: "nowhere://x/y", "'nowhere://x/y' cannot be opened: .*: check the address"),
    ],
)
def test_a_bad_file_is_named_and_spoils_no_window(
    tmp_path: Path, lake: Lake, spoil: Callable[[Path], str], message: str
) -> None:
    good = as_csv(rows(30), tmp_path / "good")
    before = ingest(lake, "log", SCHEMA, [good])
    more = as_csv(rows(60, seed=9), tmp_path / "more")
    with pytest.raises(BadInput, match=message):
        ingest(lake, "log", SCHEMA, [more, spoil(tmp_path / "spoilt")])
    for manifest in before:
        assert read_manifest(lake, "log", manifest.window) == manifest
    assert read(lake, before).num_rows == 30


def test_a_name_that_would_leave_the_lake_is_refused(tmp_path: Path, lake: Lake) -> None:
    path = as_csv(rows(5), tmp_path / "log")
    for name in ("../log", "/log", "a/../../b", ""):
        with pytest.raises(LakeError, match="a name is 1 to 100 letters"):
            ingest(lake, name, SCHEMA, [path])


MEASURED = """
import resource, sys
from pipeline.storage.lake import Lake
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from tests.logs import ingest
lake, *files = sys.argv[1:]
peaks = []
for name, sources in (("short", files[:2]), ("long", files)):
    options = {"cut": "equal", "count": 1, "first": Window.of("2024-03-01"), "memory_bytes": 64 << 20}
    ingest(Lake(lake), name, Schema.load("criteo"), sources, **options)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) * (1024 if sys.platform == "linux" else 1))
"""


def criteo(num_rows: int, random: np.random.Generator) -> str:
    numbers = random.integers(-2, 5000, (num_rows, 13)).astype(str)
    numbers[random.random(numbers.shape) < 0.2] = ""
    texts = (random.zipf(1.3, (num_rows, 26)) % 1_000_003).astype(str)
    labels = random.integers(0, 2, (num_rows, 1)).astype(str)
    return "\n".join("\t".join(row) for row in np.concatenate([labels, numbers, texts], 1).tolist()) + "\n"


def test_a_log_several_times_as_long_takes_no_more_memory(tmp_path: Path, lake: Lake) -> None:
    files = [tmp_path / f"log_{number}.tsv" for number in range(6)]  # one alone is over before all buffers are full
    files[0].write_text(criteo(20_000, np.random.default_rng(0)) * 12)
    for again in files[1:]:
        again.symlink_to(files[0])
    arguments = [sys.executable, "-c", MEASURED, str(lake.root), *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    manifest = require_manifest(lake, "long", FIRST)
    assert manifest.num_rows == 1_440_000
    published = sum((lake.root / part.path).stat().st_size for part in manifest.parts)
    assert int(done.stdout) < 64 << 20 < published / 2


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the real log {DATA / name} is not here; its simulated twin runs always")
    return DATA / name


def test_criteo(lake: Lake) -> None:
    files = [str(folder("criteo") / "*.gz")]
    days = ingest(lake, "criteo", Schema.load("criteo"), files, cut="equal", count=5, first=FIRST)
    assert [(day.num_rows, day.quarantined) for day in days] == [(2000, {})] * 5
    assert 0.2 < sum(day.num_positives for day in days) / 10_000 < 0.24


def test_criteo_twin(tmp_path: Path, lake: Lake) -> None:
    log = tmp_path / "twin.tsv.gz"
    log.write_bytes(gzip.compress(criteo(500, np.random.default_rng(1)).encode()))
    days = ingest(lake, "twin", Schema.load("criteo"), [str(log)], cut="equal", count=5, first=FIRST)
    assert [(day.num_rows, day.quarantined) for day in days] == [(100, {})] * 5


def test_open_bandit(lake: Lake) -> None:
    files = sorted(str(path) for path in folder("obd").glob("*.gz"))
    schema = Schema.load("obd")
    days = ingest(lake, "obd", schema, files)
    assert [days[0].window.name, days[-1].window.name, len(days)] == ["2019-11-24", "2019-11-30", 7]
    assert sum(day.num_rows for day in days) == 40_000
    assert digests(ingest(lake, "obd", schema, files[::-1], force=True)) == digests(days)


def test_open_bandit_twin(tmp_path: Path, lake: Lake) -> None:
    schema = Schema.load("obd")
    names = ["", *schema.source_columns, "more"]
    line = {**dict.fromkeys(names, "0"), **{name: "ab" for name in names if name.startswith("user_feature")}}
    files = []
    for name in ("men", "women"):
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        at = FIRST.start + timedelta(microseconds=979311)
        writer.writerows(
            {**line, "": str(row), "timestamp": (at + timedelta(hours=row)).isoformat(" ")} for row in range(48)
        )
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(out.getvalue().encode()))
        files.append(str(tmp_path / f"{name}.csv.gz"))
    days = ingest(lake, "twin", schema, files)
    assert [day.num_rows for day in days] == [48, 48]
    assert len(set(read(lake, days)["example_id"].to_pylist())) == 96
    assert digests(ingest(lake, "twin", schema, files[::-1], force=True)) == digests(days)


def test_upworthy(lake: Lake) -> None:
    files = sorted(str(path) for path in folder("upworthy").glob("2014-08-0[3-5].parquet"))
    days = ingest(lake, "upworthy", Schema.load("upworthy"), files)
    assert [day.window.name for day in days] == ["2014-08-03", "2014-08-04", "2014-08-05"]
    found = read(lake, days)
    assert found.num_rows == sum(pq.read_metadata(path).num_rows for path in files)
    assert len(set(found["example_id"].to_pylist())) == found.num_rows
    assert min(len(tags) for tags in found["headline_tokens"].to_pylist()) > 0


def test_upworthy_twin(tmp_path: Path, lake: Lake) -> None:
    log = rows(200, days=3)
    days = ingest(lake, "twin", SCHEMA, [as_parquet(log + log[:50], tmp_path / "twin")])
    found = read(lake, days)
    assert (len(days), found.num_rows, len(set(found["example_id"].to_pylist()))) == (3, 250, 250)
