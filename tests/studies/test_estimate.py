"""Estimates: operations as PyTorch counts them, shared steps once, and seconds of the size that published studies took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.data.simulator import Simulator
from pipeline.spec.config import SIZES, ModelConfig, Read, Size
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import DatasetConfig, LogSource, SimulatedSource, load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.schema import Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.studies.declared import declared
from pipeline.studies.estimate import TO_START, Estimate, estimate
from pipeline.studies.operations import embedding_bytes, forward_flops
from pipeline.studies.results import read
from pipeline.studies.selection.fields import WAYS
from pipeline.training.model import build_model
from pipeline.training.model import forward_flops as counted
from pipeline.training.models.features import Features
from pipeline.training.signals import SIGNALS
from tests.conftest import ROOT
from tests.planned import planned
from tests.trained import DATASET, DAY, TINY, lineup, publish, variant, windows

STUDIES = ROOT / "dags" / "studies"
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
CELLS = ROOT / "docs" / "results" / "cells"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.mark.parametrize("arch", ["dlrm", "dcnv2"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("schema", [Schema.load("criteo"), Simulator(SimulatorConfig.tiny(num_dense=0)).schema])
def test_operations_are_those_that_pytorch_counts(schema: Schema, size: Size, arch: str) -> None:
    config, features = ModelConfig(arch=arch, size=size), Features(schema)
    found = forward_flops(config, len(schema.dense), len(features.keys))
    assert found == counted(build_model(features, config, seed=0), features)


@pytest.mark.parametrize("arch", ["dlrm", "dcnv2"])
@pytest.mark.parametrize("size", SIZES)
def test_operations_and_embedding_bytes_are_those_that_the_profiler_sees(size: Size, arch: str) -> None:
    schema, num_rows = Schema.load("criteo"), 64
    features, config = Features(schema), ModelConfig(arch=arch, size=size)
    network, keys = build_model(features, config, seed=0).network, features.keys
    ids, lengths = (
        torch.zeros(num_rows * len(keys), dtype=torch.long),
        torch.ones(num_rows * len(keys), dtype=torch.int32),
    )
    sparse = KeyedJaggedTensor(keys=keys, values=ids, lengths=lengths)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as seen, torch.no_grad():
        network.tower(network.shared(torch.zeros(num_rows, features.widths[0]), sparse))
    events = seen.events()
    flops = sum(event.flops for event in events if event.name in MATRIX_PRODUCTS) / num_rows
    assert forward_flops(config, len(schema.dense), len(keys)) == pytest.approx(flops, rel=0.05)
    lookups = [event.input_shapes for event in events if event.name == "aten::_embedding_bag"]
    read = sum(4 * num_ids * dim for (_, dim), (num_ids,), *_ in lookups) / num_rows
    assert embedding_bytes(config, len(keys)) == pytest.approx(read, rel=0.05)


def test_what_schedules_share_counts_once(lake: Lake) -> None:
    base = lineup(variant(model=TINY), name="base")
    study = planned("distillation", base, study="taught", first=DAY, online_start=DAY.shift(3), last=DAY.shift(9))
    found = estimate(study, lake)
    teacher, plain, early, late, continuous = 10, 10, 10, 10 - 3, 10 - 7
    assert found.num_steps == teacher + plain + early + late + continuous
    assert found.num_rows == found.num_steps * SimulatorConfig().rows_per_window


def test_a_log_s_rows_are_known_once_its_windows_are_published(lake: Lake) -> None:
    study = planned(
        "distillation",
        lineup(variant(model=TINY), name="base"),
        study="taught",
        first=DAY,
        online_start=DAY.shift(1),
        last=DAY.shift(2),
    )
    source = LogSource(schema_file="criteo", files=("log.parquet",))
    dataset = DatasetConfig(name=DATASET, source=source)
    study = study.model_copy(update={"lineup": study.lineup.model_copy(update={"dataset": dataset})})
    assert "known once the log's windows are published" in estimate(study, lake).words()
    publish(lake, windows(2))
    assert estimate(study, lake).num_rows == 500 * estimate(study, lake).num_steps


@pytest.mark.parametrize("name", ["downsampling_drift", "downsampling_published"])
def test_a_seed_of_a_published_study_took_about_what_is_estimated(name: str, lake: Lake) -> None:
    rows = read([CELLS / f"{name}.parquet"])
    found = estimate(declared(STUDIES / f"{name}.yaml", str(rows[0].seed)), lake)
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        spent = row.load_seconds + row.select_seconds + row.train_seconds + row.save_seconds + row.evaluation_seconds
        by_seed.setdefault(row.seed, {})[row.step] = spent
    measured = float(np.median([sum(steps.values()) for steps in by_seed.values()]))
    flops = [sum({r.step: r.training_flops for r in rows if r.seed == seed}.values()) for seed in by_seed]
    assert found.training_flops == pytest.approx(np.mean(flops), rel=0.02)
    assert found.minutes is not None
    assert 0.8 < (60 * found.minutes - 2 * TO_START) / measured < 1.25


def test_a_pilots_further_passes_take_time(lake: Lake) -> None:
    """Three more of each window than a pilot that is asked for its error."""
    span = {"study": "rows", "first": "2024-01-01", "online_start": "2024-01-03", "last": "2024-01-04", "seeds": [1]}
    asked = {way: planned("selection", load_lineup(lineup_path("drift")), **span, policies=[way]) for way in WAYS}
    minutes = {way: estimate(study, lake).minutes or 0.0 for way, study in asked.items()}
    assert minutes["grand"] == minutes["el2n"]
    assert minutes["forgetting"] > 1.5 * minutes["el2n"] - 0.5 * minutes["uniform"]
    for name, signal in SIGNALS.items():
        assert Read("pilot", 0, name).passes == signal.passes, name


def test_it_is_said_in_one_sentence() -> None:
    found = Estimate(4800, 480e6, 9.6e12, 37.4, 2, 4.8e9)
    assert found.words() == (
        "This study takes, if nothing of it is done yet: 4,800 steps; 480.0 million rows to train on; 9.60 TFLOP of training; "
        "about 37 minutes on 2 cores, one for each lane; 4.8 GB of disk."
    )


def test_a_simulator_s_setting_that_is_none_is_named(lake: Lake) -> None:
    source = SimulatedSource(origin=DAY, settings={"rows": 5})
    base = lineup(variant(model=TINY), name="base", dataset=DatasetConfig(name=DATASET, source=source))
    study = planned("distillation", base, study="taught", first=DAY, online_start=DAY.shift(1), last=DAY.shift(3))
    with pytest.raises(BadInput, match="the simulator's settings: there is no field 'rows': it has .*rows_per_window"):
        estimate(study, lake)
