"""Training: one chronological pass over a window, scoring each batch before learning from it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from pipeline.data.share import Share
from pipeline.selection.stored import SelectionManifest
from pipeline.selection.synthetic import SyntheticManifest
from pipeline.spec.config import ModelConfig, OptimizerConfig, StepConfig
from pipeline.training.batch import ClickBatch, Rows
from pipeline.training.loader import (
    agree,
    batches,
    count_selected,
    count_synthetic,
    passed_over_rows,
    prefetch,
    selected_rows,
    synthetic_rows,
    whole_rows,
)
from pipeline.training.metrics import ClickSums, RunningSums
from pipeline.training.model import ClickModel, build_model, forward_flops
from pipeline.training.models.features import Features
from pipeline.training.models.last_layer import Watch
from pipeline.training.sharding import is_alone, shard
from pipeline.training.signals import Scored, SignalReader

Progress = Callable[[int, int], None]

SCORED_AT_ONCE = 8192
"""Rows per worker and batch where nothing is learned: the optimizer's batch size does not matter there."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What one pass over a window gave."""

    sums: ClickSums
    """Progressive sums over the trained rows of all workers, each weighted by 1 / pi_y(x)."""
    num_rows: int
    """Rows trained on, over all workers."""
    num_scored: int
    """Rows scored and not trained on, over all workers."""
    num_updates: int
    """Optimizer updates."""
    scored: Scored
    """This worker's rows, each before the update on its batch; empty unless they are kept."""
    seconds: float
    """Wall time of the pass."""


class OneByOne:
    """A batch after the other, for a worker that is alone on a CPU: a pipeline has nothing to overlap there."""

    def __init__(self, model: DistributedModelParallel, optimizer: CombinedOptimizer) -> None:
        self._model = model
        # The tables are updated in backward; their optimizer would only set their learning rate, which never changes.
        (self._dense,) = (own for _, own in optimizer.optimizers if isinstance(own, KeyedOptimizerWrapper))

    def progress(self, stream: Iterator[ClickBatch]) -> torch.Tensor:
        """(B,) logits of the next batch, from before the update on it.

        Raises:
            StopIteration: there is none.
        """
        batch = next(stream)
        if not self._model.training:
            return self._model(batch)[1]  # type: ignore[no-any-return]
        self._dense.zero_grad()
        loss, logits = self._model(batch)
        loss.backward()
        self._dense.step()
        return logits  # type: ignore[no-any-return]


