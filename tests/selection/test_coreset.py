"""A coreset's weighted gradients are those of all rows, part by part, whoever reads the window and however it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import WindowManifest, read_row_group, read_schema
from pipeline.data.share import Share
from pipeline.selection import stored as stored_module
from pipeline.selection.policies.coreset import Coreset, matched, neighbours, spread
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import Candidates, JointPolicy
from pipeline.selection.stored import SelectionStore
from pipeline.spec.config import SKETCH_COLUMNS, All
from pipeline.storage import parquet
from pipeline.storage.lake import Lake
from tests.selection.contract import kept, looked_at, rows
from tests.trained import DAY, alone, as_workers, lineup, publish, train, variant, windows

POLICY = Coreset(rate=0.1, pilot="my_pilot")


def gradients(policy: JointPolicy, ids: Any, labels: Any) -> Any:
    found = looked_at(policy, ids, labels).signals
    return np.column_stack([found[f"gradient_{place}"] for place in range(SKETCH_COLUMNS)]).astype(np.float64)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_weighted_gradients_and_rows_of_each_label_sum_up_to_those_of_all(rate: float) -> None:
    ids, labels = rows()
    policy = Coreset(rate=rate, pilot="my_pilot")
    found, each = kept(policy, ids, labels), gradients(policy, ids, labels)
    lengths = np.linalg.norm(each, axis=1).sum()
    for label in (0, 1):
        ours = labels[found.index] == label
        mine, weight = each[found.index[ours]], found.weight[ours].astype(np.float64)
        assert weight.sum() == pytest.approx((labels == label).sum(), rel=1e-6)
        assert weight @ mine == pytest.approx(each[labels == label].sum(axis=0), abs=1e-4 * lengths)
        assert (weight > 0).all()
    assert len(found.index) == round(rate * len(ids))


def test_what_no_weight_was_matched_to_is_nearer_than_a_sample_of_as_many_rows_by_length() -> None:
    """Thirty-two columns, of which the policy sees sums."""
    random = np.random.default_rng(0)
    ids, labels = rows(count=8_000)
    signs = random.choice([-1.0, 1.0], (32, SKETCH_COLUMNS - 1)) / np.sqrt(SKETCH_COLUMNS - 1)
    error = np.clip(random.normal(0.1, 0.2, 8_000), 0.01, 0.99) - labels
    hidden = np.maximum(random.normal(size=(8_000, 32)), 0)
    sketch = (error[:, None] * np.column_stack([np.ones(8_000), hidden @ signs])).astype(np.float32)
    whole = error[:, None] * hidden
    seen = Candidates(ids, {f"gradient_{place}": sketch[:, place] for place in range(SKETCH_COLUMNS)})
    length = np.linalg.norm(sketch, axis=1)
    sampled = Grand(rate=0.1, pilot="my_pilot")
    off: dict[str, list[float]] = {"coreset": [], "grand": []}
    for salt in range(20):
        index, weight = POLICY.choose(seen, labels, salt)
        off["coreset"].append(float(np.linalg.norm(weight @ whole[index] - whole.sum(axis=0))))
        rate = sampled.summarize(sampled.tally(Candidates(ids, {"pilot": length})))
        pi = sampled.keep_probability(Candidates(ids, {"pilot": length}, summary=rate), labels)
        drawn = np.random.default_rng(salt).random(8_000) < pi
        off["grand"].append(float(np.linalg.norm((whole[drawn] / pi[drawn, None]).sum(axis=0) - whole.sum(axis=0))))
    assert np.mean(off["coreset"]) < 0.8 * np.mean(off["grand"])


@given(count=st.integers(1, 60), num=st.integers(1, 60), seed=st.integers(0, 99), same=st.booleans())
@settings(max_examples=60, deadline=None)
def test_as_many_points_are_chosen_as_are_asked_for(count: int, num: int, seed: int, same: bool) -> None:
    random = np.random.default_rng(seed)
    count = min(count, num)
    points = np.zeros((num, 3), np.float32) if same else random.normal(size=(num, 3)).astype(np.float32)
    assert sorted(neighbours(points, count)) == list(range(num))
    chosen, stands_for = spread(points, np.linalg.norm(points, axis=1).astype(np.float64), count, start=random.random())
    assert len(chosen) == len(stands_for) == count
    assert (np.diff(chosen) > 0).all()
    assert (stands_for >= 1 - 1e-9).all()
    weight = matched(points, chosen, stands_for)
    assert (weight > 0).all()
    assert weight.sum() == pytest.approx(num, rel=1e-5)


def test_neighbours_lie_close() -> None:
    points = np.random.default_rng(0).normal(size=(4_096, 2)).astype(np.float32)
    order = neighbours(points, 1_024)
    assert (
        np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
        < 0.2 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
    )


def test_windows_of_one_label_or_of_nothing_have_a_choice() -> None:
    ids, labels = rows(count=50)
    for each in (np.zeros_like(labels), np.ones_like(labels)):
        found = kept(POLICY, ids, each)
        assert len(found.index) == 5
        assert found.weight.sum() == pytest.approx(50)
    assert len(kept(POLICY, ids[:0], labels[:0]).index) == 0


def test_before_its_pilot_is_there_and_at_a_rate_of_one_it_is_something_simpler() -> None:
    policy = Coreset(rate=0.1, pilot="my_pilot", pilot_age=2, since=DAY.shift(2))
    assert policy.in_window(DAY, online=False) == Uniform(rate=0.1, correction="weight")
    assert policy.in_window(DAY.shift(2), online=True).pilot == "pilot"
    assert Coreset(rate=1.0, pilot="my_pilot").in_window(DAY, online=True) == All()


class Parts(Coreset):
    """In parts of fewer rows than tests have."""

    rows_at_once = 130


@pytest.mark.parametrize(("group", "workers"), [(100, 1), (37, 1), (100, 2), (37, 3), (500, 2)])
def test_parts_are_the_windows_however_it_is_cut_and_whoever_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, workers: int
) -> None:
    lake = Lake(str(tmp_path))
    (manifest,) = publish(lake, [DAY], group=group)
    policy = Parts(rate=0.1, pilot="my_pilot")
    table = whole_of(lake, manifest)
    ids, labels = table.column("example_id").to_numpy(), table.column("label").to_numpy()
    given_signals = looked_at(policy, ids, labels).signals
    edges = Share(lake, manifest).starts()

    def column(name: str) -> Any:
        return lambda number, _: given_signals[name][edges[number] : edges[number + 1]]

    signals = {name: ("0" * 64, column(name)) for name in given_signals}
    schema = read_schema(lake, manifest.dataset, manifest.schema_key)
    alone()
    made = as_workers(
        monkeypatch,
        stored_module,
        workers,
        lambda rank: SelectionStore(lake, manifest.dataset).make(
            Share(lake, manifest, rank, workers), schema, policy, 0, signals
        ),
    )
    read = [parquet.read_row_group(lake, made[0].files[f], g) for f, g in filter(None, made[0].places)]
    found = pa.concat_tables(read)
    starts = range(0, len(ids), Parts.rows_at_once)
    parts = [kept(policy, ids[a : a + Parts.rows_at_once], labels[a : a + Parts.rows_at_once]) for a in starts]
    assert len(parts) == 4
    positions = np.concatenate([start + part.index for start, part in zip(starts, parts, strict=True)])
    assert np.array_equal(found.column("selection.position").to_numpy(), positions), "a part is chosen of by itself"
    assert np.array_equal(found.column("selection.weight").to_numpy(), np.concatenate([p.weight for p in parts]))


def whole_of(lake: Lake, manifest: WindowManifest) -> Any:
    return pa.concat_tables([read_row_group(lake, manifest, g) for g in range(manifest.num_row_groups)])


def test_a_model_trains_on_a_coreset_of_its_pilots_gradients(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    publish(lake, windows(2))
    chosen = lineup(variant("pilot"), variant("few", selection=Coreset(rate=0.2, pilot="pilot")))
    made = train(lake, chosen, 2)
    for day in windows(2):
        step = made["few", day]
        assert step.num_selected == 100
        assert step.flops.selection > 0
        assert step.progressive["base_rate"] == pytest.approx(made["pilot", day].progressive["base_rate"], rel=1e-5)
        assert made["pilot", day].left == {(f"gradient_{place}", 0) for place in range(SKETCH_COLUMNS)}
        assert made["pilot", day].flops.scoring > 0, "sketches are counted"
