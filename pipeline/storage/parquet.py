"""Parquet files whose every column chunk is verified when it is read: nothing is decoded that was not written.

A file is plain Parquet to any other tool, with an index in the gap before the footer:

    "PAR1" | column chunks, row group by row group | index | footer, its length, "PAR1"

The index holds the edges of all chunks and then an XXH3 of each, 64 bits little-endian every one. What stands from the
index on is the file's tail, and the manifest that names the file has the tail's SHA-256: so whoever reads a tenth of a
file verifies that tenth. Parquet's own page checksums leave footer and page headers open, and cost more to verify.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, model_validator

from pipeline.spec.documents import Digest, Frozen
from pipeline.storage.damage import Damaged, MissingFile
from pipeline.storage.lake import Lake, LakePath

PART_ROWS = 1 << 20
"""Rows of a part, at most, but for a row group that holds more."""
PART_BYTES = 1 << 26
"""A part ends once it has grown to this: it is made in memory and put whole."""

_MAGIC = b"PAR1"
_OPEN_FILES = 64
_OPEN_CHUNKS = 1 << 16


class Part(Frozen):
    """A parquet file of the lake as a manifest names it."""

    path: LakePath
    """Relative to the lake's root."""
    num_rows: int = Field(ge=0)
    """Rows in the file."""
    num_row_groups: int = Field(ge=0)
    """Row groups in the file."""
    num_bytes: int = Field(ge=0)
    """Size of the file."""
    tail_bytes: int = Field(ge=0)
    """Size of its tail: the index of the column chunks, and Parquet's footer."""
    tail_digest: Digest
    """SHA-256 of its tail, whose index verifies the rest."""

    @model_validator(mode="after")
    def _has_a_tail(self) -> Part:
        if self.tail_bytes > self.num_bytes:
            raise ValueError(f"a file of {self.num_bytes} bytes has no tail of {self.tail_bytes}")
        return self


class PartWriter:
    """Writes rows into one part after the other, each made in memory and put whole.

    Args:
        lake: where to.
        path: the path of a part by its number, relative to the lake's root.
        columns: of every table; each is flat, or a list of something flat.
        part_rows: rows after which a part ends.
        part_bytes: about the bytes after which it ends; None for `PART_BYTES`. Memory holds a part twice when it is put.
        options: of pyarrow's writer.
    """

    def __init__(
        self,
        lake: Lake,
        path: Callable[[int], str],
        columns: pa.Schema,
        *,
        part_rows: int = PART_ROWS,
        part_bytes: int | None = None,
        **options: Any,
    ) -> None:
        self._lake, self._path, self._columns, self._part_rows = lake, path, columns, part_rows
        self._part_bytes = PART_BYTES if part_bytes is None else part_bytes
        self._options = options
        self._parts: list[Part] = []
        self._open: tuple[pq.ParquetWriter, pa.BufferOutputStream] | None = None
        self._num_rows = 0

    def write(self, table: pa.Table, row_group_size: int) -> None:
        """Add rows, in row groups of this size but for the last."""
        for start in range(0, table.num_rows, row_group_size):
            group = table.slice(start, row_group_size)
            writer, sink = self._open = self._open or self._new()
            writer.write_table(group, row_group_size=row_group_size)
            self._num_rows += group.num_rows
            if self._num_rows >= self._part_rows or sink.tell() >= self._part_bytes:
                self._end()

    def finish(self) -> tuple[Part, ...]:
        """End the last part.

        Returns:
            All parts in the order of their rows.
        """
        self._end()
        return tuple(self._parts)

    def _new(self) -> tuple[pq.ParquetWriter, pa.BufferOutputStream]:
        sink = pa.BufferOutputStream()
        return pq.ParquetWriter(sink, self._columns, compression="lz4", **self._options), sink

    def _end(self) -> None:
        if self._open is None:
            return
        writer, sink = self._open
        writer.close()
        self._open, self._num_rows = None, 0
        self._parts.append(_put(self._lake, self._path(len(self._parts)), sink.getvalue()))


