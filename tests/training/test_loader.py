"""From a window to batches: every row exactly once whatever the number of workers, in time order, to the window's end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import WindowManifest, read_schema
from pipeline.data.share import Share
from pipeline.data.simulator import Simulator
from pipeline.selection import stored as stored_module
from pipeline.selection.policies.density import Density
from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.selection.policies.stages import Stages
from pipeline.selection.stored import SelectionStore
from pipeline.spec.config import All, Policy
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.hashing import keyed_uniform
from pipeline.storage.lake import Lake
from pipeline.training.batch import Bags, Rows
from pipeline.training.loader import (
    BatchSizeError,
    Schedule,
    agree,
    batches,
    count_evaluated,
    count_selected,
    evaluation_rows,
    passed_over_rows,
    prefetch,
    selected_rows,
)
from pipeline.training.models.features import Features
from pipeline.training.train import interleave
from tests.selection.examples import EveryStratum
from tests.trained import DATASET, DAY, as_workers, publish, stored

POLICIES: list[Policy] = [
    All(),
    NegativeDownsampling(rate=0.3, correction="weight"),
    NegativeDownsampling(rate=0.02, correction="offset"),
]
policies = pytest.mark.parametrize("policy", POLICIES, ids=str)
worlds = pytest.mark.parametrize("world_size", [1, 2, 3, 7])
FEATURES = Features(Simulator(SimulatorConfig.tiny(num_lists=1, cluster=True)).schema)
Made = tuple[Lake, WindowManifest]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A window of 517 rows: several row groups, the last of them short."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    return lake, publish(lake, [DAY], group=60, rows_per_window=517)[0]


def shares(window: Made, world_size: int) -> list[Share]:
    return [Share(*window, rank, world_size) for rank in range(world_size)]


def rows_of(share: Share, policy: Policy, soft: Any = None) -> Iterator[Rows]:
    """This worker's selected rows, from a selection that was stored by one worker."""
    return selected_rows(share, FEATURES, stored(share.lake, share.manifest, policy), soft)


def joined(parts: Iterator[Rows]) -> Rows:
    return Rows.concat(list(parts))


def as_python(rows: Rows) -> list[tuple[Any, ...]]:
    """Rows as plain values, one tuple each."""
    lists = [
        [bag.values[a:b].tolist() for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)] for bag in rows.bags
    ]
    names = ("example_id", "position", "label", "importance", "weight", "offset", "soft_logit")
    columns = [getattr(rows, name).tolist() for name in names]
    return list(zip(*columns, map(tuple, rows.dense.tolist()), *rows.ids.tolist(), *lists, strict=True))


@policies
@worlds
def test_workers_together_have_the_selected_rows_once(window: Made, policy: Policy, world_size: int) -> None:
    whole = joined(rows_of(shares(window, 1)[0], policy))
    parts = [joined(rows_of(each, policy)) for each in shares(window, world_size)]
    together = sorted((row for part in parts for row in as_python(part)), key=lambda row: row[1])
    assert together == as_python(whole)
    kept = stored(*window, policy)
    counts = [count_selected(each, kept) for each in shares(window, world_size)]
    assert counts == [len(part) for part in parts]
    assert all((np.diff(part.position) > 0).all() for part in parts), "in time order on every worker"


@pytest.mark.parametrize("policy", POLICIES[1:], ids=str)
@worlds
def test_what_is_not_selected_is_passed_over(window: Made, policy: Policy, world_size: int) -> None:
    seen = []
    kept = stored(*window, policy)
    assert kept is not None
    for each in shares(window, world_size):
        rest = joined(passed_over_rows(each, FEATURES, kept))
        assert (rest.weight == 0).all()
        seen += [*rest.position.tolist(), *joined(rows_of(each, policy)).position.tolist()]
    assert sorted(seen) == list(range(517))


def pilot_logits(group: int, ids: Any) -> Any:
    """What a pilot says, by the examples' ids alone."""
    return (10 * keyed_uniform(ids, salt=7) - 7).astype(np.float32)


