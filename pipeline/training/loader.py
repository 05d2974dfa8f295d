"""From a window's row groups to the batches that each worker trains on: selected, joined with scores, in time order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group
from pipeline.selection.sampling import (
    LOGIT_BINS,
    Pilot,
    Selected,
    evaluation_salt,
    keyed_uniform,
    logit_counts,
    select,
    solve_log_scale,
)
from pipeline.spec.config import All, OddsProportional, Selection
from pipeline.spec.errors import BadInput
from pipeline.storage.lake import Lake
from pipeline.training.batch import Bags, ClickBatch, Rows, assemble
from pipeline.training.model import Features

PREFETCHED_BATCHES = 4


class BatchSizeError(BadInput):
    """A global batch cannot be dealt to the workers."""


@dataclass(frozen=True)
class Share:
    """One worker's part of a window: every W-th row group, in time order."""

    lake: Lake
    manifest: WindowManifest
    features: Features
    rank: int = 0
    world_size: int = 1

    @property
    def row_groups(self) -> range:
        """Indices of this worker's row groups in the window."""
        return range(self.rank, self.manifest.num_row_groups, self.world_size)

    def starts(self) -> NDArray[np.int64]:
        """Position in the window's order of the first row of each of the window's row groups."""
        sizes = [
            min(self.manifest.row_group_size, part.num_rows - group * self.manifest.row_group_size)
            for part in self.manifest.parts
            for group in range(part.num_row_groups)
        ]
        return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))

    @property
    def num_rows(self) -> int:
        """Rows of this worker's row groups."""
        return int(np.diff(self.starts())[list(self.row_groups)].sum())

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Some columns of one row group."""
        return read_row_group(self.lake, self.manifest, group, columns)


T = TypeVar("T")
Join = Callable[[int, NDArray[np.uint64]], NDArray[np.float32]]


@dataclass(frozen=True)
class PilotScores:
    """What a policy's pilot says of a window, and the scale that its whole window gives."""

    scores: Join
    """The pilot's logits of a row group by its index and example ids."""
    log_scale: float
    """log c of `OddsProportional`."""

    @classmethod
    def of(cls, share: Share, policy: OddsProportional, scores: Join) -> PilotScores:
        """Solve a policy's scale; every worker calls this, and all get the same.

        Args:
            share: the worker's part of the window.
            policy: its rate and floor.
            scores: the pilot's logits.
        """
        counts = np.zeros(LOGIT_BINS, np.int64)
        for group in share.row_groups:
            counts += logit_counts(scores(group, share.read(group, ["example_id"]).column(0).to_numpy()))
        if share.world_size > 1:
            gathered: list[Any] = [None] * share.world_size
            dist.all_gather_object(gathered, counts)
            counts = np.sum(gathered, axis=0)
        return cls(scores, solve_log_scale(policy, counts))

    def __call__(self, group: int, example_id: NDArray[np.uint64]) -> Pilot:
        """What the pilot says of one row group."""
        return Pilot(self.scores(group, example_id), self.log_scale)


def _rows(share: Share, group: int, start: int) -> Rows:
    """One row group as rows, nothing selected yet."""
    features = share.features
    table = share.read(group, ["example_id", "label", *features.columns])
    count = table.num_rows

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = table.column(name).to_numpy()
        return values

    dense = np.zeros((count, features.widths[0]), np.float32)
    for place, number in enumerate(features.dense):
        dense[:, place] = column(number.name)
    ids = np.empty((len(features.categorical), count), np.int32)
    for place, category in enumerate(features.categorical):
        ids[place] = column(category.name)
    ones = np.ones(count, np.float32)
    return Rows(
        example_id=column("example_id").astype(np.uint64, copy=False),
        position=np.arange(start, start + count),
        label=column("label").astype(np.float32),
        dense=dense,
        ids=ids,
        bags=tuple(_bags(table.column(feature.name)) for feature in features.lists),
        importance=ones,
        weight=ones,
        offset=np.zeros(count, np.float32),
        soft_logit=np.zeros(count, np.float32),
    )


def _bags(column: pa.ChunkedArray) -> Bags:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Bags(lists.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0])


def selected_rows(
    share: Share, policy: Selection, *, salt: int, scores: Join | None = None, pilot: PilotScores | None = None
) -> Iterator[Rows]:
    """This worker's selected rows, a row group at a time, with weight, offset and the teacher's logit.

    Args:
        share: the worker's part of the window.
        policy: which rows, and with what correction.
        salt: key of the selection's hash.
        scores: the teacher's logits of a row group by its index and example ids; None without a teacher.
        pilot: what the policy's pilot says, if it has one.
    """
    starts = share.starts()
    for group in share.row_groups:
        rows = _rows(share, group, int(starts[group]))
        soft = rows.soft_logit if scores is None else scores(group, rows.example_id)
        if isinstance(policy, All):
            yield _with(rows, soft_logit=soft)
            continue
        kept = _kept(policy, group, rows.example_id, rows.label.astype(np.uint8), salt, pilot)
        yield _with(
            rows.take(kept.index),
            soft_logit=soft[kept.index],
            importance=kept.importance,
            weight=kept.weight,
            offset=kept.offset,
        )


