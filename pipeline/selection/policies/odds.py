"""Odds-proportional downsampling: the likelier a pilot finds a negative, the likelier it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import Age, All, Policy, Rate, Read, Source
from pipeline.spec.documents import Real
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOGIT_RANGE = 32.0
"""Pilots' logits beyond it count as if they lay on its edge when c is solved."""
LOGIT_BINS = 1 << 16


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
        """(LOGIT_BINS,) how many of the pilot's logits lie in each bin."""
        import numpy as np

        place = (rows.signals["pilot"].astype(np.float64) + LOGIT_RANGE) * (LOGIT_BINS / (2 * LOGIT_RANGE))
        return np.bincount(np.clip(place, 0, LOGIT_BINS - 1).astype(np.int64), minlength=LOGIT_BINS)

    def summarize(self, tally: NDArray[np.int64]) -> float:
        """log c such that the expected share of negatives kept is the rate.

        Solves sum((1 - p) * clip(c * p / (1 - p), floor, 1)) = rate * sum(1 - p) over a window's rows, where p is the
        pilot's probability, from its logits alone: no label enters. The search is over fixed halvings, and the left side
        grows with the rate's c, so samples of different rates nest as long as their floors grow with their rates.
        """
        import numpy as np

        places = np.flatnonzero(tally)
        logit = (places.astype(np.float64) + 0.5) * (2 * LOGIT_RANGE / LOGIT_BINS) - LOGIT_RANGE
        negatives = tally[places] / (1 + np.exp(logit))
        low, high = -2 * LOGIT_RANGE, 2 * LOGIT_RANGE
        for _ in range(60):
            middle = (low + high) / 2
            if float((negatives * (self._odds(logit, middle) - self.rate)).sum()) < 0:
                low = middle
            else:
                high = middle
        return high

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], float]:
        """c times the odds between floor and one, and one."""
        return self._odds(rows.signals["pilot"], rows.summary), 1.0

    def _odds(self, logit: NDArray[np.floating], log_scale: float) -> NDArray[np.float64]:
        import numpy as np

        clipped: NDArray[np.float64] = np.maximum(
            self.least, np.exp(np.minimum(log_scale + logit.astype(np.float64), 0.0))
        )
        return clipped
