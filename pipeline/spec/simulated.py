"""What a simulated log looks like: rates, columns, how they interact and drift."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from pipeline.spec.documents import Flag, Frozen, Real, Seed, Whole
from pipeline.spec.window import Window

SEMANTICS = 1
"""Raised by hand whenever the same config would yield other rows."""

Probability = Annotated[Real, Field(ge=0.0, le=1.0)]


class SimulatorConfig(Frozen):
    """What a simulated log looks like.

    The logit of an example is an intercept, plus linear effects of its numbers, ids and lists, plus products of
    latent vectors of pairs of columns, which no linear model can express.
    """

    seed: Seed = 0
    """Sets everything that is drawn."""
    origin: Window = Window.of("2024-01-01")
    """The window in which weights and popularity are freshly drawn; they drift away from it in both directions."""
    rows_per_window: Annotated[Whole, Field(ge=1, le=100_000_000)] = 100_000
    """Examples a day."""
    base_rate: Annotated[Real, Field(gt=0.0, le=0.5)] = 0.05
    """Mean of the true probabilities of every window."""
    num_dense: Annotated[Whole, Field(ge=0, le=10_000)] = 13
    """Numbers per example."""
    num_categorical: Annotated[Whole, Field(ge=0, le=10_000)] = 26
    """Ids per example."""
    num_lists: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    """Lists of ids per example."""
    mean_list_length: Annotated[Whole, Field(ge=1, le=10_000)] = 4
    """Mean number of ids in a list; the lengths are uniform from none to twice as many."""
    num_ids: Annotated[Whole, Field(ge=2, le=10_000_000)] = 10_000
    """Ids alive at a time in the largest column; the columns grow geometrically from ten ids to that many."""
    hash_size: Annotated[Whole, Field(ge=2, le=2**31 - 1)] | None = None
    """Buckets of every column of ids; by default twice as many as it has ids alive."""
    zipf: Annotated[Real, Field(ge=0.0, le=4.0)] = 1.1
    """Exponent of the popularity of ids: the k-th most popular is drawn in proportion to k to the minus this."""
    signal: Annotated[Real, Field(ge=0.0, le=100.0)] = 1.5
    """Standard deviation of the logit, about."""
    num_interactions: Annotated[Whole, Field(ge=0, le=10_000)] = 12
    """Pairs of columns that interact."""
    interaction_rank: Annotated[Whole, Field(ge=1, le=1024)] = 4
    """Width of a column's latent vector: the embedding that a factorization machine needs. Where it is much wider than a
    small model's, capacity binds and a larger model is worth its cost."""
    interaction_strength: Probability = 0.5
    """Share of the logit's variance that the interacting pairs bring."""
    drift: Probability = 0.05
    """Standard deviation of a weight's daily step, relative to the weights' own; their spread stays. 0: none."""
    churn: Probability = 0.02
    """Share of the ids whose popularity is drawn again each day."""
    new_ids: Probability = 0.01
    """Share of the ids that give way each day to ids never seen before."""
    cluster: Flag = False
    """Whether to publish the first column of ids as the cluster."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_dense + self.num_categorical + self.num_lists == 0:
            raise ValueError("a simulated log has at least one column, got num_dense, num_categorical, num_lists of 0")
        if self.cluster and self.num_categorical == 0:
            raise ValueError("the cluster is the first column of ids, got num_categorical of 0: give at least 1")
        return self

    @classmethod
    def tiny(cls, **changes: Any) -> SimulatorConfig:
        """A few small columns and 2,000 rows a day: for tests and first looks."""
        small: dict[str, Any] = {
            "rows_per_window": 2_000,
            "num_dense": 3,
            "num_categorical": 4,
            "num_ids": 50,
            "num_interactions": 3,
            "base_rate": 0.2,
        }
        return cls(**{**small, **changes})

    @property
    def key(self) -> str:
        """Twelve hex digits that change whenever the rows would."""
        canonical = json.dumps([SEMANTICS, self.model_dump(mode="json")], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]
