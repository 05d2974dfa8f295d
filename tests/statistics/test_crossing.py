"""Convergence and half-life: read off a smooth curve, censored where the data end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.statistics.crossing import below_for_good, half_life, verdict
from tests.statistics.worlds import around

T = np.arange(1, 25, dtype=float)


@pytest.mark.parametrize(("seeds", "width"), [(1, 2.0), (8, 0.6)])
def test_without_noise_the_crossing_is_read_off(seeds: int, width: float) -> None:
    """What the smooth curve misses of an exponential counts as noise on one log."""
    found = below_for_good(around(4 * 2 ** -(T / 3), seeds=seeds), 0.5)
    assert found.value == pytest.approx(9, abs=0.3)
    assert found.high - found.low < width
    assert verdict(found, len(T)) == "converged"


def test_what_stays_above_is_censored_at_the_end() -> None:
    found = below_for_good(around(1 + 3 * 2 ** -(T / 3), noise=0.05), 0.5)
    assert (found.value, found.low, found.high) == (math.inf, 24.0, math.inf)
    assert verdict(found, len(T)) == "not converged"


def test_what_is_better_from_the_start_needs_one_window_at_most() -> None:
    found = below_for_good(around(-1 + 0.1 * 2 ** -(T / 3), noise=0.05), 0.5)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_noise_without_end_leaves_it_undecided() -> None:
    found = below_for_good(around(0.5 + 0 * T, noise=2.0), 0.5)
    assert math.isinf(found.high)
    assert verdict(found, len(T)) == "undecided"


def test_a_smaller_epsilon_is_never_reached_earlier() -> None:
    series = around(4 * 2 ** -(T / 3), noise=0.2)
    found = [below_for_good(series, epsilon) for epsilon in (0.2, 0.4, 0.8, 1.6)]
    for end in ("low", "value", "high"):
        ends = [getattr(window, end) for window in found]
        assert ends == sorted(ends, reverse=True)


def test_a_gain_that_decays_has_its_half_life() -> None:
    found = half_life(around(1.5 * 2 ** (-(T - 1) / 3), noise=0.01))
    assert found.value == pytest.approx(3, abs=0.1)
    assert found.low < found.value < found.high


def test_a_gain_that_stays_may_have_any_long_half_life() -> None:
    found = half_life(around(2 + 0 * T, noise=0.1))
    assert math.isinf(found.high)


def test_too_few_windows_have_no_curve() -> None:
    with pytest.raises(ValueError, match="at least 8 windows, got 5: wait for more"):
        below_for_good(around(np.ones(5)), 0.5)
