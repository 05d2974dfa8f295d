"""What a job waits for: a window in every data set that it trains on, and parents of the chains that have one."""

from __future__ import annotations

from operators.inputs import needed_paths
from pipeline.config import Variant
from pipeline.job import TrainJob, head_path, manifest_path
from pipeline.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.window import Window

DAY = Window.of("2024-01-05")


def test_a_chain_that_starts_today_needs_no_parent_and_each_seed_has_its_data() -> None:
    starts = {"long": None, "running": DAY.previous(), "today": DAY, "later": DAY.next()}
    lineup = LineUp(
        name="mine",
        dataset=DatasetConfig(name="sim", source=SimulatedSource(origin=DAY, per_seed=True)),
        variants=tuple(Variant(name=name, start=start) for name, start in starts.items()),
        reference="long",
        online_start=DAY,
        seeds=(0, 7),
    )
    job = TrainJob(lineup=lineup, first=DAY, last=DAY, start="parent")
    expected = {manifest_path(f"sim-seed{seed}", DAY) for seed in (0, 7)} | {
        head_path(f"sim-seed{seed}", "mine", name, seed, DAY.previous())
        for seed in (0, 7)
        for name in ("long", "running")
    }
    assert set(needed_paths(job.model_dump(mode="json"))) == expected