def pilot_errors(group: int, ids: Any) -> Any:
    """How far a pilot was off, by the examples' ids alone."""
    return keyed_uniform(ids, salt=8).astype(np.float32)


@worlds
@pytest.mark.parametrize(
    ("policy", "signals"),
    [
        (NegativeDownsampling(rate=0.02), {}),
        (OddsProportional(rate=0.3, pilot="pilot"), {"pilot": pilot_logits}),
        (OddsProportional(rate=0.3, pilot="pilot", correction="weight"), {"pilot": pilot_logits}),
        (EveryStratum(count=40), {}),
        (
            Stages(of=(Density(rate=0.5, features=("C1", "C2")), El2n(rate=0.4, pilot="pilot"))),
            {"1_pilot": pilot_errors},
        ),
    ],
    ids=["uniform", "odds", "odds by weight", "joint", "stages"],
)
def test_a_selection_is_the_same_whoever_stores_it(
    window: Made, policy: Policy, signals: Any, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, manifest = window
    whole = stored(lake, manifest, policy, signals=signals)
    assert whole is not None
    schema = read_schema(lake, DATASET, manifest.schema_key)
    given = {name: ("0" * 64, column) for name, column in signals.items()}
    store = SelectionStore(lake, DATASET)

    def work(rank: int) -> Any:
        return store.make(Share(lake, manifest, rank, world_size), schema, policy, 0, given)

    reported = as_workers(monkeypatch, stored_module, world_size, work)
    assert all(each == reported[0] for each in reported), "every worker reports the same"
    assert (reported[0].key, reported[0].digest, reported[0].counts) == (whole.key, whole.digest, whole.counts)
    rows = [as_python(joined(selected_rows(Share(lake, manifest), FEATURES, each))) for each in (reported[0], whole)]
    assert rows[0] == rows[1]
    assert [row[1] for row in rows[0]] == sorted(row[1] for row in rows[0]), "in the window's order"


@policies
@worlds
@pytest.mark.parametrize("batch_size", [42, 420])
def test_batches_conserve_rows_and_every_row_weighs_alike(
    window: Made, policy: Policy, world_size: int, batch_size: int
) -> None:
    """The mean over workers of their gradients is the mean over the step's rows: no row counts more on a busy worker."""
    parts = shares(window, world_size)
    kept = stored(*window, policy)
    counts = tuple((count_selected(each, kept),) for each in parts)
    schedule = Schedule(counts, batch_size // world_size)
    made = [list(batches([rows_of(each, policy)], schedule, each, FEATURES)) for each in parts]
    assert {len(each) for each in made} == {schedule.num_updates}, "a missing batch would hang the others"
    found = []
    for step in zip(*made, strict=True):
        sizes = {len(batch.label) for batch, _ in step}
        assert len(sizes) == 1
        assert sizes.pop() <= batch_size // world_size
        own = [rows for _, rows in step if rows is not None]
        num_rows = sum(map(len, own))
        assert 0 < num_rows <= batch_size
        total = sum(float(batch.weight.sum()) for batch, _ in step) / world_size
        assert total == pytest.approx(sum(float(rows.weight.sum()) for rows in own) / num_rows, rel=1e-5)
        found += [p for rows in own for p in rows.position.tolist()]
        for batch, rows in step:
            count = 0 if rows is None else len(rows)
            assert not batch.weight[count:].any(), "padding has no weight"
    assert sorted(found) == joined(rows_of(shares(window, 1)[0], policy)).position.tolist()


def test_a_worker_with_too_few_or_too_many_rows_ends_the_pass(window: Made) -> None:
    share = shares(window, 1)[0]
    for claimed, message in (
        (518, "fewer rows than were agreed"),
        (516, "more rows than the ..516,.,. that were agreed"),
    ):
        with pytest.raises(RuntimeError, match=message):
            list(batches([rows_of(share, All())], Schedule(((claimed,),), 100), share, FEATURES))


def test_an_empty_selection_makes_no_batch(window: Made) -> None:
    share = shares(window, 1)[0]
    assert list(batches([iter(())], Schedule(((0,),), 100), share, FEATURES)) == []
    assert list(batches([iter(())], Schedule(((0,), (3,)), 2), share, FEATURES))[0][1] is None


@given(st.integers(1, 500), st.integers(1, 20))
def test_a_batch_that_cannot_be_dealt_is_refused(batch_size: int, world_size: int) -> None:
    if batch_size % world_size:
        with pytest.raises(BatchSizeError, match=f"to {world_size} workers: choose a multiple of {world_size}"):
            agree(7, batch_size, world_size)
    elif world_size == 1:
        assert agree(7, batch_size, 1) == Schedule(((7,),), batch_size)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.integers(1, 30))
def test_a_schedule_deals_exactly_what_each_worker_has(counts: list[int], per_worker: int) -> None:
    schedule = Schedule(tuple((count,) for count in counts), per_worker)
    dealt = [[own for (own,) in schedule.real_rows(step)] for step in range(schedule.num_updates)]
    assert [sum(column) for column in zip(*dealt, strict=True)] == (counts if dealt else [])
    assert all(max(step) > 0 for step in dealt)
    for column in zip(*dealt, strict=True):
        assert max(column) <= per_worker
        assert max(column) - min(column) <= 1, "no window ends on a batch of a few rows, whose gradient is all noise"


@worlds
def test_the_evaluation_slice_is_the_same_whatever_else_is_chosen(window: Made, world_size: int) -> None:
    for max_rows in (100, 516, 517, 10_000):
        whole = joined(evaluation_rows(shares(window, 1)[0], FEATURES, max_rows=max_rows, seed=0))
        parts = [
            joined(evaluation_rows(each, FEATURES, max_rows=max_rows, seed=0)) for each in shares(window, world_size)
        ]
        counts = [count_evaluated(each, max_rows=max_rows, seed=0) for each in shares(window, world_size)]
        assert counts == [len(part) for part in parts]
        assert sorted(p for part in parts for p in part.position.tolist()) == whole.position.tolist()
        assert len(whole) == 517 if max_rows >= 517 else abs(len(whole) - max_rows) < 4.5 * np.sqrt(max_rows)
        assert (whole.weight == 1).all()
        assert (whole.importance == 1).all()


def test_evaluation_slices_nest_and_are_independent_of_what_is_trained_on(window: Made) -> None:
    share = shares(window, 1)[0]
    few, many = (set(joined(evaluation_rows(share, FEATURES, max_rows=n, seed=0)).position) for n in (150, 300))
    assert few < many
    other = set(joined(evaluation_rows(share, FEATURES, max_rows=150, seed=1)).position)
    assert other != few
    negatives = joined(rows_of(share, All())).label == 0
    trained = set(joined(rows_of(share, NegativeDownsampling(rate=0.3))).position)
    share_of = [np.mean([p in trained for p in slice_ if negatives[p]]) for slice_ in (few, set(range(517)))]
    assert share_of[0] == pytest.approx(share_of[1], abs=0.15)


class Thousandths:
    """A teacher whose logits are made of the examples' ids."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def __call__(self, group: int, ids: Any) -> Any:
        return (ids % 1000).astype(np.float32)

    def of_some(self, group: int, within: Any, ids: Any) -> Any:
        whole = self._share.read(group, ["example_id"]).column(0).to_numpy()
        assert np.array_equal(whole[within], ids), "the places are those of the row group"
        return self(group, whole)[within]


def test_a_teachers_logits_stay_with_their_rows(window: Made) -> None:
    share = shares(window, 1)[0]
    for policy in POLICIES:
        made = joined(rows_of(share, policy, Thousandths(share)))
        assert made.soft_logit.tolist() == (made.example_id % 1000).tolist()


def test_in_a_smaller_table_more_ids_share_a_row(window: Made) -> None:
    schema = Simulator(SimulatorConfig.tiny(num_lists=1, cluster=True)).schema
    smaller = Features(schema, table_share=0.3)
    share = shares(window, 1)[0]
    whole, folded = (joined(selected_rows(share, features, None)) for features in (FEATURES, smaller))
    bags = smaller.embedding_bags(8).embedding_bag_configs()
    for place, (feature, table) in enumerate(zip(schema.categorical, bags, strict=False)):
        assert table.num_embeddings == -(-feature.hash_size * 3 // 10)
        assert np.array_equal(folded.ids[place], whole.ids[place] % table.num_embeddings)
        assert len(np.unique(folded.ids[place])) < len(np.unique(whole.ids[place]))
    assert np.array_equal(folded.bags[0].values, whole.bags[0].values % bags[-1].num_embeddings)
    assert np.array_equal(folded.bags[0].offsets, whole.bags[0].offsets)


def test_row_groups_are_dealt_over_several_parts(tmp_path: Path) -> None:
    from pipeline.data.dataset import publish_window

    simulator = Simulator(SimulatorConfig.tiny(rows_per_window=130, num_lists=1, cluster=True))
    lake = Lake(str(tmp_path))
    manifest = publish_window(
        lake, "sim", DAY, simulator.schema, simulator.window(DAY), row_group_size=20, part_rows=40
    )
    assert len(manifest.parts) == 4
    starts = Share(lake, manifest).starts().tolist()
    assert starts == [0, 20, 40, 60, 80, 100, 120, 130]
    whole = joined(rows_of(Share(lake, manifest), All()))
    assert whole.position.tolist() == list(range(130))


lists = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=12)


def bags(of: list[list[int]]) -> Bags:
    flat = np.array([entry for each in of for entry in each], np.int32)
    return Bags(flat, np.cumsum([0, *map(len, of)]).astype(np.int64))


def as_lists(of: Bags) -> list[list[int]]:
    return [of.values[a:b].tolist() for a, b in zip(of.offsets, of.offsets[1:], strict=False)]


@settings(max_examples=60, deadline=None)
@given(of=lists, data=st.data())
def test_bags_are_cut_as_lists_are(of: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(of) - 1), max_size=9)) if of else []
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(of))] * 2)))
    taken = bags(of).take(np.array(index, np.int64))
    assert as_lists(taken) == [of[i] for i in index]
    assert as_lists(bags(of).slice(start, stop)) == of[start:stop]
    assert as_lists(Bags.concat([bags(of[:start]), bags(of[start:stop]), bags(of[stop:])])) == of
    for made in (taken, bags(of).slice(start, stop)):
        assert (made.offsets[0], made.offsets[-1]) == (0, len(made.values))
        assert (made.values.dtype, made.offsets.dtype) == (np.int32, np.int64)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_are_cut_as_tuples_are(window: Made, data: st.DataObject) -> None:
    rows = next(rows_of(shares(window, 1)[0], All()))
    plain = as_python(rows)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))
    assert as_python(rows.take(np.array(index, np.int64))) == [plain[i] for i in index]
    assert as_python(rows.slice(start, stop)) == plain[start:stop]
    cut = [rows.slice(0, start), rows.slice(start, stop), rows.slice(stop, len(rows))]
    assert as_python(Rows.concat(cut)) == plain


@given(st.integers(0, 12), st.integers(0, 12))
def test_interleaving_loses_nothing_keeps_order_and_spreads(num_first: int, num_second: int) -> None:
    first: Any = [("a", n) for n in range(num_first)]
    second: Any = [("b", n) for n in range(num_second)]
    mixed: Any = list(interleave(iter(first), num_first, iter(second), num_second))
    assert [each for each in mixed if each[0] == "a"] == first
    assert [each for each in mixed if each[0] == "b"] == second
    for place, (kind, n) in enumerate(mixed):
        if kind == "a" and num_second:
            before = sum(1 for other, _ in mixed[:place] if other == "b")
            assert abs(before - num_second * n / num_first) <= 1


def test_prefetched_items_are_the_same_and_so_are_their_errors() -> None:
    assert list(prefetch(range(20), depth=3)) == list(range(20))
    assert list(prefetch([], depth=3)) == []

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk went away")

    items = prefetch(broken(), depth=2)
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk went away"):
        next(items)
