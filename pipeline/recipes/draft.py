"""A study while it is written down: its variants, its cells, and what becomes of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import Continuous, Cutover, Selection, Variant
from pipeline.lineup import LineUp
from pipeline.study import Axis, Cell, StudyError
from pipeline.window import Window

Size = Literal["tiny", "small", "medium", "large"]
SIZES: tuple[Size, ...] = ("tiny", "small", "medium", "large")


@dataclass
class Draft:
    """Variants and cells in the order in which a study names them."""

    reference: str
    """What cells are compared with unless they say otherwise."""
    variants: list[Variant] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def train(self, variant: Variant) -> None:
        """Train a variant, once however many cells show it."""
        if all(known.name != variant.name for known in self.variants):
            self.variants.append(variant)

    def add(
        self, axis: Axis, label: str, variant: Variant, value: float | None = None, against: str | None = None
    ) -> None:
        """Show a variant on an axis."""
        self.train(variant)
        against = against or self.reference
        self.cells.append(Cell(variant=variant.name, against=against, axis=axis, label=label, value=value))

    def lineup(self, base: LineUp, name: str, online_start: Window, seeds: Sequence[int]) -> LineUp:
        """The line-up that trains them, with data and workers of another.

        Raises:
            StudyError: it would go by that one's name.
        """
        if name == base.name:
            raise StudyError(
                f"a study has a name of its own: {name!r} is the line-up's, whose chains it would take over"
            )
        return LineUp(
            name=name,
            dataset=base.dataset,
            variants=tuple(self.variants),
            reference=self.reference,
            online_start=online_start,
            seeds=tuple(seeds),
            workers=base.workers,
            evaluation=base.evaluation,
            checkpoint_every=base.checkpoint_every,
            tuned=base.tuned,
        )


def plain(base: LineUp, name: str, size: Size) -> Variant:
    """A line-up's reference at another size, on all rows and without a teacher."""
    origin = base.variant(base.reference)
    model = origin.model.model_copy(update={"size": size})
    return tuned(base, Variant(name=name, model=model, optimizer=origin.optimizer))


def tuned(base: LineUp, arm: Variant) -> Variant:
    """An arm with the optimizer that a line-up has for the variant of its name; as it is where there is none."""
    known = {variant.name: variant.optimizer for variant in base.variants}
    return arm.model_copy(update={"optimizer": known.get(arm.name, arm.optimizer)})


def taught(student: Variant, name: str, distillation: Cutover | Continuous) -> Variant:
    """A student that listens to a teacher."""
    return student.model_copy(update={"name": name, "distillation": distillation})


def sampled(student: Variant, name: str, selection: Selection) -> Variant:
    """A student that trains on a selection."""
    return student.model_copy(update={"name": name, "selection": selection})
