"""Whatever is kept of the negatives, predictions stay calibrated; wrongly corrected, they do not."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pipeline.selection.stored
from pipeline.data.simulator import simulate
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policy import Candidates
from pipeline.selection.sampling import Selected, select
from pipeline.spec.config import Continuous, EvaluationConfig, ModelConfig, OptimizerConfig, Policy, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.evaluations import EvaluationStore
from pipeline.training.chain.steps import StepStore
from tests.trained import alone

SEEDS = range(5)
TRAINED = list(Window.span(Window.of("2024-01-01"), Window.of("2024-01-10")))
"""A million clicks: ten windows of a hundred thousand."""
JUDGED = TRAINED[5:]
"""The model of any one moment is off by some percent either way: the mean over five windows is judged."""
RATE = 0.05
TOLERANCE = 0.02

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> list[Lake]:
    """One lake per seed: a million clicks at 1:50 that neither drift nor churn."""
    found = []
    for seed in SEEDS:
        lake = Lake(str(tmp_path_factory.mktemp(f"seed-{seed}")))
        config = SimulatorConfig(
            seed=seed,
            rows_per_window=100_000,
            num_dense=4,
            num_categorical=6,
            num_ids=500,
            num_interactions=4,
            base_rate=1 / 51,
            drift=0.0,
            churn=0.0,
            new_ids=0.0,
        )
        simulate(lake, "clicks", config, TRAINED, row_group_size=32_768)
        found.append(lake)
    return found


def line_up(seed: int) -> LineUp:
    """Twenty times fewer negatives, corrected in both ways, with and without a teacher that sees every example."""
    model = ModelConfig(size="tiny", prior=1 / 51)

    def variant(name: str, **choices: object) -> Variant:
        optimizer = OptimizerConfig(batch_size=1024 if name == "teacher" else 64, embedding_lr=0.02, dense_lr=0.005)
        return Variant.model_validate({"name": name, "model": model, "optimizer": optimizer, **choices})

    weight = NegativeDownsampling(rate=RATE, correction="weight")
    offset = NegativeDownsampling(rate=RATE, correction="offset")
    taught = Continuous(teacher="teacher")
    return LineUp(
        name="calibration",
        dataset=DatasetConfig(name="clicks", source=SimulatedSource(origin=TRAINED[0])),
        variants=(
            variant("teacher"),
            variant("weight", selection=weight),
            variant("offset", selection=offset),
            variant("weight_taught", selection=weight, distillation=taught),
            variant("offset_taught", selection=offset, distillation=taught),
        ),
        reference="teacher",
        online_start=TRAINED[-1],
        seeds=(seed,),
        evaluation=EvaluationConfig(max_rows=30_000),
        checkpoint_every=len(TRAINED),
    )


def true_calibration(lake: Lake, seed: int, variant: str, *, force: bool = False) -> float:
    """Mean prediction over mean true probability, each window scored before it is trained on."""
    lineup = line_up(seed)
    job = TrainJob(lineup=lineup, variants=(variant,), first=TRAINED[0], last=TRAINED[-1], start="scratch", force=force)
    Engine(lake, job, None, alone()).run()
    heads = [StepStore(lake, "clicks").head(lineup.name, variant, seed, window) for window in JUDGED]
    store = EvaluationStore(lake, "clicks")
    found = [store.require(head, lineup.evaluation, variant) for head in heads if head is not None]
    return float(np.mean([each.metrics["true_calibration"] for each in found]))


def all_calibrations(url: str, seed: int) -> dict[str, float]:
    """Of every variant, the teacher first; runs in a process of its own."""
    lake = Lake(url)
    return {variant.name: true_calibration(lake, seed, variant.name) for variant in line_up(seed).only(())}


@pytest.fixture(scope="module")
def calibrations(lakes: list[Lake]) -> list[dict[str, float]]:
    """Every variant on every seed, two seeds at a time."""
    urls = [lake.url for lake in lakes]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(all_calibrations, urls, SEEDS))


@pytest.mark.parametrize("variant", ["weight", "offset", "weight_taught", "offset_taught"])
def test_a_corrected_sample_predicts_the_whole(
    calibrations: list[dict[str, float]], variant: str, record_property: Callable[[str, object], None]
) -> None:
    """Within two percent, over five seeds of a million rows, one negative in twenty kept."""
    found = [seed[variant] for seed in calibrations]
    record_property("true_calibration", found)
    assert float(np.mean(found)) == pytest.approx(1, abs=TOLERANCE), found


def uncorrected(kept: Selected, label: NDArray[np.uint8]) -> Selected:
    """Neither weight nor offset."""
    return Selected(kept.index, kept.importance, np.ones_like(kept.weight), np.zeros_like(kept.offset))


def corrected_twice(kept: Selected, label: NDArray[np.uint8]) -> Selected:
    """Both weight and offset."""
    return Selected(kept.index, kept.importance, kept.importance, kept.offset)


def leaking(kept: Selected, label: NDArray[np.uint8]) -> Selected:
    """An offset from the row's own keep probability, which differs between the labels."""
    own = -np.log(kept.importance) * np.where(label[kept.index] > 0, 1, -1)
    return Selected(kept.index, kept.importance, kept.weight, own.astype(np.float32))


@pytest.mark.parametrize("mistake", [uncorrected, corrected_twice, leaking])
def test_the_same_check_catches_a_wrong_correction(
    lakes: list[Lake], mistake: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No correction, a doubled one and one that leaks the label all miss the two percent, on two of the seeds."""

    def mistaken(policy: Policy, rows: Candidates, label: NDArray[np.uint8], **key: Any) -> Selected:
        return mistake(select(policy, rows, label, **key), label)  # type: ignore[operator,no-any-return]

    monkeypatch.setattr(pipeline.selection.stored, "select", mistaken)
    found = [
        true_calibration(lake, seed, "offset", force=True) for seed, lake in zip(SEEDS[:2], lakes[:2], strict=True)
    ]
    assert float(np.mean(found)) != pytest.approx(1, abs=TOLERANCE), found
