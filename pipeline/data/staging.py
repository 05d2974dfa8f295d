"""Parsed rows waiting on local disk, apart by window, and the quarantined ones with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.account import balance
from pipeline.data.parsing import Parsed, parse
from pipeline.data.records import Piece
from pipeline.spec.schema import Schema
from pipeline.spec.window import DAY_US

NOWHERE = -(1 << 40)
"""The bucket of the first file's records without a usable time; each further file's is one less."""

FILE = "staged:file"
"""The staged column with the number of the file that a record came from."""

_OWN = ("reason", "source", "line")


@dataclass
class Bucket:
    """What has been staged under one number: a day, a file, or the whole log, as the cut goes."""

    num_rows: int = 0
    num_files: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)


@dataclass
class StagedFile:
    """What has been read of one file of the log."""

    address: str
    num_records: int = 0
    """By the file's own count."""
    earliest: int | None = None
    """The earliest usable time in it, in microseconds since 1970."""
    num_timeless: int = 0
    """Records without a usable time."""
    elsewhere: Counter[int] = field(default_factory=Counter)
    """Records of days that were not asked for, by day; they are not staged."""
    of_day: Counter[int] = field(default_factory=Counter)
    """Records with a usable time by day, staged or not."""


class StagingArea:
    """Parsed rows on local disk, in files by bucket; only `budget` bytes of them wait in memory."""

    def __init__(self, root: Path, budget: int) -> None:
        self.root = root
        self.files: list[StagedFile] = []
        self.buckets: dict[int, Bucket] = {}
        self.samples: dict[str, str] = {}
        self._budget = budget
        self._waiting: dict[tuple[int, str], list[pa.RecordBatch]] = {}
        self._num_bytes = 0

    def bucket(self, number: int) -> Bucket:
        return self.buckets.setdefault(number, Bucket())

    @property
    def num_elsewhere(self) -> int:
        """Records of days that were not asked for."""
        return sum(file.elsewhere.total() for file in self.files)

    def add(self, number: int, kind: str, rows: pa.RecordBatch) -> None:
        self._waiting.setdefault((number, kind), []).append(rows)
        self._num_bytes += rows.nbytes
        if self._num_bytes > self._budget:
            self.flush()

    def flush(self) -> None:
        for (number, kind), batches in self._waiting.items():
            bucket = self.bucket(number)
            path = self.root / f"{number}-{kind}-{bucket.num_files:06d}.parquet"
            pq.write_table(pa.Table.from_batches(batches), path, compression="lz4", use_dictionary=["source", FILE])
            bucket.num_files += 1
        self._waiting.clear()
        self._num_bytes = 0

    def check(self) -> None:
        """Hold what lies on disk, and what is elsewhere, against each file's own count.

        Raises:
            Imbalance: records were lost or made up on the way.
        """
        found: Counter[int] = Counter()
        for path in self.root.glob("*.parquet"):
            found.update(counted(pq.read_table(path, columns=[FILE])[FILE]))
        for number, file in enumerate(self.files):
            balance(
                file.address, file.num_records, found[number] + file.elsewhere.total(), "staged or of other windows"
            )

    def paths(self, number: int, kind: str) -> list[str]:
        """The staged files of a bucket's `rows` or of its `quarantine`."""
        return sorted(str(path) for path in self.root.glob(f"{number}-{kind}-*.parquet"))

    def quarantine(self, number: int, first: int, last: int) -> Iterator[pa.RecordBatch]:
        """A bucket's quarantined rows that came before good rows `first` to `last`, each with its `FILE`.

        Those behind the last good row count with it.
        """
        num_rows = self.bucket(number).num_rows
        for path in self.paths(number, "quarantine"):
            for batch in pq.ParquetFile(path).iter_batches():
                before = np.minimum(batch.column("quarantine:position").to_numpy(), max(num_rows - 1, 0))
                yield batch.filter(pa.array((before >= first) & (before < max(last, 1))))


