"""Series: paired, over worlds where these are enough, of one log else, and without ends where nothing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from benchmarks.simulated_studies import one_log
from pipeline.statistics.one_log import known_of_windows
from pipeline.statistics.series import MIN_WORLDS, Series, over_seeds
from tests.statistics.worlds import around

FLAT = np.ones(12)


def test_over_worlds_an_interval_is_students_t_of_the_seeds_means() -> None:
    series = around(FLAT, noise=0.3)
    found = series.mean().interval()
    low, high = ttest_1samp(series.values.mean(axis=1), 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    points = series.by_window()
    low, high = ttest_1samp(series.values[:, 3], 0.0).confidence_interval(0.95)
    assert (points[3].low, points[3].high) == (pytest.approx(low), pytest.approx(high))


def test_a_bad_day_counts_in_full() -> None:
    curve = np.where(np.arange(12) == 5, 13.0, 1.0)
    assert around(curve).mean().value == pytest.approx(2.0, abs=0.01)
    assert around(curve, seeds=1).mean().value == pytest.approx(2.0, abs=0.01)


def test_few_worlds_and_one_log_speak_of_what_was_seen_alone() -> None:
    assert around(FLAT, seeds=MIN_WORLDS).of_worlds
    assert not around(FLAT, seeds=MIN_WORLDS - 1).of_worlds
    assert not around(FLAT, independent=False).of_worlds
    away = np.array([[-1.0], [1.0]]) + around(FLAT, seeds=2, noise=0.01).values
    few = Series(away, np.zeros((0, 12)), independent=True).mean().interval()
    assert few.high - few.low < 0.2, "two worlds that differ by 2 are these two worlds"
    initial = Series(away, np.zeros((0, 12)), independent=False).mean().interval()
    assert initial.high - initial.low > 2, "initial weights are drawn again, also on one log"


def test_a_single_window_of_one_log_has_the_interval_of_its_clusters_or_none() -> None:
    one = one_log(np.random.default_rng(0), FLAT, 0.3).windows(slice(0, 1))
    found = one.mean().interval()
    assert found.low < found.value < found.high
    assert found == one.by_window()[0]
    assert math.isnan(around(FLAT, seeds=1).windows(slice(0, 1)).mean().interval().low)
    assert math.isnan(around(FLAT, seeds=1).by_window()[0].high)


@pytest.mark.parametrize("rounding", [0.0, 1e-14])
def test_a_window_with_one_cluster_has_no_error_of_its_own_whatever_rounding_leaves(rounding: float) -> None:
    values = np.random.default_rng(1).normal(size=7)
    error = np.append(np.full(6, 0.1), rounding)
    design = np.column_stack([np.ones(7), np.linspace(-0.5, 0.5, 7)])
    found = known_of_windows(values, design, error)(np.array([1.0, 0.0]), 0.0, 0.0).interval()
    alike = known_of_windows(values, design, np.zeros(7))(np.array([1.0, 0.0]), 0.0, 0.0).interval()
    assert (found.value, found.low, found.high) == pytest.approx((alike.value, alike.low, alike.high))


def test_what_happened_is_known_better_than_what_will() -> None:
    """Twelve windows that share their luck say little of the next one, and all of themselves."""
    one = one_log(np.random.default_rng(0), FLAT, 0.85)
    seen, ahead = one.on_rows(), one.mean()
    assert seen.value == pytest.approx(ahead.value)
    assert seen.standard_error < ahead.standard_error / 2
    assert around(FLAT).on_rows() == around(FLAT).mean()
    assert math.isnan(around(FLAT, seeds=1).on_rows().interval().high), "no clusters are known"


def test_sums_and_multiples_keep_the_pairing() -> None:
    random = np.random.default_rng(0)
    shared = random.normal(size=(8, 12))
    ours, theirs = (Series(level + shared, np.zeros((0, 12)), independent=True) for level in (1.0, 0.4))
    found = (ours - theirs).mean().interval()
    assert (found.low, found.high) == (pytest.approx(0.6), pytest.approx(0.6))
    with pytest.raises(ValueError, match=r"can't be paired: take the seeds and windows that both have"):
        ours + theirs.windows(slice(0, 5))


def test_losses_that_cannot_be_paired_are_refused() -> None:
    good = np.ones((2, 3))
    for loss, base, words in (
        (good[:, :2], good, "seeds, windows"),
        (good * np.nan, good, "train again what diverged"),
        (good, good * 0, "leave windows without rows out"),
    ):
        with pytest.raises(ValueError, match=words):
            Series.relative(loss, base, independent=True)


def test_groups_of_clusters_say_how_sure_a_day_is() -> None:
    random = np.random.default_rng(0)
    base = random.gamma(20, 1, (64, 5))
    loss = base * (1 + 0.05 * random.normal(size=base.shape))
    series = Series.relative(loss.sum(axis=0)[None], base.sum(axis=0)[None], independent=False, groups=(loss, base))
    np.testing.assert_allclose(series.clusters.sum(axis=0), 0, atol=1e-9)
    assert series.cluster_error() == pytest.approx(100 * 0.05 / 8, rel=0.4)


def test_one_number_has_no_spread() -> None:
    assert math.isnan(over_seeds(np.array([1.0])).interval().low)
