"""The records of a file: recognised (text or Parquet, plain or gzip), read in pieces of bounded size, and counted."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.data.lines import (
    BLOCK_BYTES,
    BadQuotes,
    LineCount,
    OverlongLine,
    first_line,
    set_aside,
    split,
    whole_lines,
)
from pipeline.data.sources import IngestError, SourceFile
from pipeline.spec.schema import Schema

BATCH_ROWS = 1 << 15
"""Rows of a batch read from Parquet."""
WRONG_COLUMNS = "wrong number of columns"


@dataclass(frozen=True)
class Piece:
    """The next records of a file."""

    num_records: int
    """How many, counted apart from what is read: lines that are not blank, or the rows that a Parquet file says it has."""
    batches: list[pa.RecordBatch]
    """The columns that the schema names: all strings from text, with the file's own types from Parquet."""
    spoilt: list[tuple[str, str]]
    """Lines that cannot be cut into columns, each with the reason."""


def read_pieces(source: SourceFile, schema: Schema) -> Iterator[Piece]:
    """The records of a file, one piece ahead of whoever takes them.

    Raises:
        IngestError: the file is missing, empty, cut short, no table, or lacks a column.
    """
    pieces = _read(source, schema)
    with ThreadPoolExecutor(1, thread_name_prefix="windrow-read") as reader:
        following = reader.submit(next, pieces, None)
        while (piece := following.result()) is not None:
            following = reader.submit(next, pieces, None)
            yield piece


def _read(source: SourceFile, schema: Schema) -> Iterator[Piece]:
    with _naming(source):
        with source.files.open_input_file(source.path) as file:
            magic = file.read(4)
        if not magic:
            raise IngestError(f"{source.address} must hold rows, got an empty file: leave it out or write it again")
        if magic == b"PAR1":
            yield from _read_parquet(source, schema)
            return
        text = _Text(source, schema, "gzip" if magic[:2] == b"\x1f\x8b" else None)
        yield from text.values_over_lines() if text.over_lines else text.lines()


