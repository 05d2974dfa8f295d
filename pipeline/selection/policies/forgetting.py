"""Forgetting: examples that a proxy predicts right and then wrong again stay, tail items before others if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import Field, model_validator

from pipeline.selection.policies.piloted import Piloted
from pipeline.selection.policy import Candidates, LabelPolicy
from pipeline.selection.scale import clipped, scale_for
from pipeline.spec.config import MOST_PASSES, Read
from pipeline.spec.documents import Whole
from pipeline.spec.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

BUCKETS = 1 << 14
"""In which ids are counted: of a column with more, ids that share a bucket count as one."""


class Forgetting(Piloted, LabelPolicy):
    """Keep examples in proportion to how often a small proxy forgets them (Sachdeva et al. 2022, SVP-CF; Toneva et al. 2019).

    The pilot passes over the window `passes` times, the first time as it trains anyway and then as a copy that is thrown away, and
    counts how often it predicts an example right in one pass and wrong in the next. An example is kept with
    pi = clip(c (count + 1), floor, 1), c such that the window's mean of pi is `rate`, and weighted by 1 / pi.

    With `propensity` (SVP-CF-Prop) the score is also multiplied by the inverse propensity 1 + C (f + 1.5)^-0.55 of the example's id in
    that column, with f its rows in the window, C = (ln N - 1) 2.5^0.55 and N the window's rows (Jain, Prabhu & Varma 2016): ids that
    are seldom shown stay. The paper drops the lowest scores altogether and uses no weights.
    """

    kind: Literal["forgetting"] = "forgetting"
    passes: Whole = Field(default=4, ge=2, le=MOST_PASSES)
    """Of the pilot over the window, its own training pass included: all others are the selection's cost."""
    propensity: str | None = None
    """A categorical column of the window, such as the item's id; None: counts alone."""

    @model_validator(mode="after")
    def _in_its_own_pass(self) -> Self:
        if self.pilot_age:
            raise ValueError(
                f"only a pilot that trains on a window forgets examples of it, got a pilot_age of {self.pilot_age}: leave it out"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one whose frequencies count."""
        return () if self.propensity is None else (self.propensity,)

    def reads(self) -> dict[str, Read]:
        """How often each example was forgotten in so many passes."""
        return {"pilot": Read(self.pilot, 0, f"forgetting_{self.passes}")}

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(BUCKETS, P) how many rows of each bucket of ids were forgotten how often; (1, P) where no column is named."""
        import numpy as np

        num = 1 if self.propensity is None else BUCKETS
        place = self._buckets(rows) * self.passes + self._counts(rows)
        return np.bincount(place, minlength=num * self.passes).reshape(num, self.passes)

    def summarize(self, tally: NDArray[np.int64]) -> Any:
        """(BUCKETS, P) or (1, P) the probability of a row of each bucket and count."""
        import numpy as np

        logs = np.log(np.arange(1.0, self.passes + 1)) + np.zeros(tally.shape)
        if self.propensity is not None:
            scarce = max(0.0, np.log(max(1, tally.sum())) - 1) * 2.5**0.55
            logs += np.log1p(scarce * (tally.sum(axis=1, keepdims=True) + 1.5) ** -0.55)
        there = tally > 0
        scale = scale_for(self.rate, logs[there], tally[there], self.least)
        return clipped(logs, scale, self.least)

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """That of the row's bucket and count; the count has looked at the label already."""
        found: NDArray[np.float64] = rows.summary[self._buckets(rows), self._counts(rows)]
        return found

    def _counts(self, rows: Candidates) -> NDArray[np.int64]:
        import numpy as np

        return np.clip(rows.signals["pilot"], 0, self.passes - 1).astype(np.int64)

    def _buckets(self, rows: Candidates) -> NDArray[np.int64]:
        import numpy as np
        import pyarrow as pa

        if self.propensity is None:
            return np.zeros(len(rows.example_id), np.int64)
        column = cast("pa.Table", rows.columns).column(self.propensity)
        if not pa.types.is_integer(column.type):
            raise BadInput(
                f"propensities are of the ids of a categorical column, got {self.propensity}, which is {column.type}: name another, or none"
            )
        found: NDArray[np.int64] = column.to_numpy().astype(np.int64) % BUCKETS
        return found
