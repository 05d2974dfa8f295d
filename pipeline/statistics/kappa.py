"""What theory predicts of sampled negatives: by how much each correction multiplies the excess loss of full data.

A logistic model of d parameters fitted to N examples loses d / 2N more than the best one; sampled, kappa times that, where
kappa is the trace of (sampled information)^-1 (full information) over d when the features' directions are like the logit's.
Negatives are kept k for each positive, and positives are rare. Derived from Wang, Zhang & Wang (2021), Fithian & Hastie (2014).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

NODES = 80
"""Of the quadrature over a Gaussian."""


def kappa_weight(k: float, s: float) -> float:
    """Of correction by weight, for Gaussian logits of standard deviation s: 1 + exp(s^2) / k.

    >>> round(kappa_weight(25, 1.2), 2), round(kappa_weight(5, 1.2), 2)
    (1.17, 1.84)
    """
    return 1 + math.exp(s**2) / _positive(k)


def kappa_offset(k: float, s: float) -> float:
    """Of correction by offset: 1 / E[1 / (1 + exp(f - s^2 / 2) / k)] over f ~ N(s^2, s^2), the logits of the positives.

    >>> round(kappa_offset(25, 1.2), 2), round(kappa_offset(5, 1.2), 2)
    (1.13, 1.5)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    f = s**2 + s * nodes
    information = 1 / (1 + np.exp(f - s**2 / 2) / _positive(k))
    return float(weights.sum() / (weights @ information))


def kappa_odds(k: float) -> float:
    """Of negatives kept in proportion to their odds of being positive, for any logits: 1 + 1 / k.

    >>> kappa_odds(25), kappa_odds(5)
    (1.04, 1.2)
    """
    return 1 + 1 / _positive(k)


def kappa_weight_of(logits: NDArray[Any], keep: float | NDArray[Any]) -> float:
    """Of correction by weight where negatives are kept with a probability, or with one each (N,), and all positives.

    Over the true logits (N,) and not a Gaussian: the sandwich's ratio E[p (1-p)^2 + (1-p) p^2 / pi_0] / E[p (1-p)], which does
    not need positives to be rare. A rate keeps k = rate * negatives / positives.
    """
    p = _probability(logits, keep)
    information = p * (1 - p)
    noise = p * (1 - p) ** 2 + (1 - p) * p**2 / keep
    return float(noise.sum() / information.sum())


def kappa_offset_of(logits: NDArray[Any], keep: float | NDArray[Any]) -> float:
    """Of correction by offset, likewise: E[p (1-p)] / E[p (1-p) pi_0 / (p + (1-p) pi_0)]."""
    p = _probability(logits, keep)
    sampled = p * (1 - p) * keep / (p + keep * (1 - p))
    return float((p * (1 - p)).sum() / sampled.sum())


def kappa_odds_of(logits: NDArray[Any], k: float) -> float:
    """Of odds-proportional sampling that keeps k negatives a positive, with offset, likewise."""
    p = _probability(logits, 1.0)
    odds = p / (1 - p)
    return kappa_offset_of(logits, np.minimum(1.0, odds * _positive(k)))


def predicted_excess(kappa: float, num_parameters: int, num_examples: int) -> float:
    """The expected log-loss above the best model's, in nats per example: kappa d / 2N.

    >>> predicted_excess(1.5, 20, 10_000)
    0.0015
    """
    if num_examples <= 0:
        raise ValueError(f"num_examples must be positive, got {num_examples}")
    return kappa * num_parameters / (2 * num_examples)


def _positive(k: float) -> float:
    if not k > 0:
        raise ValueError(f"k must be positive, got {k}: say how many negatives are kept for each positive")
    return k


def _probability(logits: NDArray[Any], keep: float | NDArray[Any]) -> NDArray[np.float64]:
    if not np.all((np.asarray(keep) > 0) & (np.asarray(keep) <= 1)):
        raise ValueError(f"rate must be in (0, 1], got {keep}")
    if not len(logits) or not np.all(np.isfinite(logits)):
        raise ValueError(f"logits must be finite, got {len(logits)} of which {int(np.isfinite(logits).sum())} are")
    p: NDArray[np.float64] = expit(np.asarray(logits, np.float64))
    return p
