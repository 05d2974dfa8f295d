"""The contestants of this environment: Windrow from parquet, the same step on batches in memory, and TorchRec's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torchrec.datasets.utils import Batch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.models.dlrm import DLRMTrain, InteractionArch

from benchmarks.contest import Rates
from benchmarks.contest_data import BATCH_SIZE, NUM_CATEGORICAL, Examples
from pipeline.spec.config import All, EvaluationConfig, ModelConfig, OptimizerConfig, Precision, StepConfig, Widths
from pipeline.training.batch import ClickBatch
from pipeline.training.evaluate import evaluate
from pipeline.training.loader import agree, batches, whole_rows
from pipeline.training.model import build_model
from pipeline.training.models.dlrm import Dlrm
from pipeline.training.sharding import shard
from pipeline.training.train import Trainer

SEED = 0
DEVICE = torch.device("cpu")


def join_alone() -> None:
    """Be the only member of a process group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def in_memory(examples: Examples, window: str) -> list[ClickBatch]:
    """The batches of a window, made beforehand as training makes them."""
    share = examples.share(window)
    schedule = agree(share.manifest.num_rows, BATCH_SIZE, 1)
    return [batch for batch, _ in batches([whole_rows(share, examples.features)], schedule, share, examples.features)]


class FromParquet:
    """Windrow as it trains a window: parquet, assembled batches, sharded step, progressive metrics."""

    name = "Windrow, from parquet"

    def __init__(self, examples: Examples, widths: Widths, rates: Rates, precision: Precision = "float32") -> None:
        if precision != "float32":
            self.name = f"{self.name}, {precision}"
        self._examples = examples
        self._config = StepConfig(
            model=ModelConfig(size=widths, precision=precision),
            optimizer=_optimizer(rates),
            selection=All(),
            seed=SEED,
        )
        self.trainer = _trainer(examples, widths, rates, precision)

    def train(self, window: str) -> float:
        """One pass; the clock runs from before the first read."""
        share = self._examples.share(window)
        started = time.perf_counter()
        self.trainer.train(share, self._config)
        return time.perf_counter() - started

    def log_loss(self, window: str) -> float:
        """Of all rows of the window."""
        share = self._examples.share(window)
        return evaluate(self.trainer, share, EvaluationConfig(max_rows=2**31 - 1), seed=SEED, extras=[]).metrics[
            "log_loss"
        ]


class FromMemory:
    """The same sharded step, with nothing around it, on batches kept in memory."""

    name = "the same step, batches in memory"

    def __init__(self, examples: Examples, widths: Widths, rates: Rates, kept: dict[str, list[ClickBatch]]) -> None:
        self.trainer = _trainer(examples, widths, rates)
        self._pipeline = TrainPipelineSparseDist(self.trainer.model, self.trainer.optimizer, DEVICE)
        self._kept = kept

    def train(self, window: str) -> float:
        """One pass over the kept batches."""
        self.trainer.model.train()
        return _timed(self._pipeline, self._kept[window])

    def log_loss(self, window: str) -> None:
        """Bitwise the weights of `FromParquet`."""
        return


class StockFromMemory:
    """TorchRec's own DLRM, interaction and loss included, in the same pipeline, on batches kept in memory."""

    name = "TorchRec's stock DLRM, batches in memory"

    def __init__(self, examples: Examples, widths: Widths, rates: Rates, kept: dict[str, list[ClickBatch]]) -> None:
        ours = build_model(examples.features, ModelConfig(size=widths), seed=SEED).network
        if not isinstance(ours, Dlrm):
            raise TypeError(f"the contest is about DLRM, got {ours}")
        ours.dlrm.inter_arch = InteractionArch(NUM_CATEGORICAL)
        self._model, optimizer = shard(DLRMTrain(ours.dlrm), _optimizer(rates), DEVICE)
        self._pipeline = TrainPipelineSparseDist(self._model, optimizer, DEVICE)
        self._kept = {
            window: [Batch(batch.dense, batch.sparse, batch.label) for batch in batches]
            for window, batches in kept.items()
        }

    def train(self, window: str) -> float:
        """One pass over the kept batches."""
        self._model.train()
        return _timed(self._pipeline, self._kept[window])

    def log_loss(self, window: str) -> None:
        """The same model but for rounding."""
        return


def _timed(pipeline: TrainPipelineSparseDist[Any, Any], kept: Sequence[Any]) -> float:
    stream = iter(kept)
    started = time.perf_counter()
    while True:
        try:
            pipeline.progress(stream)
        except StopIteration:
            return time.perf_counter() - started


def _optimizer(rates: Rates) -> OptimizerConfig:
    return OptimizerConfig(batch_size=BATCH_SIZE, embedding_lr=rates.embedding, dense_lr=rates.dense)


def _trainer(examples: Examples, widths: Widths, rates: Rates, precision: Precision = "float32") -> Trainer:
    model = ModelConfig(size=widths, precision=precision)
    return Trainer(examples.features, model, _optimizer(rates), seed=SEED, device=DEVICE)


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself; elsewhere it is emulated, and slower than float32."""
    return torch.cpu._is_avx512_bf16_supported()
