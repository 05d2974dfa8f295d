"""Stages: policies one after the other, each among what those before it kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import model_validator

from pipeline.selection.policies.product import Combined
from pipeline.selection.policy import Candidates, FeaturePolicy, LabelPolicy
from pipeline.spec.config import All

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Stages(Combined, LabelPolicy):
    """Keep an example if every policy keeps it among what those before it kept: probabilities multiply (two-phase sampling, Neyman 1938).

    A `product` solves each policy's scale on the whole window: what a tenth of the negatives and half of the rows by gradient keep
    together, it cannot say. Here the second's scale is solved on what the first has kept, and half of just these remain. Stages may
    look at labels, and each may look at the whole window, one after the other. All stages
    share one random number u per example. If the first stage keeps it (u < pi_1), u / pi_1 is again uniform, so weights of one over the
    product are unbiased. The stages are corrected
    by weight, whatever their own correction.
    """

    kind: Literal["stages"] = "stages"

    @model_validator(mode="after")
    def _are_of_single_examples(self) -> Self:
        for part in self.of:
            if not isinstance(part, FeaturePolicy | LabelPolicy | All) or isinstance(part, Stages):
                raise ValueError(
                    f"stages are policies with a probability for each example, got {part.kind}: leave it out, or name its own stages"
                )
        return self

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The label, which decides what a stage has kept, and the columns of all."""
        return tuple(dict.fromkeys(("label", *super().columns)))

    @property
    def num_looks(self) -> int:
        """One for each stage that looks at the whole window."""
        return len(self._looking)

    @property
    def _thinning(self) -> list[tuple[int, FeaturePolicy | LabelPolicy]]:
        return [(place, part) for place, part in enumerate(self.of) if isinstance(part, FeaturePolicy | LabelPolicy)]

    @property
    def _looking(self) -> list[tuple[int, FeaturePolicy | LabelPolicy]]:
        return [(place, part) for place, part in self._thinning if part.looks_at_all]

    def tally(self, rows: Candidates) -> NDArray[np.int64] | None:
        """What the stage counts whose turn it is, of what those before it keep."""
        import numpy as np

        from pipeline.storage.hashing import keyed_uniform

        place, part = self._looking[len(rows.summary or ())]
        label = cast("pa.Table", rows.columns).column("label").to_numpy()
        left = keyed_uniform(rows.example_id, rows.salt) < self._until(place, rows, label)
        return part.tally(self.seen_by(place, rows).at(np.flatnonzero(left)))

    def after_look(self, tally: NDArray[np.int64], before: Any) -> tuple[Any, ...]:
        """What the stages know so far, an entry for each that has looked."""
        known: tuple[Any, ...] = before or ()
        return (*known, self._looking[len(known)][1].summarize(tally))

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The product of all stages'."""
        return self._until(len(self.of), rows, label)

    def _until(self, end: int, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N,) the probability with which the stages before one keep each row."""
        import numpy as np

        found = np.ones(len(label))
        known = iter(rows.summary or ())
        for place, part in self._thinning:
            if place >= end:
                break
            seen = replace(self.seen_by(place, rows), summary=next(known) if part.looks_at_all else None)
            if isinstance(part, LabelPolicy):
                found = found * part.keep_probability(seen, label)
            else:
                negative, positive = part.keep_probabilities(seen)
                found = found * np.where(label > 0, positive, negative)
        return found
