"""A batch of clicks as a model takes it, and the rows it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bags:
    """One list column of some rows: `values` holds the ids of row i at `offsets[i]:offsets[i + 1]`."""

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> Bags:
        """The bags of the rows at `index`, in that order."""
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Bags(self.values[np.repeat(self.offsets[:-1][index], lengths) + within], offsets)

    def slice(self, start: int, stop: int) -> Bags:
        """The bags of the rows `start:stop`."""
        offsets = self.offsets[start : stop + 1]
        return Bags(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    @staticmethod
    def concat(bags: Sequence[Bags]) -> Bags:
        """The bags of several groups of rows, one after the other."""
        lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
        return Bags(np.concatenate([bag.values for bag in bags]), np.concatenate(([0], np.cumsum(lengths))))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some examples of a window, in its order. N rows, D dense, F categorical, L list features."""

    example_id: NDArray[np.uint64]
    """(N,)"""
    position: NDArray[np.int64]
    """(N,) place in the window's order; -1 for synthetic rows, which no teacher is asked about."""
    label: Floats
    """(N,) 0 or 1; of synthetic rows anything between."""
    dense: Floats
    """(N, D)"""
    ids: NDArray[np.int32]
    """(F, N) one id per categorical feature."""
    bags: tuple[Bags, ...]
    """L list features."""
    importance: Floats
    """(N,) 1 / pi_y(x): how many rows of the window each one stands for."""
    weight: Floats
    """(N,) weight in the loss; 0 for rows that are scored and not trained on."""
    offset: Floats
    """(N,) added to the logit in training."""
    soft_logit: Floats
    """(N,) the teacher's raw logit; 0 without a teacher."""

    def __len__(self) -> int:
        return len(self.example_id)

    def slice(self, start: int, stop: int) -> Rows:
        """The rows `start:stop`."""
        return self._each(lambda a: a[start:stop], lambda a: a[:, start:stop], lambda b: b.slice(start, stop))

    def take(self, index: NDArray[np.int64]) -> Rows:
        """The rows at `index`, in that order."""
        return self._each(lambda a: a[index], lambda a: a[:, index], lambda b: b.take(index))

    def _each(self, plain, by_feature, bags) -> Rows:  # type: ignore[no-untyped-def]
        changed = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in ("ids", "bags")}
        return Rows(ids=by_feature(self.ids), bags=tuple(bags(b) for b in self.bags), **changed)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """Several groups of rows, one after the other."""
        if len(parts) == 1:
            return parts[0]
        plain = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts])
            for f in fields(Rows)
            if f.name not in ("ids", "bags")
        }
        return Rows(
            ids=np.concatenate([p.ids for p in parts], axis=1),
            bags=tuple(Bags.concat(column) for column in zip(*(p.bags for p in parts), strict=True)),
            **plain,
        )


@dataclass(slots=True)
class ClickBatch(Pipelineable):
    """What one worker takes in one step. B rows (padding included), D dense features.

    The weights carry every decision about the loss: correction, normaliser, padding and the teacher's weight.
    """

    dense: torch.Tensor
    """(B, D) float32"""
    sparse: KeyedJaggedTensor
    """Categorical features, then list features."""
    label: torch.Tensor
    """(B,) float32"""
    weight: torch.Tensor
    """(B,) weight of the hard loss over the step's normaliser; 0 for padding."""
    soft_weight: torch.Tensor
    """(B,) weight of the soft loss over the step's normaliser; 0 without a teacher."""
    offset: torch.Tensor
    """(B,) added to the logit in training, for either label alike."""
    soft_logit: torch.Tensor
    """(B,) the teacher's raw logit."""

    def to(self, device: torch.device, non_blocking: bool = False) -> ClickBatch:
        """The same batch on another device."""
        return ClickBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})

    def pin_memory(self) -> ClickBatch:
        """The same batch in page-locked memory, from which copies to a GPU overlap with compute."""
        return ClickBatch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that `stream` uses this batch."""
        for f in fields(self):
            getattr(self, f.name).record_stream(stream)


def assemble(
    rows: Rows | None,
    keys: list[str],
    widths: tuple[int, int, int],
    *,
    size: int,
    normaliser: float,
    soft_weight: float,
) -> ClickBatch:
    """Rows as a batch of `size`, padded with rows of weight 0 that look nothing up.

    Args:
        rows: at most `size` rows; None for none.
        keys: names of the categorical, then of the list features.
        widths: numbers of dense, categorical and list features (D, F, L).
        size: B.
        normaliser: what the loss is divided by: the step's rows over all workers, over the number of workers
            (gradients are averaged over workers).
        soft_weight: weight of the teacher's loss beside the hard loss; 0 without a teacher.
    """
    num_dense, num_ids, num_lists = widths
    count = 0 if rows is None else len(rows)
    lengths = torch.zeros((num_ids + num_lists, size), dtype=torch.int32)
    values: list[NDArray[np.int32]] = []
    if rows is not None:
        lengths[:num_ids, :count] = 1
        values.append(rows.ids.ravel())
        for column, bags in enumerate(rows.bags):
            lengths[num_ids + column, :count] = torch.from_numpy(np.diff(bags.offsets).astype(np.int32))
            values.append(bags.values)
    flat = np.concatenate(values) if values else np.empty(0, np.int32)
    sparse = KeyedJaggedTensor(keys=keys, values=torch.from_numpy(flat).long(), lengths=lengths.ravel())

    def padded(column: Floats | None) -> torch.Tensor:
        out = np.zeros(size, np.float32)
        if column is not None:
            out[:count] = column
        return torch.from_numpy(out)

    dense = np.zeros((size, num_dense), np.float32)
    if rows is not None:
        dense[:count] = rows.dense
    weight = padded(None if rows is None else rows.weight) / normaliser
    heard = padded(None if rows is None else (rows.position >= 0).astype(np.float32))
    return ClickBatch(
        dense=torch.from_numpy(dense),
        sparse=sparse,
        label=padded(None if rows is None else rows.label),
        weight=weight,
        soft_weight=weight * heard * soft_weight,
        offset=padded(None if rows is None else rows.offset),
        soft_logit=padded(None if rows is None else rows.soft_logit),
    )
