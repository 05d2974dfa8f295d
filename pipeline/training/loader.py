"""From a window's row groups to the batches that each worker trains on: selected, joined with soft labels, in time order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.share import Share
from pipeline.selection.sampling import evaluation_salt
from pipeline.selection.stored import IMPORTANCE, LABEL, OFFSET, POSITION, WEIGHT, SelectionManifest
from pipeline.selection.synthetic import SyntheticManifest
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Categorical, ListColumn
from pipeline.storage import parquet
from pipeline.storage.hashing import keyed_uniform
from pipeline.training.batch import Bags, ClickBatch, Rows, assemble
from pipeline.training.models.features import Features
from pipeline.training.signals import SignalReader

PREFETCHED_BATCHES = 4


class BatchSizeError(BadInput):
    """A global batch cannot be dealt to the workers."""


T = TypeVar("T")


def _rows(table: pa.Table, features: Features, position: NDArray[np.int64]) -> Rows:
    """Columns as rows that nothing is selected of, and that nobody has soft labels for."""
    count = table.num_rows
    dense = np.zeros((count, features.widths[0]), np.float32)
    for place, number in enumerate(features.dense):
        dense[:, place] = table.column(number.name).to_numpy()
    ids = np.empty((len(features.categorical), count), np.int32)
    for place, category in enumerate(features.categorical):
        ids[place] = _folded(table.column(category.name).to_numpy(), category, features)
    ones = np.ones(count, np.float32)
    return Rows(
        example_id=table.column("example_id").to_numpy().astype(np.uint64, copy=False),
        position=position,
        label=table.column("label").to_numpy().astype(np.float32),
        dense=dense,
        ids=ids,
        bags=tuple(_bags(table.column(feature.name), feature, features) for feature in features.lists),
        importance=ones,
        weight=ones,
        offset=np.zeros(count, np.float32),
        soft_logit=np.zeros(count, np.float32),
    )


def _bags(column: pa.ChunkedArray, feature: ListColumn, features: Features) -> Bags:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    ids = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return Bags(_folded(ids, feature, features), offsets - offsets[0])


def _folded(ids: NDArray[np.int32], feature: Categorical | ListColumn, features: Features) -> NDArray[np.int32]:
    """Ids as rows of a model's table, which may have fewer than the schema has buckets."""
    num_rows = features.table_rows(feature)
    return ids if num_rows == feature.hash_size else ids % np.int32(num_rows)


def _columns(features: Features) -> list[str]:
    return ["example_id", "label", *features.columns]


def whole_rows(share: Share, features: Features) -> Iterator[Rows]:
    """All of this worker's rows, a row group at a time, nothing selected."""
    starts = share.starts()
    for group in share.row_groups:
        position = np.arange(starts[group], starts[group + 1])
        yield _rows(share.read(group, _columns(features)), features, position)


def selected_rows(
    share: Share, features: Features, selection: SelectionManifest | None, soft: SignalReader | None = None
) -> Iterator[Rows]:
    """This worker's selected rows, a row group of the window at a time, with weight, offset and the teacher's logit.

    Args:
        share: the worker's part of the window.
        features: what the model sees.
        selection: the stored selection of the window; None for all of its rows.
        soft: the teacher's logits; None without a teacher.
    """
    if selection is None:
        for group, rows in zip(share.row_groups, whole_rows(share, features), strict=True):
            yield rows if soft is None else _with(rows, soft_logit=soft(group, rows.example_id))
        return
    starts = share.starts()
    for group in share.row_groups:
        if (place := selection.places[group]) is None:
            continue
        file, number = place
        more = (IMPORTANCE, WEIGHT, OFFSET, LABEL) if selection.softens else (IMPORTANCE, WEIGHT, OFFSET)
        columns = [*_columns(features), POSITION, *more]
        table = parquet.read_row_group(share.lake, selection.files[file], number, columns)
        added = {name.removeprefix("selection."): table.column(name).to_numpy() for name in more}
        rows = _with(_rows(table, features, table.column(POSITION).to_numpy()), **added)
        if soft is not None:
            rows = _with(rows, soft_logit=soft.of_some(group, rows.position - starts[group], rows.example_id))
        yield rows


def passed_over_rows(share: Share, features: Features, selection: SelectionManifest) -> Iterator[Rows]:
    """This worker's rows that are not selected, with weight 0: to be scored and not trained on."""
    for group, rows in zip(share.row_groups, whole_rows(share, features), strict=True):
        kept = np.empty(0, np.int64)
        if (place := selection.places[group]) is not None:
            table = parquet.read_row_group(share.lake, selection.files[place[0]], place[1], [POSITION])
            kept = table.column(0).to_numpy() - rows.position[0]
        rest = rows.take(np.setdiff1d(np.arange(len(rows)), kept))
        yield _with(rest, weight=np.zeros(len(rest), np.float32))


def synthetic_rows(share: Share, features: Features, synthetic: SyntheticManifest) -> Iterator[Rows]:
    """This worker's part of a synthetic window's rows: every W-th, in their order.

    Their labels may be soft, they are no rows of the window (position -1), and there are no teacher logits for them.
    """
    taken = 0
    for part in synthetic.files:
        for group in range(part.num_row_groups):
            table = parquet.read_row_group(share.lake, part, group, [*_columns(features), "weight"])
            rows = _with(_rows(table, features, np.full(table.num_rows, -1)), weight=table.column("weight").to_numpy())
            yield rows.take(np.flatnonzero((np.arange(len(rows)) + taken) % share.world_size == share.rank))
            taken += len(rows)


