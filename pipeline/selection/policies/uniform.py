"""Uniform thinning: every example with the same probability, whatever its label."""

from __future__ import annotations

from typing import Literal

from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import All, Policy, Rate
from pipeline.spec.window import Window


class Uniform(FeaturePolicy):
    """Keep a fixed fraction of the rows, clicks and others alike: what every other policy has to beat at equal rows.

    Under correction by offset nothing is left to correct: both labels are kept alike.
    """

    kind: Literal["uniform"] = "uniform"
    rate: Rate
    """Fraction of rows kept, in (0, 1]."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one."""
        return All() if self.rate == 1 else super().in_window(window, online=online)

    def share(self, click_rate: float) -> float:
        """The rate."""
        return self.rate

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        """The rate, twice."""
        return self.rate, self.rate
