"""Metrics: what scikit-learn computes, summed over any parts, and finite whatever a model says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

from pipeline.training.metrics import ClickSums, auc, entropy, log_losses

COUNT = 500


def draw(seed: int = 0, count: int = COUNT) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Labels, logits and weights."""
    random = np.random.default_rng(seed)
    label = (random.random(count) < 0.2).astype(np.float32)
    return label, random.normal(-1, 1.5, count).round(1), random.uniform(0.5, 20, count)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_log_loss_and_auc_are_scikit_learns(seed: int) -> None:
    label, z, weight = draw(seed)
    for w in (None, weight):
        ours = ClickSums.of(label, z, weight=w).metrics()
        assert ours["log_loss"] == pytest.approx(log_loss(label, expit(z), sample_weight=w), rel=1e-9)
        assert ours["base_rate"] == pytest.approx(np.average(label, weights=w))
        assert ours["calibration"] == pytest.approx(np.average(expit(z), weights=w) / np.average(label, weights=w))
    assert auc(label, z) == pytest.approx(roc_auc_score(label, z), rel=1e-12)


def test_ties_count_half_and_a_missing_class_has_no_area() -> None:
    label = np.array([0, 1, 0, 1])
    assert auc(label, np.zeros(4)) == 0.5
    assert auc(label, np.array([0.0, 1.0, 0.0, 1.0])) == 1.0
    assert auc(label, np.array([1.0, 0.0, 1.0, 0.0])) == 0.0
    assert auc(np.ones(4), np.arange(4)) is None
    assert auc(np.zeros(0), np.zeros(0)) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, COUNT), max_size=4))
def test_sums_of_parts_are_the_whole(seed: int, cuts: list[int]) -> None:
    label, z, weight = draw(seed)
    truth = expit(z + 0.3)
    edges = [0, *sorted(cuts), COUNT]
    whole = ClickSums.of(label, z, weight=weight, true_prob=truth)
    parts = sum(
        (
            ClickSums.of(label[a:b], z[a:b], weight=weight[a:b], true_prob=truth[a:b])
            for a, b in zip(edges, edges[1:], strict=False)
        ),
        ClickSums(),
    )
    assert parts.rows == whole.rows == COUNT
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-9)


def test_a_weight_stands_for_that_many_rows() -> None:
    label, z, _ = draw()
    times = np.random.default_rng(1).integers(1, 4, COUNT)
    repeated = ClickSums.of(np.repeat(label, times), np.repeat(z, times)).metrics()
    assert ClickSums.of(label, z, weight=times).metrics() == pytest.approx(repeated)


def test_predicting_the_base_rate_has_an_entropy_of_one() -> None:
    label, _, _ = draw()
    rate = float(label.mean())
    constant = ClickSums.of(label, np.full(COUNT, logit(rate))).metrics()
    assert constant["normalized_entropy"] == pytest.approx(1)
    assert constant["calibration"] == pytest.approx(1)
    better = ClickSums.of(label, np.where(label > 0, 1.0, -3.0)).metrics()
    assert better["normalized_entropy"] < 1 < ClickSums.of(label, np.full(COUNT, 1.0)).metrics()["normalized_entropy"]


def test_the_truth_has_no_excess_and_everything_else_has() -> None:
    truth = np.random.default_rng(0).uniform(0.001, 0.7, 10_000)
    label = (np.random.default_rng(1).random(10_000) < truth).astype(np.float32)
    exact = ClickSums.of(label, logit(truth), true_prob=truth).metrics()
    assert exact["excess"] == pytest.approx(0, abs=1e-12)
    assert exact["true_calibration"] == pytest.approx(1)
    p = expit(logit(truth) + 0.2)
    off = ClickSums.of(label, logit(p), true_prob=truth).metrics()
    divergence = truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))
    assert off["excess"] == pytest.approx(divergence.mean())
    assert off["true_calibration"] > 1.05


def test_what_cannot_be_computed_is_left_out() -> None:
    assert ClickSums().metrics() == {}
    negatives = ClickSums.of(np.zeros(3), np.zeros(3)).metrics()
    assert set(negatives) == {"log_loss", "base_rate"}
    assert "excess" not in ClickSums.of(np.ones(3), np.zeros(3)).metrics(), "no true probability, no excess"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-(2.0**127), 2.0**127, width=32), st.booleans(), st.floats(0, 1)), min_size=1, max_size=20
    )
)
def test_extreme_predictions_stay_finite(examples: list[tuple[float, bool, float]]) -> None:
    z, label, truth = (np.array(column) for column in zip(*examples, strict=True))
    metrics = ClickSums.of(label.astype(np.float32), z.astype(np.float32), true_prob=truth).metrics()
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert (log_losses(z, label) >= 0).all()


def test_float32_logits_lose_no_loss() -> None:
    """A sum in float32 over millions of rows drifts by whole percents; ours is kept in float64."""
    z = np.full(3_000_000, -4.0, np.float32)
    label = np.zeros(3_000_000, np.float32)
    assert ClickSums.of(label, z).metrics()["log_loss"] == pytest.approx(math.log1p(math.exp(-4)), rel=1e-12)


def test_entropy_is_that_of_a_coin() -> None:
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(np.array([0.0, 1.0])).tolist() == [0, 0]
