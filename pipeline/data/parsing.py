"""From the raw columns of a log to numbers: labels, times, ids and features, and the reason where a row has none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.data.sources import IngestError
from pipeline.spec.schema import Dense, EventTime, ListColumn, Schema, Transform
from pipeline.storage.hashing import bucket_of, key_of, splitmix64

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US, LATEST_US = (
    (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for year in (1990, 2100)
)
"""Event times outside `[EARLIEST_US, LATEST_US)` are taken for mistakes."""

_MISSING = key_of("a missing value")
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)\.0")
_UNIT_US = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0}


@dataclass(frozen=True)
class Parsed:
    """A batch after parsing, N rows; what stands at a row with a reason means nothing."""

    columns: dict[str, pa.Array]
    """Label, cluster, true_prob and features as a window publishes them, by their published names."""
    identity: UInts
    """Hash of the id columns if the schema names some, else of the content; `(N,)`."""
    content: UInts
    """Hash of all columns that the schema names but the label and true_prob; `(N,)`."""
    times: Ints | None
    """Microseconds since 1970 `(N,)`, as UTC or as the local clock, as the schema says; None for a log without times. Rows in
    `timeless` have 0."""
    timeless: Mask
    """Rows whose event time is missing, unreadable or absurd; `(N,)`."""
    reasons: Ints
    """Which of `reason_texts` says why a row must be quarantined; 0 where it need not; `(N,)`."""
    reason_texts: list[str]
    """The first is for no reason."""


class _Rows:
    """What is gathered over the rows of one batch: reasons, and the hash of the content."""

    def __init__(self, num_rows: int) -> None:
        self.reasons: Ints = np.zeros(num_rows, np.int64)
        self.reason_texts = [""]
        self.content = np.zeros(num_rows, np.uint64)
        self._counted: set[tuple[str, str]] = set()

    def blame(self, rows: Mask, reason: str) -> None:
        """Give the rows a reason; the first one found stays."""
        if rows.any():
            self.reasons[rows & (self.reasons == 0)] = len(self.reason_texts)
            self.reason_texts.append(reason)

    def is_new(self, kind: str, source: str) -> bool:
        """Whether this is the first time that the source column is read as that kind."""
        known = (kind, source) in self._counted
        self._counted.add((kind, source))
        return not known

    def count_in(self, hashes: UInts) -> None:
        """Add to the hash of the content: a sum, so that the order of the columns does not matter."""
        self.content += hashes


def parse(batch: pa.RecordBatch, schema: Schema, where: str) -> Parsed:
    """Parse a batch of raw rows.

    Args:
        batch: the columns that the schema names, as `read_batches` yields them.
        schema: what they mean.
        where: the file, for errors.

    Raises:
        IngestError: a column's type cannot hold what the schema says is in it.
    """
    rows, reader = _Rows(batch.num_rows), _Reader(batch, where)
    times, timeless = _event_times(schema.event_time, reader, rows)
    columns = {"label": _labels(reader, schema.label, rows)}
    for dense in schema.dense:
        columns[dense.name] = _dense(dense, reader, rows)
    for categorical in schema.categorical:
        text = reader.text(categorical.source)
        columns[categorical.name] = pa.array(text.buckets(categorical.name, categorical.hash_size))
        if rows.is_new("text", categorical.source):
            rows.count_in(text.keyed("text", categorical.source))
    for feature in schema.lists:
        columns[feature.name] = _list(feature, reader, rows)
    if schema.cluster is not None:
        text = reader.text(schema.cluster)
        columns["cluster"] = pa.array(text.keyed("cluster", schema.cluster))
        if rows.is_new("text", schema.cluster):
            rows.count_in(text.keyed("text", schema.cluster))
    if schema.true_prob is not None:
        columns["true_prob"] = _true_prob(schema.true_prob, reader, rows)
    content = splitmix64(rows.content)
    identity = _identity(schema.id_columns, reader, rows) if schema.id_columns else content
    return Parsed(columns, identity, content, times, timeless, rows.reasons, rows.reason_texts)


@dataclass(frozen=True)
class _Text:
    """A column of categories as hashes of its distinct values, the missing one last."""

    hashes: UInts
    codes: npt.NDArray[np.int64]
    """Which of the hashes a row has; `(N,)`."""

    def keyed(self, *words: str) -> UInts:
        """A hash for each row; equal values under other words have unrelated ones."""
        return splitmix64(self.hashes ^ key_of(*words))[self.codes]

    def buckets(self, name: str, hash_size: int) -> npt.NDArray[np.int32]:
        return bucket_of(splitmix64(self.hashes ^ key_of("bucket", name)), hash_size)[self.codes]

    @property
    def missing(self) -> Mask:
        return np.asarray(self.hashes[self.codes] == _MISSING)


class _Reader:
    """The columns of a batch, read as what the schema says they are."""

    def __init__(self, batch: pa.RecordBatch, where: str) -> None:
        self._batch = batch
        self._where = where
        self._texts: dict[str, _Text] = {}

    def raw(self, column: str) -> pa.Array:
        return self._batch.column(column)

    def wrong(self, column: str, wanted: str) -> IngestError:
        return IngestError(
            f"column {column!r} of {self._where} must hold {wanted}, got type {self.raw(column).type}: "
            f"say in the schema what it is, or write the file with another type"
        )

    def numbers(self, column: str) -> tuple[Floats, Mask]:
        """Values (N,), NaN where missing, and which ones are not numbers."""
        values = _plain(self.raw(column))
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            return _numbers_of_text(values)
        number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
        if not any(test(values.type) for test in number):
            raise self.wrong(column, "numbers")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.uint8())
        return _filled(values.cast(pa.float64(), safe=False)), np.zeros(len(values), bool)

    def text(self, column: str) -> _Text:
        if column not in self._texts:
            values = self.raw(column)
            if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
                raise self.wrong(column, "one category per row")
            self._texts[column] = hash_text(values)
        return self._texts[column]

    def lists(self, feature: ListColumn) -> pa.ListArray:
        """Lists (N,) without missing ones and without missing entries."""
        values = _plain(self.raw(feature.source))
        if pa.types.is_string(values.type):
            values = pc.split_pattern(values, feature.separator)
        elif pa.types.is_null(values.type):
            values = values.cast(pa.list_(pa.string()))
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            raise self.wrong(feature.source, f"lists, or text parted by {feature.separator!r}")
        if pa.types.is_nested(values.type.value_type):
            raise self.wrong(feature.source, "lists of categories")
        return _dense_list(values)


def hash_text(values: pa.Array) -> _Text:
    """Hash a column of categories by its distinct values; the empty text and NaN are missing values.

    An integer hashes as its digits, whatever the column's type: a file whose column has holes stores it as a float.
    """
    coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    digest = xxhash.xxh3_64_intdigest
    hashes = [digest(text) if text else _MISSING for text in _spellings(coded.dictionary)]
    codes = pc.fill_null(coded.indices.cast(pa.int64()), len(hashes)).to_numpy(zero_copy_only=False)
    return _Text(np.array([*hashes, _MISSING], np.uint64), codes)


def _spellings(distinct: pa.Array) -> list[bytes | None]:
    """The text of each value: an integer's digits, also where it is a float, a decimal or was written from a float."""
    kind = distinct.type
    if pa.types.is_float16(kind):
        distinct = distinct.cast(pa.float32())
    text = distinct if pa.types.is_string(kind) else distinct.cast(pa.string())
    texts: list[bytes | None] = text.cast(pa.binary()).to_pylist()
    if pa.types.is_floating(kind):
        pairs = zip(texts, distinct.to_pylist(), strict=True)
        return [text if text is None else _of_float(text, number) for text, number in pairs]
    if pa.types.is_decimal(kind):
        return [
            text if text is None or number % 1 else str(int(number)).encode()
            for text, number in zip(texts, distinct.to_pylist(), strict=True)
        ]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [text[:-2] if text and text.endswith(b".0") and _INTEGER.fullmatch(text) else text for text in texts]
    return texts


