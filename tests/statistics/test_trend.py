"""Trends, decays, transfer and recommendations: exact without noise, honest where the data say little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.simulated_studies import Days
from pipeline.statistics.effects import recommend, transfer_ratio
from pipeline.statistics.interval import Interval
from pipeline.statistics.needed import Student, history_needed, history_saved
from pipeline.statistics.paired import Paired
from pipeline.statistics.trend import decay, smallest_effect, trend
from tests.statistics.test_convergence import exactly

WINDOW = np.arange(30, dtype=float)


def test_a_line_is_found_from_the_window_asked_for() -> None:
    curve = np.where(WINDOW < 10, 5.0, 1 + 0.02 * (WINDOW - 10))
    found = trend(exactly(curve, num_groups=8, noise=1e-3).series(), 10)
    assert found.num_windows == 20
    assert found.slope.value == pytest.approx(0.02, abs=1e-3)
    assert found.p_value < 1e-6
    assert found.change.value == pytest.approx(0.38 / 1.19, abs=0.01)
    assert not found.constant


def test_constant_needs_evidence_and_not_only_noise() -> None:
    quiet = trend(exactly(1 + 0 * WINDOW, num_groups=8, noise=0.1).series())
    loud = trend(exactly(1 + 0 * WINDOW, num_groups=8, noise=2.0).series())
    assert quiet.p_value > 0.05
    assert loud.p_value > 0.05
    assert quiet.constant
    assert not loud.constant
    assert quiet.smallest_slope < loud.smallest_slope


def test_a_change_against_a_penalty_that_may_be_zero_has_no_bounds() -> None:
    found = trend(exactly(0 * WINDOW, num_groups=8, noise=1.0).series())
    assert (found.change.low, found.change.high) == (-math.inf, math.inf)
    assert not found.constant


@pytest.mark.parametrize("factor", [-3.0, 0.01, 50.0])
def test_units_change_nothing_but_the_unit(factor: float) -> None:
    random = np.random.default_rng(0)
    series = Days.drawn(random, 30, 0.3).variant(random, 1 + 0.01 * WINDOW, 3).series()
    one, other = trend(series), trend(series * factor)
    assert other.p_value == pytest.approx(one.p_value)
    assert other.slope.value == pytest.approx(factor * one.slope.value)
    assert other.change.value == pytest.approx(one.change.value)


def test_too_few_windows_have_no_slope_and_no_half_life() -> None:
    series = exactly(WINDOW).series()
    with pytest.raises(ValueError, match="at least 8 windows, got 5 from window 25 on: wait for more"):
        trend(series, 25)
    with pytest.raises(ValueError, match="at least 8 windows, got 2 from window 28 on: wait for more"):
        decay(series, 28)


@pytest.mark.parametrize("level", [0.0, -0.3])
def test_a_half_life_is_found_after_the_event(level: float) -> None:
    gain = level - np.where(WINDOW < 6, 2.0, 2 * 2 ** -((WINDOW - 6) / 3))
    series = exactly(gain, num_groups=8, noise=0.01).series()
    for settles_at in (None, level):
        found = decay(series, 6, settles_at=settles_at)
        assert found.half_life.low <= 3.1
        assert found.half_life.high >= 2.9
        assert found.half_life.value == pytest.approx(3, rel=0.1)
        assert found.at_event == pytest.approx(-2, rel=0.1)


def test_a_gain_that_stays_may_have_any_long_half_life() -> None:
    found = decay(exactly(-2 + 0 * WINDOW, num_groups=8, noise=0.1).series(), 0, settles_at=0.0)
    assert math.isinf(found.half_life.high)
    assert found.half_life.low > 30


def test_the_smallest_effect_is_seen_in_80_of_100_tries() -> None:
    random = np.random.default_rng(0)
    seen = np.abs(random.normal(smallest_effect(0.3), 0.3, 20_000)) > 1.96 * 0.3
    assert seen.mean() == pytest.approx(0.8, abs=0.01)
    assert smallest_effect(0.3, degrees=5) > smallest_effect(0.3)


def test_a_transfer_is_a_share_of_what_the_teacher_has_over_the_student() -> None:
    student, teacher = (exactly(level + 0 * WINDOW, num_groups=8, noise=0.01) for level in (-0.4, -1.0))
    found = transfer_ratio(student, teacher)
    assert found.value == pytest.approx(0.4, abs=0.01)
    assert found.low < 0.4 < found.high
    assert transfer_ratio(teacher, teacher).value == pytest.approx(1)


def test_nothing_can_be_transferred_from_a_teacher_that_is_no_better() -> None:
    random = np.random.default_rng(0)
    days = Days.drawn(random, 30, 0.3)
    student, teacher = (days.variant(random, 0 * WINDOW, 3) for _ in range(2))
    found = transfer_ratio(student, teacher)
    assert (found.low, found.high) == (-math.inf, math.inf)


def penalty(high: float) -> Interval:
    return Interval(high / 2, 0.0, high)


def test_the_lowest_rate_that_can_be_afforded_is_recommended() -> None:
    found = recommend({0.5: penalty(0.1), 0.25: penalty(0.2), 0.1: penalty(0.4)}, 0.3)
    assert found.rate == 0.25
    assert list(found.penalties) == [0.5, 0.25, 0.1]


def test_testing_stops_at_the_first_failure() -> None:
    found = recommend({0.5: penalty(0.1), 0.25: penalty(0.4), 0.1: penalty(0.2)}, 0.3)
    assert found.rate == 0.5
    assert list(found.penalties) == [0.5, 0.25]


def test_none_is_recommended_where_none_can_be_afforded() -> None:
    assert recommend({0.5: penalty(0.4)}, 0.3).rate is None
    assert recommend({0.5: penalty(math.nan)}, 0.3).rate is None
    with pytest.raises(ValueError, match=r"rates must be in .*got \[5\]: give the penalty"):
        recommend({5: penalty(0.1)}, 0.3)


def students(levels: list[float], noise: float = 0.01) -> list[Student]:
    """Histories of 1,000, 10,000, 100,000 ... examples."""
    return [Student(10.0 ** (3 + n), judged(level, noise)) for n, level in enumerate(levels)]


def judged(level: float, noise: float) -> Paired:
    return exactly(np.full(6, level), num_seeds=3, num_groups=8, noise=noise)


def test_the_history_needed_lies_between_starts_in_logarithms() -> None:
    found = history_needed(students([1.0, 0.6, 0.2]), 0.4)
    assert found.examples.value == pytest.approx(10**4.5, rel=0.1)
    assert found.examples.low < 10**4.5 < found.examples.high
    assert not found.left_censored
    assert not found.right_censored


def test_history_is_censored_at_both_ends() -> None:
    shortest = history_needed(students([0.3, 0.2, 0.1]), 0.4)
    assert shortest.left_censored
    assert shortest.examples == Interval(1000, 0, 1000)
    longest = history_needed(students([1.0, 0.8, 0.6]), 0.4)
    assert longest.right_censored
    assert (longest.examples.low, longest.examples.high) == (100_000, math.inf)


def test_what_leaves_epsilon_again_with_more_history_has_not_converged() -> None:
    assert history_needed(students([1.0, 0.2, 0.6, 0.1]), 0.4).examples.value > 100_000


def test_the_history_saved_has_bounds_where_one_end_is_open() -> None:
    early, late = students([0.6, 0.2, 0.1]), students([1.0, 0.6, 0.2])
    found = history_saved(early, late, 0.4)
    assert found.value == pytest.approx(0.9, abs=0.02)
    assert 0.85 < found.low < 0.9 < found.high < 0.95
    never = history_saved(early, students([1.0, 0.8, 0.6]), 0.4)
    assert math.isnan(never.value)
    assert 0.95 < never.low < 1 - 10**3.5 / 1e5 < never.high
    at_once = history_saved(students([0.3, 0.2, 0.1]), late, 0.4)
    assert math.isnan(at_once.value)
    assert at_once.low > 0.95
    assert at_once.high == 1


def test_students_must_be_comparable() -> None:
    one = students([1.0, 0.5])
    with pytest.raises(ValueError, match="at least two different histories.*start another"):
        history_needed(one[:1], 0.4)
    with pytest.raises(ValueError, match="at least two different histories"):
        history_needed([one[0], one[0]], 0.4)
    short = Student(5e4, exactly(np.ones(4), num_seeds=3, num_groups=8))
    with pytest.raises(ValueError, match=r"same windows, at least 5, got \[4, 6\]"):
        history_needed([*one, short], 0.4)
