"""The contract of every selection policy: fair, nested, blind to order, and corrected once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipeline.selection.policies.coreset import Coreset
from pipeline.selection.policies.density import Density
from pipeline.selection.policies.distilled import Distilled
from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.forgetting import Forgetting
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.local_case_control import LocalCaseControl
from pipeline.selection.policies.low_loss import LowLoss
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.selection.policies.product import Product
from pipeline.selection.policies.recency import Recency
from pipeline.selection.policies.stages import Stages
from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import Candidates
from pipeline.selection.sampling import evaluation_salt, keep_probabilities, selection_salt
from pipeline.spec.config import All, Policy, Selection
from pipeline.spec.window import Window
from pipeline.storage.hashing import keyed_uniform
from pipeline.studies.results import kappa_of
from tests.selection import contract
from tests.selection.contract import CONTRACT, NUM_ROWS, kept, looked_at, pilot_logits, probability, rows, seen
from tests.selection.examples import (
    Admitting,
    Biased,
    Disputed,
    EveryStratum,
    FromTheFuture,
    Leaking,
    NeverTheSame,
    NoChance,
    OrderDependent,
    SoftAsItsLabel,
    Surprising,
    Understating,
    Unseeded,
)

CORRECTIONS: tuple[Any, ...] = ("weight", "offset")
ALL_CLICKS: list[Policy] = [
    All(),
    *(NegativeDownsampling(rate=rate, correction=way) for rate in (0.01, 0.1, 0.5, 1.0) for way in CORRECTIONS),
    *(OddsProportional(rate=rate, pilot="my_pilot", correction=way) for rate in (0.05, 0.3) for way in CORRECTIONS),
    OddsProportional(rate=0.3, pilot="my_pilot", floor=0.3),
    Disputed(rate=0.2, one="one_of_mine", other="other_of_mine"),
    Disputed(rate=0.2, one="one_of_mine", other="other_of_mine", correction="weight"),
    Product(of=(NegativeDownsampling(rate=0.5), OddsProportional(rate=0.3, pilot="my_pilot"))),
]
"""They keep every click."""
FEATURES = ("C1", "C2", "C3")
POLICIES: list[Policy] = [
    *ALL_CLICKS,
    *(NegativeDownsampling(rate=0.02, clicks=0.3, correction=way) for way in CORRECTIONS),
    *(Uniform(rate=0.1, correction=way) for way in CORRECTIONS),
    *(LocalCaseControl(rate=rate, pilot="my_pilot", correction=way) for rate in (0.05, 0.4) for way in CORRECTIONS),
    *(Density(rate=0.2, features=FEATURES, power=power) for power in (0.5, 1.0)),
    Product(of=(Uniform(rate=0.5), LocalCaseControl(rate=0.4, pilot="my_pilot")), correction="weight"),
    Stages(of=(NegativeDownsampling(rate=0.3), Grand(rate=0.5, pilot="my_pilot"))),
    Stages(of=(Density(rate=0.5, features=FEATURES), LowLoss(rate=0.4, pilot="my_pilot"), Uniform(rate=0.5))),
    El2n(rate=0.1, pilot="my_pilot"),
    El2n(rate=0.3, pilot="my_pilot", floor=0.3),
    *(Distilled(rate=rate, pilot="my_pilot") for rate in (0.01, 0.3)),
    Forgetting(rate=0.1, pilot="my_pilot"),
    Forgetting(rate=0.4, pilot="my_pilot", passes=8, propensity="C1", floor=0.01),
    Grand(rate=0.1, pilot="my_pilot"),
    Grand(rate=0.3, pilot="my_pilot", floor=0.01),
    LowLoss(rate=0.1, pilot="my_pilot"),
    LowLoss(rate=0.5, pilot="my_pilot", floor=0.01),
    Surprising(pilot="my_pilot"),
    EveryStratum(count=50),
    *(Coreset(rate=rate, pilot="my_pilot") for rate in (0.02, 0.1, 0.5)),
]
BROKEN: list[tuple[Any, Policy, set[Any]]] = [
    (contract.gives_every_row_a_chance, NoChance(), {contract.stands_for_all_rows}),
    (contract.hides_the_label, Leaking(), set()),
    (contract.stands_for_all_rows, Biased(), {contract.is_seeded}),
    (contract.stands_for_all_rows, Understating(), {contract.is_seeded}),
    (contract.stands_for_all_rows, Admitting(), {contract.is_seeded}),
    (contract.is_seeded, Unseeded(), {contract.stands_for_all_rows}),
    (contract.is_blind_to_order_and_workers, OrderDependent(), set()),
    (contract.asks_no_later_model, FromTheFuture(), set()),
    (contract.softens_within_reason, SoftAsItsLabel(), set()),
    (contract.is_what_it_is_in_each_window, NeverTheSame(), set()),
]
"""The check that each of them breaks, and those that it breaks besides."""
seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_every_policy_holds_the_contract(policy: Policy, check: Any) -> None:
    check(policy)


@pytest.mark.parametrize(("check", "policy", "besides"), BROKEN, ids=[policy.kind for _, policy, _ in BROKEN])
def test_a_broken_policy_fails_the_check_that_it_breaks_and_holds_the_others(
    check: Any, policy: Policy, besides: set[Any]
) -> None:
    for each in CONTRACT:
        if each is check or each in besides:
            with pytest.raises(AssertionError):
                each(policy)
        else:
            each(policy)


@pytest.mark.parametrize("policy", ALL_CLICKS, ids=repr)
def test_positives_are_all_kept(policy: Policy) -> None:
    ids, labels = rows()
    assert set(np.flatnonzero(labels)) <= set(kept(policy, ids, labels).index)


def test_each_label_has_its_own_rate() -> None:
    ids, labels = rows(count=200_000)
    found = labels[kept(NegativeDownsampling(rate=0.05, clicks=0.4), ids, labels).index]
    assert (found > 0).sum() / (labels > 0).sum() == pytest.approx(0.4, rel=0.03)
    assert (found == 0).sum() / (labels == 0).sum() == pytest.approx(0.05, rel=0.03)
    assert NegativeDownsampling(rate=0.05, clicks=0.4).share(0.2) == pytest.approx(0.2 * 0.4 + 0.8 * 0.05)


def test_a_sample_with_all_clicks_is_written_as_it_always_was() -> None:
    document = NegativeDownsampling(rate=0.1).model_dump(mode="json")
    assert document == {"kind": "negatives", "scope": "continuous", "correction": "offset", "rate": 0.1}
    assert NegativeDownsampling(rate=0.1, clicks=0.5).model_dump(mode="json") == {**document, "clicks": 0.5}


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.6])
@pytest.mark.parametrize(
    "make",
    [
        lambda rate: El2n(rate=rate, pilot="my_pilot"),
        lambda rate: Grand(rate=rate, pilot="my_pilot"),
        lambda rate: Forgetting(rate=rate, pilot="my_pilot"),
        lambda rate: Forgetting(rate=rate, pilot="my_pilot", propensity="C1"),
        lambda rate: LowLoss(rate=rate, pilot="my_pilot"),
        lambda rate: Density(rate=rate, features=FEATURES),
    ],
)
def test_the_budget_is_kept(make: Any, rate: float) -> None:
    ids, labels = rows()
    assert probability(make(rate), ids, labels).mean() == pytest.approx(rate, rel=5e-3)


def test_local_case_control_keeps_its_budget_where_the_pilot_is_right() -> None:
    ids, _ = rows(count=100_000)
    click = 1 / (1 + np.exp(-pilot_logits(ids).astype(np.float64)))
    labels = (np.random.default_rng(1).random(len(ids)) < click).astype(np.uint8)
    policy = LocalCaseControl(rate=0.1, pilot="my_pilot")
    assert probability(policy, ids, labels).mean() == pytest.approx(0.1, rel=0.03)
    found = kept(policy, ids, labels)
    both = np.stack(keep_probabilities(policy, seen(policy, ids, labels)))[:, found.index]
    free = ((both > policy.least) & (both < 1)).all(axis=0)
    assert free.mean() > 0.5
    assert found.offset[free] == pytest.approx(-pilot_logits(ids)[found.index][free], abs=1e-4), (
        "Fithian and Hastie 2014"
    )


def test_common_examples_are_kept_less_often_than_rare_ones() -> None:
    ids, labels = rows()
    policy = Density(rate=0.1, features=FEATURES)
    table = looked_at(policy, ids, labels).columns
    common = np.all([table.column(name).to_numpy() == 0 for name in FEATURES], axis=0)
    pi = probability(policy, ids, labels)
    assert pi[common].mean() < 0.7 * pi[~common].mean()


def test_what_is_forgotten_more_often_and_what_is_seldom_shown_is_likelier_kept() -> None:
    ids, labels = rows()
    plain = Forgetting(rate=0.1, pilot="my_pilot", floor=1e-3)
    pi, counts = probability(plain, ids, labels), looked_at(plain, ids, labels).signals["pilot"]
    assert [pi[counts == count].mean() / pi[counts == 0].mean() for count in range(4)] == pytest.approx([1, 2, 3, 4])
    tail = plain.model_copy(update={"propensity": "C1"})
    found = looked_at(tail, ids, labels)
    assert found.columns is not None
    item = found.columns.column("C1").to_numpy()
    f = np.bincount(item)[item]
    scarce = (math.log(NUM_ROWS) - 1) * 2.5**0.55
    score = (counts + 1) * (1 + scarce * (f + 1.5) ** -0.55)
    assert probability(tail, ids, labels) == pytest.approx(0.1 * score / score.mean(), rel=1e-6), "Jain et al. 2016"


def test_forgetting_takes_a_pilot_in_training_and_a_column_of_ids() -> None:
    with pytest.raises(
        ValueError, match="only a pilot that trains on a window forgets .*, got a pilot_age of 2: leave it out"
    ):
        Forgetting(rate=0.1, pilot="my_pilot", pilot_age=2)
    policy = Forgetting(rate=0.1, pilot="my_pilot", propensity="I1")
    seen_rows = Candidates(
        np.arange(2, dtype=np.uint64), {"pilot": np.zeros(2, np.float32)}, pa.table({"I1": [0.5, 1.5]})
    )
    with pytest.raises(ValueError, match="ids of a categorical column, got I1, which is double: name another, or none"):
        policy.tally(seen_rows)


def test_recency_halves_with_each_half_life_before_its_day() -> None:
    policy, day = Recency(until="2024-03-01", half_life=7), Window.of("2024-03-01")
    assert policy.in_window(day, online=True) == policy.in_window(day.shift(5), online=True) == All()
    assert policy.in_window(day.shift(-7), online=False) == Uniform(rate=0.5)
    assert policy.in_window(day.shift(-28), online=False) == Uniform(rate=1 / 16)
    assert policy.in_window(day.shift(-700), online=False) == Uniform(rate=0.01), "never none at all"


def test_before_its_pilot_is_there_a_policy_is_corrected_as_after_it() -> None:
    day = Window.of("2024-03-01")
    for way in CORRECTIONS:
        control = LocalCaseControl(rate=0.1, pilot="my_pilot", since=day, correction=way)
        assert control.in_window(day.shift(-1), online=False) == Uniform(rate=0.1, correction=way)
        odds = OddsProportional(rate=0.1, pilot="my_pilot", since=day, correction=way)
        assert odds.in_window(day.shift(-1), online=False) == NegativeDownsampling(rate=0.1, correction=way)
    assert El2n(rate=0.1, pilot="my_pilot", since=day).in_window(day.shift(-1), online=False) == Uniform(rate=0.1, correction="weight")  # fmt: skip
    assert El2n(rate=0.1, pilot="my_pilot", since=day).in_window(day, online=False).kind == "el2n"


def test_theory_is_silent_where_clicks_are_left_out_or_columns_are_looked_at() -> None:
    logits = np.linspace(-6, -1, 500)
    assert kappa_of(NegativeDownsampling(rate=0.1), logits) == pytest.approx(2, abs=1)
    for policy in (
        Uniform(rate=0.1),
        LocalCaseControl(rate=0.1, pilot="my_pilot"),
        Density(rate=0.1, features=FEATURES),
    ):
        assert kappa_of(policy, logits) is None


def test_density_of_what_is_no_category_is_refused() -> None:
    table = pa.table({"I1": [0.5, 1.5], "C1": [1, 2]})
    rows_seen = Candidates(np.arange(2, dtype=np.uint64), {}, table)
    with pytest.raises(ValueError, match="density is of categorical columns, got I1: leave them out"):
        Density(rate=0.1, features=("I1", "C1")).tally(rows_seen)


def test_a_product_refuses_what_it_cannot_multiply() -> None:
    with pytest.raises(ValueError, match="a product is of policies that look at features alone, got el2n"):
        read({"kind": "product", "of": [{"kind": "uniform", "rate": 0.5}, {"kind": "el2n", "rate": 0.1, "pilot": "p"}]})
    odds = {"kind": "odds", "rate": 0.5, "pilot": "p"}
    with pytest.raises(ValueError, match="one policy of a product may look at the whole window first, got odds, odds"):
        read({"kind": "product", "of": [odds, odds]})


def test_a_stage_keeps_its_rate_of_what_those_before_it_kept() -> None:
    """Whether or not these are like all others: of a product's rate nobody can say how many rows it leaves."""
    ids, labels = rows(count=100_000)
    first, second = NegativeDownsampling(rate=0.1), El2n(rate=0.3, pilot="my_pilot")
    before, both = kept(first, ids, labels), kept(Stages(of=(first, second)), ids, labels)
    assert set(both.index) <= set(before.index)
    assert len(both.index) / len(before.index) == pytest.approx(0.3, rel=0.03)
    alone = probability(second, ids, labels)[before.index].mean()
    assert alone > 0.4, "on the whole window's scale it would keep more of them"
    assert both.importance.min() >= 1


