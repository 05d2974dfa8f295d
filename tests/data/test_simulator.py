"""The simulator: calibrated, seeded, drifting only as told, and with a signal that a model can learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.data.dataset import physical_schema, read_row_group, read_schema
from pipeline.data.simulator import CHUNK_ROWS, Simulator, simulate
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake

ORIGIN = SimulatorConfig().origin


def draw(config: SimulatorConfig, day: int = 0) -> pa.Table:
    return pa.Table.from_batches(Simulator(config).window(ORIGIN.shift(day)))


def tiny(**changes: Any) -> SimulatorConfig:
    return SimulatorConfig.tiny(**changes)


def column(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()


@pytest.mark.parametrize("base_rate", [1 / 250, 0.05, 0.5])
@pytest.mark.parametrize("day", [0, 1, 9])
def test_every_window_has_the_base_rate(base_rate: float, day: int) -> None:
    rows = draw(tiny(base_rate=base_rate, rows_per_window=20_000), day)
    truth = column(rows, "true_prob")
    assert truth.mean() == pytest.approx(base_rate, rel=0.02)
    noise = np.sqrt((truth * (1 - truth)).sum())
    assert abs(column(rows, "label").sum() - truth.sum()) < 5 * noise


def test_labels_follow_the_true_probabilities() -> None:
    rows = draw(tiny(rows_per_window=100_000))
    truth, labels = column(rows, "true_prob"), column(rows, "label")
    for tenth in np.array_split(np.argsort(truth), 10):
        expected = truth[tenth]
        assert abs(labels[tenth].sum() - expected.sum()) < 5 * np.sqrt((expected * (1 - expected)).sum())


def test_a_window_is_a_function_of_config_and_day() -> None:
    config = tiny(num_lists=1, cluster=True)
    one_by_one, at_once = Simulator(config), Simulator(config)
    for day in (0, 1, 2, 5, 3, -2, -1):
        walked = pa.Table.from_batches(one_by_one.window(ORIGIN.shift(day)))
        assert walked.equals(draw(config, day))
    assert pa.Table.from_batches(at_once.window(ORIGIN.shift(5))).equals(draw(config, 5))
    assert not draw(config, 5).equals(draw(tiny(num_lists=1, cluster=True, seed=1), 5))


def test_ids_are_unique_over_days_and_stay_when_other_things_change() -> None:
    ids = [column(draw(tiny(), day), "example_id") for day in range(3)]
    assert len(np.unique(np.concatenate(ids))) == 3 * 2_000
    assert np.array_equal(ids[1], column(draw(tiny(drift=0.5, churn=0.5), 1), "example_id"))


def chosen_effects(config: SimulatorConfig, day: int) -> Any:
    """The weights of the first column of ids on a day, by slot."""
    return Simulator(config)._state(ORIGIN, day)[1].weights


def test_without_drift_nothing_moves() -> None:
    still = tiny(drift=0.0, churn=0.0, new_ids=0.0, rows_per_window=50_000)
    assert np.array_equal(chosen_effects(still, 0), chosen_effects(still, 20))
    shares = []
    for day in (0, 20):
        ids = column(draw(still, day), "C4")
        shares.append(np.bincount(ids, minlength=100) / len(ids))
    assert np.abs(shares[0] - shares[1]).max() < 0.02
    assert set(column(draw(still, 0), "C4")) == set(column(draw(still, 20), "C4"))


def test_with_drift_weights_move_away_and_keep_their_spread() -> None:
    config = tiny(drift=0.2, churn=0.0, new_ids=0.0, num_categorical=1, num_ids=5_000)
    first = chosen_effects(config, 0)
    near, far = (np.corrcoef(first, chosen_effects(config, day))[0, 1] for day in (1, 20))
    assert near == pytest.approx(np.sqrt(1 - 0.2**2), abs=0.02)
    assert far < 0.75 * near
    assert chosen_effects(config, 20).std() == pytest.approx(1.0, abs=0.05)


def test_churn_moves_popularity_and_new_ids_were_never_seen() -> None:
    busy = {"num_categorical": 1, "num_ids": 50, "rows_per_window": 20_000, "hash_size": 2**30, "drift": 0.0}
    for churn in (0.0, 0.3):
        config = tiny(**busy, churn=churn, new_ids=0.0)
        before, after = (np.unique(column(draw(config, day), "C1"), return_counts=True) for day in (0, 10))
        assert np.array_equal(before[0], after[0]), "churn brings no ids"
        assert (before[1].argmax() == after[1].argmax()) == (churn == 0.0)
    fresh = tiny(**busy, churn=0.0, new_ids=0.1)
    seen = [set(column(draw(fresh, day), "C1")) for day in range(4)]
    for day in range(1, 4):
        assert 0 < len(seen[day] - set.union(*seen[:day])) < 20


def test_popularity_is_zipf() -> None:
    config = tiny(zipf=1.0, num_categorical=1, num_ids=100, rows_per_window=200_000, hash_size=2**30)
    counts = np.sort(np.unique(column(draw(config), "C1"), return_counts=True)[1])[::-1]
    expected = 1 / np.arange(1, 101)
    assert counts[:10] / counts.sum() == pytest.approx((expected / expected.sum())[:10], rel=0.05)


def test_the_shape_is_as_asked_and_bounded_in_memory() -> None:
    config = SimulatorConfig(rows_per_window=CHUNK_ROWS + 10, num_lists=2, num_ids=100, cluster=True)
    batches = list(Simulator(config).window(ORIGIN))
    assert [batch.num_rows for batch in batches] == [CHUNK_ROWS // 2 + 5] * 2
    schema = Simulator(config).schema
    assert (len(schema.dense), len(schema.categorical), len(schema.lists)) == (13, 26, 2)
    assert batches[0].schema.equals(physical_schema(schema))
    for feature in schema.categorical:
        ids = column(pa.Table.from_batches(batches), feature.name)
        assert 0 <= ids.min() <= ids.max() < feature.hash_size
    lengths = [len(entries) for entries in batches[0].column("L1").to_pylist()[:2000]]
    assert (min(lengths), max(lengths)) == (0, 2 * config.mean_list_length)


def entropy(truth: Any, labels: Any) -> float:
    return float(-np.mean(labels * np.log(truth) + (1 - labels) * np.log1p(-truth)))


def test_the_signal_is_rich_and_linear_models_miss_part_of_it() -> None:
    """The best linear fit of the true logit leaves out about what the interactions bring, and nothing without them."""
    unexplained = []
    for strength in (0.0, 0.5):
        config = tiny(rows_per_window=40_000, interaction_strength=strength, base_rate=0.05, hash_size=2**20)
        rows = draw(config)
        truth, labels = column(rows, "true_prob"), column(rows, "label")
        assert 0.7 < entropy(truth, labels) / entropy(np.full(len(labels), labels.mean()), labels) < 0.92
        blocks = [column(rows, f"I{index}")[:, None] for index in (1, 2, 3)]
        for index in (1, 2, 3, 4):
            codes = np.unique(column(rows, f"C{index}"), return_inverse=True)[1]
            blocks.append(np.eye(codes.max() + 1, dtype=np.float32)[codes])
        design, logits = np.concatenate(blocks, 1), np.log(truth / (1 - truth))
        left = logits - design @ np.linalg.lstsq(design, logits, rcond=None)[0]
        unexplained.append(left.var() / logits.var())
    assert unexplained[0] < 1e-4
    assert unexplained[1] > 0.1


def test_simulated_windows_are_published_once(tmp_path: Path) -> None:
    lake, config = Lake(str(tmp_path)), tiny(num_lists=1)
    windows = list(Window.span(ORIGIN, ORIGIN.shift(1)))
    told: list[str] = []
    first = simulate(lake, "sim", config, windows)
    assert simulate(lake, "sim", config, windows, progress=told.append) == first
    assert all("already published" in line for line in told)
    forced = simulate(lake, "sim", config, windows[:1], force=True)
    assert (forced[0].digest, forced[0].generation == first[0].generation) == (first[0].digest, False)
    assert simulate(lake, "sim", tiny(num_lists=1, seed=5), windows[:1])[0].digest != first[0].digest
    assert read_row_group(lake, first[1], 0).equals(draw(config, 1))
    assert read_schema(lake, "sim", first[0].schema_key).has_true_prob


@pytest.mark.parametrize(
    "changes",
    [
        {"base_rate": 0.0},
        {"num_dense": 0, "num_categorical": 0},
        {"num_categorical": 0, "cluster": True},
        {"drift": 1.5},
        {"rows": 5},
    ],
)
def test_a_config_that_makes_no_log_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tiny(**changes)


@pytest.mark.parametrize("changes", [{"num_dense": 0}, {"num_categorical": 0, "num_lists": 1}, {"num_ids": 2}])
def test_lopsided_shapes_work(changes: dict[str, Any]) -> None:
    assert column(draw(tiny(**changes)), "true_prob").mean() == pytest.approx(0.2, rel=0.02)
