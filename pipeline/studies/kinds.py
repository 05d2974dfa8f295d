"""Kinds of study: each a folder that an entry point of the group `windrow.studies` names, its parts imported when needed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from pipeline.spec.errors import explain, nearest, shown
from pipeline.spec.extensions import extensions
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Study, StudyError
from pipeline.studies.draft import Draft

GROUP = "windrow.studies"
"""Entry points of this group name a kind and its folder: `distillation = pipeline.studies.distillation`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of study: a package with the modules `fields`, `cells` and `answer`."""

    name: str
    package: str

    @property
    def is_built_in(self) -> bool:
        """Whether Windrow itself brings it."""
        return self.package.startswith("pipeline.studies.")

    @property
    def fields(self) -> type[StudyFields]:
        """The fields of its form."""
        found: type[StudyFields] = self.part("fields", "Fields")
        return found

    @property
    def question(self) -> str:
        """The question, in one sentence."""
        return str(self.part("fields", "QUESTION"))

    @property
    def page(self) -> str:
        """What its form's page says, as markdown."""
        return str(self.part("fields", "PAGE"))

    def study(self, base: LineUp, asked: StudyFields) -> Study:
        """The cells that answer the question on a line-up's data.

        Raises:
            StudyError: the windows or the line-up have no room for its cells.
        """
        try:
            draft: Draft = self.part("cells", "draft")(base, asked)
            return draft.study(self.name, self.question, base, asked)
        except ValidationError as error:
            raise StudyError(f"study {asked.study!r}: {explain(error)}") from None

    def part(self, module: str, name: str) -> Any:
        """Something that one of its modules defines.

        Raises:
            StudyError: it does not.
        """
        try:
            return getattr(import_module(f"{self.package}.{module}"), name)
        except (ImportError, AttributeError) as error:
            raise StudyError(
                f"the kind of study {self.name!r} is a package {self.package} with `{name}` in its {module}.py, got: {error}. "
                "docs/studies.md says what each file holds"
            ) from error


def kinds() -> dict[str, Kind]:
    """The kinds of study that are installed, by name.

    Raises:
        BadInput: two packages bring one of the same name.
    """
    return {name: Kind(name, point.value) for name, point in extensions(GROUP).items()}


def kind_of(name: object) -> Kind:
    """The kind of a name.

    Raises:
        StudyError: there is none, with those that there are.
    """
    known = kinds()
    if not isinstance(name, str) or name not in known:
        raise StudyError(f"`kind` is the name of a kind of study, got {shown(name)}: {nearest(name, known)}")
    return known[name]
