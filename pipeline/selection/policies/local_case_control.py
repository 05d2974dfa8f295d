"""Local case-control: examples whose label surprises a pilot stay, and its logit corrects for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.selection.policies.piloted import Piloted
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.selection.scale import centres, clipped, histogram, solved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LocalCaseControl(Piloted, FeaturePolicy):
    """Keep an example with c |y - p| (Fithian & Hastie 2014): a click with c (1 - p), any other with c p, p a pilot's.

    Both lie between floor and one, with c such that the expected share of rows kept is `rate`. What is learned on the sample
    differs from the truth by log pi_1(x) - log pi_0(x), about minus the pilot's logit, which the offset takes away. Both
    probabilities are known at either label, so that no weight is needed.
    """

    kind: Literal["local_case_control"] = "local_case_control"

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BINS,) how many of the pilot's logits lie in each bin."""
        return histogram(rows.signals["pilot"])

    def summarize(self, tally: NDArray[np.int64]) -> float:
        """log c such that the expected share of rows kept is the rate, from the pilot's logits alone: no label enters."""
        import numpy as np

        places = np.flatnonzero(tally)
        logit, count = centres(places), tally[places]
        click, logs = 1 / (1 + np.exp(-logit)), _logs_of_both(logit)

        def excess(scale: float) -> float:
            negative, positive = (clipped(each, scale, self.least) for each in logs)
            return float((count * ((1 - click) * negative + click * positive - self.rate)).sum())

        return solved(excess)

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """c p and c (1 - p), between floor and one."""
        negative, positive = (clipped(each, rows.summary, self.least) for each in _logs_of_both(rows.signals["pilot"]))
        return negative, positive


def _logs_of_both(logit: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log p and log (1 - p) of a pilot's logits (N,)."""
    import numpy as np

    exact = logit.astype(np.float64)
    return -np.logaddexp(0.0, -exact), -np.logaddexp(0.0, exact)
