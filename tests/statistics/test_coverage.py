"""Intervals hold the truth as often as they promise, tests raise no more false alarms than they say, and see what they claim."""

from __future__ import annotations

import pytest

from benchmarks import coverage
from benchmarks.simulated_studies import TRUTHS, Truth

NUM = 600
LEAST = 0.92
"""More than three standard errors of a share of 95 % of so many studies; docs/results/statistics.md has 4,000."""
LEAST_OF_ONE_LOG = 0.89
"""Thirty windows of one log hardly show a correlation of 0.85: its mean is held 92 times in 100."""


@pytest.mark.parametrize("seeds", coverage.SEEDS)
@pytest.mark.parametrize("rho", coverage.CORRELATIONS)
@pytest.mark.parametrize("name", coverage.LINEAR)
def test_intervals_over_worlds_hold_the_truth(name: str, seeds: int, rho: float) -> None:
    assert coverage.LINEAR[name](NUM, seeds, rho).share >= LEAST


@pytest.mark.parametrize("seeds", coverage.SEEDS)
@pytest.mark.parametrize("truth", [t for t in TRUTHS if t.crossing(30) < 30], ids=lambda t: t.name)
def test_intervals_hold_the_window_of_convergence(truth: Truth, seeds: int) -> None:
    assert coverage.of_convergence(truth, NUM, seeds, 0.5).share >= LEAST


@pytest.mark.parametrize("truth", [t for t in TRUTHS if t.crossing(30) > 30], ids=lambda t: t.name)
def test_what_never_converges_is_seldom_said_to(truth: Truth) -> None:
    assert coverage.of_convergence(truth, NUM, 8, 0.5).too_low <= 0.045


@pytest.mark.parametrize("seeds", coverage.SEEDS)
@pytest.mark.parametrize("name", coverage.DATA)
def test_intervals_hold_the_data_that_are_needed_and_saved(name: str, seeds: int) -> None:
    assert coverage.DATA[name](NUM, seeds).share >= LEAST


@pytest.mark.parametrize("rho", coverage.CORRELATIONS)
def test_a_constant_penalty_seldom_seems_to_have_a_slope(rho: float) -> None:
    assert 0.02 <= coverage.alarms(coverage.trends(NUM, 8, rho)) <= 0.08


def test_a_slope_is_seen_that_is_worth_seeing() -> None:
    assert coverage.alarms(coverage.trends(NUM, 24, 0.3, slope=0.02)) >= 0.95


@pytest.mark.parametrize("rho", coverage.CORRELATIONS)
@pytest.mark.parametrize("slope", [False, True])
def test_intervals_of_a_single_log_hold_the_truth(rho: float, slope: bool) -> None:
    assert coverage.of_one_log(NUM, rho, slope=slope).share >= (LEAST if rho < 0.5 or slope else LEAST_OF_ONE_LOG)
