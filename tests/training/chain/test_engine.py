"""The stage engine: soft labels of any age, selection by a pilot, a tower of its own for the teacher, fading accumulators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.dataset import read_manifest, read_row_group, read_schema
from pipeline.data.share import Share
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import Continuous, Cutover, ModelConfig, Variant
from pipeline.spec.lineup import LineUp
from pipeline.storage.lake import Lake
from pipeline.training.chain.status import chain_statuses
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.models.features import Features
from pipeline.training.signals import Signal, SignalReader
from pipeline.training.train import Trainer
from tests.trained import (
    DATASET,
    DAY,
    STEPS,
    TINY,
    alone,
    evaluation,
    lineup,
    logits,
    metrics,
    publish,
    steps,
    train,
    variant,
    windows,
)
from tests.training.chain.test_steps import Watcher, same, state, weights

TEACHER = variant("teacher", model=ModelConfig(arch="dcnv2", size="tiny", prior=0.2))
FAR = DAY.shift(30)
PARTS = {"load", "select", "score", "train", "save"}
LATER = DAY.shift(2)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Five windows of a simulated log."""
    return five(tmp_path, "lake")


def five(folder: Path, name: str) -> Lake:
    lake = Lake(str(folder / name))
    publish(lake, windows(5))
    return lake


def manifest_of(lake: Lake, step: StepManifest) -> Any:
    manifest = read_manifest(lake, DATASET, step.window)
    assert manifest is not None
    return manifest


def read(lake: Lake, signal: Signal | None, step: StepManifest) -> NDArray[np.float32]:
    """(N,) a signal of a window, in its order."""
    assert signal is not None
    manifest = manifest_of(lake, step)
    reader = SignalReader(lake, signal, manifest.digest)
    ids = [
        read_row_group(lake, manifest, group, ["example_id"]).column(0).to_numpy()
        for group in range(manifest.num_row_groups)
    ]
    return np.concatenate([reader(group, each) for group, each in enumerate(ids)])


def trainer_of(lake: Lake, step: StepManifest) -> Trainer:
    """A model as a step left it."""
    assert step.checkpoint is not None
    features = Features(read_schema(lake, DATASET, step.schema_key))
    trainer = Trainer(features, step.config.model, step.config.optimizer, seed=9, device=alone())
    load_checkpoint(lake, step.checkpoint, step.checkpoint_files, trainer.model, trainer.optimizer)
    return trainer


def student(name: str, age: int, **choices: Any) -> Variant:
    schedule = {"teacher": "teacher", "age": age, "since": DAY.shift(age)} | choices
    return variant(name, distillation=Continuous(**schedule))


def unlink(lake: Lake, chosen: LineUp, name: str, days: list[int]) -> None:
    """Forget steps, so that they are trained again."""
    store = StepStore(lake, DATASET)
    for day in days:
        head = store.head(chosen.name, name, 0, DAY.shift(day))
        assert head is not None
        (lake.root / store.path(head.key)).unlink()


def daily(lake: Lake, chosen: LineUp, num: int = 5) -> dict[Any, StepManifest]:
    """Train a window per job."""
    train(lake, chosen, 1)
    for day in windows(num)[1:]:
        train(lake, chosen, 1, first=day, start="parent")
    return steps(lake, chosen, num)


def test_older_scores_are_those_of_the_model_as_it_then_stood(lake: Lake) -> None:
    ages = {"now": 0, "one": 1, "three": 3, "hindsight": -1}
    chosen = lineup(TEACHER, *(student(name, age) for name, age in ages.items()), online_start=FAR)
    made = train(lake, chosen, 5)
    for days in range(5):
        step = made["teacher", DAY.shift(days)]
        assert step.left == {("logit", age) for age in ages.values() if age <= days}
        assert set(step.seconds) == PARTS
        for age in (age for _, age in step.left if age):
            elder = trainer_of(lake, made["teacher", DAY.shift(days - max(age, 0))])
            expected = elder.score(Share(lake, manifest_of(lake, step)))
            assert np.array_equal(read(lake, step.signal("logit", age), step)[expected.positions], expected.logits)
        if days >= 1:
            assert np.array_equal(read(lake, step.signal("logit", 1), step), logits(lake, step)), (
                "predicts, then learns"
            )
    last = DAY.shift(4)
    teacher = made["teacher", last]
    for name, age in ages.items():
        signal = teacher.signal("logit", age)
        assert signal is not None
        assert made[name, last].soft_read == (teacher.key, signal.digest)
        assert made[name, last].config.soft_age == age
    assert made["three", LATER].soft_read is None
    assert len({metrics(lake, made[name, last])["log_loss"] for name in ages}) == len(ages)


