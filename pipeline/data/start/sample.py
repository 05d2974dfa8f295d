"""A sample of a log: some rows of its first, middle and last files, with the types that these have or seem to have."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.data.lines import first_line, split
from pipeline.data.sources import IngestError, SourceFile, find_sources

MAX_FILES = 8
MAX_ROWS = 25_000
"""Of each file."""
MAX_BYTES = 1 << 24
"""Of a text file, unpacked."""
DELIMITERS = ("\t", ",", ";", "|")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NUMBER = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?|")


@dataclass(frozen=True)
class Sample:
    """Rows of a log, and what its files say of the rest."""

    tables: tuple[pa.Table, ...]
    """Of each file that was looked at, in the order of their names: the columns that all have."""
    partly: tuple[str, ...]
    """Columns that some files lack."""
    patterns: tuple[str, ...]
    """The sources as a line-up names them, with `{date}` where a day stands in the name of every file."""
    days: tuple[str, ...]
    """The days in the files' names, in order; none where they have none."""
    num_files: int
    num_rows: float
    """Of the whole log: known of Parquet, estimated of text by its bytes."""
    seen_to_end: bool
    """Whether the sample holds rows from the end of the log."""
    delimiter: str | None
    """Of text files, where it is not the usual one of their ending."""
    has_header: bool

    @property
    def columns(self) -> list[str]:
        """Names, in order."""
        return list(self.tables[0].column_names)

    def column(self, name: str) -> pa.ChunkedArray:
        """All sampled values of a column."""
        chunks = [chunk for table in self.tables for chunk in table.column(name).chunks]
        return pa.chunked_array(chunks, type=self.tables[0].schema.field(name).type)


