"""Paired losses and convergence in the run: exact without noise, paired, censored where the data end, errors that name the cure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.simulated_studies import Days
from pipeline.statistics.convergence import convergence, ratio_of, saved, verdicts
from pipeline.statistics.falling import MIN_WINDOWS
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Paired

WINDOW = np.arange(24, dtype=float)


def exactly(
    curve: NDArray[np.float64], *, num_seeds: int = 1, num_groups: int = 1, rows: float = 1000, noise: float = 0.0
) -> Paired:
    """A variant whose relative loss follows a curve in percent, almost without noise."""
    random = np.random.default_rng(0)
    base = random.gamma(20, 1, (num_seeds, len(curve), num_groups))
    percent = curve[None, :, None] + noise * random.normal(size=base.shape)
    spent = np.tile(rows * np.arange(len(curve)), (num_seeds, 1))
    return Paired(loss=base * (1 + percent / 100), base=base, examples=spent, flops=6 * spent, seconds=spent / 10)


@pytest.mark.parametrize(("num_seeds", "num_groups"), [(1, 1), (1, 8), (3, 1), (3, 8)])
def test_without_noise_the_crossing_is_read_off_within_half_a_window(num_seeds: int, num_groups: int) -> None:
    paired = exactly(4 * 2 ** -(WINDOW / 3), num_seeds=num_seeds, num_groups=num_groups, noise=1e-4)
    found = convergence(paired, 0.5)
    assert found.window.low <= 9.01
    assert found.window.high >= 8.99
    assert found.window.value == pytest.approx(9, abs=0.5)
    assert found.window.high - found.window.low < 1
    assert found.verdict == "converged"


def test_data_compute_and_time_are_those_spent_until_then() -> None:
    found = convergence(exactly(4 * 2 ** -(WINDOW / 3), num_groups=8, noise=0.01), 0.5)
    for end in ("value", "low", "high"):
        window = getattr(found.window, end)
        assert getattr(found.examples, end) == pytest.approx(1000 * window)
        assert getattr(found.flops, end) == pytest.approx(6000 * window)
        assert getattr(found.seconds, end) == pytest.approx(100 * window)


def test_what_stays_above_is_censored_at_the_end() -> None:
    found = convergence(exactly(1 + 3 * 2 ** -(WINDOW / 3), num_groups=8, noise=0.05), 0.5)
    assert found.verdict == "not converged"
    assert math.isinf(found.window.value)
    assert math.isinf(found.examples.value)
    assert found.examples.low == 23_000


def test_what_is_better_from_the_start_needs_nothing() -> None:
    found = convergence(exactly(-1 + 0.1 * 2 ** -(WINDOW / 3), num_groups=8, noise=0.05), 0.5)
    assert (found.window.value, found.window.low) == (0, 0)
    assert found.window.high < 2
    assert found.verdict == "converged"


def test_noise_without_end_leaves_it_undecided() -> None:
    found = convergence(exactly(0.5 + 0 * WINDOW, num_groups=8, noise=2.0), 0.5)
    assert found.verdict == "undecided"
    assert math.isinf(found.window.high)


def test_a_fall_within_one_window_is_no_riddle() -> None:
    found = convergence(exactly(np.where(WINDOW < 1, 5.0, 0.0), num_groups=8, noise=0.05), 0.5)
    assert found.window.high <= 1.5  # half a window is as fine as moments are tried


def test_a_smaller_epsilon_is_never_reached_earlier() -> None:
    random = np.random.default_rng(3)
    paired = Days.drawn(random, 24, 0.3).variant(random, 4 * 2 ** -(WINDOW / 3), 3)
    found = [convergence(paired, epsilon).window for epsilon in (0.2, 0.4, 0.8, 1.6)]
    for end in ("low", "value", "high"):
        ends = [getattr(window, end) for window in found]
        assert ends == sorted(ends, reverse=True)


def test_each_window_has_a_verdict_and_only_the_last_one_is_final() -> None:
    paired = exactly(4 * 2 ** -(WINDOW / 3), num_groups=8, noise=0.2)
    found = verdicts(paired, 0.5)
    assert [c.num_windows for c in found] == list(range(MIN_WINDOWS, 25))
    assert [c.provisional for c in found] == [True] * (len(found) - 1) + [False]
    assert found[0].verdict != "converged"
    assert found[-1] == convergence(paired, 0.5)
    assert found[-1].verdict == "converged"


def test_what_is_saved_is_given_in_each_unit() -> None:
    fast = exactly(4 * 2 ** -(WINDOW / 2), num_groups=8, noise=0.02)
    slow = exactly(4 * 2 ** -(WINDOW / 4), num_groups=8, noise=0.02)
    found = saved(fast, slow, 0.5)
    assert found.low <= 0.5 <= found.high
    assert 0.4 < found.low < found.high < 0.6
    again = saved(replace(fast, flops=2 * fast.flops), slow, 0.5, "flops")
    assert again.low <= 0 <= again.high
    assert again.low > -0.2


def test_what_is_saved_against_one_that_never_converged_is_a_lower_bound() -> None:
    fast = exactly(4 * 2 ** -(WINDOW / 2), num_groups=8, noise=0.02)
    never = exactly(1 + 4 * 2 ** -(WINDOW / 2), num_groups=8, noise=0.02)
    found = saved(fast, never, 0.5)
    assert math.isnan(found.value)
    assert 0.7 < found.low < 1 - 6 / 23
    assert found.high == 1
    reverse = saved(never, fast, 0.5)
    assert math.isnan(reverse.value)
    assert reverse.low == -math.inf
    assert -3.5 < reverse.high < 0


def test_a_correlation_narrows_a_ratio_and_none_leaves_it_as_wide_as_logarithms_say() -> None:
    one, other = Interval(2, 1, 4), Interval(4, 2, 8)
    alone, paired = ratio_of(one, other, 0.0), ratio_of(one, other, 0.9)
    assert alone.value == paired.value == 0.5
    assert alone.high == pytest.approx(0.5 * 2 ** math.sqrt(2))
    assert alone.low == pytest.approx(0.5 / 2 ** math.sqrt(2))
    assert alone.low < paired.low < paired.high < alone.high


def test_too_few_windows_are_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_WINDOWS} windows, got 4: wait for more"):
        convergence(exactly(WINDOW[:4]), 0.5)
    with pytest.raises(ValueError, match="same windows, got 24 and 20: take those that both have"):
        saved(exactly(WINDOW), exactly(WINDOW[:20]), 0.5)


def test_a_band_needs_two_seeds_or_two_groups() -> None:
    alone = exactly(WINDOW).series().by_window()
    assert all(math.isnan(i.low) and math.isnan(i.high) for i in alone)
    for num_seeds, num_groups in ((2, 1), (1, 2)):
        several = exactly(WINDOW, num_seeds=num_seeds, num_groups=num_groups, noise=0.1).series().by_window()
        assert all(i.low < i.value < i.high for i in several)


def test_bands_hold_the_truth_of_their_window() -> None:
    """What seeds and clusters do not show, the day's own luck, is not in a window's band."""
    random, held = np.random.default_rng(0), []
    for _ in range(150):
        base = np.repeat(random.gamma(20, 1, (1, 10, 64)), 3, axis=0)
        percent = 1 + random.normal(0, 0.5, (1, 10, 64)) + random.normal(0, 0.2, (3, 10, 1))
        spent = np.zeros((3, 10))
        paired = Paired(loss=base * (1 + percent / 100), base=base, examples=spent, flops=spent, seconds=spent)
        held += [i.low <= 1 <= i.high for i in paired.series().by_window()]
    assert 0.93 <= np.mean(held) <= 0.975


def test_equal_losses_differ_by_nothing() -> None:
    series = exactly(0 * WINDOW, num_seeds=3, num_groups=8).series()
    assert all((i.value, i.low, i.high) == pytest.approx((0, 0, 0), abs=1e-9) for i in series.by_window())
    mean = series.mean().interval()
    assert (mean.value, mean.low, mean.high) == pytest.approx((0, 0, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": np.ones((2, 24, 3))}, r"\(seeds, windows, groups\) alike, got \(2, 24, 3\).*load both"),
        ({"loss": np.full((1, 24, 1), np.nan)}, "loss must be finite.*train again what diverged"),
        ({"base": np.zeros((1, 24, 1))}, "lost nothing on window 0: leave windows without rows out"),
        ({"examples": np.zeros((2, 24))}, r"examples must be \(seeds, windows\) = \(1, 24\), got \(2, 24\)"),
        ({"flops": -WINDOW[None]}, "flops must be finite and not negative"),
        ({"seconds": WINDOW[None, ::-1]}, "seconds must not fall.*spent \\*until\\* each window"),
    ],
)
def test_what_can_not_be_paired_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(exactly(WINDOW), **changed)
