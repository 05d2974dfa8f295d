"""Recency: the older a window is when the online phase begins, the fewer of its rows are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import Policy, Rate
from pipeline.spec.documents import Real
from pipeline.spec.window import Window


class Recency(FeaturePolicy):
    """Keep all rows of a day and after it, and half as many for each half-life before it, clicks and others alike.

    For a log that drifts, of which old windows say less: a warm-up over a year need not read all of it.
    """

    kind: Literal["recency"] = "recency"
    until: Window
    """From this window on all rows are kept."""
    half_life: Real = Field(gt=0)
    """Windows after which half as many rows are kept."""
    least: Rate = 0.01
    """Least fraction of a window's rows that is kept."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """A uniform sample at the window's rate."""
        age = max(0, self.until.days_since(window))
        uniform = Uniform(
            rate=max(self.least, 2 ** -(age / self.half_life)), scope=self.scope, correction=self.correction
        )
        return uniform.in_window(window, online=online)

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        """Never asked: in each window it is a uniform sample."""
        raise TypeError("recency is a uniform sample in each window: ask `in_window` first")