def test_stages_are_of_policies_with_probabilities_and_not_of_stages() -> None:
    for part in (
        {"kind": "coreset", "rate": 0.1, "pilot": "p"},
        {"kind": "stages", "of": [{"kind": "uniform", "rate": 0.5}] * 2},
    ):
        with pytest.raises(ValueError, match=f"a probability for each example, got {part['kind']}: leave it out"):
            read({"kind": "stages", "of": [{"kind": "uniform", "rate": 0.5}, part]})
    policy = read(
        {"kind": "stages", "of": [{"kind": "negatives", "rate": 0.5}, {"kind": "el2n", "rate": 0.1, "pilot": "p"}]}
    )
    here = policy.in_window(Window.of("2024-03-01"), online=True)
    assert here.of[1].pilot == "pilot"
    assert here.reads().keys() == policy.reads().keys() == {"1_pilot"}
    assert policy.columns == ("label",)


def test_a_product_is_in_each_window_what_its_parts_are() -> None:
    recent = {"kind": "recency", "until": "2024-03-01", "half_life": 7}
    policy = read({"kind": "product", "of": [recent, {"kind": "odds", "rate": 0.1, "pilot": "p"}]})
    day = Window.of("2024-03-01")
    early, late = (policy.in_window(each, online=False) for each in (day.shift(-7), day))
    assert [part.kind for part in early.of] == ["uniform", "odds"]
    assert [part.kind for part in late.of] == ["all", "odds"]
    assert policy.reads().keys() == early.reads().keys() == late.reads().keys() == {"1_pilot"}
    assert early.of[1].pilot == "pilot", "an identity has no names of variants"


