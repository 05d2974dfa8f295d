"""The benchmark measures what it says: the same rows on both sides, the same step, ratios within rounds, no goal hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import contest, contest_page, contestants, many_cells, reading, small_batches
from benchmarks.contest import Rates, Ratio, Result, measure
from benchmarks.contest_data import BATCH_SIZE, Examples, make_examples
from pipeline.spec.config import Widths
from pipeline.spec.job import TrainJob
from pipeline.storage.lake import Lake
from pipeline.training.chain.lanes import deal
from pipeline.training.loader import whole_rows
from tests import trained

RATES = Rates(embedding=0.02, dense=0.02)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    return make_examples(lake, rows=BATCH_SIZE + 100, held_out_rows=50, num_ids=100, tuning=True)


@pytest.fixture
def alone() -> None:
    trained.alone()


def test_quick_run_prints_windrow_s_rows(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--no-rival"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in (contestants.FromParquet.name, contestants.FromMemory.name, contestants.StockFromMemory.name):
        assert f"| {name} |" in done.stdout
    assert "met" not in done.stdout.split("## The run")[1]
    measured = "Windrow, from parquet, bfloat16" in done.stdout
    assert measured == contestants.computes_bfloat16()
    assert ("skipped, this processor has no avx512_bf16" in done.stdout) != measured


def test_the_rival_trains_on_the_rows_of_the_window(examples: Examples, tmp_path: Path) -> None:
    examples.export(tmp_path)
    for name in examples.manifests:
        x, y = np.load(tmp_path / f"{name}.x.npy"), np.load(tmp_path / f"{name}.y.npy")
        batches = contestants.in_memory(examples, name)
        assert np.array_equal(y, torch.cat([batch.label for batch in batches]).numpy())
        assert np.array_equal(x[:, :13], torch.cat([batch.dense for batch in batches]).numpy())
        ids = torch.cat([batch.sparse.values().view(26, -1) for batch in batches], dim=1)
        assert np.array_equal(x[:, 13:].T, ids.numpy())


def test_bfloat16_is_a_contestant_that_learns_nearly_the_same(examples: Examples, alone: None) -> None:
    widths = Widths(embedding_dim=4, bottom=(8,), over=(8,))
    whole, half = (contestants.FromParquet(examples, widths, RATES, way) for way in ("float32", "bfloat16"))
    for each in (whole, half):
        each.train("train")
    assert half.name == "Windrow, from parquet, bfloat16"
    losses = [each.log_loss("train") for each in (whole, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


def test_memory_and_parquet_give_the_same_weights(examples: Examples, alone: None) -> None:
    widths = Widths(embedding_dim=4, bottom=(8,), over=(8,))
    kept = {"train": contestants.in_memory(examples, "train")}
    parquet = contestants.FromParquet(examples, widths, RATES)
    memory = contestants.FromMemory(examples, widths, RATES, kept)
    parquet.train("train")
    memory.train("train")
    states = [dict(each.model.named_parameters()) for each in (parquet.trainer, memory.trainer)]
    assert states[0].keys() == states[1].keys()
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


class Clock:
    """Takes as many seconds as it is told, round by round."""

    name = "clock"

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.seen: list[str] = []

    def train(self, window: str) -> float:
        self.seen.append(window)
        return self.seconds.pop(0) if window == "train" else 100.0

    def log_loss(self, window: str) -> float:
        self.seen.append(window)
        return 0.5


def test_ratios_are_taken_within_rounds_and_losses_after_equal_rows() -> None:
    ours, theirs = Clock([1, 10, 100]), Clock([2, 20, 400])
    results = measure([ours, theirs], num_rows=100, num_rounds=3, tell=lambda line: None)
    assert Ratio.of(results[0].rates, results[1].rates) == Ratio(median=2.0, low=2.0, high=4.0)
    assert ours.seen == theirs.seen == ["warm_up", "train", "held_out", "train", "train"]


RUN = contest_page.Run(
    command="",
    threads=1,
    rows=1,
    held_out_rows=1,
    rounds=1,
    num_ids=1,
    table_rows=1,
    bfloat16=False,
    load=0.0,
    versions={"torch": "2"},
)


@pytest.mark.parametrize(("slower", "loss", "unmet"), [(2.5, 0.5, 0), (1.5, 0.5, 1), (1.5, 0.51, 2), (2.5, 0.49, 1)])
def test_an_unmet_goal_is_shown(slower: float, loss: float, unmet: int) -> None:
    ours = contest_page.Row(Result("ours", [100.0], 0.5), RATES, None, 0.005)
    rival = contest_page.Row(Result("rival", [100.0 / slower], loss), RATES, 2.0, 0.005)
    page = contest_page.page(RUN, [("widths", [ours, rival])])
    assert page.count("**not met**") == unmet
    assert page.count(": met") == 2 - unmet


def test_bfloat16_has_goals_of_its_own_at_the_wider_layers() -> None:
    speeds = {
        "Windrow, from parquet": 100.0,
        "Windrow, from parquet, bfloat16": 170.0,
        "DeepCTR-Torch DCN, its fit": 80.0,
        "DeepCTR-Torch DeepFM, its fit": 90.0,
        "DeepCTR-Torch DCN, its fit, bfloat16": 85.0,
    }
    rows = [contest_page.Row(Result(name, [speed], 0.5), RATES, None, None) for name, speed in speeds.items()]
    narrow, wide = (contest_page.page(RUN, [(shape, rows)]) for shape in contest.SHAPES)
    assert "| as Windrow, from parquet | 1.70 (1.70 to 1.70) | 1.6: met | +0.00% |" in wide
    assert "| as DeepCTR-Torch DCN, its fit | 2.12 (2.12 to 2.12) | 2: met |" in wide
    assert "| as DeepCTR-Torch DeepFM, its fit | 1.89 (1.89 to 1.89) | 2: **not met** |" in wide
    assert "| as DeepCTR-Torch DCN, its fit, bfloat16 | 2.00 (2.00 to 2.00) |  |" in wide
    assert "| as Windrow, from parquet | 1.70 (1.70 to 1.70) |  |" in narrow


def test_reading_is_measured_on_the_same_rows_and_an_unmet_goal_is_shown(examples: Examples) -> None:
    share = examples.share("train")
    plain = reading.Unverified(share.lake, share.manifest)
    for ours, theirs in zip(whole_rows(share, examples.features), whole_rows(plain, examples.features), strict=True):
        assert np.array_equal(ours.dense, theirs.dense)
        assert np.array_equal(ours.ids, theirs.ids)
    found = reading.measure((share, plain), examples.features, 2, tell=lambda line: None)
    assert [len(speeds.verified) for speeds in found] == [len(speeds.plain) for speeds in found] == [2]
    slow, fast = (reading.Speeds("pass", [ours, ours], [100.0, 100.0], [1.0, 1.0]) for ours in (94.0, 96.0))
    page = reading.page("command", 1, 2, 0.0, 2, [slow, fast])
    assert page.count("**not met**") == page.count("0.95: met") == 1
    assert "0.940 (0.940 to 0.940)" in page


def test_small_batches_are_timed_by_turns_and_a_goal_is_judged_by_the_lower_end(
    examples: Examples, alone: None
) -> None:
    sides = small_batches.measure(examples, 2, tell=lambda line: None)
    assert [(len(side.wall), len(side.own)) for side in sides] == [(2, 2), (2, 2)]
    assert all(set(side.parts) == {small_batches.REST, *small_batches.PARTS} for side in sides)
    for small, met in (([59.0, 63.0], False), ([61.0, 61.0], True)):
        sides[0].wall, sides[1].wall = small, [100.0, 100.0]
        page = small_batches.page("command", 1, 2, 0.0, [(1, sides)])
        assert ("0.6: met" in page, "**not met**" in page) == (met, not met)


def test_cells_are_judged_against_the_default_by_the_upper_end() -> None:
    line = many_cells.cells(many_cells.LANES, 512)
    job = TrainJob(lineup=line, first=many_cells.ORIGIN, last=many_cells.ORIGIN, start="scratch")
    assert [len(lane) for lane in deal(job)] != [12, 0]
    config = {"command": "", "rounds": 2, "num_windows": 1, "rows": 1, "batch_size": 1}
    for packed, met in (([59.0, 59.0], True), ([50.0, 62.0], False)):
        found = dict.fromkeys([f"{way}{end}" for way in many_cells.WAYS for end in ("", ", processor")], [100.0, 100.0])
        page = many_cells.page(config, 0.0, 1.0, {**found, many_cells.PACKED: packed})
        assert ("0.6: met" in page, "**not met**" in page) == (met, not met)
