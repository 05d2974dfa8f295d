"""Odds-proportional downsampling: the likelier a pilot finds a negative, the likelier it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.selection.scale import centres, clipped, histogram, solved
from pipeline.spec.config import Age, All, Policy, Rate, Read, Source
from pipeline.spec.documents import Real
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OddsProportional(FeaturePolicy):
    """Keep all positives, and negatives in proportion to a pilot's odds of a click (Wang, Zhang & Wang 2021).

    A negative is kept with pi_0(x) = clip(c * odds(x), floor, 1), c such that the expected share of negatives kept is
    `rate`. Hard negatives are likelier to stay, and the correction undoes exactly that.
    """

    kind: Literal["odds"] = "odds"
    rate: Rate
    """Expected fraction of negatives kept, in (0, 1]."""
    pilot: Source
    """The variant of the line-up whose logits give the odds."""
    pilot_age: Age = 0
    """Logits of the checkpoint that closed the window that many windows earlier; 0: from the pilot's own training pass."""
    since: Window | None = None
    """First window in which the pilot is read; before it negatives are kept uniformly at the same rate."""
    floor: Real | None = Field(default=None, gt=0)
    """Least probability with which any negative is kept; a tenth of the rate when not given."""

    @property
    def least(self) -> float:
        """The floor, given or not."""
        return self.rate / 10 if self.floor is None else self.floor

    @model_validator(mode="after")
    def _floor_below_rate(self) -> OddsProportional:
        if self.least > self.rate:
            raise ValueError(f"the floor cannot exceed the rate {self.rate}, got {self.floor}")
        return self

    def reads(self) -> dict[str, Read]:
        """The pilot's logits."""
        return {"pilot": Read(self.pilot, self.pilot_age)}

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one; uniform before `since`."""
        if self.rate == 1:
            return All()
        if self.since is not None and window < self.since:
            uniform = NegativeDownsampling(rate=self.rate, correction=self.correction, scope=self.scope)
            return uniform.in_window(window, online=online)
        found = super().in_window(window, online=online)
        return found if isinstance(found, All) else found.model_copy(update={"since": None, "floor": self.least})

    def share(self, click_rate: float) -> float:
        """The clicks, and the rate of the rest."""
        return click_rate + (1 - click_rate) * self.rate

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BINS,) how many of the pilot's logits lie in each bin."""
        return histogram(rows.signals["pilot"])

    def summarize(self, tally: NDArray[np.int64]) -> float:
        """log c such that the expected share of negatives kept is the rate.

        Solves sum((1 - p) * clip(c * p / (1 - p), floor, 1)) = rate * sum(1 - p) over a window's rows, where p is the
        pilot's probability, from its logits alone: no label enters. The left side grows with c, so samples of different
        rates nest as long as their floors grow with their rates.
        """
        import numpy as np

        places = np.flatnonzero(tally)
        logit = centres(places)
        negatives = tally[places] / (1 + np.exp(logit))
        return solved(lambda scale: float((negatives * (clipped(logit, scale, self.least) - self.rate)).sum()))

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], float]:
        """c times the odds between floor and one, and one."""
        return clipped(rows.signals["pilot"], rows.summary, self.least), 1.0
