"""Selection: which examples are trained on and with what correction, a pure function of (examples, policy, salt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import All, NegativeDownsampling, Selection
from pipeline.hashing import splitmix64

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


def keep_probabilities(policy: Selection, num_rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: pi_0(x) and pi_1(x), the probabilities with which a negative and a positive at x are kept."""
    match policy:
        case All():
            return np.ones(num_rows), np.ones(num_rows)
        case NegativeDownsampling(rate=rate):
            return np.full(num_rows, rate), np.ones(num_rows)


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


def select(policy: Selection, example_id: NDArray[np.uint64], label: NDArray[np.uint8], *, salt: int) -> Selected:
    """Apply a policy. Exactly one of weight and offset differs from its neutral value.

    The offset is the same for either label: one taken from the row's own keep probability would leak the label
    (Wang, Zhang & Wang 2021).
    """
    pi_0, pi_1 = keep_probabilities(policy, len(label))
    pi_y = np.where(label > 0, pi_1, pi_0)
    index = np.flatnonzero(keyed_uniform(example_id, salt) < pi_y)
    importance = (1 / pi_y[index]).astype(np.float32)
    weight = np.ones(len(index), np.float32)
    offset = np.zeros(len(index), np.float32)
    if isinstance(policy, NegativeDownsampling):
        if policy.correction == "weight":
            weight = importance
        else:
            offset = (np.log(pi_1[index]) - np.log(pi_0[index])).astype(np.float32)
    return Selected(index, importance, weight, offset)
