"""Findings: what a study answers, as sentences, figures, tables and checks that a page or a tracker can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """A table as people read it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The same as markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@dataclass(frozen=True, slots=True)
class Section:
    """One part of an answer."""

    title: str
    text: str
    figure: Figure | None = None
    table: Table | None = None

    @property
    def slug(self) -> str:
        """The title as a file's or an anchor's name."""
        return "_".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True, slots=True)
class Check:
    """One of the ways in which the method is known to fail, looked for."""

    signature: str
    """What failing would look like."""
    found: str
    """What was seen, with figures."""
    passed: bool | None
    """Whether it surely is not so; None where the study does not show it, or its interval holds both."""

    @property
    def verdict(self) -> str:
        """As people read it."""
        return "not shown either way" if self.passed is None else "absent" if self.passed else "PRESENT"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a study answers."""

    headline: str
    """One sentence with its interval."""
    metrics: dict[str, float]
    """The figures that the sentence and the tables are made of, for MLflow and for programs."""
    sections: tuple[Section, ...]
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What the reader must know before believing it."""
    documents: Mapping[str, Any] = field(default_factory=dict)
    """What programs read beside the figures, such as a fitted law; JSON by name."""

    @property
    def figures(self) -> dict[str, Figure]:
        """By file name."""
        return {f"{s.slug}.png": s.figure for s in self.sections if s.figure is not None}

    def markdown(self, title: str, pictures: str) -> str:
        """The answer as markdown, its figures beside it in files whose names begin alike."""
        parts = [f"# {title}\n", f"**{self.headline}**\n", *(f"{note}\n" for note in self.notes)]
        for section in self.sections:
            parts += [f"## {section.title}\n", f"{section.text}\n"]
            if section.figure is not None:
                parts.append(f"![{section.title}]({pictures}_{section.slug}.png)\n")
            if section.table is not None:
                parts.append(section.table.markdown())
        checks = Table(("signature", "seen", "verdict"), tuple((c.signature, c.found, c.verdict) for c in self.checks))
        return "\n".join([*parts, "## Failure signatures\n", checks.markdown()])
