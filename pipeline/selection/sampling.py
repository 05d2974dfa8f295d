"""Selection: which examples are trained on and with what correction, a pure function of (examples, policy, salt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.config import All, NegativeDownsampling, OddsProportional, Selection
from pipeline.storage.hashing import splitmix64

Floats = NDArray[np.float32]


def keyed_uniform(example_id: NDArray[np.uint64], salt: int) -> NDArray[np.float64]:
    """(N,) one number in [0, 1) per example: splitmix64 of its id under a key (Steele et al. 2014).

    Nothing else enters: neither the order of rows, nor the number of workers, nor a generator's state.
    """
    key = splitmix64(np.array([salt & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return (splitmix64(example_id ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def selection_salt(seed: int) -> int:
    """The salt of every selection under a seed; shared by all variants, so that their samples nest."""
    return (seed << 8) | 1


def evaluation_salt(seed: int) -> int:
    """The salt of the evaluation slice, independent of every selection's."""
    return (seed << 8) | 2


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot says of some rows. N rows."""

    logit: Floats
    """(N,) its raw logits."""
    log_scale: float
    """log c, solved over the whole window: a negative is kept with c times the odds, between floor and one."""


LOGIT_RANGE = 32.0
"""Pilots' logits beyond it count as if they lay on its edge when c is solved."""
LOGIT_BINS = 1 << 16


def logit_counts(logit: Floats) -> NDArray[np.int64]:
    """(LOGIT_BINS,) how many logits lie in each bin: whole numbers, whose sums depend on no order of rows or workers."""
    place = (logit.astype(np.float64) + LOGIT_RANGE) * (LOGIT_BINS / (2 * LOGIT_RANGE))
    return np.bincount(np.clip(place, 0, LOGIT_BINS - 1).astype(np.int64), minlength=LOGIT_BINS)


def solve_log_scale(policy: OddsProportional, counts: NDArray[np.int64]) -> float:
    """log c such that the expected share of negatives kept is the policy's rate.

    Solves sum((1 - p) * clip(c * p / (1 - p), floor, 1)) = rate * sum(1 - p) over a window's rows, where p is the pilot's
    probability, from its scores alone: no label enters. The search is over fixed halvings, and the left side grows with
    the rate's c, so samples of different rates nest as long as their floors grow with their rates.

    Args:
        policy: its rate and floor.
        counts: (LOGIT_BINS,) `logit_counts` of all rows of the window.
    """
    places = np.flatnonzero(counts)
    logit = (places.astype(np.float64) + 0.5) * (2 * LOGIT_RANGE / LOGIT_BINS) - LOGIT_RANGE
    negatives = counts[places] / (1 + np.exp(logit))
    low, high = -2 * LOGIT_RANGE, 2 * LOGIT_RANGE
    for _ in range(60):
        middle = (low + high) / 2
        if float((negatives * (_clipped_odds(logit, middle, policy.least) - policy.rate)).sum()) < 0:
            low = middle
        else:
            high = middle
    return high


def _clipped_odds(logit: NDArray[np.float64], log_scale: float, floor: float) -> NDArray[np.float64]:
    clipped: NDArray[np.float64] = np.maximum(floor, np.exp(np.minimum(log_scale + logit, 0.0)))
    return clipped


def keep_probabilities(
    policy: Selection, num_rows: int, pilot: Pilot | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: pi_0(x) and pi_1(x), the probabilities with which a negative and a positive at x are kept.

    Args:
        policy: which rows.
        num_rows: N.
        pilot: what the policy's pilot says of the rows; a policy without one looks at none.

    Raises:
        ValueError: the policy has a pilot, which says nothing.
    """
    match policy:
        case All():
            return np.ones(num_rows), np.ones(num_rows)
        case NegativeDownsampling(rate=rate):
            return np.full(num_rows, rate), np.ones(num_rows)
        case OddsProportional():
            if pilot is None:
                raise ValueError(f"the odds of {policy.pilot!r} decide what is selected, got none: pass its scores")
            return _clipped_odds(pilot.logit.astype(np.float64), pilot.log_scale, policy.least), np.ones(num_rows)


@dataclass(frozen=True, slots=True)
class Selected:
    """The examples that a policy keeps. K of N rows."""

    index: NDArray[np.int64]
    """(K,) places among the N rows, ascending."""
    importance: Floats
    """(K,) 1 / pi_y(x)"""
    weight: Floats
    """(K,) weight in the loss: the importance under correction by weight, else 1."""
    offset: Floats
    """(K,) added to the logit in training: log pi_1(x) - log pi_0(x) under correction by offset, else 0."""


def select(
    policy: Selection,
    example_id: NDArray[np.uint64],
    label: NDArray[np.uint8],
    *,
    salt: int,
    pilot: Pilot | None = None,
) -> Selected:
    """Apply a policy. Exactly one of weight and offset differs from its neutral value.

    The offset is the same for either label: one taken from the row's own keep probability would leak the label
    (Wang, Zhang & Wang 2021).
    """
    pi_0, pi_1 = keep_probabilities(policy, len(label), pilot)
    pi_y = np.where(label > 0, pi_1, pi_0)
    index = np.flatnonzero(keyed_uniform(example_id, salt) < pi_y)
    importance = (1 / pi_y[index]).astype(np.float32)
    weight = np.ones(len(index), np.float32)
    offset = np.zeros(len(index), np.float32)
    if not isinstance(policy, All):
        if policy.correction == "weight":
            weight = importance
        else:
            offset = (np.log(pi_1[index]) - np.log(pi_0[index])).astype(np.float32)
    return Selected(index, importance, weight, offset)
