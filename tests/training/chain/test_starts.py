"""Points of history and seeds: a chain may start later than others, and a seed may have data of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.data.dataset import read_manifest
from pipeline.reporting.comparison import compare
from pipeline.reporting.dispatch import run_ingest
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.training.chain.status import chain_statuses
from pipeline.training.chain.steps import StepStore
from tests.trained import DATASET, DAY, engine, lineup, logits, publish, steps, train, variant, windows
from tests.training.chain.test_steps import Watcher

LATER = DAY.shift(2)
SMALL = {**SimulatorConfig.tiny(rows_per_window=300).model_dump(exclude={"origin", "seed"})}


def keys(lake: Lake, chosen: LineUp, name: str) -> dict[Any, str]:
    return {day: step.key for (_, day), step in steps(lake, chosen, 4, only=(name,)).items()}


def test_a_late_start_is_the_chain_that_a_job_from_there_makes(lake: Lake) -> None:
    both = lineup(variant("all"), variant("late", start=LATER))
    made = train(lake, both, 4)
    assert [day for name, day in made if name == "late"] == windows(4)[2:]
    assert made["late", LATER].parent is None
    assert (made["late", LATER].first, made["all", LATER].first) == (LATER, DAY)
    alone = lineup(variant("alone"), name="other")
    watcher = Watcher()
    train(lake, alone, 2, first=LATER, recorder=watcher)
    assert watcher.trained == [], "where a chain starts is no part of a recipe, only of its steps' parents"
    assert keys(lake, alone, "alone") == keys(lake, both, "late")
    assert not np.array_equal(logits(lake, made["all", LATER]), logits(lake, made["late", LATER]))


def test_day_by_day_a_late_start_needs_no_parent_and_is_the_same_chain(lake: Lake, tmp_path: Path) -> None:
    both = lineup(variant("all"), variant("late", start=LATER))
    fresh = Lake(str(tmp_path / "fresh"))
    publish(fresh, windows(4))
    train(fresh, both, 4)
    train(lake, both, 1)
    for day in windows(4)[1:]:
        train(lake, both, 1, first=day, start="parent")
    for name in ("all", "late"):
        assert keys(lake, both, name) == keys(fresh, both, name)


def test_a_job_before_a_chains_start_leaves_it_alone(lake: Lake) -> None:
    late = lineup(variant("late", start=LATER))
    assert engine(lake, late, 2).run() == []
    assert steps(lake, late, 4) == {}


def test_after_its_start_a_late_chain_needs_its_parent_as_any_other(lake: Lake) -> None:
    with pytest.raises(ValueError, match="'late' .*has no checkpoint of 2024-01-03"):
        train(lake, lineup(variant("late", start=LATER)), 1, first=DAY.shift(3), start="parent")


def test_a_chain_that_began_before_its_start_is_not_gone_on_with(lake: Lake) -> None:
    train(lake, lineup(variant("moved")), 3)
    moved = lineup(variant("moved", start=LATER))
    (found,) = chain_statuses(lake, moved)
    assert (found.first, found.missing) == (LATER, ())
    assert found.stale == {LATER: "its chain started on 2024-01-01, and the line-up lets it start on 2024-01-03"}
    with pytest.raises(ValueError, match="started on 2024-01-01.*`force`"):
        train(lake, moved, 1, first=DAY.shift(3), start="parent")
    with pytest.raises(ValueError, match="a chain that started on 2024-01-01.*start here with `force`"):
        train(lake, moved, 2, first=LATER)
    train(lake, moved, 2, first=LATER, force=True)
    (found,) = chain_statuses(lake, moved)
    assert (found.first, found.num_windows, found.stale) == (LATER, 2, {})


def per_seed(seeds: tuple[int, ...]) -> LineUp:
    source = SimulatedSource(origin=DAY, settings=SMALL, per_seed=True)
    return lineup(
        variant("a"),
        variant("b", start=DAY.shift(1)),
        seeds=seeds,
        dataset=DatasetConfig(name=DATASET, source=source),
    )


def test_with_data_per_seed_a_seed_is_a_repetition_of_everything(tmp_path: Path) -> None:
    """Data, weights and selection: the line-up of one seed alone trains to what it trains to among others."""
    lake, chosen = Lake(str(tmp_path / "lake")), per_seed((0, 5))
    told = run_ingest(IngestJob(dataset=chosen.dataset, first=DAY, last=DAY.shift(1), seeds=chosen.seeds), lake)
    assert (told["rows"], told["windows"]) == (4 * 300, ["2024-01-01", "2024-01-02"])
    assert read_manifest(lake, DATASET, DAY) is None
    digests = {m.digest for name in ("sim-seed0", "sim-seed5") if (m := read_manifest(lake, name, DAY)) is not None}
    assert len(digests) == 2
    engine(lake, chosen, 2).run()
    other, single = Lake(str(tmp_path / "other")), per_seed((5,))
    run_ingest(IngestJob(dataset=single.dataset, first=DAY, last=DAY.shift(1), seeds=(5,)), other)
    engine(other, single, 2).run()
    for name in ("a", "b"):
        found = [StepStore(at, "sim-seed5").head("test", name, 5, DAY.shift(1)) for at in (lake, other)]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].key == found[1].key
    assert {(s.variant, s.seed, s.num_windows) for s in chain_statuses(lake, chosen)} == {
        ("a", 0, 2),
        ("a", 5, 2),
        ("b", 0, 1),
        ("b", 5, 1),
    }
    assert all(not s.stale for s in chain_statuses(lake, chosen))
    compared = compare(lake, chosen, (), DAY, DAY.shift(1))
    assert [(c.variant, c.num_seeds, len(c.windows)) for c in compared] == [("a", 2, 2), ("b", 2, 1)]


def test_the_simulators_seed_has_one_place_alone() -> None:
    with pytest.raises(ValidationError, match="got 3 in `settings` too: leave one of them out"):
        SimulatedSource(origin=DAY, settings={"seed": 3}, per_seed=True)


def test_without_data_per_seed_all_seeds_share_one_data_set() -> None:
    shared = lineup(seeds=(0, 1))
    assert {shared.dataset.under(seed) for seed in (0, 1)} == {DATASET}
