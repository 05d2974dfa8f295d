"""What policies that ask a pilot have in common: a rate, the pilot, and a floor that gives every example a chance."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import AtRate
from pipeline.spec.config import Age, All, Policy, Read, Source
from pipeline.spec.documents import Real
from pipeline.spec.window import Window


class Piloted(AtRate):
    """Keeps an expected share of the rows, with probabilities that follow what a pilot says of them."""

    rate_over_floor: ClassVar[int] = 10
    signal: ClassVar[str] = "logit"
    """What the pilot says."""

    pilot: Source
    """The variant of the line-up that is asked."""
    pilot_age: Age = 0
    """It is asked as its checkpoint stood that many windows earlier; 0: in its own training pass over the window."""
    since: Window | None = None
    """First window in which the pilot is asked; before it rows are kept uniformly at the same rate."""
    floor: Real | None = Field(default=None, gt=0)
    """Least probability with which any example is kept; a tenth of the rate when not given, half for `low_loss`."""

    @property
    def least(self) -> float:
        """The floor, given or not."""
        return self.rate / self.rate_over_floor if self.floor is None else self.floor

    @model_validator(mode="after")
    def _floor_below_rate(self) -> Self:
        if self.least > self.rate:
            raise ValueError(f"the floor cannot exceed the rate {self.rate}, got {self.floor}")
        return self

    def reads(self) -> dict[str, Read]:
        """The pilot's signal."""
        return {"pilot": Read(self.pilot, self.pilot_age, self.signal)}

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one; without the pilot before `since`."""
        found = super().in_window(window, online=online)
        if isinstance(found, All):
            return found
        if self.since is not None and window < self.since:
            return self.without_pilot().in_window(window, online=online)
        return found.model_copy(update={"since": None, "floor": self.least})

    def without_pilot(self) -> Policy:
        """What stands for it before `since`."""
        return Uniform(rate=self.rate, correction=getattr(self, "correction", "weight"))
