"""Estimates: operations as PyTorch counts them, shared steps once, and seconds of the size that published studies took."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.simulator import Simulator
from pipeline.spec.config import SIZES, ModelConfig, Size
from pipeline.spec.schema import Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.studies.declared import declared
from pipeline.studies.estimate import Estimate, estimate, forward_flops
from pipeline.studies.results import read
from pipeline.training.model import build_model
from pipeline.training.model import forward_flops as counted
from pipeline.training.models.features import Features
from tests.conftest import ROOT
from tests.planned import planned
from tests.trained import DAY, TINY, lineup, variant

STUDIES = ROOT / "dags" / "studies"
CELLS = ROOT / "docs" / "results" / "cells"


@pytest.mark.parametrize("arch", ["dlrm", "dcnv2"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("schema", [Schema.load("criteo"), Simulator(SimulatorConfig.tiny(num_dense=0)).schema])
def test_operations_are_those_that_pytorch_counts(schema: Schema, size: Size, arch: str) -> None:
    config, features = ModelConfig(arch=arch, size=size), Features(schema)
    found = forward_flops(config, len(schema.dense), len(features.keys))
    assert found == counted(build_model(features, config, seed=0), features)


def test_what_schedules_share_counts_once() -> None:
    base = lineup(variant(model=TINY), name="base")
    study = planned("distillation", base, study="taught", first=DAY, online_start=DAY.shift(3), last=DAY.shift(9))
    found = estimate(study)
    teacher, plain, early, late, continuous = 10, 10, 10, 10 - 3, 10 - 7
    assert found.num_steps == teacher + plain + early + late + continuous
    assert found.num_rows == found.num_steps * SimulatorConfig().rows_per_window


def test_a_log_is_not_known_before_it_is_ingested() -> None:
    found = estimate(declared(STUDIES / "distillation_upworthy.yaml"))
    assert found.num_rows is None
    assert found.minutes is None
    assert "not known before they are counted" in found.words()


@pytest.mark.parametrize("name", sorted(path.stem for path in CELLS.glob("*.parquet")))
def test_a_published_study_took_about_what_is_estimated(name: str) -> None:
    rows = read([CELLS / f"{name}.parquet"])
    found = estimate(declared(STUDIES / f"{name}.yaml"))
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        spent = row.load_seconds + row.select_seconds + row.train_seconds + row.save_seconds + row.evaluation_seconds
        by_seed.setdefault(row.seed, {})[row.step] = spent
    measured = float(np.median([sum(steps.values()) for steps in by_seed.values()]))
    assert found.core_seconds is not None
    assert found.training_flops == pytest.approx(
        np.mean([sum({r.step: r.training_flops for r in rows if r.seed == seed}.values()) for seed in by_seed]),
        rel=0.02,
    )
    assert 0.8 < found.core_seconds / measured < 1.25


def test_it_is_said_in_one_sentence() -> None:
    found = Estimate(24, 200, 2e7, 4e11, 175.0, 2e8, 2)
    assert found.words() == (
        "This study takes, if nothing of it is done yet: 200 steps for each of 24 seeds; 480.0 million rows to train on; 9.60 "
        "TFLOP of training; about 37 minutes on 2 cores, one for each lane; 4.8 GB of disk."
    )
