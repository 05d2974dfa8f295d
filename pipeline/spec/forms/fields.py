"""Fields that a person fills in, each declared once: forms, files, confs and help are made from the same models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, core_schema

from pipeline.spec.documents import Frozen, Real, Seed, Whole
from pipeline.spec.errors import BadInput, explain, shown
from pipeline.spec.window import Window

_WHOLE = re.compile(r"[-+]?[0-9]+")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_LONGEST = 1000
"""Numbers that a range may stand for."""
LIMITS: JsonDict = {"section": "Workers and limits"}
"""Of a field that a form folds away at first; fields without a section stand open."""


def _several(given: Any) -> Any:
    """`0, 1, 5-8`, as a person types it, and a lone value are lists as well; a list stays as it is."""
    if isinstance(given, str):
        return [value for word in given.split(",") for value in _values(word.strip())] if given.strip() else []
    if given is None:  # what a form says when nothing is picked
        return []
    return [given] if isinstance(given, int | float) else given


def _values(word: str) -> list[Any]:
    """A number if it is one, those of a range such as `5-8`; else the word, for an error or a choice."""
    if ends := _RANGE.fullmatch(word):
        first, last = map(int, ends.groups())
        return list(range(first, last + 1)) if first <= last < first + _LONGEST else [word]
    try:
        return [int(word) if _WHOLE.fullmatch(word) else float(word)]
    except ValueError:
        return [word]


def _distinct(found: tuple[Any, ...]) -> tuple[Any, ...]:
    for place, entry in enumerate(found):
        if entry in found[:place]:
            raise BadInput(f"each value is given once, got {shown(entry)} twice: take one out")
    return found


@dataclass(frozen=True)
class Listed:
    """Marks a list: numbers and names are typed in one line with commas between them, choices are picked from those there are."""

    _TYPED: ClassVar[dict[str, str]] = {
        "integer": r"\d+(-\d+)?",
        "number": r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?",
        "string": r"[\w.-]+",
    }

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read from text, too, and refused where an entry stands there twice."""
        distinct = core_schema.no_info_after_validator_function(_distinct, handler(source))
        return core_schema.no_info_before_validator_function(_several, distinct)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Numbers and names as text of that pattern, or as the list itself; choices as a list with them as examples."""
        found = handler(core) | {"uniqueItems": True}
        if choices := found["items"].get("enum"):
            return found | {"type": ["array", "null"], "examples": choices}
        entry = self._TYPED[found["items"]["type"]]
        several = rf"^\s*{entry}(\s*,\s*{entry})*\s*$"
        if found.get("minItems"):
            return found | {"type": ["string", "array"], "pattern": several}
        return found | {"type": ["string", "array", "null"], "pattern": rf"^\s*$|{several}"}


def unless_empty(given: Any) -> Any:
    """What a form leaves empty is not given."""
    return None if given == "" else given


SeedList = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), Listed()]
Day = Annotated[Window, WithJsonSchema({"type": "string", "format": "date"})]
OptionalDay = Annotated[Day | None, BeforeValidator(unless_empty)]
OptionalSeeds = Annotated[SeedList | None, BeforeValidator(unless_empty)]
Percent = Annotated[Real, Field(gt=0, le=100)]
SoftWeight = Annotated[Real, Field(gt=0, le=100)]
Minutes = Annotated[Whole, Field(ge=1, le=60 * 24 * 14)]


class Fields(Frozen):
    """What a person fills in: each field with its title, its range, its default and, below it, its help."""

    @classmethod
    def read(cls, answers: Mapping[str, Any], where: str) -> Self:
        """The answers of a form or of a file, checked.

        Args:
            answers: by field.
            where: what errors call their source.

        Raises:
            BadInput: each field that is missing, unknown or cannot be used, with what was given.
        """
        try:
            return cls.model_validate(answers)
        except ValidationError as error:
            missing = [fault["loc"][0] for fault in error.errors() if fault["type"] == "missing"]
            given = "".join(f"; give {name}: {worded(cls.described()[str(name)])}" for name in missing)
            raise BadInput(f"{where}: {explain(error)}{given}") from None

    @classmethod
    def described(cls) -> dict[str, dict[str, Any]]:
        """Each field as one flat JSON schema: type, range, choices, title, description, section and default.

        Fields of a section come last.

        A list of numbers has its default as a person would type it.
        """
        found = {name: _flat(schema) for name, schema in cls.model_json_schema()["properties"].items()}
        return dict(sorted(found.items(), key=lambda field: "section" in field[1]))


def _typed(value: object) -> str:
    """A value as a person types it: `3e10` and not `30000000000.0`."""
    return f"{value:.6g}".replace("e+", "e") if isinstance(value, float) and value >= 1e6 else str(value)


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema in which what may be left empty is a type more and no branch."""
    found = dict(schema)
    for branch in found.pop("anyOf", ()):
        types = _types(found) + _types(branch)
        found |= branch | {"type": types if len(types) > 1 else types[0]}
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    if {"string", "array"} <= set(_types(found)):
        if found.get("default") is not None:
            found["default"] = ", ".join(map(_typed, found["default"])) or None
        # A form that finds none shows a field of several types as raw JSON.
        found["examples"] = [found.get("default") or _EXAMPLES.get(found["items"]["type"], "0, 1, 2")]
    return found


_EXAMPLES = {"string": "student, teacher"}
_IN_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def worded(schema: Mapping[str, Any]) -> str:
    """What a described field takes, in words: `number, above 0 and at most 1`, `one of tiny, small`."""
    types = [kind for kind in _types(schema) if kind != "null"]
    end = "" if "null" not in _types(schema) or types[0] == "array" else ", or empty"
    if "array" in types and "items" in schema:
        item = schema["items"]
        if "enum" in item:
            return f"any of {', '.join(map(str, item['enum']))}"
        if item["type"] == "string":
            return "names with commas between them" if "string" in types else "names"
        return f"{_IN_WORDS[item['type']]}s with commas between them{_range(item)}{end}"
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}{end}"
    if schema.get("format") == "date":
        return f"a day, YYYY-MM-DD{end}"
    return f"{_IN_WORDS[types[0]]}{_range(schema)}{end}"


def _range(schema: Mapping[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    ends = [f"{word} {schema[bound]:,}" for bound, word in words.items() if bound in schema and schema[bound] < 2**31]
    return f", {' and '.join(ends)}" if ends else ""


def _types(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)
