"""The contract of every selection policy: fair, nested, blind to order, and corrected once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.selection.policy import Candidates, FeaturePolicy, LabelPolicy
from pipeline.selection.sampling import (
    Selected,
    evaluation_salt,
    keep_probabilities,
    keyed_uniform,
    select,
    selection_salt,
)
from pipeline.spec.config import All, Policy
from tests.selection.examples import Disputed, EveryStratum, LocalCaseControl

POLICIES: list[Policy] = [
    All(),
    *(
        NegativeDownsampling(rate=rate, correction=correction)  # type: ignore[arg-type]
        for rate in (0.01, 0.1, 0.5, 1.0)
        for correction in ("weight", "offset")
    ),
    *(
        OddsProportional(rate=rate, pilot="pilot", correction=correction)  # type: ignore[arg-type]
        for rate in (0.05, 0.3)
        for correction in ("weight", "offset")
    ),
    OddsProportional(rate=0.3, pilot="pilot", floor=0.3),
    Disputed(rate=0.2, one="a", other="b"),
    Disputed(rate=0.2, one="a", other="b", correction="weight"),
]
"""From features alone."""
LABEL_POLICIES = [LocalCaseControl(pilot="pilot"), LocalCaseControl(pilot="pilot", floor=0.5)]
"""From the label too."""
INDEPENDENT = [*POLICIES, *LABEL_POLICIES]
policies = pytest.mark.parametrize("policy", POLICIES, ids=repr)
independent = pytest.mark.parametrize("policy", INDEPENDENT, ids=repr)
seeds = st.integers(0, 2**31)
NUM_ROWS = 20_000


def rows(kind: str = "random", seed: int = 0, count: int = NUM_ROWS) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Ids as users have them, and labels."""
    random = np.random.default_rng(seed)
    ids = {
        "random": lambda: random.integers(0, 2**64, count, dtype=np.uint64),
        "counted": lambda: np.arange(count, dtype=np.uint64),
        "strided": lambda: np.arange(count, dtype=np.uint64) << np.uint64(40),
    }[kind]()
    return ids, (random.random(count) < 0.2).astype(np.uint8)