def _of_float(text: bytes, number: float) -> bytes | None:
    if math.isnan(number):
        return None
    return str(int(number)).encode() if number.is_integer() else text


def transformed(values: Floats, transform: Transform) -> Floats:
    """The transform of every value; defined for all but NaN, which stays."""
    match transform:
        case "identity":
            return values
        case "log1p":
            return np.log1p(np.maximum(values, 0.0))
        case "signed_log1p":
            return np.sign(values) * np.log1p(np.abs(values))


def _labels(reader: _Reader, column: str, rows: _Rows) -> pa.Array:
    numbers, unreadable = reader.numbers(column)
    if unreadable.any():
        words = pc.utf8_lower(_plain(reader.raw(column)).cast(pa.string()))
        for word, value in (("false", 0.0), ("true", 1.0)):
            numbers[pc.fill_null(pc.equal(words, word), False).to_numpy(zero_copy_only=False)] = value
    rows.blame(~((numbers == 0) | (numbers == 1)), f"label {column!r} is not 0 or 1")
    return pa.array((numbers == 1).astype(np.uint8))


def _true_prob(column: str, reader: _Reader, rows: _Rows) -> pa.Array:
    numbers, _ = reader.numbers(column)
    rows.blame(~((numbers >= 0) & (numbers <= 1)), f"true probability {column!r} is not in [0, 1]")
    return pa.array(numbers)


