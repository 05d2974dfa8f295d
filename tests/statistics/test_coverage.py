"""Intervals hold the truth as often as they promise, tests raise no more false alarms than they say, and see what they claim."""

from __future__ import annotations

import pytest

from benchmarks import coverage
from benchmarks.simulated_studies import TRUTHS

CONVERGING = [truth for truth in TRUTHS if truth.crossing(30) < 30]
NEVER = [truth for truth in TRUTHS if truth.crossing(30) > 30]
NUM = 1000


@pytest.mark.slow
@pytest.mark.parametrize("truth", CONVERGING, ids=lambda t: t.name)
def test_95_of_100_intervals_hold_the_window_of_convergence(truth: coverage.Truth) -> None:
    assert 0.93 <= coverage.of_convergence(truth, NUM).share <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("truth", NEVER, ids=lambda t: t.name)
def test_what_never_converges_is_seldom_said_to(truth: coverage.Truth) -> None:
    """One end of the interval can err: it holds the truth in 97.5 of 100 or more."""
    found = coverage.of_convergence(truth, 200)
    assert found.truth == float("inf")
    assert found.too_low <= 0.035


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [20, 30, 40])
def test_a_constant_penalty_seldom_seems_to_have_a_slope(fitted: int) -> None:
    assert 0.035 <= coverage.alarms(coverage.trends(NUM, fitted)) <= 0.065


def test_a_dozen_windows_raise_no_more_false_alarms_than_many() -> None:
    assert coverage.alarms(coverage.trends(NUM, 12)) <= 0.065


def test_a_slope_is_seen_that_is_worth_seeing() -> None:
    """A penalty of one percent that grows by two hundredths of it a window over 30 of them."""
    assert coverage.alarms(coverage.trends(300, 30, slope=0.02)) >= 0.8


@pytest.mark.slow
def test_other_intervals_hold_the_truth() -> None:
    """These err on the safe side where they err: none holds it less often than 93 times in 100."""
    assert coverage.of_mean(NUM).share >= 0.93
    assert coverage.of_transfer(300).share >= 0.93
    assert coverage.of_saving(200).share >= 0.93
    assert coverage.of_history(150).share >= 0.93
    assert coverage.of_decay(300).share >= 0.93