class Stager:
    """Parses one file's records into the staging area.

    Args:
        area: where to.
        schema: what the columns mean.
        address: the file.
        bucket: where all rows go; None: each to the bucket of its day.
        asked: the days whose rows matter; None: all.
    """

    def __init__(
        self, area: StagingArea, schema: Schema, address: str, bucket: int | None, asked: npt.NDArray[np.int64] | None
    ) -> None:
        self.area, self.schema, self.address, self.only, self.asked = area, schema, address, bucket, asked
        self.raw_columns = list(schema.source_columns)
        self.number = len(area.files)
        self.nowhere = NOWHERE - self.number if bucket is None else bucket
        self.file = StagedFile(address)
        self.num_bad = 0
        area.files.append(self.file)

    def add(self, piece: Piece) -> None:
        """Put the next records of the file into the staging area."""
        self.file.num_records += piece.num_records
        if piece.spoilt:
            lines, reasons = (pa.array(texts, pa.string()) for texts in zip(*piece.spoilt, strict=True))
            nothing = pa.nulls(len(lines), pa.string())
            self._quarantine(self.nowhere, [nothing] * len(self.raw_columns), reasons, lines)
        for batch in piece.batches:
            self._add_rows(batch)

    def _add_rows(self, batch: pa.RecordBatch) -> None:
        parsed = parse(batch, self.schema, self.address)
        days = self._days(parsed, batch.num_rows)
        bad = parsed.reasons != 0
        raw = [_as_text(column) for column in batch.columns] if bad.any() or self.schema.id_columns else []
        staged = self._staged(parsed, raw)
        for day in np.unique(days).tolist():
            of_day = days == day
            if self.only is None and day != self.nowhere:
                self.file.of_day[day] += (num_rows := int(of_day.sum()))
                if self.asked is not None and day not in self.asked:
                    self.file.elsewhere[day] += num_rows
                    continue
            self._add_good(day, staged, np.flatnonzero(of_day & ~bad))
            rows = pa.array(np.flatnonzero(of_day & bad))
            if len(rows):
                texts = pa.array(parsed.reason_texts, pa.string()).take(pa.array(parsed.reasons[rows.to_numpy()]))
                self._quarantine(day, [column.take(rows) for column in raw], texts, pa.nulls(len(rows), pa.string()))

    def _days(self, parsed: Parsed, num_rows: int) -> npt.NDArray[np.int64]:
        if self.only is not None or parsed.times is None:
            return np.full(num_rows, self.only or 0, np.int64)
        usable = parsed.times[~parsed.timeless]
        if len(usable):
            earliest = int(usable.min())
            self.file.earliest = earliest if self.file.earliest is None else min(earliest, self.file.earliest)
        return np.where(parsed.timeless, self.nowhere, parsed.times // DAY_US)

    def _staged(self, parsed: Parsed, raw: list[pa.Array]) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {"identity": pa.array(parsed.identity)}
        if parsed.times is not None:
            columns["event_time"] = pa.array(parsed.times)
        columns |= {f"published:{name}": column for name, column in parsed.columns.items()}
        columns[FILE] = self._numbers(len(parsed.identity))
        if self.schema.id_columns:  # only then can two different rows contend for one id
            columns["content"] = pa.array(parsed.content)
            columns |= {f"raw:{name}": column for name, column in zip(self.raw_columns, raw, strict=True)}
        return pa.RecordBatch.from_pydict(columns)

    def _numbers(self, num_rows: int) -> pa.Array:
        return pa.array(np.full(num_rows, self.number, np.int32))

    def _add_good(self, day: int, staged: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> None:
        if not len(rows):
            return
        bucket = self.area.bucket(day)
        bucket.sources.add(self.address)
        chosen = staged if len(rows) == staged.num_rows else staged.take(pa.array(rows))
        positions = np.arange(bucket.num_rows, bucket.num_rows + len(rows))
        bucket.num_rows += len(rows)
        self.area.add(day, "rows", chosen.append_column("position", pa.array(positions)))

    def _quarantine(self, day: int, raw: list[pa.Array], reasons: pa.Array, lines: pa.Array) -> None:
        bucket = self.area.bucket(day)
        bucket.sources.add(self.address)
        if day <= NOWHERE:
            self.file.num_timeless += len(reasons)
        for reason in pc.unique(reasons).to_pylist():
            bucket.quarantined[reason] += (num_rows := pc.sum(pc.equal(reasons, reason)).as_py())
            self.num_bad += num_rows
            first = pc.index(reasons, reason).as_py()
            sample = dict(zip(self.raw_columns, (column[first].as_py() for column in raw), strict=True))
            self.area.samples.setdefault(reason, f"{lines[first].as_py() or sample} in {self.address}")
        columns = quarantine_schema(self.schema)
        sources = pa.array([self.address] * len(reasons))
        rows = pa.RecordBatch.from_arrays([reasons, sources, lines, *raw], schema=columns)
        positions = pa.array(np.full(len(reasons), bucket.num_rows))
        rows = rows.append_column("quarantine:position", positions).append_column(FILE, self._numbers(len(reasons)))
        self.area.add(day, "quarantine", rows)


def counted(numbers: pa.ChunkedArray | pa.Array) -> dict[int, int]:
    """How often each number occurs."""
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(numbers).to_pylist()}


def quarantine_schema(schema: Schema) -> pa.Schema:
    """The columns of a quarantine: the reason, the file, the whole line if it could not be split, the raw values."""
    raw = [f"{name}_" if name in _OWN else name for name in schema.source_columns]
    return pa.schema([(name, pa.string()) for name in (*_OWN, *raw)])


def _as_text(column: pa.Array) -> pa.Array:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if not pa.types.is_nested(plain.type):
        return plain.cast(pa.string(), safe=False)
    return pa.array([None if value is None else str(value) for value in plain.to_pylist()], pa.string())