@contextmanager
def _naming(source: SourceFile) -> Iterator[None]:
    """Name the file and a cure in what pyarrow reports."""
    try:
        yield
    except FileNotFoundError:
        raise IngestError(f"{source.address} must be a file, got none there: check the path") from None
    except OverlongLine:
        raise IngestError(
            f"{source.address} must have lines of at most {BLOCK_BYTES:,} bytes, got a longer one: "
            f"fetch or write the file again"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        said = str(error)
        if "compressed stream" in said or "zlib" in said:
            what = "must be a whole gzip file, got one that is truncated or corrupt"
        elif "UTF8" in said or "UTF-8" in said:
            what = "must be UTF-8 text or Parquet, got other bytes"
        elif "straddling" in said or "CSV parser" in said:
            what = f"must have lines of at most {BLOCK_BYTES:,} bytes and closed quotes (see `text` in the schema)"
        elif "Empty CSV" in said:
            what = "must hold rows, got an empty file"
        else:
            what = "must be a whole table in text or Parquet"
        raise IngestError(f"{source.address} {what} ({said}): fetch or write the file again") from None


def _read_parquet(source: SourceFile, schema: Schema) -> Iterator[Piece]:
    with source.files.open_input_file(source.path) as file:
        table = pq.ParquetFile(file)
        _check_columns(source, schema, table.schema_arrow.names)
        if table.metadata.num_rows == 0:
            raise IngestError(f"{source.address} must hold rows, got none: leave it out or write it again")
        yield Piece(table.metadata.num_rows, [], [])
        for batch in table.iter_batches(BATCH_ROWS, columns=list(schema.source_columns), use_threads=False):
            yield Piece(0, [batch.select(list(schema.source_columns))], [])


class _Text:
    """A text file."""

    def __init__(self, source: SourceFile, schema: Schema, compression: str | None) -> None:
        self.source, self.schema, self.compression = source, schema, compression
        name = source.path.lower().removesuffix(".gz")
        self.delimiter = schema.text.delimiter or ("\t" if name.endswith(".tsv") else ",")
        self.quote = schema.text.quote
        self.over_lines = schema.text.newlines_in_values and self.quote is not None

    def open(self) -> pa.NativeFile:
        """Its bytes, unpacked."""
        return self.source.files.open_input_stream(self.source.path, compression=self.compression)

    def lines(self) -> Iterator[Piece]:
        """Every line is a record; those that cannot be cut into columns are set aside, one by one."""
        names, count = list(self.schema.text.columns), LineCount()
        num_headers = 0 if names else 1
        num_yielded = 0
        with self.open() as stream:
            for number, data in enumerate(whole_lines(stream, count)):
                if number == 0 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise self._no_text("UTF-16")
                body = data if names else self._take_header(data, names)
                good, spoilt = set_aside(body, self.delimiter, self.quote)
                batches = self._parse(good, names, spoilt) if good.strip(b"\r\n") else []
                num_records = max(count.total - num_headers, 0)
                yield Piece(num_records - num_yielded, batches, spoilt)
                num_yielded = num_records
        if num_yielded == 0:
            raise self._header_alone()

    def _take_header(self, data: bytes, names: list[str]) -> bytes:
        """Fill in the names that the first line has, and give the rest."""
        header, rest = first_line(data)
        if not header:
            return rest
        try:
            names += split(header.decode(), self.delimiter, self.quote)
        except UnicodeDecodeError:
            raise self._no_text("other bytes in its header") from None
        except BadQuotes:
            raise IngestError(
                f"{self.source.address} must have closed quotes in its header, got {header[:200].decode()!r}: "
                f"write the file again, or say in the schema's `text` how it is laid out"
            ) from None
        _check_columns(self.source, self.schema, names)
        return rest

    def _parse(self, data: bytes, names: list[str], spoilt: list[tuple[str, str]]) -> list[pa.RecordBatch]:
        read = csv.ReadOptions(block_size=len(data) + 1, column_names=names)
        kinds = self._kinds(self.schema.source_columns)
        batches: list[pa.RecordBatch] = csv.read_csv(pa.py_buffer(data), read, self._layout(spoilt), kinds).to_batches()
        return batches

    def values_over_lines(self) -> Iterator[Piece]:
        """A quoted value may go over lines: only its reader knows where a record ends, and so it counts too."""
        spoilt: list[tuple[str, str]] = []
        num_records = 0
        if not self.schema.text.columns:
            with self.open() as stream, self._reader(stream, [], ()) as reader:
                _check_columns(self.source, self.schema, reader.schema.names)
        with self.open() as stream, self._reader(stream, spoilt, self.schema.source_columns) as reader:
            for batch in reader:
                refused, spoilt[:] = spoilt[:], []
                num_records += batch.num_rows + len(refused)
                yield Piece(batch.num_rows + len(refused), [batch], refused)
        if spoilt:
            yield Piece(len(spoilt), [], spoilt)
        elif num_records == 0:
            raise self._header_alone()

    def _reader(
        self, stream: pa.NativeFile, spoilt: list[tuple[str, str]], columns: Sequence[str]
    ) -> csv.CSVStreamingReader:
        names = list(self.schema.text.columns) or None
        read = csv.ReadOptions(block_size=BLOCK_BYTES, column_names=names)
        return csv.open_csv(stream, read, self._layout(spoilt), self._kinds(columns))

    def _no_text(self, got: str) -> IngestError:
        return IngestError(
            f"{self.source.address} must be UTF-8 text or Parquet, got {got}: write the file again as UTF-8"
        )

    def _header_alone(self) -> IngestError:
        return IngestError(f"{self.source.address} must hold rows, got a header alone: leave it out or write it again")

    def _layout(self, spoilt: list[tuple[str, str]]) -> csv.ParseOptions:
        def on_invalid(row: csv.InvalidRow) -> str:
            spoilt.append((row.text, WRONG_COLUMNS))
            return "skip"

        return csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char=self.quote or False,
            newlines_in_values=self.over_lines,
            invalid_row_handler=on_invalid,
        )

    def _kinds(self, columns: Sequence[str]) -> csv.ConvertOptions:
        return csv.ConvertOptions(
            column_types={column: pa.string() for column in self.schema.source_columns},
            include_columns=list(columns) or None,
            null_values=[""],
            strings_can_be_null=True,
        )


def _check_columns(source: SourceFile, schema: Schema, names: list[str]) -> None:
    for column in schema.source_columns:
        if names.count(column) != 1:
            found = "none" if column not in names else "two or more"
            raise IngestError(
                f"{source.address} must have one column {column!r}, got {found} among {', '.join(names)}: "
                f"name the right column in the schema, or write the file again"
            )
