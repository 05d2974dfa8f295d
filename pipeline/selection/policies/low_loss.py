"""Low-loss dropping: of the examples that a model finds easiest only a few stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.selection.policies.piloted import Piloted
from pipeline.selection.policy import Candidates, LabelPolicy
from pipeline.selection.scale import bins_of, histogram, logs_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LowLoss(Piloted, LabelPolicy):
    """Keep all examples on which a model's loss is high, and of the others a few, weighted by what they stand for.

    The losses of a window are cut where the expected share of rows kept is `rate`: those above are kept, those below with
    probability `floor`. Dropping them altogether would leave no example to stand for them.
    """

    kind: Literal["low_loss"] = "low_loss"
    rate_over_floor: ClassVar[int] = 2
    signal: ClassVar[str] = "loss"

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BINS,) how many of the pilot's losses have their logarithm in each bin."""
        return histogram(logs_of(rows.signals["pilot"]))

    def summarize(self, tally: NDArray[np.int64]) -> tuple[int, float]:
        """The bin in which the cut lies, and the probability of the losses in it."""
        import numpy as np

        total, least = int(tally.sum()), self.least
        if total == 0:
            return 0, 1.0
        above = total - np.cumsum(tally)
        # What is kept if every loss in a bin and below it has the floor's probability; falls with the bin.
        kept = above + least * (total - above)
        place = int(np.argmax(kept <= self.rate * total))
        within = int(tally[place])
        spare = self.rate * total - float(kept[place])
        return place, float(min(1.0, least + (spare / within if within else 0.0)))

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """One above the cut, the floor below, and in its bin what is left; the loss has looked at the label already."""
        import numpy as np

        place, within = rows.summary
        bins = bins_of(logs_of(rows.signals["pilot"]))
        return np.where(bins > place, 1.0, np.where(bins == place, within, self.least))
