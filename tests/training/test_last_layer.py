"""What is read of a model's last layer is what its gradient is made of, and nothing is read unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from pipeline.data.dataset import read_schema, require_manifest
from pipeline.data.share import Share
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import SKETCH_COLUMNS, ModelConfig
from pipeline.spec.errors import BadInput
from pipeline.storage.lake import Lake
from pipeline.training.batch import assemble
from pipeline.training.loader import whole_rows
from pipeline.training.models.features import Features
from pipeline.training.models.last_layer import READINGS, Watch, last_linear, sketch
from pipeline.training.signals import SIGNALS, Scored, SignalReader
from pipeline.training.train import Trainer
from tests.trained import DATASET, DAY, STEPS, TINY, alone, lineup, publish, train, variant, windows

FEW = 20


@pytest.fixture
def share(tmp_path: Path) -> Share:
    lake = Lake(str(tmp_path / "lake"))
    return Share(lake, publish(lake, [DAY])[0])


def trainer_of(share: Share, model: ModelConfig) -> Trainer:
    return Trainer(
        Features(read_schema(share.lake, DATASET, share.manifest.schema_key)), model, STEPS, seed=3, device=alone()
    )


MODELS = {
    "dlrm": TINY,
    "dcnv2": TINY.model_copy(update={"arch": "dcnv2"}),
    "two towers": TINY.model_copy(update={"distillation_head": "auxiliary"}),
    "deep": ModelConfig(size="small", prior=0.2),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_norm_is_that_of_the_last_layers_weights_and_bias(share: Share, model: ModelConfig) -> None:
    """By autograd, a row at a time."""
    trainer = trainer_of(share, model)
    scored = trainer.score(share, ["norm", "sketch"])
    rows = next(whole_rows(share, trainer.features)).slice(0, FEW)
    found = SIGNALS["gradient_norm"].value(scored.at(slice(0, FEW)), rows.label.astype(np.uint8), 0.2)
    network: Any = trainer.model.module.network
    expected = []
    for place in range(FEW):
        one = rows.slice(place, place + 1)
        batch = assemble(one, trainer.features.keys, trainer.features.widths, size=1, normaliser=1.0, soft_weight=0.0)
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch.dense, batch.sparse), batch.label)
        layer = network.last_layer
        expected.append(
            float(torch.cat([g.ravel() for g in torch.autograd.grad(loss, [layer.weight, layer.bias])]).norm())
        )
    assert found == pytest.approx(np.array(expected), rel=1e-4)
    assert scored.readings["sketch"].shape == (500, SKETCH_COLUMNS)
    assert (scored.readings["sketch"][:, 0] == 1).all(), "the bias's input"


def test_a_sketch_keeps_inner_products_on_average() -> None:
    hidden = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 512)).astype(np.float32))
    drawn = sketch(hidden)
    squares = (drawn[:, 1:].square().sum(1) / hidden.square().sum(1)).numpy()
    assert squares.mean() == pytest.approx(1, abs=0.1)
    assert torch.equal(drawn, sketch(hidden)), "the signs are the same for ever"


class Scaled(nn.Module):
    """A tower whose logit is not its linear layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, shared: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(shared)


def test_a_layer_whose_output_is_not_the_logit_is_refused_with_the_cure() -> None:
    tower = Scaled()
    with Watch(lambda: tower.layer, ["norm"], "scaled") as watch:
        logits = tower(torch.ones(5, 4)).detach().reshape(-1).numpy()
        with pytest.raises(
            BadInput, match="that of model 'scaled' is not: let its network's `last_layer` return the linear"
        ):
            watch.of(logits)
        right = tower.layer(torch.ones(5, 4)).detach().reshape(-1).numpy()
        assert watch.of(right[:3])["norm"].shape == (3, 1), "padding is left out"
        with pytest.raises(BadInput, match="to be the logit"):
            watch.of(right)  # no batch went through since
    with pytest.raises(BadInput, match="got none in ReLU: end it in"):
        last_linear(nn.ReLU())


def test_nothing_is_watched_unless_it_is_asked_for(share: Share) -> None:
    trainer = trainer_of(share, TINY)
    layer = trainer.model.module.network.last_layer
    with trainer.watch(["norm"]) as watch:
        assert len(layer._forward_hooks) == 1
        assert watch.flops() == 2 * layer.in_features
    with trainer.watch([]) as watch:
        assert len(layer._forward_hooks) == 0
        assert watch.flops() == 0
    assert trainer.score(share).readings == {}
    assert {kind.reading for kind in SIGNALS.values()} - {None} <= READINGS.keys()


@pytest.mark.parametrize(
    "pilot", [variant("pilot"), variant("pilot", selection=NegativeDownsampling(rate=0.3))], ids=["all", "some"]
)
def test_gradient_norms_come_from_the_training_pass_and_from_older_checkpoints(tmp_path: Path, pilot: Any) -> None:
    """And whoever is watched learns as if nobody looked."""
    made = {}
    for name, asked in (("watched", True), ("quiet", False)):
        lake = Lake(str(tmp_path / name))
        publish(lake, windows(3))
        now = variant("now", selection=Grand(rate=0.3, pilot="pilot"))
        old = variant("old", selection=Grand(rate=0.3, pilot="pilot", pilot_age=1, since=DAY.next()))
        made[name] = lake, train(lake, lineup(pilot, *((now, old) if asked else ())), 3)
    (lake, watched), (_, quiet) = made["watched"], made["quiet"]
    last = DAY.shift(2)
    step = watched["pilot", last]
    assert step.left == {("gradient_norm", 0), ("gradient_norm", 1)}
    assert step.key == quiet["pilot", last].key
    assert step.progressive == quiet["pilot", last].progressive
    assert step.flops.training == quiet["pilot", last].flops.training
    assert step.flops.scoring > quiet["pilot", last].flops.scoring == 0
    for age in (0, 1):
        signal = step.signal("gradient_norm", age)
        assert signal is not None
        ids = Share(lake, require_manifest(lake, DATASET, step.window)).read(0, ["example_id"]).column(0).to_numpy()
        values = SignalReader(lake, signal, step.window_digest)(0, ids)
        assert (values > 0).all()
        assert watched["now" if age == 0 else "old", last].selection_read["pilot"] == (step.key, signal.digest)
    for name in ("now", "old"):
        assert 90 < watched[name, last].num_selected < 210


def test_the_error_is_a_factor_of_the_gradient() -> None:
    logits, label = np.array([0.0, 2.0], np.float32), np.array([0, 1], np.uint8)
    found = SIGNALS["gradient_norm"].value(
        Scored(np.arange(2), logits, {"norm": np.full((2, 1), 3, np.float32)}), label, 0.5
    )
    assert found == pytest.approx(3 * np.abs(expit(logits) - label))
