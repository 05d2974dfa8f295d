"""EL2N: the further a model was off an example, the likelier it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.selection.policies.piloted import Piloted
from pipeline.selection.policy import Candidates, LabelPolicy
from pipeline.selection.scale import centres, clipped, histogram, logs_of, scale_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class El2n(Piloted, LabelPolicy):
    """Keep examples in proportion to the error |p - y| of a model (Paul et al. 2021, EL2N), weighted by what they stand for.

    An example is kept with pi = clip(c |p - y|, floor, 1), c such that the window's mean of pi is `rate`. Theirs keeps the
    examples with the largest error and no weights, which shifts the click rate that a model learns.
    """

    kind: Literal["el2n"] = "el2n"
    signal: ClassVar[str] = "error"

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BINS,) how many of the pilot's errors have their logarithm in each bin."""
        return histogram(logs_of(rows.signals["pilot"]))

    def summarize(self, tally: NDArray[np.int64]) -> float:
        """log c such that the mean probability is the rate."""
        import numpy as np

        places = np.flatnonzero(tally)
        return scale_for(self.rate, centres(places), tally[places], self.least)

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """c times the error between floor and one; the error has looked at the label already."""
        return clipped(logs_of(rows.signals["pilot"]), rows.summary, self.least)
