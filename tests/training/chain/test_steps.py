"""Steps and chains: content decides what is trained again, and how a span is cut into jobs decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.data.dataset import WindowManifest, read_manifest, read_row_group, read_schema
from pipeline.data.share import Share
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import (
    All,
    Continuous,
    Cutover,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    StepConfig,
    Variant,
    resolve,
)
from pipeline.spec.lineup import Workers
from pipeline.storage.lake import Lake
from pipeline.storage.tensors import Stored
from pipeline.training.batch import assemble
from pipeline.training.chain.evaluations import Closed
from pipeline.training.chain.steps import StepManifest, StepStore, step_key
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.loader import whole_rows
from pipeline.training.models.features import Features
from pipeline.training.signals import SignalReader
from pipeline.training.train import Trainer
from tests.trained import (
    DATASET,
    DAY,
    STEPS,
    TINY,
    alone,
    evaluation,
    lineup,
    listing,
    logits,
    metrics,
    predictions,
    publish,
    steps,
    train,
    variant,
    windows,
)

TEACHER = variant("teacher", model=ModelConfig(arch="dcnv2", size="tiny", prior=0.2))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Five windows of a simulated log."""
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(5))
    return lake


def other_lake(tmp_path: Path, **config: Any) -> Lake:
    lake = Lake(str(tmp_path / f"lake-{len(list(tmp_path.iterdir()))}"))
    publish(lake, windows(5), **config)
    return lake


def same(one: Lake, a: StepManifest, other: Lake, b: StepManifest) -> bool:
    """Whether two steps made bit for bit the same predictions, and learned the same from the window."""
    return predictions(one, a).equals(predictions(other, b)) and (metrics(one, a), a.progressive) == (
        metrics(other, b),
        b.progressive,
    )


def weights(lake: Lake, step: StepManifest) -> dict[str, bytes]:
    """What a checkpoint holds."""
    assert step.checkpoint is not None
    manifest = read_manifest(lake, DATASET, step.window)
    assert manifest is not None
    trainer = Trainer(
        Features(read_schema(lake, DATASET, step.schema_key)),
        step.config.model,
        step.config.optimizer,
        seed=9,
        device=alone(),
    )
    load_checkpoint(lake, step.checkpoint, step.checkpoint_files, trainer.model, trainer.optimizer)
    return state(trainer)


def state(trainer: Trainer) -> dict[str, bytes]:
    """All of a model's and its optimizer's numbers, by name; but for Adagrad's count of calls, which nothing reads."""
    found: dict[str, bytes] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key != "step":
                    collect(f"{name}/{key}", inner)
        elif hasattr(value, "local_shards"):
            for shard in value.local_shards():
                collect(name, shard.tensor)
        elif isinstance(value, torch.Tensor):
            found[name] = value.detach().cpu().contiguous().numpy().tobytes()

    collect("model", trainer.model.state_dict())
    collect("optimizer", trainer.optimizer.state_dict())
    return found


