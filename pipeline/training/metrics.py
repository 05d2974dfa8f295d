"""Log-loss, normalised entropy, AUC, calibration and excess, kept as sums until the last line."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy
from scipy.stats import rankdata

Array = NDArray[np.float64]


def log_losses(logits: NDArray[Any], targets: NDArray[Any]) -> Array:
    """(N,) cross-entropy in nats of each prediction sigma(logit) against a label or a probability."""
    z = np.asarray(logits, np.float64)
    losses: Array = np.logaddexp(0, z) - z * np.asarray(targets, np.float64)
    return losses


def entropy(p: NDArray[Any] | float) -> Array:
    """Entropy in nats of a click of probability `p`."""
    p = np.asarray(p, np.float64)
    nats: Array = -xlogy(p, p) - xlogy(1 - p, 1 - p)
    return nats


@dataclass(frozen=True, slots=True)
class ClickSums:
    """Sums from which the metrics of any union of rows follow."""

    weight: float = 0.0
    positives: float = 0.0
    loss: float = 0.0
    prediction: float = 0.0
    true_prob: float = 0.0
    excess: float = 0.0
    rows: int = 0

    @classmethod
    def of(
        cls,
        label: NDArray[Any],
        logit: NDArray[Any],
        *,
        weight: NDArray[Any] | None = None,
        true_prob: NDArray[Any] | None = None,
    ) -> ClickSums:
        """Sums over N rows, each standing for `weight` rows."""
        w = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
        truth = None if true_prob is None else np.asarray(true_prob, np.float64)
        return cls(
            weight=float(w.sum()),
            positives=float(w @ np.asarray(label, np.float64)),
            loss=float(w @ log_losses(logit, label)),
            prediction=float(w @ expit(np.asarray(logit, np.float64))),
            true_prob=math.nan if truth is None else float(w @ truth),
            excess=math.nan if truth is None else float(w @ (log_losses(logit, truth) - entropy(truth))),
            rows=len(label),
        )

    def __add__(self, other: ClickSums) -> ClickSums:
        return ClickSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """The metrics of all rows summed.

        `log_loss` in nats per example; `normalized_entropy` = log-loss over the entropy of the same rows' base rate (He
        et al. 2014); `calibration` = predicted over observed clicks; where the true probability is known also `excess`,
        the mean Kullback-Leibler divergence from it in nats, and `true_calibration`. What cannot be computed is left out.
        """
        if not self.weight:
            return {}
        rate = self.positives / self.weight
        found = {"log_loss": self.loss / self.weight, "base_rate": rate}
        if 0 < rate < 1:
            found["normalized_entropy"] = found["log_loss"] / float(entropy(rate))
        if rate:
            found["calibration"] = self.prediction / self.positives
        if self.true_prob > 0:
            found["excess"] = self.excess / self.weight
            found["true_calibration"] = self.prediction / self.true_prob
        return {name: value for name, value in found.items() if math.isfinite(value)}


class RunningSums:
    """The sums of a stream of small batches, taken of thousands of rows at a time: a batch's own would cost more."""

    def __init__(self, at_once: int = 8192) -> None:
        self._at_once = at_once
        self._done = ClickSums()
        self._waiting: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._num_waiting = 0

    def add(self, label: NDArray[Any], logit: NDArray[Any], weight: NDArray[Any]) -> None:
        """Some more rows, each standing for `weight` rows; the arrays must not change afterwards."""
        self._waiting.append((label, logit, weight))
        self._num_waiting += len(label)
        if self._num_waiting >= self._at_once:
            self.total()

    def total(self) -> ClickSums:
        """The sums of all rows so far."""
        if self._waiting:
            label, logit, weight = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
            self._done += ClickSums.of(label, logit, weight=weight)
            self._waiting, self._num_waiting = [], 0
        return self._done


def auc(label: NDArray[Any], logit: NDArray[Any]) -> float | None:
    """Area under the ROC curve from the pooled rows, ties counted half (Mann-Whitney); None if a class is missing."""
    positive = np.asarray(label) > 0
    num_positives = int(positive.sum())
    num_negatives = len(positive) - num_positives
    if not num_positives or not num_negatives:
        return None
    ranks = rankdata(np.asarray(logit, np.float64))
    statistic = float(ranks[positive].sum()) - num_positives * (num_positives + 1) / 2
    return statistic / (num_positives * num_negatives)
