"""Loss against data: one curve a schedule, the data that a loss takes, and what is saved, with bounds where one end is open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.statistics.data_curve import Students, data_needed, data_saved

DATA = np.array([1.0, 1.5, 2.0, 2.5, 3.0])


def students(loss: NDArray[np.float64], seeds: int = 8, noise: float = 1e-3) -> Students:
    return Students(DATA, loss + noise * np.random.default_rng(0).normal(size=(seeds, len(DATA))))


def test_the_data_that_a_loss_takes_are_read_off_the_curve() -> None:
    found = data_needed(students(3 / DATA), np.full(8, 1.5))
    assert found.value == pytest.approx(2.0, rel=0.01)
    assert found.low < found.value < found.high


def test_the_ends_are_censored() -> None:
    assert data_needed(students(3 / DATA), np.full(8, 9.0)).value == 1.0
    never = data_needed(students(3 / DATA), np.full(8, 0.1))
    assert (never.value, never.low, never.high) == (math.inf, 3.0, math.inf)


def test_half_the_data_are_saved_by_a_schedule_that_is_as_good_with_half() -> None:
    found = data_saved(students(3 / DATA), students(3 / DATA + 1.0))
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.low < 0.5 < found.high


def test_a_schedule_that_is_better_from_the_start_saves_at_least_so_much() -> None:
    found = data_saved(students(3 / DATA), students(3 / DATA + 9.0))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (pytest.approx(2 / 3), 1.0)


def test_a_schedule_that_is_worse_saves_nothing() -> None:
    found = data_saved(students(3 / DATA + 1.0), students(3 / DATA))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-math.inf, 0.0)


def test_the_luck_that_students_of_one_start_share_is_not_mistaken_for_data() -> None:
    luck = np.random.default_rng(1).normal(size=(8, len(DATA)))
    ours = students(3 / DATA + luck)
    assert data_saved(ours, students(3 / DATA + 0.2 + luck)).low > 0, "at equal data they surely lose less"
    assert data_saved(ours, students(3 / DATA - 0.2 + luck)).high == 0, "at equal data they surely lose more"


def test_few_worlds_have_a_value_and_no_ends() -> None:
    found = data_saved(students(3 / DATA, seeds=3), students(3 / DATA + 1.0, seeds=3))
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert math.isnan(found.low)


def test_a_curve_needs_several_students() -> None:
    with pytest.raises(ValueError, match="at least 3 students that saw different amounts, got 2 .*: give more starts"):
        Students(DATA[:2], np.ones((8, 2)))