class Watcher:
    """Notes what an engine reports."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.skipped: list[str] = []

    def begin(self, variant: Variant, seed: int, window: WindowManifest, config: StepConfig) -> None:
        """A step starts."""

    def done(self, variant: Variant, seed: int, closed: Closed, *, skipped: bool) -> None:
        (self.skipped if skipped else self.trained).append(f"{variant.name} {closed.step.window}")


def test_the_same_again_trains_nothing_and_touches_nothing(lake: Lake) -> None:
    chosen = lineup(TEACHER, variant("student", distillation=Continuous(teacher="teacher")))
    before = train(lake, chosen, 3), listing(lake)
    watcher = Watcher()
    assert train(lake, chosen, 3, recorder=watcher) == before[0]
    assert listing(lake) == before[1]
    assert (watcher.trained, len(watcher.skipped)) == ([], 6)


def test_a_longer_span_trains_only_what_is_new(lake: Lake, tmp_path: Path) -> None:
    watcher, fresh = Watcher(), other_lake(tmp_path)
    train(lake, lineup(), 2)
    longer = train(lake, lineup(), 4, recorder=watcher)
    assert (len(watcher.skipped), len(watcher.trained)) == (2, 2)
    at_once = train(fresh, lineup(), 4)
    assert all(same(lake, longer[place], fresh, at_once[place]) for place in at_once)
    assert {p: s.key for p, s in longer.items()} == {p: s.key for p, s in at_once.items()}


def test_force_trains_the_same_again_as_a_new_generation(lake: Lake) -> None:
    first = train(lake, lineup(), 2)
    files = listing(lake)
    again = train(lake, lineup(), 2, force=True)
    for place, step in first.items():
        assert again[place].key == step.key
        assert again[place].generation != step.generation
        assert same(lake, again[place], lake, step)
        assert weights(lake, again[place]) == weights(lake, step)
    documents = {path for path in files if path.endswith(".json")}
    assert {p: d for p, d in listing(lake).items() if p in files and p not in documents} == {
        p: d for p, d in files.items() if p not in documents
    }, "what the old generation left can still be read"


def test_day_by_day_is_bit_for_bit_one_pass(lake: Lake, tmp_path: Path) -> None:
    """Weights and optimizer state survive the checkpoint: the next day goes on as if nothing had come between."""
    fresh = other_lake(tmp_path)
    at_once = train(fresh, lineup(), 4)
    train(lake, lineup(), 1)
    for day in windows(4)[1:]:
        train(lake, lineup(), 1, first=day, start="parent")
    daily = steps(lake, lineup(), 4)
    assert list(daily) == list(at_once)
    for place, step in at_once.items():
        assert daily[place].key == step.key
        assert same(lake, daily[place], fresh, step)
        assert daily[place].total_examples == step.total_examples
        assert weights(lake, daily[place]) == weights(fresh, step)


@pytest.mark.parametrize("every", [2, 10])
def test_checkpoints_that_were_not_kept_are_trained_again_bit_for_bit(lake: Lake, tmp_path: Path, every: int) -> None:
    rich = other_lake(tmp_path)
    teacher, student = TEACHER, variant("student", distillation=Continuous(teacher="teacher"))
    full = train(rich, lineup(teacher, student, online_start=DAY.shift(30)), 5)
    sparse = lineup(teacher, student, online_start=DAY.shift(30), checkpoint_every=every)
    train(lake, sparse, 5)
    kept = [step.checkpoint is not None for step in steps(lake, sparse, 5, only=("student",)).values()]
    assert kept == [(n + 1) % every == 0 or n == 4 for n in range(5)]
    path = StepStore(lake, DATASET)
    last = path.head(sparse.name, "student", 0, DAY.shift(4))
    assert last is not None
    for name in ("teacher", "student"):  # forget the last two days, so that they are trained on a replayed parent
        for day in windows(5)[3:]:
            head = path.head(sparse.name, name, 0, day)
            assert head is not None
            (lake.root / path.path(head.key)).unlink()
    again = train(lake, sparse, 5)
    for place, step in full.items():
        assert again[place].key == step.key
        assert same(lake, again[place], rich, step)
    assert weights(lake, again["student", DAY.shift(4)]) == weights(rich, full["student", DAY.shift(4)])


def test_branch_points_keep_their_checkpoints(lake: Lake) -> None:
    """From the window before the online phase, and before each cutover, other schedules can go on."""
    late = variant("late", distillation=Cutover(teacher="teacher", at=DAY.shift(4)))
    chosen = lineup(TEACHER, late, online_start=DAY.shift(2), checkpoint_every=100)
    made = train(lake, chosen, 5)
    kept = [day for (name, day), step in made.items() if name == "late" and step.checkpoint is not None]
    assert kept == [DAY.shift(1), DAY.shift(3), DAY.shift(4)]


def test_schedules_share_what_they_have_in_common(lake: Lake) -> None:
    students = [
        variant("early", distillation=Cutover(teacher="teacher", at="early")),
        variant("later", distillation=Cutover(teacher="teacher", at=DAY.shift(3))),
        variant("continuous", distillation=Continuous(teacher="teacher")),
    ]
    watcher = Watcher()
    made = train(lake, lineup(TEACHER, *students), 5, recorder=watcher)
    for days, distinct in ((0, 1), (1, 1), (2, 2), (3, 3), (4, 3)):
        assert len({made[s.name, DAY.shift(days)].key for s in students}) == distinct, days
    assert len(watcher.trained) == 5 + 5 + 3 + 2
    assert made["early", DAY.shift(2)].soft_read is None
    assert made["later", DAY.shift(2)].soft_read is not None


def key_of(lake: Lake, chosen: Variant, seed: int = 0, day: int = 0, **choices: Any) -> str:
    manifest = read_manifest(lake, DATASET, DAY.shift(day))
    assert manifest is not None
    given: dict[str, Any] = {"online_start": DAY.shift(9), "seed": seed}
    return step_key(resolve(chosen, DAY, **{**given, **choices}), manifest, None)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": OptimizerConfig(batch_size=128, embedding_lr=0.1, dense_lr=0.06)},
        {"optimizer": OptimizerConfig(batch_size=128, embedding_lr=0.2, dense_lr=0.05)},
        {"optimizer": OptimizerConfig(batch_size=64, embedding_lr=0.1, dense_lr=0.05)},
        {"selection": NegativeDownsampling(rate=0.5)},
        {"selection": NegativeDownsampling(rate=0.5, correction="weight")},
        {"selection": NegativeDownsampling(rate=0.25)},
        {"model": ModelConfig(size="small", prior=0.2)},
        {"model": ModelConfig(size="tiny", prior=0.3)},
        {"model": ModelConfig(size="tiny", prior=0.2, exclude=("I1",))},
        {"model": ModelConfig(arch="dcnv2", size="tiny", prior=0.2)},
        {"distillation": Continuous(teacher="t")},
        {"distillation": Continuous(teacher="t", weight=2.0)},
    ],
    ids=str,
)
def test_a_change_of_the_recipe_is_another_step(lake: Lake, change: dict[str, Any]) -> None:
    assert key_of(lake, variant(**change)) != key_of(lake, variant())


def test_data_seed_and_parent_decide_and_names_do_not(lake: Lake, tmp_path: Path) -> None:
    plain = key_of(lake, variant())
    assert key_of(lake, variant("renamed")) == plain
    assert key_of(other_lake(tmp_path), variant()) == plain, "the same rows in another lake"
    assert key_of(other_lake(tmp_path, group=37), variant()) == plain, "a cut into files is no content"
    others = [
        key_of(lake, variant(), seed=1),
        key_of(lake, variant(), day=1),
        key_of(other_lake(tmp_path, seed=1), variant()),
    ]
    assert len({plain, *others}) == 4
    followed = train(lake, lineup(), 2)["plain", DAY.shift(1)]
    started = train(lake, lineup(name="late"), 1, first=DAY.shift(1))["plain", DAY.shift(1)]
    assert followed.window_digest == started.window_digest
    assert followed.key != started.key, "the same window after another history"


def test_names_and_workers_of_a_lineup_decide_nothing(lake: Lake) -> None:
    train(lake, lineup(), 2)
    watcher = Watcher()
    renamed = lineup(variant("renamed"), name="another", workers=Workers(num_workers=2, threads=1))
    made = train(lake, renamed, 2, recorder=watcher)
    assert watcher.trained == []
    assert list(made) == [("renamed", day) for day in windows(2)]


def test_a_variant_that_is_warmed_up_later_joins_as_if_it_had_always_been_there(lake: Lake, tmp_path: Path) -> None:
    together = other_lake(tmp_path)
    both = lineup(variant("old"), variant("new", selection=NegativeDownsampling(rate=0.3)))
    expected = train(together, both, 4)
    train(lake, lineup(variant("old")), 3)
    chains = {p: d for p, d in listing(lake).items() if "old" in p}
    train(lake, both, 3, variants=("new",))
    assert {p: d for p, d in listing(lake).items() if "old" in p} == chains, "the others are left as they are"
    train(lake, both, 1, first=DAY.shift(3), start="parent")
    joined = steps(lake, both, 4)
    assert list(joined) == list(expected)
    assert all(same(lake, joined[place], together, expected[place]) for place in expected)


def test_a_new_variant_without_a_past_needs_scratch_and_does_not_get_it_silently(lake: Lake) -> None:
    with pytest.raises(ValueError, match="'plain' .*has no checkpoint of 2024-01-01.*`historical_warmup`"):
        train(lake, lineup(), 1, first=DAY.shift(1), start="parent")


@pytest.mark.parametrize("selection", [All(), NegativeDownsampling(rate=0.2), NegativeDownsampling(rate=1e-6)], ids=str)
def test_a_teacher_scores_every_row_and_learns_as_if_it_did_not(
    lake: Lake, tmp_path: Path, selection: All | NegativeDownsampling
) -> None:
    quiet = other_lake(tmp_path)
    teacher = variant("teacher", selection=selection)
    student = variant("student", distillation=Continuous(teacher="teacher"))
    taught = train(lake, lineup(teacher, student), 3)
    plain = train(quiet, lineup(teacher), 3)
    for day in windows(3):
        scored, unscored = taught["teacher", day], plain["teacher", day]
        assert unscored.signals == ()
        assert scored.key == unscored.key, "whether somebody learns from it is no part of a step"
        assert np.allclose(logits(lake, scored), logits(quiet, unscored), atol=1e-6)
        assert weights(lake, scored) == weights(quiet, unscored)
        assert scored.progressive == unscored.progressive
        assert (scored.num_selected, scored.num_updates) == (unscored.num_selected, unscored.num_updates)
        manifest = read_manifest(lake, DATASET, day)
        assert manifest is not None
        reader, found = SignalReader(lake, scored.signals[0], manifest.digest), 0
        for group in range(manifest.num_row_groups):
            ids = read_row_group(lake, manifest, group, ["example_id"]).column(0).to_numpy()
            found += int(np.isfinite(reader(group, ids)).sum())
        assert found == manifest.num_rows


def test_scores_are_from_before_the_update_on_their_batch(lake: Lake) -> None:
    """One batch holds the whole window, so each score is what the evaluation slice was given before the window."""
    whole = OptimizerConfig(batch_size=1000, embedding_lr=0.1, dense_lr=0.05)
    teacher = variant("teacher", optimizer=whole)
    made = train(lake, lineup(teacher, variant("student", distillation=Continuous(teacher="teacher"))), 2)
    for day in windows(2):
        step = made["teacher", day]
        assert step.num_updates == 1
        reader = SignalReader(lake, step.signals[0], step.window_digest)
        table = predictions(lake, step)
        ids = table.column("example_id").to_numpy()
        stored = np.concatenate([reader(g, ids[100 * g : 100 * (g + 1)]) for g in range(5)])
        assert np.allclose(stored, table.column("logit").to_numpy(), atol=1e-6)
        assert step.progressive["log_loss"] == pytest.approx(metrics(lake, step)["log_loss"], rel=1e-5)


def test_a_teacher_that_got_a_student_later_is_trained_once_more_for_its_scores(lake: Lake) -> None:
    train(lake, lineup(TEACHER), 2)
    chosen = lineup(TEACHER, variant("student", distillation=Continuous(teacher="teacher")))
    made = train(lake, chosen, 2)
    assert all(made["teacher", day].signals for day in windows(2))


def test_a_student_learns_from_its_teachers_logits(lake: Lake) -> None:
    weak, strong = (
        variant(name, distillation=Continuous(teacher="teacher", weight=weight))
        for name, weight in (("weak", 0.1), ("strong", 5.0))
    )
    made = train(lake, lineup(variant("plain"), TEACHER, weak, strong), 2)
    day = DAY.shift(1)
    assert len({metrics(lake, made[name, day])["log_loss"] for name in ("plain", "weak", "strong")}) == 3
    digest = made["strong", DAY].soft_read
    teachers = made["teacher", DAY]
    assert digest == (teachers.key, teachers.signals[0].digest)


def test_the_model_predicts_a_window_before_it_learns_from_it(lake: Lake) -> None:
    """The first window is scored by untrained weights, whatever the learning rate."""
    calm = OptimizerConfig(batch_size=128, embedding_lr=1e-6, dense_lr=1e-6)
    quick = train(lake, lineup(variant("quick"), variant("calm", optimizer=calm)), 2)
    assert np.array_equal(logits(lake, quick["quick", DAY]), logits(lake, quick["calm", DAY]))
    day = DAY.shift(1)
    assert np.abs(logits(lake, quick["quick", day]) - logits(lake, quick["calm", day])).max() > 0.01


def test_batches_end_with_the_window_and_counts_add_up(lake: Lake) -> None:
    made = train(lake, lineup(variant(selection=NegativeDownsampling(rate=0.3, correction="weight"))), 3)
    total = 0
    for day in windows(3):
        step = made["plain", day]
        total += step.num_selected
        assert step.num_updates == -(-step.num_selected // 128)
        assert step.total_examples == total
        assert step.num_rows == evaluation(lake, step).num_rows == 500
        assert step.normaliser == "rows"
        assert step.progressive["base_rate"] == pytest.approx(metrics(lake, step)["base_rate"], abs=0.06), (
            "weighted back"
        )


def test_every_variant_is_evaluated_on_the_same_rows(lake: Lake) -> None:
    small = EvaluationConfig(max_rows=200)
    sampled = variant("sampled", selection=NegativeDownsampling(rate=0.1))
    made = train(lake, lineup(variant(), sampled, TEACHER, evaluation=small), 2)
    for day in windows(2):
        tables = [predictions(lake, made[name, day], small) for name in ("plain", "sampled", "teacher")]
        assert 130 < tables[0].num_rows < 270
        for table in tables[1:]:
            assert table.drop_columns(["logit"]).equals(tables[0].drop_columns(["logit"]))


def test_predictions_bring_what_the_window_knows_of_their_rows(lake: Lake) -> None:
    few = EvaluationConfig(max_rows=200)
    step = train(lake, lineup(evaluation=few), 1)["plain", DAY]
    manifest = read_manifest(lake, DATASET, DAY)
    assert manifest is not None
    whole = pa.concat_tables(read_row_group(lake, manifest, g) for g in range(manifest.num_row_groups)).to_pandas()
    found = predictions(lake, step, few).to_pandas()
    expected = whole[whole.example_id.isin(found.example_id)].reset_index(drop=True)
    for name in ("example_id", "label", "cluster", "true_prob"):
        assert (found[name] == expected[name]).all(), name


def test_seeds_make_chains_of_their_own(lake: Lake) -> None:
    chosen = lineup(seeds=(0, 3))
    train(lake, chosen, 2)
    store = StepStore(lake, DATASET)
    heads = [store.head(chosen.name, "plain", seed, DAY.shift(1)) for seed in (0, 3)]
    assert heads[0] is not None
    assert heads[1] is not None
    assert heads[0].key != heads[1].key
    assert not np.array_equal(logits(lake, heads[0]), logits(lake, heads[1]))


def test_rows_of_weight_zero_move_neither_weights_nor_accumulators(lake: Lake) -> None:
    manifest = read_manifest(lake, DATASET, DAY)
    assert manifest is not None
    features = Features(read_schema(lake, DATASET, manifest.schema_key))
    trainer = Trainer(features, TINY, STEPS, seed=0, device=alone())
    share = Share(lake, manifest)
    config = resolve(variant(), DAY, online_start=DAY, seed=0)
    trainer.train(share, config)
    before = state(trainer)
    assert any("momentum" in name or "sum" in name for name in before), sorted(before)
    rows = next(whole_rows(share, features))
    silent = assemble(rows, features.keys, features.widths, size=120, normaliser=100.0, soft_weight=2.0)
    silent.weight.zero_()
    silent.soft_weight.zero_()
    ran = list(trainer._run(iter([(silent, rows)])))
    assert len(ran[0][1]) == 100
    after = state(trainer)
    assert [name for name in before if after[name] != before[name]] == []
    counted = assemble(rows, features.keys, features.widths, size=120, normaliser=100.0, soft_weight=0.0)
    list(trainer._run(iter([(counted, rows)])))
    assert state(trainer) != before


def test_a_killed_step_leaves_nothing_that_counts(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(lake, lineup(), 1)

    def documents() -> dict[str, str]:
        """All but evaluations: they are named by the step that they wait for."""
        kept = (p for p in listing(lake) if p.endswith(".json") and "/gen-" not in p)
        return {p: listing(lake)[p] for p in kept if not p.startswith("evaluations/")}

    before = documents()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepStore, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            train(lake, lineup(), 2)
    assert documents() == before
    assert [day for _, day in steps(lake, lineup(), 2)] == [DAY]
    watcher = Watcher()
    train(lake, lineup(), 2, recorder=watcher)
    assert (len(watcher.skipped), len(watcher.trained)) == (1, 1)


def test_a_checkpoint_is_sharded_and_holds_the_optimizer(lake: Lake) -> None:
    step = train(lake, lineup(), 1)["plain", DAY]
    assert step.checkpoint is not None
    names = list(Stored(lake, step.checkpoint, step.checkpoint_files).index().tensors)
    assert any(name.startswith("model.") and "embedding_bags" in name for name in names)
    assert any(name.startswith("optimizer.") and "embedding_bags" in name for name in names)
    assert any(name.startswith("optimizer.") and "over_arch" in name for name in names)


def test_a_step_reads_back_as_it_was_published(lake: Lake) -> None:
    made = train(lake, lineup(TEACHER, variant("s", distillation=Continuous(teacher="teacher"))), 2)
    for step in made.values():
        assert StepManifest.model_validate_json(step.model_dump_json()) == step
        assert StepStore(lake, DATASET).read(step.key) == step
