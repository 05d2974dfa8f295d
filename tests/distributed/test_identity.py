"""Trained in two jobs equals trained in one, bit for bit; a checkpoint of N workers is read by M."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.simulator import simulate
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import Continuous, ModelConfig, NoTeacher, OptimizerConfig, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource, Workers
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from tests.distributed.worlds import train_in_world

FIRST, LAST = Window.of("2024-01-01"), Window.of("2024-01-04")
BATCH = OptimizerConfig(batch_size=256)
TINY = ModelConfig(size="tiny", prior=0.2)

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with four small windows of numbers, ids and lists, cut so that the last row group and batch are short."""
    path = tmp_path_factory.mktemp("windows")
    config = SimulatorConfig.tiny(rows_per_window=1_900, num_lists=1)
    simulate(Lake(str(path)), "clicks", config, Window.span(FIRST, LAST), row_group_size=128)
    return path


def line_up(name: str, world_size: int) -> LineUp:
    """Both architectures, both corrections and policies, with and without a teacher, an older one, two towers, both precisions, halved tables."""
    weight = NegativeDownsampling(rate=0.3, correction="weight")
    offset = NegativeDownsampling(rate=0.3, correction="offset")
    return LineUp(
        name=name,
        dataset=DatasetConfig(name="clicks", source=SimulatedSource(origin=FIRST)),
        variants=(
            Variant(name="teacher", model=ModelConfig(size="small", prior=0.2), optimizer=BATCH),
            Variant(name="dlrm_all", model=TINY, optimizer=BATCH, distillation=NoTeacher()),
            Variant(
                name="dcnv2_offset",
                model=TINY.model_copy(update={"arch": "dcnv2"}),
                optimizer=BATCH,
                selection=offset,
            ),
            Variant(
                name="dlrm_weight_taught",
                model=TINY,
                optimizer=BATCH,
                selection=weight,
                distillation=Continuous(teacher="teacher", weight=2.0),
            ),
            Variant(
                name="two_towers_older_teacher",
                model=TINY.model_copy(update={"distillation_head": "auxiliary"}),
                optimizer=BATCH,
                distillation=Continuous(teacher="teacher", age=2, since=FIRST.shift(2)),
            ),
            Variant(
                name="odds_fading",
                model=TINY.model_copy(update={"precision": "bfloat16", "table_share": 0.5}),
                optimizer=BATCH.model_copy(update={"accumulator_decay": 0.5}),
                selection=OddsProportional(rate=0.2, pilot="teacher", pilot_age=1, since=FIRST.shift(1)),
            ),
            Variant(name="grand", model=TINY, optimizer=BATCH, selection=Grand(rate=0.3, pilot="teacher")),
        ),
        reference="dlrm_all",
        online_start=Window.of("2024-01-03"),
        workers=Workers(num_workers=world_size),
    )


def in_one_job(lineup: LineUp, variant: str) -> list[TrainJob]:
    """The whole span at once."""
    return [TrainJob(lineup=lineup, variants=(variant,), first=FIRST, last=LAST, start="scratch")]


def in_four_jobs(lineup: LineUp, variant: str) -> list[TrainJob]:
    """A job per window; every other variant trains in between, so that nothing survives in memory."""
    return [
        TrainJob(
            lineup=lineup,
            variants=(variant,),
            first=window,
            last=window,
            start="scratch" if window == FIRST else "parent",
        )
        for window in Window.span(FIRST, LAST)
    ]


@pytest.mark.parametrize("world_size", [1, 2])
def test_four_windows_in_one_job_equal_four_jobs_bit_for_bit(world_size: int, windows: Path, tmp_path: Path) -> None:
    one_job_equals_four(world_size, windows, tmp_path, "cpu")


def one_job_equals_four(world_size: int, windows: Path, tmp_path: Path, device: str) -> None:
    """Weights, fused and dense optimizer state and metrics are identical, for every kind of variant.

    Both runs have a lake of their own with the same windows, so that no step of one is found done by the other.
    """
    outcomes = []
    for number, jobs_of in enumerate((in_one_job, in_four_jobs)):
        lake = Lake(str(tmp_path / f"lake-{number}"))
        (lake.root / "windows").symlink_to(windows / "windows")
        lineup = line_up("identity", world_size)
        jobs = [jobs_of(lineup, variant.name) for variant in lineup.variants]
        last = [sum(map(len, jobs[: place + 1])) - 1 for place in range(len(jobs))]
        found = train_in_world(world_size, lake, [j for js in jobs for j in js], device)
        outcomes.append([found[place] for place in last])
    for variant, whole, parts in zip(line_up("identity", 1).variants, *outcomes, strict=True):
        assert whole["state"] == parts["state"], variant.name
        assert len(whole["state"]) == world_size
        assert any("momentum" in name for worker in whole["state"] for name in worker), "fused state was compared"
        assert any(name.endswith(".sum") for worker in whole["state"] for name in worker), "dense state was compared"
        for part in ("key", "metrics", "progressive"):
            assert whole[part] == parts[part], (variant.name, part)


@pytest.mark.parametrize(("makers", "readers"), [(2, 1), (1, 2)])
def test_a_checkpoint_of_n_workers_predicts_the_same_on_m(
    makers: int, readers: int, windows: Path, tmp_path: Path
) -> None:
    """The evaluation of the next window comes from the checkpoint alone: same rows, same metrics to the last digit."""
    lake = Lake(str(tmp_path / "lake"))
    (lake.root / "windows").symlink_to(windows / "windows")
    lineup = line_up("resized", makers)
    third = LAST.previous()
    made = [TrainJob(lineup=lineup, variants=("dlrm_all",), first=FIRST, last=third, start="scratch")]
    train_in_world(makers, lake, made)
    go_on = TrainJob(lineup=lineup, variants=("dlrm_all",), first=LAST, last=LAST, start="parent", force=True)
    (same,) = train_in_world(makers, lake, [go_on])
    (other,) = train_in_world(readers, lake, [go_on])
    assert other["key"] == same["key"], "workers are no part of a step's identity"
    assert other["metrics"] == same["metrics"]
