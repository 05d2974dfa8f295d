"""Races: a cell that only starts worse is not stopped, the best is kept, and what is saved and lost is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.racing import replay

JUDGED = slice(6, 10)
WINDOWS = np.arange(1, 11)


def sweep(curves: list[np.ndarray], noise: float, seed: int = 0, num_seeds: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack(curves)[None] + noise * random.normal(size=(num_seeds, len(curves), len(WINDOWS)))


def test_cells_that_are_surely_worse_are_stopped_and_what_that_saves_is_counted() -> None:
    found = replay(sweep([0 * WINDOWS, 1 + 0 * WINDOWS, 2 + 0 * WINDOWS], 0.01), np.ones((3, 10)), JUDGED)
    assert found.stopped.tolist() == [10, 4, 4]
    assert found.chosen == 0
    assert found.saved == pytest.approx(12 / 30)
    assert found.regret == 0


def test_a_large_model_that_starts_worse_is_not_stopped_where_ranking_by_loss_so_far_would() -> None:
    small, large, poor = 1 + 0.5 / WINDOWS, 0.8 + 3.0 / WINDOWS, 2.5 + 0 * WINDOWS
    found = replay(sweep([small, large, poor], 0.02), np.ones((3, 10)), slice(9, 10))
    assert found.chosen == 0
    assert found.regret == 0
    later = replay(sweep([1 + 0.5 / WINDOWS, 0.8 + 1.5 / WINDOWS, poor], 0.02), np.ones((3, 10)), slice(9, 10))
    assert later.chosen == 1
    assert later.regret == 0
    assert later.stopped[2] == 4
    assert later.regret_so_far > 0


def test_the_best_is_seldom_stopped() -> None:
    """One-sided at 97.5 % in each of six windows, against the leader alone: in at most a tenth of sweeps."""
    curves = [0.1 * place + 0.3 / WINDOWS for place in range(6)]
    lost = [replay(sweep(curves, 0.1, seed), np.ones((6, 10)), JUDGED).regret > 0 for seed in range(300)]
    assert np.mean(lost) < 0.1


def test_where_nothing_is_stopped_the_ranking_so_far_has_seen_all() -> None:
    found = replay(sweep([1 + 0.5 / WINDOWS, 0.9 + 1.2 / WINDOWS], 0.5), np.ones((2, 10)), slice(9, 10))
    assert found.saved == 0
    assert found.regret == found.regret_so_far == 0


def test_few_seeds_are_no_race() -> None:
    with pytest.raises(ValueError, match="a race needs 8 seeds, two cells and finite losses"):
        replay(np.zeros((7, 3, 10)), np.ones((3, 10)), JUDGED)