def pilot_logits(ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    """What a pilot says of the examples: odds that spread over four orders of magnitude."""
    return (10 * keyed_uniform(ids, salt=12345) - 7).astype(np.float32)


def seen(policy: Policy, ids: NDArray[np.uint64], window: NDArray[np.uint64] | None = None) -> Candidates:
    """What a policy sees of some rows of a window: its signals are functions of the ids."""
    rows = Candidates(ids, signals(policy, ids))
    if isinstance(policy, FeaturePolicy):
        tally = policy.tally(rows if window is None else Candidates(window, signals(policy, window)))
        rows = replace(rows, summary=None if tally is None else policy.summarize(tally))
    return rows


def signals(policy: Policy, ids: NDArray[np.uint64]) -> dict[str, NDArray[np.float32]]:
    found = {name: pilot_logits(ids ^ np.uint64(place << 7)) for place, name in enumerate(policy.reads())}
    return {n: 1 / (1 + np.exp(-z)) if n == "error" else z for n, z in found.items()}


def kept(
    policy: Policy,
    ids: NDArray[Any],
    labels: NDArray[Any],
    seed: int = 0,
    window: NDArray[Any] | None = None,
) -> Selected:
    return select(policy, seen(policy, ids, window), labels, salt=selection_salt(seed))


def probability(policy: Policy, ids: NDArray[np.uint64], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """That with which each row is kept."""
    if isinstance(policy, LabelPolicy):
        return np.broadcast_to(policy.keep_probability(seen(policy, ids), labels), len(ids))
    pi_0, pi_1 = keep_probabilities(policy, seen(policy, ids))
    return np.where(labels > 0, pi_1, pi_0)


@policies
def test_probabilities_are_probabilities_and_never_zero(policy: Policy) -> None:
    ids, _ = rows(count=100)
    for pi in keep_probabilities(policy, seen(policy, ids)):
        assert pi.shape == (100,)
        assert ((pi > 0) & (pi <= 1)).all()


@policies
def test_positives_are_all_kept_and_no_row_twice(policy: Policy) -> None:
    ids, labels = rows()
    index = kept(policy, ids, labels).index
    assert set(np.flatnonzero(labels)) <= set(index)
    assert (np.diff(index) > 0).all(), "ascending, so in time order and each once"


@independent
@pytest.mark.parametrize("kind", ["random", "counted", "strided"])
def test_the_asked_share_is_kept_whatever_the_ids_look_like(policy: Policy, kind: str) -> None:
    ids, labels = rows(kind)
    found = kept(policy, ids, labels)
    pi = probability(policy, ids, labels)
    noise = math.sqrt((pi * (1 - pi)).sum())
    assert abs(len(found.index) - pi.sum()) <= 4.5 * noise


@independent
@settings(max_examples=20, deadline=None)
@given(seed=seeds, order=st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_their_cut_decides(policy: Policy, seed: int, order: Any) -> None:
    ids, labels = rows(count=300)
    permutation = np.array(order.sample(range(300), 300))
    edges = [0, *sorted(order.sample(range(1, 300), 3)), 300]
    whole = kept(policy, ids, labels, seed)
    moved = kept(policy, ids[permutation], labels[permutation], seed)
    expected = {
        i: (w, o, p) for i, w, o, p in zip(whole.index, whole.weight, whole.offset, whole.importance, strict=True)
    }
    assert {
        permutation[i]: (w, o, p)
        for i, w, o, p in zip(moved.index, moved.weight, moved.offset, moved.importance, strict=True)
    } == expected
    parts = [a + kept(policy, ids[a:b], labels[a:b], seed, ids).index for a, b in zip(edges, edges[1:], strict=False)]
    assert np.array_equal(np.concatenate(parts), whole.index), "as many workers as one likes"


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    low=st.floats(1e-3, 1),
    high=st.floats(1e-3, 1),
    make=st.sampled_from(
        [
            lambda rate: NegativeDownsampling(rate=rate),
            lambda rate: OddsProportional(rate=rate, pilot="pilot"),
            lambda rate: OddsProportional(rate=rate, pilot="pilot", floor=1e-3),
        ]
    ),
)
def test_a_lower_rate_keeps_a_subset(seed: int, low: float, high: float, make: Any) -> None:
    low, high = sorted((low, high))
    ids, labels = rows(count=2_000)
    few, many = (kept(make(rate), ids, labels, seed).index for rate in (low, high))
    assert set(few) <= set(many) <= set(range(2_000))


@policies
def test_exactly_one_correction_and_the_same_for_either_label(policy: Policy) -> None:
    ids, labels = rows()
    found = kept(policy, ids, labels)
    samples = getattr(policy, "rate", 1) < 1
    weighted, shifted = (found.weight != 1).any(), (found.offset != 0).any()
    assert weighted + shifted == samples
    assert isinstance(policy, All) or weighted == (samples and policy.correction == "weight")  # type: ignore[attr-defined]
    other = kept(policy, ids, 1 - labels)
    _, ours, theirs = np.intersect1d(found.index, other.index, return_indices=True)
    assert np.array_equal(found.offset[ours], other.offset[theirs]), "an offset that differs by label tells the label"
    if isinstance(policy, NegativeDownsampling):
        assert np.unique(found.offset).size == 1
    pi_0 = keep_probabilities(policy, seen(policy, ids))[0][found.index]
    if getattr(policy, "correction", "") == "offset":
        assert found.offset == pytest.approx(-np.log(pi_0), abs=1e-6)
    negative = labels[found.index] == 0
    assert found.importance[negative] == pytest.approx(1 / pi_0[negative])
    assert (found.importance[~negative] == 1).all()


odds = pytest.mark.parametrize("policy", [p for p in POLICIES if isinstance(p, OddsProportional)], ids=repr)


@odds
def test_the_expected_share_of_negatives_is_the_rate(policy: OddsProportional) -> None:
    """Weighted by the pilot's own probability that a row is a negative; and so it is kept, if the pilot is right."""
    ids, _ = rows(count=50_000)
    p = 1 / (1 + np.exp(-pilot_logits(ids).astype(np.float64)))
    pi_0, _ = keep_probabilities(policy, seen(policy, ids))
    assert (pi_0 @ (1 - p)) / (1 - p).sum() == pytest.approx(policy.rate, rel=2e-3)
    labels = (np.random.default_rng(1).random(len(ids)) < p).astype(np.uint8)
    found = kept(policy, ids, labels)
    assert (labels[found.index] == 0).sum() / (labels == 0).sum() == pytest.approx(policy.rate, rel=0.05)


@odds
def test_what_the_pilot_finds_likelier_is_likelier_kept_within_floor_and_one(policy: OddsProportional) -> None:
    ids, _ = rows()
    rows_seen = seen(policy, ids)
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
    parts = [Candidates(moved[a:b], signals(policy, moved[a:b])) for a, b in zip(edges, edges[1:], strict=False)]
    tally = np.sum([policy.tally(part) for part in parts], axis=0)
    assert policy.summarize(tally) == seen(policy, ids).summary


@pytest.mark.parametrize("logit", [-1e30, -40.0, 0.0, 40.0, 1e30])
def test_pilots_that_are_sure_of_everything_still_give_the_rate(logit: float) -> None:
    policy = OddsProportional(rate=0.2, pilot="pilot")
    rows_seen = Candidates(np.arange(10, dtype=np.uint64), {"pilot": np.full(10, logit, np.float32)})
    rows_seen = replace(rows_seen, summary=policy.summarize(policy.tally(rows_seen)))
    pi_0, _ = keep_probabilities(policy, rows_seen)
    if abs(logit) < 32:
        assert pi_0 == pytest.approx(0.2, rel=2e-3)
    assert ((pi_0 >= 0.02) & (pi_0 <= 1)).all()


def test_an_empty_window_has_a_scale() -> None:
    policy = OddsProportional(rate=0.2, pilot="pilot")
    assert math.isfinite(seen(policy, np.empty(0, np.uint64)).summary)


@pytest.mark.parametrize("policy", LABEL_POLICIES, ids=repr)
def test_what_looks_at_the_label_has_a_weight_and_no_offset(policy: LabelPolicy) -> None:
    """The row's own keep probability as an offset would tell the model its label."""
    ids, labels = rows()
    found = kept(policy, ids, labels)
    assert not found.offset.any()
    assert np.array_equal(found.weight, found.importance)
    with pytest.raises(TypeError, match="no probability for the label that a row does not have"):
        keep_probabilities(policy, seen(policy, ids))


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


@independent
def test_weighted_sums_are_unbiased_over_salts(policy: Policy) -> None:
    """Horvitz and Thompson: the mean over salts of a weighted sum is the sum over all rows."""
    ids, labels = rows(count=2_000)
    figure = np.where(labels > 0, 3.0, 1.0) + np.sin(np.arange(2_000))
    estimates = []
    for seed in range(300):
        found = kept(policy, ids, labels, seed)
        estimates.append(float(found.importance @ figure[found.index]))
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - figure.sum()) < 4.5 * error + 1e-3


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
