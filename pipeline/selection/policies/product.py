"""Product: several policies at once, each of which must keep an example; their probabilities are multiplied."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.selection.policy import Candidates, FeaturePolicy, ThinningPolicy
from pipeline.spec.config import All, Policy, Read, Selection
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.selection.policy import Floats


class Combined(ThinningPolicy):
    """What policies that are made of several have in common: each sees its own signals, named by its place."""

    of: tuple[Selection, ...] = Field(min_length=2)
    """The policies."""

    def reads(self) -> dict[str, Read]:
        """The signals of all, each named by its policy's place."""
        return {f"{place}_{name}": read for place, part in enumerate(self.of) for name, read in part.reads().items()}

    def anonymous(self) -> Self:
        """The same without the names of others."""
        return self.model_copy(update={"of": tuple(part.anonymous() for part in self.of)})

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """What they are in the window; places stay, since signals are named by them."""
        found = super().in_window(window, online=online)
        parts = tuple(_uncorrected(part.in_window(window, online=online)) for part in self.of)
        if isinstance(found, All) or all(isinstance(part, All) for part in parts):
            return All()
        return found.model_copy(update={"of": parts})

    def share(self, click_rate: float) -> float:
        """The product of their shares, as if they were independent."""
        return prod(part.share(click_rate) for part in self.of)

    @property
    def looks_at_all(self) -> bool:
        """Whether one of them does."""
        return any(isinstance(part, ThinningPolicy) and part.looks_at_all for part in self.of)

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of all."""
        return tuple(dict.fromkeys(name for part in self.of for name in getattr(part, "columns", ())))

    def seen_by(self, place: int, rows: Candidates) -> Candidates:
        """The rows as the policy of a place sees them."""
        mark = f"{place}_"
        return replace(rows, signals={n.removeprefix(mark): s for n, s in rows.signals.items() if n.startswith(mark)})


class Product(Combined, FeaturePolicy):
    """Keep an example with the product of what several policies keep it with, such as recency times negatives.

    The probabilities of each are those of the whole window, whatever the others leave of it: in `stages` they are of what is left.
    Policies look at features alone, and at most one may ask for a look at the whole window first, as those with a pilot do. The
    product's own correction counts.
    """

    kind: Literal["product"] = "product"

    @model_validator(mode="after")
    def _can_be_multiplied(self) -> Self:
        other = [part.kind for part in self.of if not isinstance(part, FeaturePolicy | All)]
        if other:
            raise ValueError(
                f"a product is of policies that look at features alone, got {', '.join(other)}: leave them out"
            )
        looking = [part.kind for part in self.of if isinstance(part, ThinningPolicy) and part.looks_at_all]
        if len(looking) > 1:
            raise ValueError(
                f"one policy of a product may look at the whole window first, got {', '.join(looking)}: keep one"
            )
        return self

    def tally(self, rows: Candidates) -> NDArray[np.int64] | None:
        """What the one that looks at the whole window counts."""
        for place, part in enumerate(self.of):
            if isinstance(part, FeaturePolicy) and part.looks_at_all:
                return part.tally(self.seen_by(place, rows))
        return None

    def summarize(self, tally: NDArray[np.int64]) -> Any:
        """What it makes of that."""
        (part,) = [part for part in self.of if isinstance(part, FeaturePolicy) and part.looks_at_all]
        return part.summarize(tally)

    def keep_probabilities(self, rows: Candidates) -> tuple[Floats, Floats]:
        """The products, at either label."""
        negative: Floats = 1.0
        positive: Floats = 1.0
        for place, part in enumerate(self.of):
            if isinstance(part, FeaturePolicy):
                of_negative, of_positive = part.keep_probabilities(self.seen_by(place, rows))
                negative, positive = negative * of_negative, positive * of_positive
        return negative, positive


def _uncorrected(part: Policy) -> Policy:
    """A part with the correction that all parts have, since that of the whole counts."""
    return part.model_copy(update={"correction": "offset"}) if isinstance(part, FeaturePolicy) else part