def test_scoring_by_older_models_is_counted_and_changes_nothing_that_is_trained(lake: Lake, tmp_path: Path) -> None:
    quiet = five(tmp_path, "quiet")
    read_by = lineup(TEACHER, student("two", 2), student("one", 1), online_start=FAR)
    scored, plain = train(lake, read_by, 4), train(quiet, lineup(TEACHER, online_start=FAR), 4)
    for days, num in enumerate((0, 1, 2, 2)):
        one, other = scored["teacher", DAY.shift(days)], plain["teacher", DAY.shift(days)]
        assert one.key == other.key
        assert same(lake, one, quiet, other)
        assert one.flops.training == other.flops.training
        assert evaluation(lake, one).flops == evaluation(quiet, other).flops
        assert other.flops.scoring == 0
        assert one.flops.scoring == pytest.approx(num * 500 * other.flops.training / (3 * other.num_selected))
        assert one.signal("logit") is None, "only the ages that somebody reads"
    end = DAY.shift(3)
    assert weights(lake, scored["teacher", end]) == weights(quiet, plain["teacher", end])


def test_older_scores_are_the_same_day_by_day_and_from_checkpoints_that_were_not_kept(
    lake: Lake, tmp_path: Path
) -> None:
    chosen = lineup(TEACHER, student("three", 3), student("one", 1), online_start=FAR, checkpoint_every=10)
    at_once, by_day = five(tmp_path, "at_once"), daily(lake, chosen)
    made = train(at_once, chosen, 5)
    assert {p: s.key for p, s in by_day.items()} == {p: s.key for p, s in made.items()}
    assert all(same(lake, by_day[place], at_once, made[place]) for place in made)
    assert all(made["teacher", day].checkpoint is not None for day in windows(5)), "they score windows to come"
    assert made["one", DAY.shift(1)].checkpoint is None
    for day in windows(5)[:4]:
        step = made["teacher", day]  # as if a job without the old students had kept none
        path = StepStore(at_once, DATASET).path(step.key)
        bare = step.model_copy(update={"checkpoint": None})
        at_once.replace(path, bare.model_dump(mode="json"), at_once.read(path))
    unlink(at_once, chosen, "teacher", [4])
    again = train(at_once, chosen, 5)["teacher", DAY.shift(4)]
    ours, theirs = (step.signal("logit", 3) for step in (again, made["teacher", DAY.shift(4)]))
    assert ours is not None
    assert theirs is not None
    assert ours.digest == theirs.digest


def test_a_step_without_the_age_that_somebody_asks_for_is_done_once_more_and_forgets_no_other(lake: Lake) -> None:
    first = train(lake, lineup(TEACHER, student("now", 0)), 3)
    asked = lineup(TEACHER, student("one", 1), name="asked")
    watcher = Watcher()
    second = train(lake, asked, 3, recorder=watcher)
    assert [each for each in watcher.trained if "teacher" in each] == ["teacher 2024-01-02", "teacher 2024-01-03"]
    assert second["teacher", LATER].left == {("logit", 0), ("logit", 1)}, "the other line-up still finds what it read"
    ours, theirs = (made["teacher", LATER].signal("logit") for made in (first, second))
    assert ours is not None
    assert theirs is not None
    assert ours.digest == theirs.digest
    for chosen in (asked, lineup(TEACHER, student("now", 0))):
        watcher = Watcher()
        train(lake, chosen, 3, recorder=watcher)
        assert watcher.trained == []


