"""Uniform negative downsampling: a fixed fraction of the negatives, and all clicks or a fraction of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import All, Policy, Rate
from pipeline.spec.window import Window


class NegativeDownsampling(FeaturePolicy):
    """Keep all positives and a fixed fraction of the negatives (McMahan et al. 2013; Jain et al. 2024)."""

    kind: Literal["negatives"] = "negatives"
    rate: Rate
    """Fraction of negatives kept, in (0, 1]."""
    clicks: Rate = 1.0
    """Fraction of positives kept: for budgets below the number of clicks."""

    @model_serializer(mode="wrap")
    def _without_its_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was before `clicks` came, where all are kept: what is stored keeps its key."""
        found: dict[str, Any] = write(self)
        return found if self.clicks < 1 else {name: value for name, value in found.items() if name != "clicks"}

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at rates of one."""
        return All() if self.rate == self.clicks == 1 else super().in_window(window, online=online)

    def share(self, click_rate: float) -> float:
        """The rate of each label times how often it occurs."""
        return click_rate * self.clicks + (1 - click_rate) * self.rate

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        """The rates."""
        return self.rate, self.clicks