def passed_over_rows(share: Share, policy: Selection, *, salt: int, pilot: PilotScores | None = None) -> Iterator[Rows]:
    """This worker's rows that a policy does not select, with weight 0: to be scored and not trained on."""
    starts = share.starts()
    for group in share.row_groups:
        rows = _rows(share, group, int(starts[group]))
        kept = _kept(policy, group, rows.example_id, rows.label.astype(np.uint8), salt, pilot)
        rest = rows.take(np.setdiff1d(np.arange(len(rows)), kept.index))
        yield _with(rest, weight=np.zeros(len(rest), np.float32))


def _kept(
    policy: Selection,
    group: int,
    example_id: NDArray[np.uint64],
    label: NDArray[np.uint8],
    salt: int,
    pilot: PilotScores | None,
) -> Selected:
    """What is selected of one row group."""
    said = None if pilot is None else pilot(group, example_id)
    return select(policy, example_id, label, salt=salt, pilot=said)


def whole_rows(share: Share) -> Iterator[Rows]:
    """All of this worker's rows, a row group at a time, nothing selected."""
    starts = share.starts()
    for group in share.row_groups:
        yield _rows(share, group, int(starts[group]))


def evaluation_rows(share: Share, *, max_rows: int, seed: int) -> Iterator[Rows]:
    """The evaluation slice of this worker's rows: all of the window's rows up to a cap, then a hash sample."""
    starts = share.starts()
    rate = max_rows / max(1, share.manifest.num_rows)
    for group in share.row_groups:
        rows = _rows(share, group, int(starts[group]))
        if rate < 1:
            rows = rows.take(np.flatnonzero(keyed_uniform(rows.example_id, evaluation_salt(seed)) < rate))
        yield rows


def _with(rows: Rows, **columns: NDArray[np.float32]) -> Rows:
    plain = {name: getattr(rows, name) for name in Rows.__dataclass_fields__}
    return Rows(**{**plain, **columns})


def count_selected(share: Share, policy: Selection, *, salt: int, pilot: PilotScores | None = None) -> int:
    """How many rows `selected_rows` yields, without reading the features."""
    if isinstance(policy, All):
        return share.num_rows
    return sum(
        len(_kept(policy, group, ids, labels, salt, pilot).index)
        for group in share.row_groups
        for table in [share.read(group, ["example_id", "label"])]
        for ids, labels in [(table.column("example_id").to_numpy(), table.column("label").to_numpy())]
    )


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
    """The steps that all workers take together: agreed before the first, since a missing batch would hang them.

    Each worker's rows are spread evenly over the steps. Full batches with a remainder behind them would end some windows
    on a batch of a few rows, whose gradient is all noise and whose step is as large as any: the checkpoint that the
    next day is served from would be that noise.
    """

    counts: tuple[int, ...]
    """Rows of each worker."""
    per_worker: int
    """Most rows per worker and step."""

    @property
    def num_steps(self) -> int:
        """Steps of every worker."""
        return -(-max(self.counts) // self.per_worker)

    def real_rows(self, step: int) -> list[int]:
        """Rows of each worker in a step, padding not counted: over the steps they differ by one at most."""
        return [(step + 1) * count // self.num_steps - step * count // self.num_steps for count in self.counts]


def agree(num_rows: int, batch_size: int, world_size: int) -> Schedule:
    """Gather every worker's number of rows and deal the global batch evenly.

    Raises:
        BatchSizeError: the batch does not divide among the workers.
    """
    if batch_size % world_size:
        raise BatchSizeError(
            f"a global batch of {batch_size} cannot be dealt to {world_size} workers: choose a multiple of {world_size}"
        )
    counts: list[int] = [num_rows]
    if world_size > 1:
        gathered: list[int | None] = [None] * world_size
        dist.all_gather_object(gathered, num_rows)
        counts = [count or 0 for count in gathered]
    return Schedule(tuple(counts), batch_size // world_size)


def batches(
    rows: Iterator[Rows], schedule: Schedule, share: Share, *, soft_weight: float = 0.0
) -> Iterator[tuple[ClickBatch, Rows | None]]:
    """Cut a worker's rows into the schedule's batches; every worker gets equally many, padded to equal size.

    The loss of a step is divided by its rows over all workers: the normaliser is the number of selected rows.

    Raises:
        RuntimeError: there are more or fewer rows than were agreed, so rows would be lost or doubled.
    """
    cut = _Cutter(rows)
    for step in range(schedule.num_steps):
        real = schedule.real_rows(step)
        own = cut.take(real[share.rank])
        batch = assemble(
            own,
            share.features.keys,
            share.features.widths,
            size=max(real),
            normaliser=sum(real) / share.world_size,
            soft_weight=soft_weight,
        )
        yield batch, own
    if cut.rest():
        raise RuntimeError(f"{share.manifest.window}: more rows than the {schedule.counts} that were agreed")


class _Cutter:
    """Cuts a stream of row groups into pieces of asked sizes."""

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
