"""Status: what is missing and what is stale, each with its reason, before anything is trained again."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.dataset import manifest_path, publish_window
from pipeline.data.simulator import Simulator
from pipeline.spec.config import Continuous, OptimizerConfig
from pipeline.spec.lineup import LineUp
from pipeline.spec.schema import Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.storage.paths import head_path
from pipeline.training.chain import steps as steps_module
from pipeline.training.chain.status import ChainStatus, chain_statuses
from tests.trained import DATASET, DAY, lineup, publish, train, variant

TEACHER = variant("teacher")
STUDENT = variant("student", distillation=Continuous(teacher="teacher"))


def status(lake: Lake, chosen: LineUp, name: str = "plain") -> ChainStatus:
    found = [s for s in chain_statuses(lake, chosen) if s.variant == name]
    assert len(found) == len(chosen.seeds)
    return found[0]


def stale(lake: Lake, chosen: LineUp, name: str = "plain") -> dict[str, str]:
    return {window.name: why for window, why in status(lake, chosen, name).stale.items()}


def test_a_chain_that_is_done_is_neither_missing_nor_stale(lake: Lake) -> None:
    chosen = lineup(TEACHER, STUDENT, seeds=(0, 1))
    train(lake, chosen, 3)
    found = chain_statuses(lake, chosen)
    assert [(s.variant, s.seed) for s in found] == [("teacher", 0), ("teacher", 1), ("student", 0), ("student", 1)]
    for each in found:
        assert (each.first, each.last, each.num_windows) == (DAY, DAY.shift(2), 3)
        assert (each.missing, each.stale) == ((), {})


def test_a_chain_that_never_ran_says_so(lake: Lake) -> None:
    found = status(lake, lineup())
    assert (found.first, found.last, found.num_windows, found.missing, found.stale) == (None, None, 0, (), {})


def test_a_window_that_is_not_closed_is_missing(lake: Lake) -> None:
    train(lake, lineup(), 4)
    head = head_path(DATASET, "test", "plain", 0, DAY.shift(1))
    (lake.root / head).unlink()
    found = status(lake, lineup())
    assert found.missing == (DAY.shift(1),)
    assert (found.first, found.last, found.num_windows) == (DAY, DAY.shift(3), 3)


def test_other_rows_make_a_window_and_all_after_it_stale_until_they_are_trained(lake: Lake) -> None:
    chosen = lineup(TEACHER, STUDENT)
    train(lake, chosen, 4)
    publish(lake, [DAY.shift(1)], seed=7)
    for name in ("teacher", "student"):
        assert stale(lake, chosen, name) == {
            "2024-01-02": "its window was published again with other rows",
            "2024-01-03": "the step before it (2024-01-02) is stale",
            "2024-01-04": "the step before it (2024-01-03) is stale",
        }
    train(lake, chosen, 4)
    assert stale(lake, chosen, "teacher") == stale(lake, chosen, "student") == {}


def test_the_same_rows_published_again_make_nothing_stale(lake: Lake) -> None:
    train(lake, lineup(), 2)
    simulator = Simulator(SimulatorConfig.tiny(rows_per_window=500, num_lists=1, cluster=True))
    publish_window(lake, DATASET, DAY, simulator.schema, simulator.window(DAY), row_group_size=33, force=True)
    assert stale(lake, lineup()) == {}


def test_the_same_numbers_with_another_meaning_are_stale(lake: Lake) -> None:
    """Summing a list where its mean was taken changes no row, and yet every model of it."""
    train(lake, lineup(), 2)
    simulator = Simulator(SimulatorConfig.tiny(rows_per_window=500, num_lists=1, cluster=True))
    document = simulator.schema.model_dump(mode="json")
    document["lists"][0]["pooling"] = "sum"
    publish_window(lake, DATASET, DAY, Schema.of(document, "the test"), simulator.window(DAY), row_group_size=100)
    assert stale(lake, lineup()) == {
        "2024-01-01": "its window was published again with another schema",
        "2024-01-02": "the step before it (2024-01-01) is stale",
    }


def test_a_window_that_is_gone_is_reported(lake: Lake) -> None:
    train(lake, lineup(), 1)
    (lake.root / manifest_path(DATASET, DAY)).unlink()
    assert stale(lake, lineup()) == {"2024-01-01": "its window is gone"}


def test_a_changed_recipe_is_reported_and_a_changed_name_or_worker_is_not(lake: Lake) -> None:
    train(lake, lineup(), 2)
    other: Any = lineup(variant(optimizer=OptimizerConfig(batch_size=64)))
    assert set(stale(lake, other).values()) == {"the line-up's config changed"}
    assert stale(lake, lineup(checkpoint_every=5)) == {}
    assert stale(lake, lineup(online_start=DAY.shift(1))) == {}, "nothing here depends on the phase"


def test_other_scores_of_a_teacher_make_its_student_stale(lake: Lake) -> None:
    train(lake, lineup(TEACHER, STUDENT), 2)
    faster = variant("teacher", optimizer=OptimizerConfig(batch_size=128, dense_lr=0.2))
    chosen = lineup(faster, STUDENT)
    assert "2024-01-01" in stale(lake, chosen, "teacher")
    assert stale(lake, chosen, "student") == {}, "its teacher has stored no other logits yet"
    train(lake, chosen, 2, variants=("teacher",))
    assert stale(lake, chosen, "student")["2024-01-01"] == "its teacher teacher has stored other logits since"
    train(lake, chosen, 2)
    assert stale(lake, chosen, "student") == {}


def test_a_day_trained_again_alone_makes_the_next_stale(lake: Lake) -> None:
    chosen = lineup()
    train(lake, chosen, 3)
    publish(lake, [DAY], seed=7)
    train(lake, chosen, 1)
    assert stale(lake, chosen) == {
        "2024-01-02": "the step before it (2024-01-01) was trained again with another result",
        "2024-01-03": "the step before it (2024-01-02) is stale",
    }


def test_new_semantics_make_all_stale(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(lake, lineup(), 2)
    monkeypatch.setattr(steps_module, "SEMANTICS_VERSION", steps_module.SEMANTICS_VERSION + 1)
    assert stale(lake, lineup()) == {
        "2024-01-01": "this version of Windrow gives another result",
        "2024-01-02": "the step before it (2024-01-01) is stale",
    }
