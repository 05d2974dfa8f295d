"""Published windows: their physical format, their manifests, how they are written whole and how they are read."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs
from pydantic import Field, model_validator

from pipeline.data.account import FileAccount, balance
from pipeline.spec.documents import Digest, Frozen
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage import parquet, paths
from pipeline.storage.damage import Damaged
from pipeline.storage.generation import Generation
from pipeline.storage.lake import Conflict, Lake, LakeError, checked_name
from pipeline.storage.parquet import PART_ROWS, Part, PartWriter

ROW_GROUP_SIZE = 4096
"""Rows of a row group, the unit that training deals to its ranks."""
MAX_ROW_GROUPS = 1 << 24
"""Row groups of a window, at most: each reader counts them all before it reads one."""

_FLUSH_GROUPS = 16
_QUARANTINE_GROUP = 1 << 16


class MissingWindow(LakeError):
    """No such window has been published."""


class BadBatch(ValueError):
    """Rows offered for a window break its physical format; the program that made them is wrong."""


class WindowManifest(Frozen):
    """What a published window consists of."""

    dataset: str
    """The data set it belongs to."""
    window: Window
    """The day."""
    generation: str
    """Which publication of the window this is; another one of the same content has the same digest."""
    parts: tuple[Part, ...] = Field(min_length=1)
    """Its files in the order of their rows: by (event_time, example_id) across all of them."""
    num_rows: int = Field(ge=1)
    """Rows in all parts."""
    num_positives: int = Field(ge=0)
    """Rows with label 1."""
    schema_key: str
    """Key of the schema that gave the columns their meaning."""
    digest: Digest
    """SHA-256 of the rows; the order of source files, the cut into parts and the generation do not enter it."""
    sources: tuple[str, ...]
    """Where the rows came from."""
    quarantined: dict[str, int]
    """Rows left out, by reason."""
    quarantine: tuple[Part, ...] = ()
    """The files with those rows' raw values."""
    row_group_size: int = Field(ge=1)
    """Rows of every row group but the last of a part."""
    account: tuple[FileAccount, ...] = ()
    """Where the records of each source file ended, as the window sees it; none for a simulator, which has no files."""

    @model_validator(mode="after")
    def _consistent(self) -> WindowManifest:
        for part in (*self.parts, *self.quarantine):
            if not part.path.startswith(f"{self.prefix}/"):
                raise ValueError(f"a window's files lie in its generation, {self.prefix}, got {part.path}")
        groups = [-(-part.num_rows // self.row_group_size) for part in self.parts]
        if [part.num_row_groups for part in self.parts] != groups or sum(groups) > MAX_ROW_GROUPS:
            raise ValueError(f"the parts have {groups[:6]} row groups of {self.row_group_size} rows, got others")
        if (num_rows := sum(part.num_rows for part in self.parts)) != self.num_rows:
            raise ValueError(f"the parts have {num_rows} rows, got {self.num_rows} in all")
        return self

    @property
    def num_row_groups(self) -> int:
        """Row groups in all parts."""
        return sum(part.num_row_groups for part in self.parts)

    @property
    def prefix(self) -> str:
        """Where the generation's files lie, relative to the lake's root."""
        return generation_prefix(self.dataset, self.window, self.generation)


def physical_schema(schema: Schema) -> pa.Schema:
    """The columns of a published window, in order; none holds nulls."""
    types = {"example_id": pa.uint64(), "event_time": pa.timestamp("us", "UTC"), "label": pa.uint8()}
    types |= {"cluster": pa.uint64(), "true_prob": pa.float64()}
    types |= {feature.name: pa.float32() for feature in schema.dense}
    types |= {feature.name: pa.int32() for feature in schema.categorical}
    types |= {feature.name: pa.list_(pa.int32()) for feature in schema.lists}
    return pa.schema([pa.field(name, types[name], nullable=False) for name in schema.column_names])


def window_prefix(dataset: str, window: Window) -> str:
    """Where everything about a window lies, relative to the lake's root."""
    return f"windows/{checked_name(dataset)}/window={window.name}"


def generation_prefix(dataset: str, window: Window, generation: str) -> str:
    """Where the files of one publication of a window lie, relative to the lake's root."""
    return f"{window_prefix(dataset, window)}/gen-{checked_name(generation)}"


def manifest_path(dataset: str, window: Window) -> str:
    """Where a window's manifest lies, relative to the lake's root; the name is checked."""
    return paths.manifest_path(checked_name(dataset), window)


def schema_path(dataset: str, schema_key: str) -> str:
    """Where a schema that some window of the data set was published with lies, relative to the lake's root."""
    return f"windows/{checked_name(dataset)}/schema-{checked_name(schema_key)}.json"


def read_manifest(lake: Lake, dataset: str, window: Window) -> WindowManifest | None:
    """The window's current manifest; None where the window has not been published.

    Raises:
        Damaged: it is not what was published.
    """
    path = manifest_path(dataset, window)
    manifest = lake.load(path, WindowManifest)
    if manifest is not None and (manifest.dataset, manifest.window) != (dataset, window):
        what = f"it is the manifest of window {manifest.window} of data set {manifest.dataset!r}"
        raise Damaged(lake.address(path), what, path)
    return manifest


def require_manifest(lake: Lake, dataset: str, window: Window) -> WindowManifest:
    """The window's current manifest.

    Raises:
        MissingWindow: the window has not been published; says how to.
    """
    manifest = read_manifest(lake, dataset, window)
    if manifest is None:
        raise MissingWindow(
            f"window {window.name} of data set {dataset!r} is needed, got none at "
            f"{lake.address(manifest_path(dataset, window))}: publish it with `windrow ingest` "
            f"or by running the DAG `ingest_windows` for that day"
        )
    return manifest


def require_whole(lake: Lake, manifest: WindowManifest) -> WindowManifest:
    """The same manifest, once all of its files have been seen.

    Raises:
        MissingWindow: a file is gone; says how to make it again.
    """
    found = lake.files.get_file_info([part.path for part in manifest.parts])
    if gone := [lake.address(info.path) for info in found if info.type != fs.FileType.File]:
        raise MissingWindow(
            f"window {manifest.window.name} of data set {manifest.dataset!r} names files that are gone: "
            f"{', '.join(gone)}: publish it again with `windrow ingest --force`"
        )
    return manifest


def read_schema(lake: Lake, dataset: str, schema_key: str) -> Schema:
    """The schema that windows of the data set were published with.

    Raises:
        LakeError: there is none under that key.
    """
    path = schema_path(dataset, schema_key)
    document = lake.read(path)
    if document is None:
        raise LakeError(
            f"schema {schema_key} of data set {dataset!r} is needed, got none at {lake.address(path)}: "
            f"ingest the window that names it again with `windrow ingest --force`"
        )
    schema = Schema.of(document, lake.address(path))
    if schema.key != schema_key:
        raise Damaged(lake.address(path), f"it is schema {schema.key}", path)
    return schema


def write_schema(lake: Lake, dataset: str, schema: Schema) -> None:
    """Put the schema where `read_schema` finds it; it stays if it is there already."""
    path = schema_path(dataset, schema.key)
    if lake.sound(path) is None:
        try:
            lake.replace(path, schema.model_dump(mode="json"), None)
        except Conflict:
            return  # another job published the same schema: the key comes from its content


class ContentDigest:
    """SHA-256 over the values of each column, whatever the batches they came in."""

    def __init__(self, columns: pa.Schema) -> None:
        self._columns = columns
        self._states = {field.name: (hashlib.sha256(), hashlib.sha256()) for field in columns}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add rows that follow those before."""
        for field, column in zip(batch.schema, batch.columns, strict=True):
            values, lengths = self._states[field.name]
            if pa.types.is_list(field.type):
                lengths.update(np.ascontiguousarray(pc.list_value_length(column).to_numpy()).data)
            flat = column.flatten() if pa.types.is_list(field.type) else column
            values.update(np.ascontiguousarray(_numbers(flat)).data)

    def hexdigest(self) -> str:
        """Of all rows added."""
        whole = hashlib.sha256()
        for field in self._columns:
            values, lengths = self._states[field.name]
            whole.update(f"{field.name}:{field.type}:{values.hexdigest()}:{lengths.hexdigest()}\n".encode())
        return whole.hexdigest()


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    plain = column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column
    numbers: npt.NDArray[Any] = plain.to_numpy()
    return numbers


class WindowWriter:
    """Writes one generation of a window; nothing of it counts until `publish`, and leaving without it removes it.

    Args:
        lake: where to.
        dataset: the data set's name.
        window: the day.
        schema: what the columns mean.
        row_group_size: rows of every row group but the last of a part.
        part_rows: rows of a part at most, rounded down to whole row groups.
    """

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        window: Window,
        schema: Schema,
        *,
        row_group_size: int = ROW_GROUP_SIZE,
        part_rows: int = PART_ROWS,
    ) -> None:
        if row_group_size < 1:
            raise ValueError(f"row_group_size must be at least 1, got {row_group_size}")
        self.lake, self.dataset, self.window, self.schema = lake, dataset, window, schema
        self.columns = physical_schema(schema)
        self.row_group_size = row_group_size
        self.generation = uuid.uuid4().hex[:12]
        self.prefix = generation_prefix(dataset, window, self.generation)
        self._attempt = Generation(lake, self.generation, self.prefix, manifest_path(dataset, window))
        self._before = lake.sound(manifest_path(dataset, window))
        self._digest = ContentDigest(self.columns)
        self._parts = PartWriter(
            lake,
            lambda number: f"{self.prefix}/part-{number:05d}.parquet",
            self.columns,
            part_rows=max(part_rows // row_group_size, 1) * row_group_size,
            # Plain pages, no null levels, few statistics: a training job decodes every row group many times.
            use_dictionary=False,
            write_statistics=["example_id", "event_time"],
        )
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = self._num_rows = self._num_positives = 0
        self._last = (-1, -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._attempt.leave()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows that follow all those written before by (event_time, example_id).

        Raises:
            BadBatch: they do not, or break the physical format in another way.
        """
        if batch.num_rows == 0:
            return
        self._check(batch)
        self._digest.update(batch)
        self._num_rows += batch.num_rows
        self._num_positives += int(np.count_nonzero(batch.column("label").to_numpy()))
        self._pending.append(batch)
        self._num_pending += batch.num_rows
        if self._num_pending >= _FLUSH_GROUPS * self.row_group_size:
            self._flush(keep=self._num_pending % self.row_group_size)

    def publish(
        self,
        sources: Sequence[str],
        quarantined: Mapping[str, int],
        account: Sequence[FileAccount] = (),
        quarantine: Iterable[pa.RecordBatch] = (),
        *,
        force: bool,
    ) -> WindowManifest:
        """Make what was written the window's current generation, unless the current one already says the same.

        Args:
            sources: where the rows came from.
            quarantined: rows left out, by reason.
            account: where the records of each source file ended.
            quarantine: those rows' raw values with their reason, all of one Arrow schema.
            force: replace the current generation even so, also where it is damaged.

        Returns:
            The manifest that is current now; its generation differs from this writer's if nothing was replaced.

        Raises:
            BadBatch: nothing was written.
            Imbalance: the account speaks of more or fewer rows than were written.
            Conflict: somebody else published the window since this writer began.
            Damaged: the current manifest is, and `force` is off.
        """
        if self._num_rows == 0:
            raise BadBatch(f"window {self.window.name} of {self.dataset!r} must hold rows, got none")
        self._flush(keep=0)
        if account:
            num_published = sum(each.published for each in account)
            balance(f"the log's window {self.window.name}", num_published, self._num_rows, "sorted and written")
        digest = self._digest.hexdigest()
        if not force:
            current = read_manifest(self.lake, self.dataset, self.window)
            if current is not None and self._says_the_same(current, digest, quarantined, account):
                return current
        manifest = WindowManifest(
            dataset=self.dataset,
            window=self.window,
            generation=self.generation,
            parts=self._parts.finish(),
            num_rows=self._num_rows,
            num_positives=self._num_positives,
            schema_key=self.schema.key,
            digest=digest,
            sources=tuple(sorted({*sources, *(each.file for each in account)})),
            account=tuple(account),
            quarantined=dict(sorted(quarantined.items())),
            quarantine=_write_quarantine(self.lake, self.prefix, quarantine),
            row_group_size=self.row_group_size,
        )
        write_schema(self.lake, self.dataset, self.schema)
        self._attempt.publish(manifest.model_dump(mode="json"), self._before)
        return manifest

    def _says_the_same(
        self,
        current: WindowManifest,
        digest: str,
        quarantined: Mapping[str, int],
        account: Sequence[FileAccount],
    ) -> bool:
        ours = (digest, self.schema.key, self.row_group_size)
        if (current.digest, current.schema_key, current.row_group_size) != ours:
            return False
        # Not the files' other records: a log that grows would make a new generation of each of its windows every day.
        same = [[(each.file, each.published, each.quarantined) for each in of] for of in (current.account, account)]
        if same[0] != same[1] or current.quarantined != dict(quarantined):
            return False
        found = self.lake.files.get_file_info([part.path for part in (*current.parts, *current.quarantine)])
        return all(info.type == fs.FileType.File for info in found)

    def _check(self, batch: pa.RecordBatch) -> None:
        if not batch.schema.equals(self.columns):
            raise BadBatch(f"rows must have the columns\n{self.columns}\ngot\n{batch.schema}")
        if holes := [name for name in batch.schema.names if batch.column(name).null_count]:
            raise BadBatch(f"no column of a window holds nulls, got some in {', '.join(holes)}")
        times, ids = _numbers(batch.column("event_time")), _numbers(batch.column("example_id"))
        first = (int(times[0]), int(ids[0]))
        rising = (times[1:] > times[:-1]) | ((times[1:] == times[:-1]) & (ids[1:] > ids[:-1]))
        if first <= self._last or not rising.all():
            raise BadBatch("rows must be sorted by (event_time, example_id), each pair once; got others")
        self._last = (int(times[-1]), int(ids[-1]))
        start, end = (int(edge.timestamp()) * 1_000_000 for edge in (self.window.start, self.window.end))
        if first[0] < start or self._last[0] >= end:
            raise BadBatch(f"event times must lie in window {self.window.name}, got {batch.column('event_time')[0]}")
        if int(_numbers(batch.column("label")).max()) > 1:
            raise BadBatch("labels must be 0 or 1, got others")

    def _flush(self, keep: int) -> None:
        """Write the pending rows but the last `keep`, in whole row groups save at the window's end."""
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending, self.columns).combine_chunks()
        end = table.num_rows - keep
        self._parts.write(table.slice(0, end), self.row_group_size)
        self._pending = table.slice(end).to_batches() if keep else []
        self._num_pending = keep


def publish_window(
    lake: Lake,
    dataset: str,
    window: Window,
    schema: Schema,
    batches: Iterable[pa.RecordBatch],
    sources: Sequence[str] = (),
    quarantined: Mapping[str, int] | None = None,
    *,
    account: Sequence[FileAccount] = (),
    quarantine: Iterable[pa.RecordBatch] = (),
    row_group_size: int = ROW_GROUP_SIZE,
    part_rows: int = PART_ROWS,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> WindowManifest:
    """Publish a window whole, or leave the lake as it was.

    Args:
        lake: where to.
        dataset: the data set's name.
        window: the day.
        schema: what the columns mean.
        batches: the rows in the format of `physical_schema`, sorted by (event_time, example_id).
        sources: where the rows came from.
        quarantined: rows left out, by reason.
        account: where the records of each source file ended.
        quarantine: those rows' raw values with their reason, all of one Arrow schema.
        row_group_size: rows of every row group but the last of a part.
        part_rows: rows of a part at most, rounded down to whole row groups.
        force: publish a new generation even if the current one says the same.
        progress: called with a line about the result.

    Returns:
        The manifest that is current now.

    Raises:
        LakeError: the data set's name would leave the lake.
        BadBatch: the rows break the physical format, or there are none.
        Imbalance: the account speaks of more or fewer rows than there are.
        Conflict: somebody else published the window meanwhile.
    """
    with WindowWriter(lake, dataset, window, schema, row_group_size=row_group_size, part_rows=part_rows) as writer:
        for batch in batches:
            writer.write(batch)
        manifest = writer.publish(sources, quarantined or {}, account, quarantine, force=force)
    if progress is not None:
        what = "published" if manifest.generation == writer.generation else "already published, left as it is"
        progress(f"{dataset} {window.name}: {what} ({manifest.num_rows:,} rows, {manifest.num_positives:,} positive)")
    return manifest


def _write_quarantine(lake: Lake, prefix: str, batches: Iterable[pa.RecordBatch]) -> tuple[Part, ...]:
    def path(number: int) -> str:
        return f"{prefix}/quarantine-{number:05d}.parquet" if number else f"{prefix}/quarantine.parquet"

    writer: PartWriter | None = None
    for batch in batches:
        writer = writer or PartWriter(lake, path, batch.schema)
        writer.write(pa.Table.from_batches([batch]), _QUARANTINE_GROUP)
    return () if writer is None else writer.finish()


def read_row_group(lake: Lake, manifest: WindowManifest, index: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a window.

    Args:
        lake: where it lies.
        manifest: the window's.
        index: counts the row groups of all parts in order, from 0.
        columns: which columns, in which order; all by default.

    Raises:
        IndexError: the window has fewer row groups.
        MissingFile: a file that the manifest names is gone.
        Damaged: the part of a file that is read is not what was written.
    """
    local = index
    for part in manifest.parts:
        if 0 <= local < part.num_row_groups:
            return parquet.read_row_group(lake, part, local, columns)
        local -= part.num_row_groups
    raise IndexError(
        f"window {manifest.window.name} of {manifest.dataset!r} has {manifest.num_row_groups} row groups, "
        f"got index {index}"
    )