class Trainer:
    """A sharded model with its optimizer and the pipeline that feeds it, on this worker's device."""

    def __init__(
        self, features: Features, model: ModelConfig, optimizer: OptimizerConfig, *, seed: int, device: torch.device
    ) -> None:
        fresh = build_model(features, model, seed=seed)
        self.forward_flops = forward_flops(fresh, features)
        """Floating-point operations of one example's forward pass when it serves."""
        self.training_flops = 3 * forward_flops(fresh, features, training=True)
        """Of one example's training step: a forward pass, the auxiliary tower's included, and a backward pass of two."""
        self.num_dense_parameters = sum(p.numel() for n, p in fresh.named_parameters() if "embedding_bags" not in n)
        self.num_embedding_parameters = sum(p.numel() for n, p in fresh.named_parameters() if "embedding_bags" in n)
        self.features = features
        self._arch = model.arch
        self.device = device
        self.model, self.optimizer = shard(fresh, optimizer, device)
        self._pipeline: TrainPipelineSparseDist[ClickBatch, torch.Tensor] | OneByOne = (
            OneByOne(self.model, self.optimizer)
            if is_alone(device)
            else TrainPipelineSparseDist(self.model, self.optimizer, device)
        )

    def train(
        self,
        share: Share,
        config: StepConfig,
        *,
        selection: SelectionManifest | None = None,
        synthetic: Sequence[SyntheticManifest] = (),
        soft: SignalReader | None = None,
        score_all: bool = False,
        readings: Collection[str] = (),
        progress: Progress | None = None,
    ) -> Trained:
        """Train on the selected rows of a window, in order, once; every worker calls this.

        Args:
            share: the worker's part of the window.
            config: batch size and the weight of the soft loss.
            selection: the stored selection of the window; None for all of its rows.
            synthetic: synthetic windows that are trained on too.
            soft: the teacher's logits, when there is a soft loss.
            score_all: keep this model's own logit for every row of the window: those trained on from the training pass,
                the others from batches of weight zero in between, which move nothing.
            readings: what to keep of the last layer's inputs beside the logits.
            progress: called after each update with the number done and the number in all.
        """
        batch_size, features = config.optimizer.batch_size, self.features
        counts = [count_selected(share, selection), *(count_synthetic(share, made) for made in synthetic)]
        schedule = agree(counts, batch_size, share.world_size)
        streams = [
            selected_rows(share, features, selection, soft),
            *(synthetic_rows(share, features, made) for made in synthetic),
        ]
        source = batches(streams, schedule, share, features, soft_weight=config.soft_weight or 0.0)
        num_scored = 0
        if score_all and selection is not None:
            passed = agree(share.num_rows - counts[0], batch_size, share.world_size)
            num_scored = passed.num_rows
            scoring = batches([passed_over_rows(share, features, selection)], passed, share, features)
            source = interleave(source, schedule.num_updates, scoring, passed.num_updates)
        self.model.train()
        started = time.perf_counter()
        sums = RunningSums()
        kept: list[Scored] = []
        done = 0
        with self.watch(readings) as watch:
            for rows, logits in self._run(source):
                done += 1
                if rows is not None:
                    if rows.weight.any():  # else scored in between: the same sums, to the last bit, as without
                        sums.add(rows.label, logits, rows.importance * (rows.weight > 0))
                    if score_all:
                        kept.append(Scored(rows.position, logits, watch.of(logits)).at(rows.position >= 0))
                if progress is not None:
                    progress(done, schedule.num_updates)
        seconds = time.perf_counter() - started
        return Trained(
            sums=all_sums(sums.total()),
            num_rows=schedule.num_rows,
            num_scored=num_scored,
            num_updates=schedule.num_updates,
            scored=Scored.of(kept),
            seconds=seconds,
        )

    def decay_accumulators(self, factor: float) -> None:
        """Multiply every accumulator of Adagrad by `factor`: the embeddings' fused ones and the dense layers'."""
        for state in self.optimizer.state_dict()["state"].values():
            for name, value in state.items():
                if name != "step":  # Adagrad's count of its calls
                    for tensor in _own(value):
                        tensor.mul_(factor)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is trained within is thrown away: weights and optimizer state come back bit for bit. Memory holds both."""
        states = [self.model.state_dict(), *self.optimizer.state_dict()["state"].values()]
        kept = [(tensor, tensor.clone()) for state in states for value in state.values() for tensor in _own(value)]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, before in kept:
                    tensor.copy_(before)

    def watch(self, readings: Collection[str]) -> Watch:
        """What sees the inputs of the model's last layer.

        Args:
            readings: names of `READINGS`.
        """
        network = cast("ClickModel", self.model.module).network
        return Watch(lambda: network.last_layer, readings, self._arch)

    def score(self, share: Share, readings: Collection[str] = ()) -> Scored:
        """Score every row of a window forward-only; every worker calls this.

        Args:
            share: the worker's part of the window.
            readings: what to keep of the last layer's inputs beside the logits.

        Returns:
            All of this worker's rows.
        """
        with self.watch(readings) as watch:
            predicted = self.predict(share, whole_rows(share, self.features), share.num_rows)
            return Scored.of(Scored(rows.position.copy(), logits, watch.of(logits)) for rows, logits in predicted)

    def predict(self, share: Share, rows: Iterator[Rows], num_rows: int) -> Iterator[tuple[Rows, Logits]]:
        """Score rows forward-only, in order; every worker calls this and exhausts it.

        Args:
            share: the worker's part of the window.
            rows: what to score.
            num_rows: how many rows that is on this worker.
        """
        self.model.eval()
        schedule = agree(num_rows, SCORED_AT_ONCE * share.world_size, share.world_size)
        scored = self._run(batches([rows], schedule, share, self.features))
        while True:
            with torch.no_grad():  # entered for each batch: the caller's own work between two is none of ours
                found = next(scored, None)
            if found is None:
                return
            place, logits = found
            if place is not None:
                yield place, logits

    def _run(self, source: Iterator[tuple[ClickBatch, Rows | None]]) -> Iterator[tuple[Rows | None, Logits]]:
        """Feed the pipeline to its end, so that it is drained before the model is put to another use."""
        sent: deque[Rows | None] = deque()

        def fed() -> Iterator[ClickBatch]:
            # On CPUs the model's threads hold every core: a thread that reads ahead takes more from them than it saves.
            on_gpu = self.device.type == "cuda"
            for batch, rows in prefetch(source) if on_gpu else source:
                sent.append(rows)
                yield batch.pin_memory() if on_gpu else batch

        stream = fed()
        while True:
            try:
                logits = self._pipeline.progress(stream)
            except StopIteration:
                return
            rows = sent.popleft()
            yield rows, logits[: 0 if rows is None else len(rows)].cpu().numpy()


Logits = NDArray[np.float32]


def _own(value: object) -> list[torch.Tensor]:
    """The tensors in which this worker holds its part of a weight or of the optimizer's state."""
    if isinstance(value, ShardedTensor):
        return [piece.tensor for piece in value.local_shards()]
    return [value] if isinstance(value, torch.Tensor) else []


def interleave(
    first: Iterator[tuple[ClickBatch, Rows | None]],
    num_first: int,
    second: Iterator[tuple[ClickBatch, Rows | None]],
    num_second: int,
) -> Iterator[tuple[ClickBatch, Rows | None]]:
    """Both streams, the second spread evenly over the first: the same order on every worker.

    A batch whose weights are all zero has a zero gradient, under which Adagrad moves nothing.
    """
    given = 0
    for step in range(num_first):
        yield next(first)
        while given < num_second * (step + 1) // num_first:
            given += 1
            yield next(second)
    yield from first
    yield from second


def all_sums(sums: ClickSums) -> ClickSums:
    """The sums over all workers' rows."""
    if dist.get_world_size() == 1:
        return sums
    gathered: list[ClickSums | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, sums)
    return sum((s for s in gathered if s is not None), ClickSums())
