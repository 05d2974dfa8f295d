"""A study: a question, the cells that answer it, and the windows on which they are judged."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from pipeline.spec.config import Name
from pipeline.spec.documents import Frozen, Real
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window

MIN_JUDGED = 3
"""Fewer windows than this judge nothing: their interval would say so and nothing else."""


class StudyError(BadInput):
    """A study asks for something that its windows or its line-up cannot answer."""


class Cell(Frozen):
    """One variant as a study sees it."""

    variant: Name
    """Its name in the line-up."""
    against: Name
    """The variant it is compared with, on the same rows."""
    axis: Name
    """What it varies; each axis has a figure and a table of its own."""
    label: str
    """What pictures and tables call it."""
    family: str | None = None
    """The curve that it is a point of, where an axis has several."""
    value: Real | None = None
    """Its place on the axis: rows of history, a size ratio, an age, a rate; None where the axis has no numbers."""


class Study(Frozen):
    """A question with all that is needed to answer it."""

    kind: Name
    """Which kind of study reads the cells: the name of an entry point, see `pipeline.studies.kinds`."""
    question: str
    """In one sentence, as its readers would ask it."""
    lineup: LineUp
    """Its name is the study's; its variants are all that is trained."""
    cells: tuple[Cell, ...] = Field(min_length=1, max_length=10_000)
    """What its tables and figures show."""
    first: Window
    """The first window of variants with full history."""
    last: Window
    """The last window, included."""
    judged: Window
    """First of the windows, up to `last`, on which all are judged."""
    asked: dict[str, Any] = {}
    """The fields of its kind as they were filled in, as JSON: what else its answer needs to know."""

    @model_validator(mode="after")
    def _answerable(self) -> Study:
        known = {variant.name for variant in self.lineup.variants}
        for cell in self.cells:
            if {cell.variant, cell.against} - known:
                raise ValueError(
                    f"a cell compares {cell.variant!r} with {cell.against!r}; the line-up has {sorted(known)}"
                )
        if not self.first < self.lineup.online_start <= self.judged <= self.last:
            raise ValueError(
                "a study's first window lies before its first online window, which is not after the first judged window, "
                f"which is not after the last; got {self.first}, {self.lineup.online_start}, {self.judged}, {self.last}"
            )
        return self

    @property
    def name(self) -> str:
        """The study's name: that of its MLflow experiment and of its chains in the lake."""
        return self.lineup.name

    def under(self, seeds: tuple[int, ...]) -> Study:
        """The same study under other seeds."""
        return self.model_copy(update={"lineup": self.lineup.model_copy(update={"seeds": seeds})})

    def of(self, *axes: str) -> tuple[Cell, ...]:
        """The cells of some axes, in order."""
        return tuple(cell for cell in self.cells if cell.axis in axes)

    def cell(self, variant: str) -> Cell:
        """The first cell of a variant.

        Raises:
            StudyError: no cell has it.
        """
        for cell in self.cells:
            if cell.variant == variant:
                return cell
        raise StudyError(f"study {self.name!r} has no cell {variant!r}; it has {[c.variant for c in self.cells]}")
