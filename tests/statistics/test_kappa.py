"""Theory against Monte Carlo: logistic regressions on sampled negatives lose what kappa says."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.statistics import kappa, series
from pipeline.training.metrics import entropy, log_losses

Array = NDArray[np.float64]


@pytest.mark.parametrize("module", [kappa, series])
def test_the_examples_in_the_docstrings_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert failed == 0
    assert tried > 0


@pytest.mark.parametrize("s", [0.5, 1.2])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_sample_of_rare_gaussian_logits_gives_what_the_formulas_say(s: float, rate: float) -> None:
    logits = np.random.default_rng(0).normal(-8, s, 1_000_000)
    p = expit(logits)
    k = rate * (1 - p).sum() / p.sum()
    assert kappa.kappa_weight_of(logits, rate) == pytest.approx(kappa.kappa_weight(k, s), rel=0.03)
    assert kappa.kappa_offset_of(logits, rate) == pytest.approx(kappa.kappa_offset(k, s), rel=0.03)
    assert kappa.kappa_odds_of(logits, k) == pytest.approx(kappa.kappa_odds(k), rel=0.03)


@pytest.mark.parametrize("s", [0.3, 1.0, 1.5])
def test_the_offset_is_never_worse_than_weights_and_odds_are_best(s: float) -> None:
    for k in (0.5, 5.0, 100.0):
        assert kappa.kappa_odds(k) <= kappa.kappa_offset(k, s) <= kappa.kappa_weight(k, s)
    assert kappa.kappa_weight(1e9, s) == pytest.approx(1)
    assert kappa.kappa_offset(1e9, s) == pytest.approx(1)


def test_all_negatives_cost_nothing() -> None:
    logits = np.random.default_rng(0).normal(-2, 1, 1000)
    assert kappa.kappa_weight_of(logits, 1.0) == pytest.approx(1)
    assert kappa.kappa_offset_of(logits, 1.0) == pytest.approx(1)


def fitted(x: Array, y: Array, weight: Array, offset: float) -> Array:
    """Newton's method for a logistic regression."""
    beta = np.zeros(x.shape[1])
    for _ in range(12):
        p = expit(x @ beta + offset)
        beta += np.linalg.solve((x * (weight * p * (1 - p))[:, None]).T @ x, x.T @ (weight * (y - p)))
    return beta


def test_logistic_regressions_lose_what_is_predicted() -> None:
    random = np.random.default_rng(0)
    d, num, rate, s = 12, 12_000, 0.2, 1.2
    beta = np.concatenate([[-3.5], np.full(d - 1, s / np.sqrt(d - 1))])
    fresh = np.column_stack([np.ones(40_000), random.normal(size=(40_000, d - 1))])
    truth = expit(fresh @ beta)
    excess: dict[str, list[float]] = {"full": [], "weight": [], "offset": []}
    for _ in range(150):
        x = np.column_stack([np.ones(num), random.normal(size=(num, d - 1))])
        y = (random.random(num) < expit(x @ beta)).astype(float)
        kept = (y > 0) | (random.random(num) < rate)
        weight = np.where(y > 0, 1, 1 / rate)
        found = {
            "full": fitted(x, y, np.ones(num), 0.0),
            "weight": fitted(x[kept], y[kept], weight[kept], 0.0),
            "offset": fitted(x[kept], y[kept], np.ones(int(kept.sum())), -np.log(rate)),
        }
        for name, b in found.items():
            excess[name].append(float((log_losses(fresh @ b, truth) - entropy(truth)).mean()))
    logits = fresh @ beta
    predicted = {
        "full": 1.0,
        "weight": kappa.kappa_weight_of(logits, rate),
        "offset": kappa.kappa_offset_of(logits, rate),
    }
    for name, lost in excess.items():
        assert np.mean(lost) == pytest.approx(kappa.predicted_excess(predicted[name], d, num), rel=0.12)
    assert np.mean(excess["offset"]) < np.mean(excess["weight"])


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan")])
def test_nothing_is_predicted_without_negatives(k: float) -> None:
    with pytest.raises(ValueError, match="k must be positive, got .*say how many"):
        kappa.kappa_weight(k, 1.0)
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got"):
        kappa.kappa_offset_of(np.zeros(3), k)
    with pytest.raises(ValueError, match="logits must be finite, got 2 of which 1 are"):
        kappa.kappa_offset_of(np.array([np.nan, 1]), 0.5)
