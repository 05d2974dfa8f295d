"""What other distributions may add: policies, models and kinds of study, found by name among Python's entry points."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pipeline.spec.errors import BadInput, nearest, shown


def extensions(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; Windrow's own stand among them.

    Raises:
        BadInput: two distributions offer one name.
    """
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Those on the path; looking takes tens of milliseconds."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        if (known := found.setdefault(point.name, point)).value != point.value:
            raise BadInput(
                f"{group} has one {point.name!r}, got {known.value} and {point.value}: uninstall one of their distributions"
            )
    return found


def require_extension(group: str, name: str, what: str) -> str:
    """The same name, if the group has it; nothing is imported.

    Raises:
        BadInput: it has not.
    """
    known = extensions(group)
    if name not in known:
        raise BadInput(f"there is no {what} {shown(name)}: {nearest(name, known)}")
    return name


def load_extension(group: str, name: str, what: str, kind: type) -> Any:
    """What an entry point names.

    Args:
        group: of entry points.
        name: which of them.
        what: what people call such a thing.
        kind: the class that it must extend.

    Raises:
        BadInput: there is none of that name, or it cannot be imported, or is something else.
    """
    point = extensions(group)[require_extension(group, name, what)]
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"{what} {name!r} is {point.value}, which cannot be imported ({error}): install it again"
        ) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise BadInput(f"{what} {name!r} must extend {kind.__module__}.{kind.__name__}, got {point.value}")
    return found
