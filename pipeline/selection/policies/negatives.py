"""Uniform negative downsampling: all positives and a fixed fraction of the negatives."""

from __future__ import annotations

from typing import Literal

from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import All, Policy, Rate
from pipeline.spec.window import Window


class NegativeDownsampling(FeaturePolicy):
    """Keep all positives and a fixed fraction of the negatives (McMahan et al. 2013; Jain et al. 2024)."""

    kind: Literal["negatives"] = "negatives"
    rate: Rate
    """Fraction of negatives kept, in (0, 1]."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one."""
        return All() if self.rate == 1 else super().in_window(window, online=online)

    def share(self, click_rate: float) -> float:
        """The clicks, and the rate of the rest."""
        return click_rate + (1 - click_rate) * self.rate

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        """The rate, and one."""
        return self.rate, 1.0