def read_sample(sources: Sequence[str]) -> Sample:
    """Look at a log.

    Args:
        sources: paths, globs, folders or URLs, as a line-up names them.

    Raises:
        IngestError: there is no file, one is no table, or they have different columns.
    """
    files = find_sources(sources)
    step = max(1, -(-len(files) // MAX_FILES))
    chosen = files[::step] if files[-1] in files[::step] else [*files[::step], files[-1]]
    parts = [_read(file) for file in chosen]
    common = [name for name in parts[0].table.column_names if all(name in part.table.column_names for part in parts)]
    for file, part in zip(chosen, parts, strict=True):
        if 2 * len(common) < part.table.num_columns or part.has_header != parts[0].has_header:
            raise IngestError(
                f"the files of a log have the same columns, got {len(common)} in common of {part.table.num_columns} in {file.address} "
                f"and {parts[0].table.num_columns} in {chosen[0].address}: name them apart"
            )
    tables = _alike([part.table.select(common) for part in parts])
    each = sum(part.num_rows / max(1, file.num_bytes) for part, file in zip(parts, chosen, strict=True)) / len(parts)
    days = tuple(sorted({found[0] for file in files if (found := _DAY.findall(file.path.rsplit("/", 1)[-1]))}))
    return Sample(
        tables=tuple(tables),
        partly=tuple(sorted({name for part in parts for name in part.table.column_names} - set(common))),
        patterns=_patterns(sources, files),
        days=days if len(days) == len(files) else (),
        num_files=len(files),
        num_rows=sum(each * file.num_bytes for file in files),
        seen_to_end=parts[-1].to_end,
        delimiter=parts[0].delimiter,
        has_header=parts[0].has_header,
    )


@dataclass(frozen=True)
class _Part:
    table: pa.Table
    num_rows: float
    to_end: bool
    delimiter: str | None = None
    has_header: bool = True


def _read(file: SourceFile) -> _Part:
    with file.files.open_input_file(file.path) as opened:
        magic = opened.read(4)
    if not magic:
        raise IngestError(f"{file.address} must hold rows, got an empty file: leave it out")
    try:
        return _parquet(file) if magic == b"PAR1" else _text(file, "gzip" if magic[:2] == b"\x1f\x8b" else None)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise IngestError(
            f"{file.address} must be Parquet, CSV or TSV, plain or gzip, got {said}: check the file"
        ) from error


def _parquet(file: SourceFile) -> _Part:
    with file.files.open_input_file(file.path) as opened:
        whole = pq.ParquetFile(opened)
        groups = sorted({0, whole.num_row_groups // 2, whole.num_row_groups - 1}) if whole.num_row_groups else []
        pieces = [whole.read_row_group(group, use_threads=False) for group in groups]
        few = MAX_ROWS // max(1, len(pieces))
        cut = [
            piece.slice(max(0, len(piece) - few)) if piece is pieces[-1] else piece.slice(0, few) for piece in pieces
        ]
        table = _decoded(pa.concat_tables(cut)) if cut else whole.schema_arrow.empty_table()
        if not len(table):
            raise IngestError(f"{file.address} must hold rows, got none: leave it out")
        return _Part(table, whole.metadata.num_rows, to_end=True)


def _decoded(table: pa.Table) -> pa.Table:
    """Dictionaries as what they stand for."""
    kinds = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(kinds))


def _text(file: SourceFile, compression: str | None) -> _Part:
    with file.files.open_input_stream(file.path, compression=compression) as stream:
        data = stream.read(MAX_BYTES)
        is_whole = not stream.read(1)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise IngestError(f"{file.address} must be UTF-8 text or Parquet, got UTF-16: write the file again as UTF-8")
    if not is_whole:
        data = data[: data.rfind(b"\n") + 1]
    usual = "\t" if file.path.lower().removesuffix(".gz").endswith(".tsv") else ","
    line = first_line(data)[0].decode("utf-8-sig")
    delimiter = max(DELIMITERS, key=lambda each: (line.count(each), each == usual))
    delimiter = delimiter if line.count(delimiter) else usual
    cells = split(line, delimiter, '"')
    has_header = not any(_NUMBER.fullmatch(cell) for cell in cells[1:] or cells) and len(set(cells)) == len(cells)
    names = cells if has_header else [f"column_{place + 1}" for place in range(len(cells))]
    lines = data.splitlines(keepends=True)
    body = b"".join(lines[has_header : MAX_ROWS + has_header])
    table = csv.read_csv(
        io.BytesIO(body),
        csv.ReadOptions(column_names=names, block_size=len(body) + 1, use_threads=False),
        csv.ParseOptions(delimiter=delimiter, invalid_row_handler=lambda row: "skip"),
        csv.ConvertOptions(
            strings_can_be_null=True, null_values=[""], include_columns=[name for name in names if name]
        ),
    )
    num_lines = len(lines) - has_header
    num_rows = num_lines if is_whole else num_lines * _unpacked(file, compression, len(data)) / len(data)
    to_end = is_whole and num_lines <= MAX_ROWS
    return _Part(table, num_rows, to_end, None if delimiter == usual else delimiter, has_header)


def _unpacked(file: SourceFile, compression: str | None, at_least: int) -> float:
    """Bytes of a file as text, guessed where it is packed: text packs to a quarter."""
    return max(float(at_least), file.num_bytes * (4.0 if compression else 1.0))


def _alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Files of one log in one set of types: a column that one file takes for whole numbers may be text in another."""
    found = []
    for name in tables[0].column_names:
        kinds = {table.schema.field(name).type for table in tables}
        kinds.discard(pa.null())
        if len(kinds) == 1:
            found.append(next(iter(kinds)))
        elif kinds and all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
            found.append(pa.float64())
        else:
            found.append(pa.string())
    schema = pa.schema(list(zip(tables[0].column_names, found, strict=True)))
    return [table.cast(schema) for table in tables]


def _patterns(sources: Sequence[str], files: list[SourceFile]) -> tuple[str, ...]:
    """The sources with `{date}` in the place of a day, where each file has one of its own in its name."""
    addresses = [file.address for file in files]
    dated = {
        _DAY.sub("{date}", address, count=1) if len(_DAY.findall(address.rsplit("/", 1)[-1])) == 1 else ""
        for address in addresses
    }
    if "" in dated or len(addresses) < 2 or len(dated) == len(addresses):
        return tuple(sources)
    return tuple(sorted(dated))