def evaluation_rows(share: Share, features: Features, *, max_rows: int, seed: int) -> Iterator[Rows]:
    """The evaluation slice of this worker's rows: all of the window's rows up to a cap, then a hash sample."""
    rate = max_rows / max(1, share.manifest.num_rows)
    for rows in whole_rows(share, features):
        if rate < 1:
            rows = rows.take(np.flatnonzero(keyed_uniform(rows.example_id, evaluation_salt(seed)) < rate))  # noqa: PLW2901
        yield rows


def _with(rows: Rows, **columns: NDArray[np.float32]) -> Rows:
    plain = {name: getattr(rows, name) for name in Rows.__dataclass_fields__}
    return Rows(**{**plain, **columns})


def count_selected(share: Share, selection: SelectionManifest | None) -> int:
    """How many rows `selected_rows` yields; nothing is read."""
    return share.num_rows if selection is None else sum(selection.counts[group] for group in share.row_groups)


def count_synthetic(share: Share, synthetic: SyntheticManifest) -> int:
    """How many rows `synthetic_rows` yields; nothing is read."""
    return len(range(share.rank, synthetic.num_rows, share.world_size))


def count_evaluated(share: Share, *, max_rows: int, seed: int) -> int:
    """How many rows `evaluation_rows` yields, without reading the features."""
    rate = max_rows / max(1, share.manifest.num_rows)
    if rate >= 1:
        return share.num_rows
    salt = evaluation_salt(seed)
    return sum(
        int((keyed_uniform(share.read(group, ["example_id"]).column(0).to_numpy(), salt) < rate).sum())
        for group in share.row_groups
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """The updates that all workers take together: agreed before the first, since a missing batch would hang them.

    Each worker's rows are spread evenly over the updates, those of each source apart. Full batches with a remainder behind
    them would end some windows on a batch of a few rows, whose gradient is all noise and whose update is as large as any: the
    checkpoint that the next day is served from would be that noise.
    """

    counts: tuple[tuple[int, ...], ...]
    """By worker, its rows of each source."""
    per_worker: int
    """Most rows of one source per worker and update; several sources may exceed it by their number."""

    @property
    def num_updates(self) -> int:
        """Updates of every worker."""
        return -(-max(map(sum, self.counts)) // self.per_worker)

    @property
    def num_rows(self) -> int:
        """Rows of all workers."""
        return sum(map(sum, self.counts))

    def real_rows(self, update: int) -> list[list[int]]:
        """By worker, its rows of each source in an update, padding not counted: over the updates they differ by one at most."""
        num = self.num_updates
        return [[(update + 1) * count // num - update * count // num for count in worker] for worker in self.counts]


def agree(num_rows: int | Sequence[int], batch_size: int, world_size: int) -> Schedule:
    """Gather every worker's number of rows and deal the global batch evenly.

    Args:
        num_rows: this worker's, of its one source or of each.
        batch_size: most rows per update over all workers.
        world_size: how many workers there are.

    Raises:
        BatchSizeError: the batch does not divide among the workers.
    """
    if batch_size % world_size:
        raise BatchSizeError(
            f"a global batch of {batch_size} cannot be dealt to {world_size} workers: choose a multiple of {world_size}"
        )
    own = (num_rows,) if isinstance(num_rows, int) else tuple(num_rows)
    counts: list[Any] = [own]
    if world_size > 1:
        counts = [None] * world_size
        dist.all_gather_object(counts, own)
    return Schedule(tuple(counts), batch_size // world_size)


def batches(
    sources: Sequence[Iterator[Rows]], schedule: Schedule, share: Share, features: Features, *, soft_weight: float = 0.0
) -> Iterator[tuple[ClickBatch, Rows | None]]:
    """Cut a worker's rows into the schedule's batches; every worker gets equally many, padded to equal size.

    Each batch has its part of the first source, then of the next. The loss of an update is divided by its rows over all
    workers: the normaliser is the number of selected rows.

    Raises:
        RuntimeError: there are more or fewer rows than were agreed, so rows would be lost or doubled.
    """
    cut = [_Cutter(rows) for rows in sources]
    for update in range(schedule.num_updates):
        real = schedule.real_rows(update)
        taken = [cutter.take(count) for cutter, count in zip(cut, real[share.rank], strict=True)]
        parts = [rows for rows in taken if rows is not None]
        own = Rows.concat(parts) if parts else None
        sizes = [sum(worker) for worker in real]
        batch = assemble(
            own,
            features.keys,
            features.widths,
            size=max(sizes),
            normaliser=sum(sizes) / share.world_size,
            soft_weight=soft_weight,
        )
        yield batch, own
    if any(cutter.rest() for cutter in cut):
        raise RuntimeError(f"{share.manifest.window}: more rows than the {schedule.counts} that were agreed")


class _Cutter:
    """Cuts a stream of row groups into pieces of the sizes that are taken."""

    def __init__(self, rows: Iterator[Rows]) -> None:
        self._source = rows
        self._held: list[Rows] = []

    def take(self, count: int) -> Rows | None:
        """The next `count` rows; None for none."""
        if not count:
            return None
        while sum(map(len, self._held)) < count:
            try:
                self._held.append(next(self._source))
            except StopIteration:
                raise RuntimeError("fewer rows than were agreed: a window changed while it was read") from None
        held = Rows.concat(self._held)
        self._held = [held.slice(count, len(held))]
        return held.slice(0, count)

    def rest(self) -> bool:
        """Whether rows are left over."""
        return any(map(len, self._held)) or any(len(rows) for rows in self._source)


def prefetch(items: Iterable[T], depth: int = PREFETCHED_BATCHES) -> Iterator[T]:
    """The same items, made by a thread of their own a few ahead: reading overlaps with training."""
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, source, end))
            yield cast("T", item)
