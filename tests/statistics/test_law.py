"""Scaling laws and valleys: known exponents come back, intervals hold the truth, weak points are refused, parabolas are biased."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Form, TooWeak, fit
from pipeline.statistics.valley import SPLIT, best_size, lowest, parabola

Array = NDArray[np.float64]

ALPHA, BETA = 0.6, 0.3
FLOOR, OF_MODEL, OF_DATA = -2.0, 3.0, 5.0
BUDGETS = (1.0, 3.0, 10.0)
SIZES = np.geomspace(0.25, 4.0, 6)
NUM_STUDIES = 150
POWER = Form("data alone", (("data",),))


def truth(model: Array, data: Array) -> Array:
    return FLOOR + OF_MODEL * model**-ALPHA + OF_DATA * data**-BETA


def best(budget: float) -> float:
    """In closed form: alpha A M^-alpha = beta B D^-beta, with D = budget / M."""
    return float((ALPHA * OF_MODEL / (BETA * OF_DATA) * budget**BETA) ** (1 / (ALPHA + BETA)))


def grid(asymmetry: float = 1.0) -> dict[str, Array]:
    """Six sizes around each budget's best one, or all larger by some factor."""
    models = [SIZES * best(budget) * asymmetry for budget in BUDGETS]
    data = [budget / each for budget, each in zip(BUDGETS, models, strict=True)]
    return {"model": np.concatenate(models), "data": np.concatenate(data)}


def losses(points: dict[str, Array], num_seeds: int, noise: float, random: np.random.Generator) -> Array:
    """Each seed has an offset, a steepness of its own and noise at each point."""
    true = truth(points["model"], points["data"])
    steep = 1 + 0.05 * random.normal(size=(num_seeds, 1))
    return (
        true * steep + noise * random.normal(size=(num_seeds, 1)) + noise * random.normal(size=(num_seeds, len(true)))
    )


def test_known_exponents_come_back() -> None:
    points = grid()
    found = fit(SPLIT, points, np.tile(truth(points["model"], points["data"]), (8, 1)))
    assert found.law.exponents == (pytest.approx(ALPHA, rel=0.02), pytest.approx(BETA, rel=0.02))
    assert np.abs(found.residuals).max() < 1e-3
    assert found.law.at({"model": np.array([20.0]), "data": np.array([50.0])}) == pytest.approx(
        truth(np.array([20.0]), np.array([50.0])), abs=0.01
    )


def test_a_power_of_one_axis() -> None:
    data = np.geomspace(1, 30, 7)
    found = fit(POWER, {"data": data}, np.tile(1.5 + 2 * data**-0.4, (8, 1)))
    assert found.law.exponents == (pytest.approx(0.4, rel=0.02),)
    assert found.law.floor == pytest.approx(1.5, abs=0.05)


def test_intervals_hold_the_truth() -> None:
    """Of the best size, of an exponent and of a loss that was not measured; `benchmarks/coverage.py` counts more studies."""
    random = np.random.default_rng(0)
    points, held = grid(), np.zeros(3)
    asked = {"model": np.array([4 * best(10.0)]), "data": np.array([10 / best(10.0)])}
    for _ in range(NUM_STUDIES):
        found = fit(SPLIT, points, losses(points, 8, 0.02, random))
        intervals = (
            (best_size(found, SIZES, lambda sizes: 3.0 / sizes), best(3.0)),
            (found.interval(lambda law: law.exponents[0]), ALPHA),
            (found.interval(lambda law: float(law.at(asked)[0])), float(truth(asked["model"], asked["data"])[0])),
        )
        held += [_holds(*each) for each in intervals]
    expected, spread = 0.95 * NUM_STUDIES, (0.95 * 0.05 * NUM_STUDIES) ** 0.5
    assert (np.abs(held - expected) <= 3 * spread).all(), held / NUM_STUDIES


def test_a_parabola_is_biased_on_sizes_to_one_side_and_the_law_is_not() -> None:
    points = grid(asymmetry=0.3)
    exact = np.tile(truth(points["model"], points["data"]), (8, 1))
    found = fit(SPLIT, points, exact)
    for place, budget in enumerate(BUDGETS):
        of_budget = slice(6 * place, 6 * place + 6)
        by_parabola = parabola(points["model"][of_budget], exact[:, of_budget]).value
        by_law, _ = lowest(found.law, points["model"][of_budget], lambda sizes, budget=budget: budget / sizes)
        assert by_law == pytest.approx(best(budget), rel=0.03)
        assert not by_parabola == pytest.approx(best(budget), rel=0.1)


def test_a_parabola_without_a_lowest_point_says_so() -> None:
    falling = np.tile(-(np.log(SIZES) ** 2), (8, 1))
    assert math.isnan(parabola(SIZES, falling).value)


def test_few_worlds_and_one_log_have_no_ends() -> None:
    points = grid()
    random = np.random.default_rng(1)
    for num, independent in ((7, True), (12, False)):
        found = best_size(
            fit(SPLIT, points, losses(points, num, 0.02, random), independent=independent), SIZES, lambda m: 3 / m
        )
        assert found.value > 0
        assert math.isnan(found.low)
        assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (
            {"model": np.arange(1.0, 7), "data": np.arange(1.0, 7) ** 0.5 + np.arange(6) % 2},
            "needs at least 7 points, got 6",
        ),
        ({"model": np.repeat([1.0, 2.0], 5), "data": np.arange(1.0, 11)}, "at least 3 different values of it, got 2"),
        ({"model": np.arange(1.0, 11), "data": np.arange(1.0, 11) ** 2}, "moved together"),
    ],
)
def test_points_that_determine_no_law_are_refused(points: dict[str, Array], why: str) -> None:
    with pytest.raises(TooWeak, match=why):
        fit(SPLIT, points, np.ones((8, len(points["model"]))))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_diverged_is_refused(wrong: float) -> None:
    points = grid()
    measured = np.ones((8, 18))
    measured[3, 4] = wrong
    with pytest.raises(ValueError, match="losses must be finite"):
        fit(SPLIT, points, measured)


def test_how_far_a_question_lies_outside_what_was_fitted() -> None:
    points = grid()
    law = fit(SPLIT, points, np.tile(truth(points["model"], points["data"]), (8, 1))).law
    inside = {axis: values[:1] for axis, values in points.items()}
    assert law.beyond(inside) == 1.0
    assert law.beyond({"model": inside["model"], "data": np.array([4 * points["data"].max()])}) == pytest.approx(4.0)


def _holds(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high
