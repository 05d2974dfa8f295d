"""What a variant's step on a window reads of other chains of its line-up: a teacher's logits, and what its policy reads."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.dataset import WindowManifest
from pipeline.spec.config import NoTeacher, Read, StepConfig, Variant
from pipeline.spec.lineup import LineUp
from pipeline.storage.lake import Lake
from pipeline.training.chain.steps import StepStore
from pipeline.training.signals import Signal


@dataclass(frozen=True, slots=True)
class Sources:
    """The other chains of a line-up, as a variant's step reads them.

    Each method takes the variant, the window as it is now, and what the variant is in it under one seed, and raises `MissingSignal`
    where the source has not left what is read.
    """

    lake: Lake
    lineup: LineUp

    def store(self, seed: int) -> StepStore:
        """The steps of the data set that a seed is trained on."""
        return StepStore(self.lake, self.lineup.dataset.under(seed))

    def soft(self, variant: Variant, window: WindowManifest, config: StepConfig) -> Signal | None:
        """The teacher's logits; None where there is no soft loss."""
        taught = variant.distillation
        if config.soft_weight is None or isinstance(taught, NoTeacher):
            return None
        return self._left(Read(taught.teacher, config.soft_age), variant, window, config.seed)

    def signals(self, variant: Variant, window: WindowManifest, config: StepConfig) -> dict[str, Signal]:
        """What the selection reads, by its name there."""
        asked = self.lineup.pilot_reads(variant, window.window, config.seed)
        return {name: self._left(read, variant, window, config.seed) for name, read in asked.items()}

    def _left(self, read: Read, variant: Variant, window: WindowManifest, seed: int) -> Signal:
        source = self.lineup.variant(read.source)
        config = self.lineup.resolved(source, window.window, seed)
        return self.store(seed).require_signal(self.lineup.name, read, source, window, config, reader=variant.name)
