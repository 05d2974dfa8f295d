"""Evaluation keeps what stands beside the predictions as it is, on whatever worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.data.dataset import read_schema
from pipeline.data.share import Share
from pipeline.storage.lake import Lake
from pipeline.training.evaluate import _extra_columns
from pipeline.training.loader import whole_rows
from pipeline.training.models.features import Features
from pipeline.training.train import Trainer
from tests.trained import DATASET, STEPS, TINY, alone, publish, windows


def test_a_worker_without_rows_does_not_turn_the_others_ids_into_floats(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (manifest,) = publish(lake, windows(1), group=1000, cluster=True)
    position = np.arange(manifest.num_rows)
    parts = [
        _extra_columns(Share(lake, manifest, rank, 2), rows, ["cluster", "true_prob"])
        for rank, rows in ((0, position), (1, position[:0]))
    ]
    assert [len(part["cluster"]) for part in parts] == [manifest.num_rows, 0]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert (whole["cluster"].dtype, whole["true_prob"].dtype) == (np.uint64, np.float64)


def test_scoring_leaves_the_callers_gradients_on(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (manifest,) = publish(lake, windows(1))
    trainer = Trainer(Features(read_schema(lake, DATASET, manifest.schema_key)), TINY, STEPS, seed=0, device=alone())
    mine = Share(lake, manifest)
    scored = trainer.predict(mine, whole_rows(mine, trainer.features), mine.num_rows)
    next(scored)
    assert torch.is_grad_enabled()
    for _ in scored:
        assert torch.is_grad_enabled()
