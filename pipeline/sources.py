"""The files of a raw log: found, told apart (text or Parquet, plain or gzip) and read in batches of bounded size."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, fs

from pipeline.errors import BadInput
from pipeline.schema import Schema

BATCH_ROWS = 1 << 15
"""Rows of a batch read from Parquet."""
BLOCK_BYTES = 1 << 22
"""Bytes of text read at a time; no line may be longer."""


class IngestError(BadInput):
    """A log that cannot become windows as asked; says what, what was found, and what to do."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a log."""

    address: str
    """As people would write it."""
    files: fs.FileSystem
    """Where it lies."""
    path: str
    """Its path there."""


def find_sources(sources: Sequence[str]) -> list[SourceFile]:
    """The files that paths, globs, directories or URLs name: each once, `day_2` before `day_10`.

    Raises:
        IngestError: one of them names no file.
    """
    found: dict[str, SourceFile] = {}
    for source in sources:
        files = list(_remote(source) if "://" in source else _local(source))
        if not files:
            raise IngestError(f"a source names one file or more, got none at {source!r}: check the path")
        found |= {file.address: file for file in files}
    if not found:
        raise IngestError("a log has one source or more, got none: name its files")
    return sorted(found.values(), key=lambda file: _natural(file.address))


def _local(source: str) -> Iterator[SourceFile]:
    for name in sorted(glob.glob(source)) or ([source] if Path(source).exists() else []):
        path = Path(name).absolute()
        inner = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in inner:
            if path == each or not each.name.startswith((".", "_")):
                yield SourceFile(str(each), fs.LocalFileSystem(), str(each))


def _remote(source: str) -> Iterator[SourceFile]:
    try:
        files, path = fs.FileSystem.from_uri(source)
        info = files.get_file_info(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise IngestError(f"a source's URL is one that pyarrow can open, got {source!r}: {error}") from None
    inner = [info] if info.type == fs.FileType.File else []
    if info.type == fs.FileType.Directory:
        inner = [each for each in files.get_file_info(fs.FileSelector(path, recursive=True)) if each.is_file]
    for each in inner:
        if each is info or not each.base_name.startswith((".", "_")):
            yield SourceFile(source.rstrip("/") + each.path.removeprefix(path.rstrip("/")), files, each.path)


def _natural(address: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"([0-9]+)", address)]


def read_batches(source: SourceFile, schema: Schema, spoilt: Callable[[str], None]) -> Iterator[pa.RecordBatch]:
    """The columns that the schema names: all strings from text, with the file's own types from Parquet.

    Args:
        source: the file.
        schema: which columns, and how text is laid out.
        spoilt: called with each line of text that has the wrong number of columns.

    Raises:
        IngestError: the file is missing, empty, cut short, no table, or lacks a column.
    """
    with _told(source):
        with source.files.open_input_file(source.path) as file:
            magic = file.read(4)
        if not magic:
            raise IngestError(f"{source.address} must hold rows, got an empty file: leave it out or write it again")
        if magic == b"PAR1":
            batches = _read_parquet(source, schema)
        else:
            batches = _read_text(source, schema, magic[:2] == b"\x1f\x8b", spoilt)
        yield from batches


@contextmanager
def _told(source: SourceFile) -> Iterator[None]:
    """Name the file and a cure in what pyarrow reports."""
    try:
        yield
    except FileNotFoundError:
        raise IngestError(f"{source.address} must be a file, got none there: check the path") from None
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


def _read_parquet(source: SourceFile, schema: Schema) -> Iterator[pa.RecordBatch]:
    with source.files.open_input_file(source.path) as file:
        table = pq.ParquetFile(file)
        _check_columns(source, schema, table.schema_arrow.names)
        if table.metadata.num_rows == 0:
            raise IngestError(f"{source.address} must hold rows, got none: leave it out or write it again")
        for batch in table.iter_batches(BATCH_ROWS, columns=list(schema.source_columns), use_threads=False):
            yield batch.select(list(schema.source_columns))


def _read_text(
    source: SourceFile, schema: Schema, is_gzip: bool, spoilt: Callable[[str], None]
) -> Iterator[pa.RecordBatch]:
    if not schema.text.columns:
        with _open_text(source, schema, is_gzip, lambda line: None, ()) as reader:
            _check_columns(source, schema, reader.schema.names)
    num_rows = num_spoilt = 0

    def spoil(line: str) -> None:
        nonlocal num_spoilt
        num_spoilt += 1
        spoilt(line)

    with _open_text(source, schema, is_gzip, spoil, schema.source_columns) as reader:
        for batch in reader:
            num_rows += batch.num_rows
            yield batch
    if num_rows + num_spoilt == 0:
        raise IngestError(f"{source.address} must hold rows, got a header alone: leave it out or write it again")


@contextmanager
def _open_text(
    source: SourceFile, schema: Schema, is_gzip: bool, spoilt: Callable[[str], None], columns: Sequence[str]
) -> Iterator[csv.CSVStreamingReader]:
    text = schema.text
    name = source.path.lower().removesuffix(".gz")

    def on_invalid(row: csv.InvalidRow) -> str:
        spoilt(row.text)
        return "skip"

    with source.files.open_input_stream(source.path, compression="gzip" if is_gzip else None) as stream:
        yield csv.open_csv(
            stream,
            csv.ReadOptions(block_size=BLOCK_BYTES, column_names=list(text.columns) or None),
            csv.ParseOptions(
                delimiter=text.delimiter or ("\t" if name.endswith(".tsv") else ","),
                quote_char=text.quote or False,
                newlines_in_values=text.quote is not None,
                invalid_row_handler=on_invalid,
            ),
            csv.ConvertOptions(
                column_types={column: pa.string() for column in schema.source_columns},
                include_columns=list(columns) or None,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )


def _check_columns(source: SourceFile, schema: Schema, names: list[str]) -> None:
    for column in schema.source_columns:
        if names.count(column) != 1:
            found = "none" if column not in names else "two or more"
            raise IngestError(
                f"{source.address} must have one column {column!r}, got {found} among {', '.join(names)}: "
                f"name the right column in the schema, or write the file again"
            )
