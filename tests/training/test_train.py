"""A worker that is alone takes shortcuts, and learns bit for bit what it would learn without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.dataset import read_schema
from pipeline.data.share import Share
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import All, ModelConfig, Selection, StepConfig
from pipeline.storage.lake import Lake
from pipeline.training import sharding
from pipeline.training import train as training
from pipeline.training.metrics import ClickSums, RunningSums
from pipeline.training.models.features import Features
from pipeline.training.models.last_layer import READINGS
from pipeline.training.train import OneByOne, Trainer
from tests.distributed.worlds import state_digests
from tests.trained import DAY, STEPS, TINY, alone, publish, stored


@pytest.mark.parametrize(
    ("model", "selection"),
    [
        (TINY, All()),
        (TINY.model_copy(update={"arch": "dcnv2"}), NegativeDownsampling(rate=0.4, correction="offset")),
        (TINY.model_copy(update={"distillation_head": "auxiliary"}), NegativeDownsampling(rate=0.4)),
    ],
    ids=["dlrm", "dcnv2", "two towers"],
)
def test_shortcuts_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelConfig, selection: Selection
) -> None:
    """Against TorchRec's own collection, pipeline and replicas in a group of one, and torch's own Adagrad."""
    lake = Lake(str(tmp_path))
    (manifest,) = publish(lake, [DAY])
    features = Features(read_schema(lake, manifest.dataset, manifest.schema_key))
    config = StepConfig(model=model, optimizer=STEPS, selection=selection, seed=1)
    found = []
    for shortcuts in (True, False):
        if not shortcuts:
            for module in (sharding, training):
                monkeypatch.setattr(module, "is_alone", lambda device: False)
            monkeypatch.setattr(sharding, "PlainAdagrad", torch.optim.Adagrad)
        trainer = Trainer(features, model, STEPS, seed=1, device=alone())
        assert isinstance(trainer._pipeline, OneByOne) is shortcuts
        mine, kept = Share(lake, manifest), stored(lake, manifest, selection)
        trained = [trainer.train(mine, config, selection=kept, score_all=True, readings=READINGS) for _ in range(2)]
        scored = trainer.score(mine, READINGS)
        found.append((state_digests(trainer), trained, scored))
    (ours, trained, scored), (theirs, expected, same) = found
    assert ours == theirs
    assert any("momentum" in name for name in ours)
    for one, other in zip(trained, expected, strict=True):
        assert one.sums.metrics() == other.sums.metrics()
        assert np.array_equal(one.scored.logits, other.scored.logits)
        assert all(np.array_equal(one.scored.readings[name], other.scored.readings[name]) for name in READINGS)
    assert np.array_equal(scored.logits, same.logits)
    assert all(np.array_equal(scored.readings[name], same.readings[name]) for name in READINGS)


def test_running_sums_are_the_sums_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=1000).astype(np.float32)
    label = (rng.random(1000) < 0.3).astype(np.float32)
    weight = rng.random(1000).astype(np.float32)
    running = RunningSums(at_once=100)
    for start in range(0, 1000, 37):
        rows = slice(start, start + 37)
        running.add(label[rows], logit[rows], weight[rows])
    whole = ClickSums.of(label, logit, weight=weight)
    assert running.total().metrics() == pytest.approx(whole.metrics(), rel=1e-12)
    assert running.total().metrics() == running.total().metrics()
    assert running.total().rows == 1000
