"""What goes wrong and whose turn it is then: what was given must change, or the same may succeed later."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any

from pydantic import ValidationError

MAX_FAULTS = 6
"""Most faults of one document in a message; a person mends these and tries again."""
MAX_VALUE = 80
"""Characters of a value that a message shows."""
MAX_MESSAGE, MAX_LINES, MAX_PATH = 1_600, 10, 300
"""Characters and lines of a whole message: what a person reads at one look, whatever was given."""

_PHRASES = {
    "missing": "is missing",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be text",
    "tuple": "must be a list",
    "list": "must be a list",
    "sequence": "must be a list",
    "is_instance_of": "must be a list",
    "dict": "must be a mapping of names to values",
    "model": "must be a mapping of names to values",
    "path": "must be a path",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "multiple": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have {min_length} or more entries, got {actual_length}",
    "too_long": "must have at most {max_length} entries",
    "literal": "must be one of {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}, got '{tag}'",
    "union_tag_not_found": "must be a mapping that says its {discriminator}",
    "json": "is not JSON ({error})",
}
"""How a message words a fault that pydantic found, by the longest beginning of its kind."""
_BRANCH = re.compile(r"[A-Z]|.*\[")
"""Parts of a fault's place that name a type which was tried, and no field of the document."""


class BadInput(ValueError):
    """What was given cannot be used; the message says what, what was found, and the cure.

    Raised where input is read, and by nothing else: a torn read or a bug is no bad input, and may be tried again.
    It is a ValueError so that pydantic's validators may raise it.
    """


class TryAgain(RuntimeError):
    """The same may succeed later as it stands; the message says what is in the way and what a person can do."""


class Unreachable(TryAgain):
    """A service or a store did not answer in time."""


@contextmanager
def asked(where: str, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Whatever pydantic refuses inside is bad input.

    Args:
        where: the file or the option that it was read from, for the message.
        names: what people call the outermost fields, where that is not their own name.

    Raises:
        BadInput: each fault with its place.
    """
    try:
        yield
    except ValidationError as error:
        raise BadInput(f"{where}: {explain(error, names)}") from None


@contextmanager
def named(where: str) -> Iterator[None]:
    """Whatever is bad input inside comes from that file."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def explain(error: ValidationError, names: Mapping[str, str] | None = None) -> str:
    """A validation error as a person reads it: each place, what must be there and what was given."""
    by_place: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        if fault["type"] == "default_factory_not_called":
            continue  # follows from another
        parts = [str(part) for part in fault["loc"] if not _BRANCH.match(str(part))]
        if parts and names:
            parts[0] = names.get(parts[0], parts[0])
        by_place.setdefault(".".join(parts), []).append(_phrase(fault))
    lines = []
    for place, phrases in list(by_place.items())[:MAX_FAULTS]:
        # Of a choice between types each says why it is not meant.
        said = ", or ".join(dict.fromkeys(phrases))[:500]
        lines.append(f"{place}: {said}" if place else said)
    if (more := len(by_place) - MAX_FAULTS) > 0:
        lines.append(f"and {more} more")
    return "; ".join(lines)


def _phrase(fault: Any) -> str:
    kind, given = fault["type"], fault["input"]
    if kind == "value_error":
        message = str(fault["msg"]).removeprefix("Value error, ")
    else:
        known = max((known for known in _PHRASES if kind.startswith(known)), key=len, default="")
        message = _PHRASES[known].format(**fault.get("ctx", {})) if known else str(fault["msg"])
    silent = kind in ("missing", "json_invalid") or "got" in message or isinstance(given, Mapping)
    return message if silent or hasattr(given, "model_fields") else f"{message}, got {shown(given)}"


def shown(value: object) -> str:
    """A value as a message shows it: its beginning, however long it is."""
    text = f"{value:%Y-%m-%d}" if isinstance(value, date) else f"{value!r:.{MAX_VALUE + 1}}"
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}..."


def shown_path(path: object) -> str:
    """A file's path as a message shows it: its end, with the file's name, however long it is."""
    text = str(path)
    return text if len(text) <= MAX_PATH else f"...{text[-MAX_PATH:]}"


def nearest(name: object, known: Collection[str]) -> str:
    """A hint at what a misspelt name may mean: the nearest that there is, or some of what there is."""
    if near := difflib.get_close_matches(str(name)[:MAX_VALUE], known, n=1):
        return f"did you mean {near[0]!r}?"
    listed = list(known)
    return f"it has {', '.join(listed[:30])}{', ...' if len(listed) > 30 else ''}"


def readable(message: str) -> str:
    """A message for a person's terminal: of bounded length, without control characters, its cure (the end) kept."""
    lines = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in message.strip().split("\n")]
    if len(lines) > MAX_LINES:
        half = MAX_LINES // 2
        lines = [*lines[:half], f"... ({len(lines) - 2 * half + 1} lines)", *lines[1 - half :]]
    text = "\n".join(lines)
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
    return text
