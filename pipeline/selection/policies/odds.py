"""Odds-proportional downsampling: the likelier a pilot finds a negative, the likelier it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.piloted import Piloted
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.selection.scale import centres, clipped, histogram, scale_for
from pipeline.spec.config import Policy, Rate
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OddsProportional(Piloted, FeaturePolicy):
    """Keep all positives, and negatives in proportion to a pilot's odds of a click (Wang, Zhang & Wang 2021).

    A negative is kept with pi_0(x) = clip(c * odds(x), floor, 1). The scale c makes the expected share of negatives
    kept, not of rows kept, equal to `rate`. Hard negatives are likelier to stay, and the correction undoes exactly that.
    """

    kind: Literal["odds"] = "odds"
    rate: Rate
    """Expected fraction of the negatives that is kept."""
    since: Window | None = None
    """The first window in which the pilot is asked; before it, all clicks are kept, and as many negatives uniformly."""

    def without_pilot(self) -> Policy:
        """As many negatives, kept uniformly."""
        return NegativeDownsampling(rate=self.rate, correction=self.correction)

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
        return scale_for(self.rate, logit, negatives, self.least)

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], float]:
        """c times the odds between floor and one, and one."""
        return clipped(rows.signals["pilot"], rows.summary, self.least), 1.0
