"""Sampling: which examples are kept and with what correction, a pure function of (examples, policy, salt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.selection.policy import Candidates, FeaturePolicy, JointPolicy, LabelPolicy, ThinningPolicy
from pipeline.spec.config import All, Policy
from pipeline.storage.hashing import keyed_uniform

Floats = NDArray[np.float32]


def selection_salt(seed: int) -> int:
    """The salt of every selection under a seed; shared by all variants, so that their samples nest."""
    return (seed << 8) | 1


def evaluation_salt(seed: int) -> int:
    """The salt of the evaluation slice, independent of every selection's."""
    return (seed << 8) | 2


@dataclass(frozen=True, slots=True)
class Selected:
    """The examples that a policy keeps. K of N rows."""

    index: NDArray[np.int64]
    """(K,) places among the N rows, ascending."""
    importance: Floats
    """(K,) 1 / pi_y(x): how many rows each one stands for; a joint policy's weight."""
    weight: Floats
    """(K,) weight in the loss: the importance under correction by weight, else 1."""
    offset: Floats
    """(K,) added to the logit in training: log pi_1(x) - log pi_0(x) under correction by offset, else 0."""
    label: Floats | None = None
    """(K,) in the place of the rows' own; None where these stay."""


def keep_probabilities(policy: Policy, rows: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: pi_0(x) and pi_1(x), the probabilities with which a negative and a positive at x are kept.

    Raises:
        TypeError: the policy's probabilities are not of features alone.
    """
    count = len(rows.example_id)
    if isinstance(policy, All):
        return np.ones(count), np.ones(count)
    if not isinstance(policy, FeaturePolicy):
        raise TypeError(f"{policy.kind!r} has no probability for the label that a row does not have")
    negative, positive = policy.keep_probabilities(rows)
    return np.broadcast_to(negative, count), np.broadcast_to(positive, count)


def select(policy: Policy, rows: Candidates, label: NDArray[np.uint8], *, salt: int) -> Selected:
    """Apply a policy. Exactly one of weight and offset differs from its neutral value.

    The offset is the same for either label: one taken from the row's own keep probability would leak the label
    (Wang, Zhang & Wang 2021).

    Args:
        policy: of any class; a joint one must be given the whole window, or one of the parts in which it chooses.
        rows: what it sees. N rows.
        label: (N,)
        salt: key of the hash.
    """
    if isinstance(policy, JointPolicy):
        index, chosen = policy.choose(rows, label, salt)
        return Selected(index, chosen, chosen, np.zeros(len(index), np.float32))
    if isinstance(policy, LabelPolicy):
        pi_y = np.broadcast_to(policy.keep_probability(rows, label), len(label))
        by_weight, pi_0, pi_1 = True, pi_y, pi_y
    else:
        pi_0, pi_1 = keep_probabilities(policy, rows)
        pi_y = np.where(label > 0, pi_1, pi_0)
        by_weight = isinstance(policy, FeaturePolicy) and policy.correction == "weight"
    index = np.flatnonzero(keyed_uniform(rows.example_id, salt) < pi_y)
    importance = (1 / pi_y[index]).astype(np.float32)
    soft = policy.soft_label(rows)[index] if isinstance(policy, ThinningPolicy) and policy.softens else None
    if by_weight:
        return Selected(index, importance, importance, np.zeros(len(index), np.float32), soft)
    offset = (np.log(pi_1[index]) - np.log(pi_0[index])).astype(np.float32)
    return Selected(index, importance, np.ones(len(index), np.float32), offset, soft)
