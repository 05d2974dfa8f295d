"""Uniform thinning: every example with the same probability, whatever its label."""

from __future__ import annotations

from typing import Literal

from pipeline.selection.policy import AtRate, Candidates, FeaturePolicy


class Uniform(AtRate, FeaturePolicy):
    """Keep a fixed fraction of the rows, clicks and others alike: what every other policy has to beat at equal rows.

    Under correction by offset nothing is left to correct: both labels are kept alike.
    """

    kind: Literal["uniform"] = "uniform"

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        """The rate, twice."""
        return self.rate, self.rate
