"""Scaling laws and valleys: known exponents come back, intervals hold the truth, weak points are refused, parabolas are biased."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import coverage
from benchmarks.simulated_studies import BESIDE, BUDGETS, LawTruth
from pipeline.statistics.law import Form, TooWeak, fit
from pipeline.statistics.valley import SPLIT, best_size, lowest, parabola

Array = NDArray[np.float64]

TRUTH = LawTruth()
NUM_STUDIES = 150
NOISE = 0.02
POWER = Form("data alone", (("data",),))


def exact(points: dict[str, Array]) -> Array:
    """The true losses, of eight seeds alike."""
    return np.tile(TRUTH.at(points["model"], points["data"]), (8, 1))


def test_known_exponents_come_back() -> None:
    points = TRUTH.grid()
    found = fit(SPLIT, points, exact(points))
    assert found.law.exponents == (pytest.approx(TRUTH.alpha, rel=0.02), pytest.approx(TRUTH.beta, rel=0.02))
    assert np.abs(found.residuals).max() < 1e-3
    assert found.law.at({"model": np.array([20.0]), "data": np.array([50.0])}) == pytest.approx(
        TRUTH.at(np.array([20.0]), np.array([50.0])), abs=0.01
    )


def test_a_power_of_one_axis() -> None:
    data = np.geomspace(1, 30, 7)
    found = fit(POWER, {"data": data}, np.tile(1.5 + 2 * data**-0.4, (8, 1)))
    assert found.law.exponents == (pytest.approx(0.4, rel=0.02),)
    assert found.law.floor == pytest.approx(1.5, abs=0.05)


def test_intervals_hold_the_truth() -> None:
    """Of the best size, an exponent and a loss far outside; docs/results/statistics.md has more studies."""
    spread = (0.95 * 0.05 / NUM_STUDIES) ** 0.5
    for name, found in coverage.of_laws(NUM_STUDIES, 8).items():
        assert found.share == pytest.approx(0.95, abs=3 * spread), name


def test_a_parabola_is_biased_on_sizes_to_one_side_and_the_law_is_not() -> None:
    points = TRUTH.grid(asymmetry=0.3)
    losses = exact(points)
    found = fit(SPLIT, points, losses)
    for place, budget in enumerate(BUDGETS):
        of_budget = slice(6 * place, 6 * place + 6)
        by_parabola = parabola(points["model"][of_budget], losses[:, of_budget]).value
        by_law, _ = lowest(found.law, points["model"][of_budget], lambda sizes, budget=budget: budget / sizes)
        assert by_law == pytest.approx(TRUTH.best(budget), rel=0.03)
        assert not by_parabola == pytest.approx(TRUTH.best(budget), rel=0.1)


def test_a_parabola_without_a_lowest_point_says_so() -> None:
    falling = np.tile(-(np.log(BESIDE) ** 2), (8, 1))
    assert math.isnan(parabola(BESIDE, falling).value)


def test_few_worlds_and_one_log_have_no_ends() -> None:
    points = TRUTH.grid()
    random = np.random.default_rng(1)
    for num, independent in ((7, True), (12, False)):
        found = best_size(
            fit(SPLIT, points, TRUTH.losses(random, points, num, NOISE), independent=independent),
            BESIDE,
            lambda m: 3 / m,
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
    points = TRUTH.grid()
    measured = np.ones((8, 18))
    measured[3, 4] = wrong
    with pytest.raises(ValueError, match="losses must be finite"):
        fit(SPLIT, points, measured)


def test_how_far_a_question_lies_outside_what_was_fitted() -> None:
    points = TRUTH.grid()
    law = fit(SPLIT, points, exact(points)).law
    inside = {axis: values[:1] for axis, values in points.items()}
    assert law.beyond(inside) == 1.0
    assert law.beyond({"model": inside["model"], "data": np.array([4 * points["data"].max()])}) == pytest.approx(4.0)


def test_what_too_few_rows_cost_may_rise_with_the_model() -> None:
    form = Form("hungry", (("model",), ("data", "1/model")))
    size, rows = (axis.ravel() for axis in np.meshgrid(np.geomspace(1, 64, 5), np.geomspace(1, 64, 5)))
    losses = 10 + 5 * size**-0.5 + 20 * size**0.3 * rows**-0.8
    found = fit(form, {"model": size, "data": rows}, losses[None], independent=False).law
    assert found.exponents == pytest.approx((0.5, 0.8, 0.3), abs=0.02)
    assert form.axes == ("model", "data")
    assert form.num_parameters == 6