def _dense(dense: Dense, reader: _Reader, rows: _Rows) -> pa.Array:
    numbers, unreadable = reader.numbers(dense.source)
    rows.blame(unreadable, f"column {dense.source!r} is not a number")
    if rows.is_new("number", dense.source):
        # Adding 0.0 turns -0.0 into 0.0, and every NaN is made the same one: equal values have equal bits.
        bits = np.where(np.isnan(numbers), np.nan, numbers + 0.0).view(np.uint64)
        rows.count_in(splitmix64(bits ^ key_of("number", dense.source)))
    with np.errstate(over="ignore"):
        published = np.where(np.isnan(numbers), dense.fill, transformed(numbers, dense.transform)).astype(np.float32)
    rows.blame(np.isinf(numbers) | np.isinf(published), f"column {dense.source!r} is infinite")
    return pa.array(published)


def _list(feature: ListColumn, reader: _Reader, rows: _Rows) -> pa.Array:
    lists = reader.lists(feature)
    text = hash_text(lists.values)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    if rows.is_new("list", feature.source):
        entries = splitmix64(text.keyed("list", feature.source) + places.astype(np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entries, dtype=np.uint64)])[offsets]
        rows.count_in(splitmix64((sums[1:] - sums[:-1]) ^ key_of("list", feature.source)))
    buckets = text.buckets(feature.name, feature.hash_size)
    if feature.max_length is not None:
        buckets = buckets[places < feature.max_length]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(lengths, feature.max_length))])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(buckets))


def _identity(columns: tuple[str, ...], reader: _Reader, rows: _Rows) -> UInts:
    total = np.zeros(len(rows.reasons), np.uint64)
    for column in columns:
        text = reader.text(column)
        rows.blame(text.missing, f"id column {column!r} is missing")
        total += text.keyed("id", column)
    return splitmix64(total)


def _event_times(spec: EventTime | str, reader: _Reader, rows: _Rows) -> tuple[Ints | None, Mask]:
    if not isinstance(spec, EventTime):
        return None, np.zeros(len(rows.reasons), bool)
    times, known = _micros(spec, reader)
    rows.blame(~known, f"event time {spec.column!r} is missing or unreadable")
    absurd = known & ((times < EARLIEST_US) | (times >= LATEST_US))
    rows.blame(absurd, f"event time {spec.column!r} is before 1990 or after 2099")
    times = np.where(known & ~absurd, times, 0)
    rows.is_new("time", spec.column)
    rows.count_in(splitmix64(times.view(np.uint64) ^ key_of("time")))
    timeless = ~known | absurd
    return (_local(times, spec.zone) if spec.day == "local" else times), timeless