def write_table(lake: Lake, path: str, table: pa.Table) -> Part:
    """Put a table as one file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="lz4")
    return _put(lake, path, sink.getvalue())


def _put(lake: Lake, path: str, content: pa.Buffer) -> Part:
    """Lay the index into a parquet file and put it."""
    whole = memoryview(content)
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[end:]
    metadata = pq.read_metadata(pa.BufferReader(content))
    if metadata.num_columns != len(metadata.schema.to_arrow_schema()):
        raise RuntimeError(f"each column has one chunk in a row group, got nested ones in {path}")
    index = _index(whole, metadata, end).tobytes()
    tail = index + bytes(footer)
    lake.put_bytes(path, b"".join((whole[:end], tail)))
    return Part(
        path=path,
        num_rows=metadata.num_rows,
        num_row_groups=metadata.num_row_groups,
        num_bytes=end + len(tail),
        tail_bytes=len(tail),
        tail_digest=hashlib.sha256(tail).hexdigest(),
    )


def _index(whole: memoryview, metadata: pq.FileMetaData, end: int) -> npt.NDArray[np.uint64]:
    edges, digests = [len(_MAGIC)], []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            last = first + chunk.total_compressed_size
            if first != edges[-1]:
                raise RuntimeError(
                    f"column chunks follow each other without a gap, got one at {first}, not {edges[-1]}"
                )
            edges.append(last)
            digests.append(xxhash.xxh3_64_intdigest(whole[first:last]))
    if edges[-1] != end:
        raise RuntimeError(f"column chunks reach up to the footer at {end}, got the last edge at {edges[-1]}")
    return np.array(edges + digests, "<u8")


class _Mismatch(Exception):
    """Bytes are not what was written; says which."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Some columns of a part."""

    places: list[int]
    """Their places in the file, rising."""
    runs: list[tuple[int, int]]
    """The same places as stretches of neighbours, from each first to before each last: each is read at once."""
    reordered: list[str] | None
    """Their names as they were asked for, where the file has them in another order."""

    @classmethod
    def of(cls, names: list[str], columns: Sequence[str] | None) -> _Choice:
        asked = names if columns is None else list(columns)
        places = sorted({names.index(name) for name in asked})
        starts = [place for place in places if place - 1 not in places]
        ends = [place + 1 for place in places if place + 1 not in places]
        reordered = None if asked == [names[place] for place in places] else asked
        return cls(places, list(zip(starts, ends, strict=True)), reordered)


class _OpenPart:
    """A part whose tail has been verified, ready to give its row groups.

    Column chunks are read into memory that `room` lends, at their own offsets, verified there and decoded from there:
    Arrow takes it for the file and needs no call back into Python. What it decodes is a copy, so that the next read may
    overwrite the chunks.
    """

    def __init__(self, lake: Lake, part: Part, room: Callable[[int], memoryview]) -> None:
        self._lake, self._part = lake, part
        self._file = open(lake.root / part.path, "rb", buffering=0) if lake.is_local else None
        self._fd = -1 if self._file is None else self._file.fileno()
        self._check_size()
        self._scratch = scratch = room(part.num_bytes)
        edge = part.num_bytes - part.tail_bytes
        self._fetch(edge, part.num_bytes)
        if hashlib.sha256(scratch[edge : part.num_bytes]).hexdigest() != part.tail_digest:
            raise _Mismatch("its footer, or the index before it, has another digest than its manifest says")
        self._parquet = pq.ParquetFile(pa.BufferReader(pa.py_buffer(scratch[: part.num_bytes])), pre_buffer=False)
        metadata = self._parquet.metadata
        self.columns: pa.Schema = self._parquet.schema_arrow
        self.num_groups, self._num_columns = metadata.num_row_groups, metadata.num_columns
        if (metadata.num_rows, self.num_groups) != (part.num_rows, part.num_row_groups):
            raise _Mismatch(f"it has {metadata.num_rows} rows in {self.num_groups} row groups, unlike its manifest")
        num_chunks = self.num_chunks = self.num_groups * self._num_columns
        num_bytes = 8 * (2 * num_chunks + 1)
        if num_bytes + metadata.serialized_size + 8 != part.tail_bytes:
            raise _Mismatch("its index is not that of its row groups")
        index = bytes(scratch[edge : edge + num_bytes])
        edges = np.frombuffer(index, "<u8", num_chunks + 1)
        if edges[-1] != edge or (edges[1:] < edges[:-1]).any():
            raise _Mismatch("its index does not tile it")
        numbers = memoryview(index).cast("Q")  # plain integers at each look; x86-64 is little-endian itself
        self._edges, self._digests = numbers[: num_chunks + 1], numbers[num_chunks + 1 :]
        self._choices: dict[tuple[str, ...] | None, _Choice] = {}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        chosen = self._choices.get(columns)
        if chosen is None:
            chosen = self._choices[columns] = _Choice.of(self.columns.names, columns)
        base, edges, digests, scratch = group * self._num_columns, self._edges, self._digests, self._scratch
        for first, last in chosen.runs:
            self._fetch(edges[base + first], edges[base + last])
        for place in chosen.places:
            chunk = base + place
            if xxhash.xxh3_64_intdigest(scratch[edges[chunk] : edges[chunk + 1]]) != digests[chunk]:
                name = self.columns.names[place]
                raise _Mismatch(f"column {name!r} of row group {group} has another digest than what was written")
        table = self._parquet.reader.read_row_group(group, column_indices=chosen.places, use_threads=False)
        return table if chosen.reordered is None else table.select(chosen.reordered)

    def verify_start(self) -> None:
        self._fetch(0, len(_MAGIC))
        if self._scratch[: len(_MAGIC)] != _MAGIC:
            raise _Mismatch(f"it does not begin with {_MAGIC!r}")

    def _check_size(self) -> None:
        if self._file is not None:
            found = os.fstat(self._file.fileno()).st_size
        else:
            found = obstore.head(self._lake.store, self._part.path)["size"]
        if found != self._part.num_bytes:
            raise _Mismatch(f"it has {found} bytes, its manifest says {self._part.num_bytes}")

    def _fetch(self, first: int, last: int) -> None:
        """Read the bytes from `first` to before `last` into their place."""
        into = self._scratch[first:last]
        if self._file is not None:
            num_bytes = os.preadv(self._fd, [into], first)
        else:
            found = memoryview(obstore.get_range(self._lake.store, self._part.path, start=first, end=last))
            num_bytes = len(found)
            into[:num_bytes] = found
        if num_bytes != last - first:
            raise _Mismatch(f"it ends before byte {last}")