def read(document: dict[str, Any]) -> Any:
    return TypeAdapter(Selection).validate_python(document)


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    low=st.floats(1e-3, 1),
    high=st.floats(1e-3, 1),
    make=st.sampled_from(
        [
            lambda rate: NegativeDownsampling(rate=rate),
            lambda rate: NegativeDownsampling(rate=rate, clicks=rate),
            lambda rate: Uniform(rate=rate),
            lambda rate: El2n(rate=rate, pilot="my_pilot"),
            lambda rate: Grand(rate=rate, pilot="my_pilot"),
            lambda rate: Forgetting(rate=rate, pilot="my_pilot", propensity="C1"),
            lambda rate: LowLoss(rate=rate, pilot="my_pilot"),
            lambda rate: LocalCaseControl(rate=rate, pilot="my_pilot"),
            lambda rate: Density(rate=rate, features=FEATURES),
            lambda rate: OddsProportional(rate=rate, pilot="my_pilot"),
            lambda rate: OddsProportional(rate=rate, pilot="my_pilot", floor=1e-3),
        ]
    ),
)
def test_a_lower_rate_keeps_a_subset(seed: int, low: float, high: float, make: Any) -> None:
    low, high = sorted((low, high))
    ids, labels = rows(count=2_000)
    few, many = (kept(make(rate), ids, labels, seed).index for rate in (low, high))
    assert set(few) <= set(many) <= set(range(2_000))


