"""Progressive validation: score a window's evaluation slice with the model as it stood before the window."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.share import Share
from pipeline.spec.config import EvaluationConfig
from pipeline.training.loader import count_evaluated, evaluation_rows
from pipeline.training.metrics import ClickSums, auc
from pipeline.training.train import Trainer


@dataclass(frozen=True, slots=True)
class Predicted:
    """A window's evaluation slice as one model predicted it."""

    metrics: dict[str, float]
    """log_loss, normalized_entropy, auc, calibration, ...; the same on every worker."""
    predictions: pa.Table | None
    """On worker 0: example_id, label, logit and, where the window has them, cluster and true_prob; in window order."""
    num_rows: int
    """Rows scored, over all workers."""
    seconds: float
    """Wall time."""


def evaluate(trainer: Trainer, share: Share, config: EvaluationConfig, *, seed: int, extras: list[str]) -> Predicted:
    """Score the evaluation slice; every worker calls this.

    Args:
        trainer: the model, as it stood before the window.
        share: the worker's part of the window.
        config: the slice.
        seed: sets the sample where the slice is one.
        extras: columns of the window to keep beside the predictions.
    """
    started = time.perf_counter()
    rows = evaluation_rows(share, trainer.features, max_rows=config.max_rows, seed=seed)
    count = count_evaluated(share, max_rows=config.max_rows, seed=seed)
    scored = list(trainer.predict(share, rows, count))
    position = _joined([r.position for r, _ in scored], np.int64)
    part = {
        "position": position,
        "example_id": _joined([r.example_id for r, _ in scored], np.uint64),
        "label": _joined([r.label for r, _ in scored], np.float32).astype(np.uint8),
        "logit": _joined([z for _, z in scored], np.float32),
        **_extra_columns(share, position, extras),
    }
    parts: list[Any] = [part]
    if share.world_size > 1:
        parts = [None] * share.world_size
        dist.all_gather_object(parts, part)
    whole = {name: np.concatenate([p[name] for p in parts]) for name in part}
    order = np.argsort(whole.pop("position"), kind="stable")
    whole = {name: column[order] for name, column in whole.items()}
    sums = ClickSums.of(whole["label"], whole["logit"], true_prob=whole.get("true_prob"))
    metrics = sums.metrics()
    if (area := auc(whole["label"], whole["logit"])) is not None:
        metrics["auc"] = area
    predictions = pa.table(whole) if share.rank == 0 else None
    return Predicted(metrics, predictions, sums.rows, time.perf_counter() - started)


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _extra_columns(share: Share, position: NDArray[np.int64], extras: list[str]) -> dict[str, NDArray[Any]]:
    """Columns that no model sees, for this worker's scored rows."""
    if not extras:
        return {}
    starts = share.starts()
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in extras}
    for group in share.row_groups:
        first, last = np.searchsorted(position, (starts[group], starts[group + 1]))
        table = share.read(group, extras)
        for name in extras:
            found[name].append(table.column(name).to_numpy()[position[first:last] - starts[group]])
    # A worker without rows gives the others' type: ids that became floats would no longer be ids.
    return {name: _joined(parts, np.uint64 if name == "cluster" else np.float64) for name, parts in found.items()}
