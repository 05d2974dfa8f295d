"""What policies that ask a pilot have in common: a rate, the pilot, a floor that gives every example a chance, and proportion to a score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import AtRate, Candidates, LabelPolicy
from pipeline.selection.scale import centres, clipped, histogram, logs_of, scale_for
from pipeline.spec.config import Age, All, Policy, Read, Source
from pipeline.spec.documents import Real
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Piloted(AtRate):
    """Keeps an expected share of the rows, with probabilities that follow what a pilot says of them."""

    rate_over_floor: ClassVar[int] = 10
    signal: ClassVar[str] = "logit"
    """What the pilot says."""

    pilot: Source
    """The variant of the line-up whose signals the policy reads."""
    pilot_age: Age = 0
    """Age of the pilot's checkpoint, in windows; 0: the pilot's own training pass over the window."""
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


class InProportion(Piloted, LabelPolicy):
    """Keeps examples in proportion to a score of what the pilot says: pi = clip(c s, floor, 1), the mean of pi being the rate."""

    def log_score(self, rows: Candidates) -> NDArray[np.float64]:
        """(N,) log s; the pilot's signal itself unless a policy makes another of it."""
        return logs_of(rows.signals["pilot"])

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BINS,) how many rows have the logarithm of their score in each bin."""
        return histogram(self.log_score(rows))

    def summarize(self, tally: NDArray[np.int64]) -> float:
        """log c such that the mean probability is the rate."""
        import numpy as np

        places = np.flatnonzero(tally)
        return scale_for(self.rate, centres(places), tally[places], self.least)

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """c times the score between floor and one; where the score depends on the label, the signal has looked at it already."""
        return clipped(self.log_score(rows), rows.summary, self.least)