def none(ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Labels of examples without a click."""
    return np.zeros(len(ids), np.uint8)


odds = pytest.mark.parametrize("policy", [p for p in ALL_CLICKS if isinstance(p, OddsProportional)], ids=repr)


@odds
def test_the_expected_share_of_negatives_is_the_rate(policy: OddsProportional) -> None:
    """Weighted by the pilot's own probability that a row is a negative; and so it is kept, if the pilot is right."""
    ids, _ = rows(count=50_000)
    p = 1 / (1 + np.exp(-pilot_logits(ids).astype(np.float64)))
    pi_0, _ = keep_probabilities(policy, seen(policy, ids, none(ids)))
    assert (pi_0 @ (1 - p)) / (1 - p).sum() == pytest.approx(policy.rate, rel=2e-3)
    labels = (np.random.default_rng(1).random(len(ids)) < p).astype(np.uint8)
    found = kept(policy, ids, labels)
    assert (labels[found.index] == 0).sum() / (labels == 0).sum() == pytest.approx(policy.rate, rel=0.05)


@odds
def test_what_the_pilot_finds_likelier_is_likelier_kept_within_floor_and_one(policy: OddsProportional) -> None:
    ids, _ = rows()
    rows_seen = seen(policy, ids, none(ids))
    logit = rows_seen.signals["pilot"]
    pi_0, pi_1 = keep_probabilities(policy, rows_seen)
    assert (np.diff(pi_0[np.argsort(logit)]) >= 0).all()
    assert (pi_0 >= policy.least).all()
    assert (pi_1 == 1).all()
    within = (pi_0 > policy.least) & (pi_0 < 1)
    assert np.allclose(np.log(pi_0[within]) - logit[within], rows_seen.summary, atol=1e-6)


@odds
@given(cuts=st.lists(st.integers(0, 500), max_size=5), order=st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_scale_is_bit_for_bit_the_same_for_any_order_and_workers(
    policy: OddsProportional, cuts: list[int], order: Any
) -> None:
    ids = rows(count=500)[0]
    moved = ids[np.array(order.sample(range(500), 500))]
    edges = [0, *sorted(cuts), 500]
    parts = [looked_at(policy, moved[a:b], none(moved[a:b])) for a, b in zip(edges, edges[1:], strict=False)]
    tally = np.sum([policy.tally(part) for part in parts], axis=0)
    assert policy.summarize(tally) == seen(policy, ids, none(ids)).summary


@pytest.mark.parametrize("logit", [-1e30, -40.0, 0.0, 40.0, 1e30])
def test_pilots_that_are_sure_of_everything_still_give_the_rate(logit: float) -> None:
    policy = OddsProportional(rate=0.2, pilot="my_pilot")
    rows_seen = Candidates(np.arange(10, dtype=np.uint64), {"pilot": np.full(10, logit, np.float32)})
    rows_seen = replace(rows_seen, summary=policy.summarize(policy.tally(rows_seen)))
    pi_0, _ = keep_probabilities(policy, rows_seen)
    if abs(logit) < 32:
        assert pi_0 == pytest.approx(0.2, rel=2e-3)
    assert ((pi_0 >= 0.02) & (pi_0 <= 1)).all()


def test_an_empty_window_has_a_scale() -> None:
    policy = OddsProportional(rate=0.2, pilot="my_pilot")
    assert math.isfinite(seen(policy, *rows(count=0)).summary)


def test_a_joint_choice_is_seeded_and_its_weights_stand_for_all_rows() -> None:
    ids, labels = rows()
    policy = EveryStratum(count=50)
    found = kept(policy, ids, labels, seed=1)
    assert len(found.index) == 100
    assert (np.diff(found.index) > 0).all()
    assert found.weight.sum() == pytest.approx(len(ids), rel=1e-5)
    assert not found.offset.any()
    assert np.array_equal(found.index, kept(policy, ids, labels, seed=1).index)
    assert not np.array_equal(found.index, kept(policy, ids, labels, seed=2).index)


def test_the_offset_is_the_shift_that_sampling_makes() -> None:
    """Among kept rows the log-odds of a click exceed those of all rows by the offset."""
    ids, labels = rows(count=200_000)
    found = kept(NegativeDownsampling(rate=0.1), ids, labels)
    before, after = (p.mean() for p in (labels, labels[found.index]))
    shift = math.log(after / (1 - after)) - math.log(before / (1 - before))
    assert shift == pytest.approx(float(found.offset[0]), abs=0.05)


def test_seeds_select_independently_and_so_does_evaluation() -> None:
    ids, _ = rows("counted", count=100_000)
    salts = [selection_salt(0), selection_salt(1), evaluation_salt(0), evaluation_salt(1)]
    assert len(set(salts)) == 4
    draws = np.stack([keyed_uniform(ids, salt) for salt in salts])
    off_diagonal = np.corrcoef(draws)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(100_000)
    low = draws < 0.1
    for one in range(4):
        for other in range(one):
            both = (low[one] & low[other]).mean()
            assert both == pytest.approx(0.01, abs=0.0015), "no more in common than chance brings"


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(0, 2**64 - 1))
def test_a_draw_lies_in_the_half_open_unit_interval(ids: list[int], salt: int) -> None:
    draws = keyed_uniform(np.array(ids, np.uint64), salt)
    assert ((draws >= 0) & (draws < 1)).all()


def test_draws_are_uniform() -> None:
    for kind in ("random", "counted", "strided"):
        draws = keyed_uniform(rows(kind)[0], selection_salt(7))
        counts = np.histogram(draws, 50, (0, 1))[0]
        expected = NUM_ROWS / 50
        assert ((counts - expected) ** 2 / expected).sum() < 100, kind  # chi-squared with 49 degrees of freedom


def test_what_is_selected_today_is_selected_tomorrow() -> None:
    """Pinned: a change would silently resample every chain; it needs a new semantics version."""
    ids = np.arange(40, dtype=np.uint64)
    found = kept(NegativeDownsampling(rate=0.25), ids, np.zeros(40, np.uint8), seed=3)
    assert found.index.tolist() == [1, 5, 6, 12, 27, 35, 37]
