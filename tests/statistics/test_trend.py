"""Trends and transfer: exact without noise, honest where the data say little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.simulated_studies import worlds
from pipeline.statistics.trend import transfer_ratio, trend
from tests.statistics.worlds import around

WINDOW = np.arange(20, dtype=float)


@pytest.mark.parametrize(("seeds", "p_value"), [(1, 1e-4), (8, 1e-6)])
def test_a_line_is_found(seeds: int, p_value: float) -> None:
    found = trend(around(1 + 0.02 * WINDOW, seeds=seeds))
    assert found.slope.value == pytest.approx(0.02, abs=1e-3)
    assert found.p_value < p_value
    assert found.change.value == pytest.approx(0.38 / 1.19, abs=0.01)
    assert not found.constant


def test_constant_needs_evidence_and_not_only_noise() -> None:
    quiet, loud = (trend(around(1 + 0 * WINDOW, noise=noise)) for noise in (0.1, 5.0))
    assert quiet.p_value > 0.05
    assert loud.p_value > 0.05
    assert quiet.constant
    assert not loud.constant


def test_a_change_against_a_penalty_that_may_be_zero_has_no_bounds() -> None:
    found = trend(around(0 * WINDOW, noise=1.0))
    assert (found.change.low, found.change.high) == (-math.inf, math.inf)
    assert not found.constant


@pytest.mark.parametrize("factor", [-3.0, 0.01, 50.0])
def test_units_change_nothing_but_the_unit(factor: float) -> None:
    series = worlds(np.random.default_rng(0), 1 + 0.01 * WINDOW, 8, 0.3)
    one, other = trend(series), trend(series * factor)
    assert other.p_value == pytest.approx(one.p_value)
    assert other.slope.value == pytest.approx(factor * one.slope.value)
    assert other.change.value == pytest.approx(one.change.value)


def test_too_few_windows_have_no_slope() -> None:
    with pytest.raises(ValueError, match="at least 8 windows, got 5: wait for more"):
        trend(around(WINDOW[:5]))


def test_a_transfer_is_a_share_of_what_the_teacher_has_over_the_student() -> None:
    student, teacher = (around(level + 0 * WINDOW, noise=0.01) for level in (-0.4, -1.0))
    found = transfer_ratio(student, teacher)
    assert found.value == pytest.approx(0.4, abs=0.01)
    assert transfer_ratio(teacher, teacher).value == pytest.approx(1)


def test_nothing_can_be_transferred_from_a_teacher_that_is_no_better() -> None:
    student, teacher = (worlds(np.random.default_rng(seed), 0 * WINDOW, 8, 0.3) for seed in range(2))
    found = transfer_ratio(student, teacher)
    assert (found.low, found.high) == (-math.inf, math.inf)