def _local(times: Ints, zone: str) -> Ints:
    """What the clock of a zone showed, `(N,)`."""
    shown = pc.local_timestamp(pa.array(times).view(pa.timestamp("us")).cast(pa.timestamp("us", zone)))
    return shown.view(pa.int64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _micros(spec: EventTime, reader: _Reader) -> tuple[Ints, Mask]:
    """Microseconds since 1970 UTC (N,), and which of them are known."""
    values = _plain(reader.raw(spec.column))
    kind = values.type
    if pa.types.is_date(kind):
        return _instants(values.cast(pa.timestamp("us")), spec.zone)
    if pa.types.is_timestamp(kind):
        return _instants(values.cast(pa.timestamp("us", kind.tz), safe=False), spec.zone)
    if spec.format in _UNIT_US:
        numbers, _ = reader.numbers(spec.column)
        scaled = np.rint(numbers * _UNIT_US[spec.format])
        known = np.abs(scaled) < 2.0**62
        return np.where(known, scaled, 0).astype(np.int64), known
    if not (pa.types.is_string(kind) or pa.types.is_null(kind)):
        raise reader.wrong(spec.column, "times (or numbers, with `format: epoch_s` or the like)")
    return _instants_of_text(values.cast(pa.string()), spec)


def _instants(values: pa.Array, zone: str) -> tuple[Ints, Mask]:
    if values.type.tz is None:
        values = pc.assume_timezone(values, zone, ambiguous="earliest", nonexistent="earliest")
    known = values.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(values.view(pa.int64()), 0).to_numpy(zero_copy_only=False), known


def _instants_of_text(values: pa.Array, spec: EventTime) -> tuple[Ints, Mask]:
    if spec.format == "iso":
        for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
            try:
                return _instants(values.cast(kind), spec.zone)
            except pa.ArrowInvalid:
                continue  # some row has the other form, or none: read them one by one
    read = [_time_of_text(value, spec.format) for value in values.to_pylist()]
    zoned = pa.array([each if each and each.tzinfo else None for each in read], pa.timestamp("us", "UTC"))
    plain = pa.array([each if each and not each.tzinfo else None for each in read], pa.timestamp("us"))
    (with_zone, has_zone), (without, has_none) = _instants(zoned, spec.zone), _instants(plain, spec.zone)
    return np.where(has_zone, with_zone, without), has_zone | has_none


def _time_of_text(value: str | None, form: str) -> datetime | None:
    try:
        text = (value or "").strip()
        read = datetime.fromisoformat(text) if form == "iso" else datetime.strptime(text, form)  # noqa: DTZ007
        # Year 1 has no other time before it, and years past 9998 none after it, in some zone.
        return read if 2 <= read.year <= 9998 else None
    except ValueError:
        return None


def _numbers_of_text(values: pa.Array) -> tuple[Floats, Mask]:
    try:
        return _filled(values.cast(pa.float64())), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        read = [_number_of_text(value) for value in values.to_pylist()]
    unreadable = np.array([number is None for number in read], bool)
    return np.array([np.nan if number is None else number for number in read], np.float64), unreadable


def _number_of_text(value: str | None) -> float | None:
    text = (value or "").strip()
    if "_" in text:  # Python reads 1_000 as a number; nobody else does
        return None
    try:
        return float(text) if text else np.nan
    except ValueError:
        return None


def _filled(values: pa.Array) -> Floats:
    numbers: Floats = pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False)
    return numbers


def _plain(values: pa.Array) -> Any:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _dense_list(values: pa.Array) -> pa.ListArray:
    """The same lists, offsets from 0, no missing list and no missing or empty entry in one."""
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    entries = _plain(values.flatten())
    keep = entries.is_valid()
    if pa.types.is_string(entries.type):
        keep = pc.and_kleene(keep, pc.fill_null(pc.not_equal(entries, ""), False))
    elif pa.types.is_floating(entries.type):
        keep = pc.and_kleene(keep, pc.invert(pc.fill_null(pc.is_nan(entries), False)))
    kept = keep.to_numpy(zero_copy_only=False)
    if not kept.all():
        entries = entries.filter(keep)
        lengths = np.bincount(np.repeat(np.arange(len(lengths)), lengths), kept, len(lengths)).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), entries)
