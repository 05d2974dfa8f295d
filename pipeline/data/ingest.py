"""From a raw log of any size to published windows: parse into staged files, then sort and publish day by day."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.account import FileAccount
from pipeline.data.dataset import ROW_GROUP_SIZE, WindowManifest, physical_schema, publish_window
from pipeline.data.parsing import EPOCH
from pipeline.data.records import read_pieces
from pipeline.data.sources import IngestError, SourceFile
from pipeline.data.staging import FILE, NOWHERE, StagedFile, Stager, StagingArea, counted, quarantine_schema
from pipeline.spec.schema import Schema
from pipeline.spec.window import DAY, DAY_US, Window
from pipeline.storage.hashing import GAMMA, key_of
from pipeline.storage.lake import Lake, checked_name

__all__ = ["Cut", "IngestError", "Ingested", "LogFile", "ingest"]

Cut: TypeAlias = Literal["event_time", "file_per_window", "equal"]

MEMORY_BYTES = 1 << 30
"""What an ingest may hold at a time, about."""

_BATCH_ROWS = 1 << 16
_SORT_BYTES = 1 << 27
_TWICE = "the declared id occurs more than once in its window"


Found: TypeAlias = dict[str, Counter[Window]]
"""By file: how many of its records are of each window, whether asked for or not."""


@dataclass(frozen=True)
class LogFile:
    """A file of a log."""

    source: SourceFile
    day: Window | None = None
    """The day in its name, if it is one of many files with `{date}`: the home of records without a usable time, and
    the window that it makes where the log has no times."""


@dataclass(frozen=True)
class Ingested:
    """What came of an ingest."""

    manifests: list[WindowManifest]
    """Of the windows, in order of time."""
    files: list[FileAccount]
    """Where the records of each file ended."""


@dataclass(frozen=True)
class _Slice:
    """One window's rows: those of a staged bucket from position `first` to before `last`."""

    window: Window
    bucket: int
    first: int
    last: int


