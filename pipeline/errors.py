"""Bad input: what was given must change, and trying again does not help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

MAX_FAULTS = 6
"""Faults of one document that are told; a person mends these and asks again."""


class BadInput(ValueError):
    """What was given cannot be used; the message says what, what was found, and the cure.

    Raised where input is read, and by nothing else: a torn read or a bug is no bad input, and may be tried again.
    It is a ValueError so that pydantic's validators may raise it.
    """


@contextmanager
def asked(where: str) -> Iterator[None]:
    """Whatever pydantic refuses inside is bad input.

    Args:
        where: the file or the option that it was read from, for the message.

    Raises:
        BadInput: each fault with its place.
    """
    try:
        yield
    except ValidationError as error:
        raise BadInput(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """A validation error as a person reads it: each place, what was wrong there and what was given."""
    faults = error.errors(include_url=False)
    lines = []
    for fault in faults[:MAX_FAULTS]:
        place = ".".join(str(part) for part in fault["loc"]) or "the whole"
        message = fault["msg"].removeprefix("Value error, ")
        got = "" if "got" in message else f", got {fault['input']!r:.200}"
        lines.append(f"{place}: {message}{got}"[:500])
    if more := len(faults) - MAX_FAULTS:
        lines += [f"and {more} more"] if more > 0 else []
    return "; ".join(lines)
