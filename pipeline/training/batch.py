"""A batch of clicks as a model takes it, and the rows it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

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
    """(N,) place in the window's order; -1 for synthetic rows, for which there are no teacher logits."""
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
        return self._at(slice(start, stop), tuple(bags.slice(start, stop) for bags in self.bags))

    def take(self, index: NDArray[np.int64]) -> Rows:
        """The rows at `index`, in that order."""
        return self._at(index, tuple(bags.take(index) for bags in self.bags))

    def _at(self, place: Any, bags: tuple[Bags, ...]) -> Rows:
        return Rows(
            example_id=self.example_id[place],
            position=self.position[place],
            label=self.label[place],
            dense=self.dense[place],
            ids=self.ids[:, place],
            bags=bags,
            importance=self.importance[place],
            weight=self.weight[place],
            offset=self.offset[place],
            soft_logit=self.soft_logit[place],
        )

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
    """What one worker takes in one update. B rows (padding included), D dense features.

    The weights carry every decision about the loss: correction, normaliser, padding and the teacher's weight.
    """

    dense: torch.Tensor
    """(B, D) float32"""
    sparse: KeyedJaggedTensor
    """Categorical features, then list features."""
    label: torch.Tensor
    """(B,) float32"""
    weight: torch.Tensor
    """(B,) weight of the hard loss over the update's normaliser; 0 for padding."""
    offset: torch.Tensor
    """(B,) added to the logit in training, for either label alike."""
    soft_logit: torch.Tensor
    """(B,) the teacher's raw logit."""
    soft_weight: torch.Tensor | None = None
    """(B,) weight of the soft loss over the update's normaliser; None without a teacher."""

    def to(self, device: torch.device, non_blocking: bool = False) -> ClickBatch:
        """The same batch on another device."""
        return ClickBatch(**{name: part.to(device, non_blocking=non_blocking) for name, part in self._parts()})

    def pin_memory(self) -> ClickBatch:
        """The same batch in page-locked memory, from which copies to a GPU overlap with compute."""
        return ClickBatch(**{name: part.pin_memory() for name, part in self._parts()})

    def record_stream(self, stream: torch.Stream) -> None:
        """Let the allocator know that `stream` uses this batch."""
        for _, part in self._parts():
            part.record_stream(stream)

    def _parts(self) -> list[tuple[str, Any]]:
        return [(f.name, part) for f in fields(self) if (part := getattr(self, f.name)) is not None]


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
        normaliser: what the loss is divided by: the update's rows over all workers, over the number of workers
            (gradients are averaged over workers).
        soft_weight: weight of the teacher's loss beside the hard loss; 0 without a teacher.
    """
    num_dense, num_ids, num_lists = widths
    count = 0 if rows is None else len(rows)
    lengths = np.zeros((num_ids + num_lists, size), np.int32)
    values: list[NDArray[np.int32]] = []
    dense = np.zeros((size, num_dense), np.float32)
    label, weight, offset, soft_logit, taught = np.zeros((5, size), np.float32)
    if rows is not None:
        lengths[:num_ids, :count] = 1
        values.append(rows.ids.ravel())
        for column, bags in enumerate(rows.bags):
            lengths[num_ids + column, :count] = np.diff(bags.offsets)
            values.append(bags.values)
        dense[:count] = rows.dense
        label[:count] = rows.label
        weight[:count] = rows.weight
        offset[:count] = rows.offset
        soft_logit[:count] = rows.soft_logit
        taught[:count] = rows.position >= 0
    flat = np.concatenate(values, dtype=np.int64) if values else np.empty(0, np.int64)
    weight /= np.float32(normaliser)
    return ClickBatch(
        dense=torch.from_numpy(dense),
        sparse=KeyedJaggedTensor(keys=keys, values=torch.from_numpy(flat), lengths=torch.from_numpy(lengths.ravel())),
        label=torch.from_numpy(label),
        weight=torch.from_numpy(weight),
        offset=torch.from_numpy(offset),
        soft_logit=torch.from_numpy(soft_logit),
        soft_weight=torch.from_numpy(weight * taught * np.float32(soft_weight)) if soft_weight else None,
    )
