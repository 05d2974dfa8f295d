"""What a selection policy is: from features alone, from the label too, or joint; each class with the one method it needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    salt: int = 0
    """Key of the draws: for a policy that must know what an earlier one kept."""

    def at(self, places: slice | NDArray[np.int64]) -> Candidates:
        """Some of the rows."""
        taken = range(*places.indices(len(self.example_id))) if isinstance(places, slice) else places
        columns = None if self.columns is None else self.columns.take(taken)
        signals = {name: signal[places] for name, signal in self.signals.items()}
        return Candidates(self.example_id[places], signals, columns, self.summary, self.salt)


class ThinningPolicy(Policy):
    """Keeps each example with a known probability, independently of the others."""

    scope: Literal["continuous", "historical"] = "continuous"
    """Keep sampling in the online phase too, or train on every example from the first online window."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the window that its probabilities look at."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows where it does not sample; itself, without the names of others, where it does."""
        if self.scope == "historical" and online:
            return All()
        return self.anonymous().model_copy(update={"scope": "continuous"})

    @property
    def looks_at_all(self) -> bool:
        """Whether it asks for a tally of the whole window before the first example is kept."""
        return type(self).tally is not ThinningPolicy.tally

    @property
    def num_looks(self) -> int:
        """How many tallies it asks for, one after the other."""
        return int(self.looks_at_all)

    def tally(self, rows: Candidates) -> NDArray[np.int64] | None:
        """Whole numbers that are summed over the window's rows before the first is kept; None where none are needed.

        Sums of whole numbers depend on no order of rows or workers.
        """
        return None

    def summarize(self, tally: NDArray[np.int64]) -> Any:
        """What the probabilities take from the whole window's tally."""
        return tally

    def after_look(self, tally: NDArray[np.int64], before: Any) -> Any:
        """What it knows after one more tally; `before` is what it knew until then, None at first."""
        return self.summarize(tally)

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
    rows_at_once: ClassVar[int | None] = None
    """Among how many rows it chooses at a time, parts of the window in its order; None: among all, which then must fit into memory."""
    bias: ClassVar[float] = 0.0
    """How far the mean over salts of a weighted sum may lie from the sum over all rows, relative to it."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """Itself, without the names of others."""
        return self.anonymous()

    def flops(self, num_rows: int) -> float:
        """About how many floating-point operations a choice among so many rows takes; nothing unless a policy says so."""
        return 0.0

    @abstractmethod
    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(K,) places among N rows, ascending, and (K,) their weights.

        Args:
            rows: all of the window, or a part of `rows_at_once`; their order decides nothing.
            label: (N,)
            salt: the only source of chance.
        """