def test_where_no_checkpoint_is_old_enough_the_error_says_since_when(lake: Lake) -> None:
    eager = variant("eager", distillation=Continuous(teacher="teacher", age=2))
    with pytest.raises(ValueError, match="starts on 2024-01-01: let 'eager' read it `since` 2024-01-03 or a later"):
        train(lake, lineup(TEACHER, eager), 4)
    late = TEACHER.model_copy(update={"start": LATER})
    with pytest.raises(ValueError, match="'teacher' .*starts on 2024-01-03: let 'now' read it `since` 2024-01-03"):
        train(lake, lineup(late, student("now", 0), name="other"), 4)
    train(lake, lineup(late, student("now", 0, since=LATER), name="cured"), 4)


def test_a_schedule_that_learns_later_shares_its_past_without_a_teacher(lake: Lake) -> None:
    joins = student("joins", 0, since=LATER, ramp=1)
    chosen = lineup(variant("plain"), TEACHER, joins, online_start=FAR, checkpoint_every=100)
    made = train(lake, chosen, 5)
    keys = [(made["plain", day].key == made["joins", day].key) for day in windows(5)]
    assert keys == [True, True, False, False, False]
    assert made["plain", DAY.shift(1)].checkpoint is not None, "a branch point"
    assert [made["joins", day].config.soft_weight for day in windows(5)] == [None, None, 0.5, 1.0, 1.0]


ODDS = OddsProportional(rate=0.3, pilot="teacher")


@pytest.mark.parametrize("correction", ["weight", "offset"])
@pytest.mark.parametrize("age", [0, 1])
def test_a_pilot_selects_harder_negatives_and_its_scores_are_part_of_the_step(
    lake: Lake, tmp_path: Path, correction: Any, age: int
) -> None:
    policy = ODDS.model_copy(update={"correction": correction, "pilot_age": age, "since": DAY.shift(age)})
    uniform = variant("uniform", selection=NegativeDownsampling(rate=0.3, correction=correction))
    chosen = lineup(TEACHER, variant("odds", selection=policy), uniform)
    made = train(lake, chosen, 3)
    step, pilot = made["odds", LATER], made["teacher", LATER]
    signal = pilot.signal("logit", age)
    assert signal is not None
    assert step.selection_read == {"pilot": (pilot.key, signal.digest)}
    assert step.soft_read is None
    assert step.num_selected < 500
    if age:
        assert made["odds", DAY].key == made["uniform", DAY].key, "uniform until the pilot can be asked"
    other = five(tmp_path, "other")
    changed = TEACHER.model_copy(update={"optimizer": STEPS.model_copy(update={"dense_lr": 0.051})})
    again = train(other, lineup(changed, variant("odds", selection=policy)), 3)
    assert again["odds", LATER].key != step.key, "other logits, other step"
    assert step.progressive["base_rate"] == pytest.approx(metrics(lake, step)["base_rate"], abs=0.06), "weighted back"
    assert all(not each.stale for each in chain_statuses(lake, chosen))


def test_a_pilot_without_logits_and_one_that_changed_are_reported(lake: Lake) -> None:
    chosen = lineup(TEACHER, variant("odds", selection=ODDS))
    with pytest.raises(
        ValueError, match="'teacher' .*has stored no logit for 2024-01-01, which 'odds' reads: train 'teacher'"
    ):
        train(lake, chosen, 2, variants=("odds",))
    train(lake, chosen, 2)
    changed = TEACHER.model_copy(update={"optimizer": STEPS.model_copy(update={"dense_lr": 0.051})})
    train(lake, lineup(changed, variant("odds", selection=ODDS)), 2, variants=("teacher",))
    found = {
        each.variant: each.stale for each in chain_statuses(lake, lineup(changed, variant("odds", selection=ODDS)))
    }
    assert found["odds"][DAY] == "the signals that its selection reads (pilot) have changed"


def test_a_pilots_name_is_no_part_of_a_step(lake: Lake) -> None:
    one = train(lake, lineup(TEACHER, variant("odds", selection=ODDS)), 2)
    renamed = TEACHER.model_copy(update={"name": "renamed"})
    policy = ODDS.model_copy(update={"pilot": "renamed", "floor": 0.03})
    two = train(lake, lineup(renamed, variant("odds", selection=policy), name="other"), 2)
    assert two["odds", DAY.shift(1)].key == one["odds", DAY.shift(1)].key