def ingest(
    lake: Lake,
    dataset: str,
    schema: Schema,
    files: Sequence[LogFile],
    *,
    first: Window | None = None,
    windows: Sequence[Window] | None = None,
    cut: Cut = "event_time",
    count: int | None = None,
    max_quarantine_share: float = 0.01,
    force: bool = False,
    row_group_size: int = ROW_GROUP_SIZE,
    memory_bytes: int = MEMORY_BYTES,
    staging: str | None = None,
    progress: Callable[[str], None] | None = None,
    found: Callable[[Found], None] | None = None,
) -> Ingested:
    """Publish the windows of a raw log, and account for each record of its files.

    With `cut="event_time"` the schema's event time says which window a row belongs to. Rows of days that were not
    asked for are other windows' business and are neither published nor quarantined; an event time that is missing,
    unreadable, before 1990 or after 2099 lies outside every window and sends its row to the quarantine.

    A log without times is cut in the order of its files: `file_per_window` makes them consecutive windows from `first` on,
    `equal` cuts all rows into `count` windows of the same size, and files with a day in their name are that day's window.
    Rows are spread evenly over their day.

    Records go to the quarantine one by one, each with its reason. A declared id that occurs more than once in a window
    keeps its earliest row. A record without a usable time has one home, whatever the windows asked for: the day in its
    file's name, else the day of the file's earliest time, else of the log's. Nothing is published before the whole log
    has been read, its records counted against the files' own count, and the shares checked.

    Args:
        lake: where to.
        dataset: the data set's name.
        schema: what the columns mean.
        files: all of them with a day in their name, or none of them, where the log has no times.
        first: the first window of a log without times, unless its files have days.
        windows: publish these only; each must have rows. All that the log holds by default.
        cut: how rows find their window.
        count: number of windows of an `equal` cut.
        max_quarantine_share: of the rows of the log and of each window, how many may be quarantined.
        force: publish new generations even of windows that already say the same.
        row_group_size: rows of a row group.
        memory_bytes: about what may be held in memory; the rest of the log waits on disk.
        staging: local directory for what waits on disk, up to the size of the log; the system's own by default.
        progress: called with a line for each thing done.
        found: called, before anything is published, with the windows of which the files have records.

    Raises:
        IngestError: the log cannot become windows as asked; nothing has been published.
        Imbalance: records were lost between the files and the windows; nothing of it has been published.
        LakeError: the data set's name would leave the lake.
        Conflict: somebody else published a window meanwhile.
    """
    checked_name(dataset)
    by_day = schema.event_time == "synthetic" and all(file.day is not None for file in files)
    if not by_day:
        _check_cut(schema, cut, first, count)
    if not 0 <= max_quarantine_share <= 1:
        raise IngestError(f"max_quarantine_share must be in [0, 1], got {max_quarantine_share}")
    report = progress or (lambda line: None)
    with tempfile.TemporaryDirectory(prefix="windrow-ingest-", dir=staging) as name:
        area = StagingArea(Path(name), memory_bytes // 8)
        _stage_all(area, files, schema, cut, _asked_days(windows, schema), report)
        area.check()
        homes = [_home(file, staged, area) for file, staged in zip(files, area.files, strict=True)]
        if found is not None:
            found({file.address: _of_windows(file, home) for file, home in zip(area.files, homes, strict=True)})
        with closing(_connect(name, memory_bytes // 2)) as connection:
            _check_shares(area, Counter(), max_quarantine_share)
            slices = _chosen(_slices(area, by_day, first, count), windows)
            sorters = [_Sorter(connection, area, schema, each, homes) for each in slices]
            twice: Counter[int] = Counter()
            for sorter in sorters:
                twice[sorter.slice.bucket] += sorter.twice.total()
            _check_shares(area, twice, max_quarantine_share)
            manifests = [
                publish_window(
                    lake,
                    dataset,
                    sorter.slice.window,
                    schema,
                    sorter.rows(),
                    quarantined=sorter.reasons,
                    account=sorter.account(),
                    quarantine=sorter.quarantine(),
                    row_group_size=row_group_size,
                    force=force,
                    progress=progress,
                )
                for sorter in sorters
            ]
        return Ingested(manifests, _accounts(area, sorters))


def _home(file: LogFile, staged: StagedFile, area: StagingArea) -> int | None:
    """The day of the file's records without a usable time; None where nothing in the whole log has one."""
    if file.day is not None:
        return _day_number(file.day)
    if staged.earliest is not None:
        return staged.earliest // DAY_US
    return min((each.earliest // DAY_US for each in area.files if each.earliest is not None), default=None)


def _of_windows(file: StagedFile, home: int | None) -> Counter[Window]:
    origin = Window(EPOCH)
    found = Counter({origin.shift(day): num_rows for day, num_rows in file.of_day.items()})
    if file.num_timeless and home is not None:
        found[origin.shift(home)] += file.num_timeless
    return found


def _accounts(area: StagingArea, sorters: list[_Sorter]) -> list[FileAccount]:
    published: Counter[int] = Counter()
    quarantined: Counter[int] = Counter()
    for sorter in sorters:
        published += sorter.good - sorter.twice
        quarantined += sorter.bad + sorter.twice
    return [
        FileAccount.of(file.address, file.num_records, published[number], quarantined[number])
        for number, file in enumerate(area.files)
    ]


def _check_cut(schema: Schema, cut: Cut, first: Window | None, count: int | None) -> None:
    if schema.event_time == "synthetic":
        if cut == "event_time":
            raise IngestError(
                "a log without times is cut by 'file_per_window' or 'equal', got cut 'event_time': "
                "choose one, or name an event_time column in the schema"
            )
        if first is None:
            raise IngestError("a log without times needs its first window, got none: give `first`")
    elif cut != "event_time":
        raise IngestError(
            f"a log with event times is cut by them, got cut {cut!r}: leave it out, or say `event_time: synthetic`"
        )
    elif first is not None:
        raise IngestError(f"`first` is for logs without times, got {first.name}: give `windows` instead")
    if (cut == "equal") != (count is not None) or (count is not None and count < 1):
        raise IngestError(f"`count` is the number of windows, 1 or more, of an 'equal' cut; got {count} with {cut!r}")


def _asked_days(windows: Sequence[Window] | None, schema: Schema) -> npt.NDArray[np.int64] | None:
    if windows is not None and not windows:
        raise IngestError("`windows` names one window or more, got none: leave it out to publish all")
    if windows is None or schema.event_time == "synthetic":
        return None
    return np.array(sorted(_day_number(window) for window in windows), np.int64)


def _day_number(window: Window) -> int:
    return (window.start - EPOCH) // DAY


def _connect(directory: str, memory_bytes: int) -> duckdb.DuckDBPyConnection:
    # Each thread needs room of its own to sort wide rows: with little memory, few threads. Insertion order stays
    # preserved, since without it DuckDB 2.0.0 can hand sorted rows to Arrow out of order.
    memory = max(memory_bytes, _SORT_BYTES)
    connection = duckdb.connect(
        config={
            "memory_limit": f"{memory >> 20}MiB",
            "temp_directory": directory,
            "threads": min(os.cpu_count() or 1, memory // _SORT_BYTES),
            "preserve_insertion_order": True,
        }
    )
    connection.execute("SET enable_progress_bar = false")  # it writes to the standard output
    return connection


def _stage_all(
    area: StagingArea,
    files: Sequence[LogFile],
    schema: Schema,
    cut: Cut,
    asked: npt.NDArray[np.int64] | None,
    progress: Callable[[str], None],
) -> None:
    for number, file in enumerate(files):
        bucket = None
        if schema.event_time == "synthetic":
            bucket = _day_number(file.day) if file.day is not None else number if cut == "file_per_window" else 0
        stager = Stager(area, schema, file.source.address, bucket, asked)
        for piece in read_pieces(file.source, schema):
            stager.add(piece)
        elsewhere = stager.file.elsewhere.total()
        rest = f", {elsewhere:,} of other windows" if elsewhere else ""
        progress(f"read {file.source.address}: {stager.file.num_records:,} records, {stager.num_bad:,} bad{rest}")
    area.flush()


def _slices(area: StagingArea, by_day: bool, first: Window | None, count: int | None) -> list[_Slice]:
    """Which staged rows make which window, in order of time."""
    filled = sorted(number for number, bucket in area.buckets.items() if bucket.num_rows)
    if by_day or first is None:
        origin = Window(EPOCH)
        return [_Slice(origin.shift(day), day, 0, area.bucket(day).num_rows) for day in filled]
    if count is None:
        return [_Slice(first.shift(number), number, 0, area.bucket(number).num_rows) for number in filled]
    num_rows = area.bucket(0).num_rows
    edges = [part * num_rows // count for part in range(count + 1)]
    if num_rows < count:
        raise IngestError(f"an equal cut needs a good row for each window, got {num_rows} for {count}: lower `count`")
    return [_Slice(first.shift(part), 0, *edges[part : part + 2]) for part in range(count)]


def _chosen(slices: list[_Slice], windows: Sequence[Window] | None) -> list[_Slice]:
    if windows is None:
        return slices
    if missing := sorted({window.name for window in windows} - {each.window.name for each in slices}):
        found = f"windows {slices[0].window.name} to {slices[-1].window.name}" if slices else "no good row at all"
        raise IngestError(
            f"every requested window must have good rows in the log, got none for {', '.join(missing)} "
            f"(of those requested, the log has {found}): check the sources, or request other windows"
        )
    return [each for each in slices if each.window in windows]


def _check_shares(area: StagingArea, twice: Counter[int], limit: float) -> None:
    """Refuse a log, or a window of it, of which too much is quarantined.

    Args:
        area: what was read.
        twice: good rows of each bucket whose id another row has.
        limit: the largest share allowed.
    """
    whole: Counter[str] = Counter()
    num_good = 0
    for number, bucket in area.buckets.items():
        reasons = bucket.quarantined + Counter({_TWICE: twice[number]})
        num_good += (of_bucket := bucket.num_rows - twice[number])
        whole += reasons
        if number > NOWHERE:
            _check_share(
                f"the rows of one window in {', '.join(sorted(bucket.sources))}", of_bucket, reasons, area, limit
            )
    _check_share("the rows of the log", num_good + area.num_elsewhere, whole, area, limit)
    if num_good == 0:
        raise IngestError("a log must hold good rows of the requested windows, got none: check sources and schema")


def _check_share(what: str, num_good: int, reasons: Counter[str], area: StagingArea, limit: float) -> None:
    num_bad = reasons.total()
    if num_bad <= limit * (num_good + num_bad):
        return
    examples = "; ".join(
        f"{reason}: {number:,} times" + (f", first {area.samples[reason]:.400}" if reason in area.samples else "")
        for reason, number in reasons.most_common(3)
    )
    raise IngestError(
        f"at most {limit:.2%} of {what} may be quarantined, got {num_bad:,} of {num_good + num_bad:,} ({examples}): "
        f"mend the log or the schema, or raise max_quarantine_share"
    )


class _Sorter:
    """Numbers and sorts one window's staged rows; DuckDB spills to disk what does not fit.

    Args:
        connection: where to sort.
        area: what was read.
        schema: what the columns mean.
        chosen: which rows.
        homes: the day of each file's records without a usable time.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        area: StagingArea,
        schema: Schema,
        chosen: _Slice,
        homes: Sequence[int | None],
    ) -> None:
        self.connection, self.area, self.schema, self.slice = connection, area, schema, chosen
        self.homeless = [NOWHERE - file for file, home in enumerate(homes) if home == chosen.bucket]
        files = ", ".join(_quoted(path, "'") for path in area.paths(chosen.bucket, "rows"))
        self._base = (
            f"(SELECT * FROM read_parquet([{files}]) WHERE position >= {chosen.first} AND position < {chosen.last})"
        )
        self._repeated = f"repeated_{chosen.window.name.replace('-', '')}"
        self.good = self._by_file(self._base)
        self.twice: Counter[int] = Counter()
        if schema.id_columns:
            self._number()
            self.twice = self._by_file(f"{self._base} JOIN {self._repeated} USING (position) WHERE occurrence > 0")
        self.bad: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter({_TWICE: self.twice.total()} if self.twice else {})
        for batch in self._staged_quarantine():
            self.bad.update(counted(batch.column(FILE)))
            self.reasons.update(batch.column("reason").to_pylist())

    def _by_file(self, rows: str) -> Counter[int]:
        found = self.connection.execute(f'SELECT "{FILE}", count(*) FROM {rows} GROUP BY ALL').fetchall()
        return Counter({int(number): int(count) for number, count in found})

    def account(self) -> list[FileAccount]:
        """Where the records of each file ended that the window has some of."""
        files = self.area.files
        return [
            FileAccount.of(
                files[number].address,
                files[number].num_records,
                self.good[number] - self.twice[number],
                self.bad[number] + self.twice[number],
            )
            for number in sorted(self.good.keys() | self.bad.keys())
        ]

    def rows(self) -> Iterator[pa.RecordBatch]:
        """The window's rows as it publishes them."""
        columns = physical_schema(self.schema)
        if not self.schema.id_columns:
            self._number()
        identity, time = "identity", "event_time"
        if self.schema.event_time == "synthetic":
            # Without a time in the content, equal rows on two days would be the same example.
            identity = f"xor(identity, {key_of('window', self.slice.window.name)}::UBIGINT)"
            num_rows, start = self.slice.last - self.slice.first, _day_number(self.slice.window) * DAY_US
            spread = f"((position - {self.slice.first})::HUGEINT * {DAY_US} // {num_rows})"
            time = f"{start} + {spread}::BIGINT"
        published = ", ".join(_quoted(f"published:{name}", '"') for name in columns.names[2:])
        only = "WHERE occurrence IS NULL OR occurrence = 0" if self.schema.id_columns else ""
        result = self.connection.sql(
            f"""
            SELECT (({identity}::HUGEINT + coalesce(occurrence, 0)::HUGEINT * {GAMMA}) % {1 << 64})::UBIGINT AS id,
                   {time} AS time, {published}
            FROM {self._base} LEFT JOIN {self._repeated} USING (position) {only}
            ORDER BY time, id
            """
        )
        for batch in result.to_arrow_reader(_BATCH_ROWS):
            arrays = [_cast(column, kind) for column, kind in zip(batch.columns, columns.types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=columns)
        if not self.schema.id_columns:
            self.connection.execute(f"DROP TABLE {self._repeated}")

    def _number(self) -> None:
        """Number the rows that share an identity, in an order that no source file can change."""
        ties = ['"published:label"', *(['"published:true_prob"'] if self.schema.true_prob else []), "position"]
        if self.schema.id_columns:
            ties = [*(["event_time"] if self.schema.event_time != "synthetic" else ["position"]), "content", *ties]
        self.connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE {self._repeated} AS
            SELECT position, row_number() OVER (PARTITION BY identity ORDER BY {", ".join(ties)}) - 1 AS occurrence
            FROM {self._base}
            WHERE identity IN (SELECT identity FROM {self._base} GROUP BY identity HAVING count(*) > 1)
            """
        )

    def quarantine(self) -> Iterator[pa.RecordBatch]:
        """The window's quarantined rows, in the format of `quarantine_schema`."""
        columns = quarantine_schema(self.schema)
        for batch in self._staged_quarantine():
            if batch.num_rows:
                yield batch.select(range(len(columns)))
        if self.twice:
            raw = ", ".join(_quoted(f"raw:{name}", '"') for name in self.schema.source_columns)
            files = ", ".join(_quoted(file.address, "'") for file in self.area.files)
            result = self.connection.sql(
                f"""
                SELECT {_quoted(_TWICE, "'")} AS reason, [{files}]["{FILE}" + 1] AS source, NULL::VARCHAR AS line, {raw}
                FROM {self._base} JOIN {self._repeated} USING (position)
                WHERE occurrence > 0 ORDER BY identity, occurrence
                """
            )
            for batch in result.to_arrow_reader(_BATCH_ROWS):
                arrays = [_cast(column, kind) for column, kind in zip(batch.columns, columns.types, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=columns)

    def _staged_quarantine(self) -> Iterator[pa.RecordBatch]:
        chosen = self.slice
        yield from self.area.quarantine(chosen.bucket, chosen.first, chosen.last)
        for bucket in self.homeless:
            if bucket in self.area.buckets:
                yield from self.area.quarantine(bucket, 0, 1)


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace(quote, 2 * quote) + quote


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)
