"""What a selection policy is: from features alone, from the label too, or joint; each class with the one method it needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pipeline.spec.config import All, Policy, Rate
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64] | float


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a policy sees of some rows. N rows."""

    example_id: NDArray[np.uint64]
    """(N,)"""
    signals: Mapping[str, NDArray[np.float32]]
    """(N,) each: what its `reads` asks for, by the same names."""
    columns: pa.Table | None = None
    """Its `columns` of the window; None where it asks for none."""
    summary: Any = None
    """What `summarize` made of the whole window's tally."""


class ThinningPolicy(Policy):
    """Keeps each example with a known probability, independently of the others."""

    scope: Literal["continuous", "historical"] = "continuous"
    """Keep sampling in the online phase too, or train on every example from the first online window."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the window that its probabilities look at."""
    softens: ClassVar[bool] = False
    """Whether it gives the examples that it keeps other labels, by `soft_label`."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows where it does not sample; itself, without the names of others, where it does."""
        if self.scope == "historical" and online:
            return All()
        return self.anonymous().model_copy(update={"scope": "continuous"})

    @property
    def looks_at_all(self) -> bool:
        """Whether it asks for a tally of the whole window before the first example is kept."""
        return type(self).tally is not ThinningPolicy.tally

    def tally(self, rows: Candidates) -> NDArray[np.int64] | None:
        """Whole numbers that are summed over the window's rows before the first is kept; None where none are needed.

        Sums of whole numbers depend on no order of rows or workers.
        """
        return None

    def summarize(self, tally: NDArray[np.int64]) -> Any:
        """What the probabilities take from the whole window's tally."""
        return tally

    def soft_label(self, rows: Candidates) -> NDArray[np.float32]:
        """(N,) in [0, 1]: what is learned in the place of each row's label; only asked of a policy that softens."""
        raise NotImplementedError(f"{type(self).__name__} softens labels: say with what, in `soft_label`")


class AtRate(ThinningPolicy):
    """Keeps a fraction of all rows, clicks and others together."""

    rate: Rate
    """Expected fraction of rows kept, in (0, 1]."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one."""
        return All() if self.rate == 1 else super().in_window(window, online=online)

    def share(self, click_rate: float) -> float:
        """The rate."""
        return self.rate


class FeaturePolicy(ThinningPolicy):
    """Probabilities that look at features and signals, and never at the label: corrected by weight or by offset."""

    correction: Literal["weight", "offset"] = "offset"
    """Weight = 1/pi_y(x), or a logit offset log pi_1(x) - log pi_0(x) in training only; exactly one of them."""

    @abstractmethod
    def keep_probabilities(self, rows: Candidates) -> tuple[Floats, Floats]:
        """(N,) each, or one number for all: pi_0(x) and pi_1(x), with which a negative and a positive at x are kept."""


class LabelPolicy(ThinningPolicy):
    """Probabilities that look at the label of the row itself: corrected by weight alone.

    What the row would have been kept with under the other label is not known, so there is no offset.
    """

    @abstractmethod
    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> Floats:
        """(N,), or one number for all: the probability with which each row is kept, above zero."""


class JointPolicy(Policy):
    """Chooses the examples of a window together, each with its weight: no example has a probability of its own."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the window that the choice looks at."""

    def in_window(self, window: Window, *, online: bool) -> Self:
        """Itself, without the names of others."""
        return self.anonymous()

    @abstractmethod
    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(K,) places among the N rows of the whole window, ascending, and (K,) their weights.

        Args:
            rows: all of the window.
            label: (N,)
            salt: the only source of chance.
        """