AUXILIARY = TINY.model_copy(update={"distillation_head": "auxiliary"})
FADING = STEPS.model_copy(update={"accumulator_decay": 0.5})
RECIPES = [
    variant("odds", selection=ODDS),
    variant("aged", distillation=Cutover(teacher="teacher", age=1, since=DAY.shift(1), ramp=2, at=DAY.shift(4))),
    variant("auxiliary", model=AUXILIARY, distillation=Continuous(teacher="teacher", since=DAY.shift(1))),
    variant("auxiliary_cross", model=AUXILIARY.model_copy(update={"arch": "dcnv2"})),
    variant("fading", optimizer=FADING),
    variant("forgetful", optimizer=STEPS.model_copy(update={"accumulator_decay": 0.0})),
]


def test_a_window_per_job_is_bit_for_bit_one_job(lake: Lake, tmp_path: Path) -> None:
    """And a step whose parent's checkpoint is gone trains it again to the same bits."""
    chosen, fresh = lineup(TEACHER, *RECIPES, online_start=FAR), five(tmp_path, "fresh")
    made, by_day = train(fresh, chosen, 5), daily(lake, chosen)
    assert {p: s.key for p, s in by_day.items()} == {p: s.key for p, s in made.items()}
    sparse, replayed = lineup(TEACHER, *RECIPES, online_start=FAR, checkpoint_every=10), five(tmp_path, "sparse")
    train(replayed, sparse, 5)
    for each in RECIPES:
        unlink(replayed, sparse, each.name, [4])
    again = train(replayed, sparse, 5)
    for place, step in made.items():
        assert same(lake, by_day[place], fresh, step), place
        assert same(replayed, again[place], fresh, step), place
    for each in RECIPES:
        last = (each.name, DAY.shift(4))
        assert weights(lake, by_day[last]) == weights(fresh, made[last]) == weights(replayed, again[last]), each.name


def test_without_a_teacher_the_auxiliary_tower_changes_nothing_that_is_served(lake: Lake) -> None:
    taught = Cutover(teacher="teacher", at=DAY.shift(1))
    towers = [
        variant("one", model=TINY),
        variant("two", model=AUXILIARY),
        variant("taught", model=AUXILIARY, distillation=taught),
    ]
    made = train(lake, lineup(TEACHER, *towers), 3)
    for day in windows(3):
        assert np.array_equal(logits(lake, made["one", day]), logits(lake, made["two", day]))
    assert np.array_equal(logits(lake, made["one", DAY]), logits(lake, made["taught", DAY]))
    assert not np.array_equal(logits(lake, made["one", LATER]), logits(lake, made["taught", LATER])), "by the backbone"
    assert made["two", DAY].flops.training > made["one", DAY].flops.training, "the tower's work is counted"


def test_accumulators_fade_before_each_window_but_the_first(lake: Lake) -> None:
    chosen = [variant("kept"), variant("fading", optimizer=FADING)]
    made = train(lake, lineup(*chosen), 2)
    assert weights(lake, made["kept", DAY]) == weights(lake, made["fading", DAY])
    second = DAY.shift(1)
    assert weights(lake, made["kept", second]) != weights(lake, made["fading", second])
    assert metrics(lake, made["kept", second]) == metrics(lake, made["fading", second]), "only training sees them"


def test_every_accumulator_fades_and_no_weight(lake: Lake) -> None:
    step = train(lake, lineup(), 1)["plain", DAY]
    trainer = trainer_of(lake, step)
    before = state(trainer)
    trainer.decay_accumulators(0.25)
    after = state(trainer)
    assert any("momentum" in name for name in before)
    assert any(name.endswith("/sum") for name in before)
    for name, old in before.items():
        factor = 0.25 if name.startswith("optimizer/state") else 1.0
        expected = np.frombuffer(old, np.float32) * np.float32(factor)
        assert np.array_equal(np.frombuffer(after[name], np.float32), expected), name


def test_a_long_job_says_how_many_chains_are_done_and_what_is_left(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    publish(lake, windows(1))
    with caplog.at_level("INFO", logger="pipeline.training.chain.engine"):
        train(lake, lineup(variant("one"), variant("two"), seeds=(0, 1)))
    told = [line for line in caplog.messages if "chains of this lane" in line]
    assert [line.split(" chains")[0] for line in told] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert told[-1].endswith("about 0 minutes left")
