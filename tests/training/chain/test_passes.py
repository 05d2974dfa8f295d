"""Further passes over a window say how often examples are forgotten, know nothing later, and leave no trace in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.dataset import read_schema, require_manifest
from pipeline.data.share import Share
from pipeline.selection.policies.forgetting import Forgetting
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import resolve
from pipeline.spec.errors import BadInput
from pipeline.storage.lake import Lake
from pipeline.training.models.features import Features
from pipeline.training.signals import PASSES, SIGNALS, Scored, SignalReader, require_signal
from pipeline.training.train import Trainer
from tests.distributed.worlds import state_digests
from tests.trained import DATASET, DAY, STEPS, TINY, alone, lineup, publish, train, variant, windows
from tests.training.chain.test_steps import weights

ASKING = variant("asking", selection=Forgetting(rate=0.3, pilot="pilot", passes=3))


def five_hundred(folder: Path, num: int = 1) -> Lake:
    lake = Lake(str(folder))
    publish(lake, windows(num))
    return lake


def read(lake: Lake, step: Any, name: str) -> Any:
    share = Share(lake, require_manifest(lake, DATASET, step.window))
    reader = SignalReader(lake, step.signal(name), step.window_digest)
    return np.concatenate([reader(g, share.read(g, ["example_id"]).column(0).to_numpy()) for g in share.row_groups])


def test_an_example_is_forgotten_when_it_was_right_and_is_wrong() -> None:
    rare = np.array(
        [[-1.0, -3.0, -1.0, -3.0], [-3.0, -3.0, -3.0, -3.0], [-1.0, -1.0, -1.0, -1.0], [-3.0, -1.0, -1.0, -1.0]],
        np.float32,
    )
    scored = Scored(np.arange(4), rare[:, 0], {PASSES: rare[:, 1:]})
    clicks, others = np.ones(4, np.uint8), np.zeros(4, np.uint8)
    # At a click rate of 0.1 the base logit is -2.2: -1 is right of a click, and wrong of any other.
    assert SIGNALS["forgetting_4"].value(scored, clicks, 0.1).tolist() == [2, 3, 0, 0]
    assert SIGNALS["forgetting_4"].value(scored, others, 0.1).tolist() == [1, 0, 3, 1]
    assert SIGNALS["forgetting_2"].value(scored, others, 0.1).tolist() == [0, 0, 1, 1], "of the first passes alone"


@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_further_passes_are_counted_and_change_nothing_that_is_trained(tmp_path: Path, some: bool) -> None:
    pilot = variant("pilot", selection=NegativeDownsampling(rate=0.3)) if some else variant("pilot")
    loud, quiet = five_hundred(tmp_path / "loud", 3), five_hundred(tmp_path / "quiet", 3)
    asked, plain = train(loud, lineup(pilot, ASKING), 3), train(quiet, lineup(pilot), 3)
    for day in windows(3):
        step, other = asked["pilot", day], plain["pilot", day]
        assert step.key == other.key
        assert weights(loud, step) == weights(quiet, other)
        assert step.progressive == other.progressive
        assert step.flops.training == other.flops.training
        assert step.flops.selection == pytest.approx(2 * 500 * step.flops.training / step.num_selected)
        assert other.flops.selection == asked["asking", day].flops.selection == 0
        counts = read(loud, step, "forgetting_3")
        assert set(np.unique(counts)) <= {0, 1, 2}
        assert len(np.unique(counts)) > 1
        assert asked["asking", day].selection_read == {"pilot": (step.key, step.signals[0].digest)}
        assert 100 < asked["asking", day].num_selected < 200


def test_counts_are_of_the_passes_of_a_model_that_goes_on_over_the_same_window(tmp_path: Path) -> None:
    lake = five_hundred(tmp_path / "lake")
    step = train(lake, lineup(variant("pilot"), ASKING))["pilot", DAY]
    share = Share(lake, require_manifest(lake, DATASET, DAY))
    trainer = Trainer(Features(read_schema(lake, DATASET, step.schema_key)), TINY, STEPS, seed=0, device=alone())
    config = resolve(variant("pilot"), DAY, online_start=DAY.next(), seed=0)
    before = state_digests(trainer)
    with trainer.aside():
        passes = [trainer.train(share, config, score_all=True).scored for _ in range(3)]
        assert state_digests(trainer) != before
    assert state_digests(trainer) == before, "bit for bit as it was"
    logits = np.stack([each.logits[np.argsort(each.positions)] for each in passes])
    label = np.concatenate([share.read(g, ["label"]).column(0).to_numpy() for g in share.row_groups])
    rate = share.manifest.num_positives / share.manifest.num_rows
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    better = -np.log(np.where(label > 0, p, 1 - p)) < -np.log(np.where(label > 0, rate, 1 - rate))
    expected = [
        2 if not mine.any() else sum(a and not b for a, b in zip(mine, mine[1:], strict=False)) for mine in better.T
    ]
    assert read(lake, step, "forgetting_3").tolist() == expected


def test_passes_of_several_policies_are_made_once(tmp_path: Path) -> None:
    lake = five_hundred(tmp_path / "lake")
    longer = variant("longer", selection=Forgetting(rate=0.3, pilot="pilot", passes=5))
    step = train(lake, lineup(variant("pilot"), ASKING, longer))["pilot", DAY]
    assert step.left == {("forgetting_3", 0), ("forgetting_5", 0)}
    assert step.flops.selection == pytest.approx(4 * step.flops.training)


def test_an_older_model_makes_no_passes() -> None:
    with pytest.raises(BadInput, match="forgetting_3 takes several passes .*, got an age of 1: read it at age 0"):
        require_signal("forgetting_3", 1)
    with pytest.raises(BadInput, match="models make no signal 'forgeting_3': did you mean 'forgetting_3'"):
        require_signal("forgeting_3")