class _OpenParts(threading.local):
    """The files that this thread read last: opening one parses a footer as long as many row groups."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[str, str, str], _OpenPart] = OrderedDict()
        self._scratch = memoryview(b"")

    def get(self, lake: Lake, part: Part) -> _OpenPart:
        key = (lake.url, part.path, part.tail_digest)
        if (opened := self._parts.get(key)) is not None:
            self._parts.move_to_end(key)
            return opened
        opened = self._parts[key] = _OpenPart(lake, part, self._room)
        while len(self._parts) > 1 and (len(self._parts) > _OPEN_FILES or self._num_chunks() > _OPEN_CHUNKS):
            self._parts.popitem(last=False)[1].close()
        return opened

    def drop(self, lake: Lake, part: Part) -> None:
        if opened := self._parts.pop((lake.url, part.path, part.tail_digest), None):
            opened.close()

    def clear(self) -> None:
        while self._parts:
            self._parts.popitem()[1].close()

    def _num_chunks(self) -> int:
        return sum(opened.num_chunks for opened in self._parts.values())

    def _room(self, num_bytes: int) -> memoryview:
        """The memory that all of this thread's open files are read into; only what is read into takes real memory."""
        if len(self._scratch) < num_bytes:
            self.clear()  # the others are read into the old one
            self._scratch = np.empty(max(num_bytes, PART_BYTES + PART_BYTES // 4), np.uint8).data
        return self._scratch


_open_parts = _OpenParts()
T = TypeVar("T")


def _twice(lake: Lake, part: Part, read: Callable[[_OpenPart], T]) -> T:
    """Read from a part; once more, from the file opened again, before it is called damaged: a read may be torn, too."""
    what = ""
    for _ in range(2):
        try:
            return read(_open_parts.get(lake, part))
        except _Mismatch as error:
            _open_parts.drop(lake, part)
            what = str(error)
        except FileNotFoundError:
            raise MissingFile(lake.address(part.path), "there is no such file", part.path) from None
    raise Damaged(lake.address(part.path), what, part.path)


def forget() -> None:
    """Close the files that this thread holds open, so that the next read begins from nothing."""
    _open_parts.clear()


def read_row_group(lake: Lake, part: Part, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a part, verified.

    Args:
        lake: where it lies.
        part: the manifest's account of it.
        group: which, from 0.
        columns: which columns, in which order; all by default.

    Raises:
        MissingFile: the file is gone.
        Damaged: the part that is read is not what was written, also when it is read once more.
    """
    chosen = None if columns is None else tuple(columns)
    return _twice(lake, part, lambda opened: opened.read(group, chosen))


def columns(lake: Lake, part: Part) -> pa.Schema:
    """The columns of a part; raises what `read_row_group` raises."""
    return _twice(lake, part, lambda opened: opened.columns)


def row_groups(lake: Lake, part: Part) -> Iterator[pa.Table]:
    """All row groups of a part, one after the other, verified; raises what `read_row_group` raises."""
    for group in range(_twice(lake, part, lambda opened: opened.num_groups)):
        yield read_row_group(lake, part, group)


def verify_start(lake: Lake, part: Part) -> None:
    """Verify the bytes that nobody else reads, before the first column chunk; raises what `read_row_group` raises."""
    _twice(lake, part, lambda opened: opened.verify_start())


def read_table(lake: Lake, part: Part) -> pa.Table:
    """A whole part, verified; raises what `read_row_group` raises."""
    return pa.concat_tables([columns(lake, part).empty_table(), *row_groups(lake, part)])
