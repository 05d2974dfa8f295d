"""Documents: those that people write, read within limits and refused with place and cure; one spelling and digest for each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from pipeline.spec.errors import BadInput, nearest, shown, shown_path

MAX_BYTES = 1 << 20
"""A line-up of a thousand variants and a schema of ten thousand columns have less."""
MAX_DEPTH = 32
MAX_NODES = 100_000
"""Values and names of a document, each counted as often as an alias repeats it."""

Whole = Annotated[int, Strict()]
"""A whole number: neither `true` nor `3.0` nor `'3'`."""
Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number, also a whole one."""
Flag = Annotated[bool, Strict()]
"""`true` or `false`, and no number."""
Seed = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
"""What a random number generator starts from."""
Few = Field(min_length=1, max_length=20)
"""Of a list of values that are tried one by one."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex."""


class Frozen(BaseModel):
    """A config: immutable, closed to unknown fields, documented under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if name not in cls.model_fields:
                    raise BadInput(f"there is no field {shown(name)}: {nearest(name, cls.model_fields)}")
        return given


def read_text(path: str | Path, what: str, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file that a person named.

    Args:
        path: the file; a pipe or a device is refused, for reading it may never end.
        what: what it should hold, for the message: `a line-up`.
        max_bytes: refused when it has more.

    Raises:
        BadInput: it cannot be read, is too long, or is no UTF-8.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "folder" if os.path.isdir(path) else "pipe or a device"
            raise BadInput(f"{what} is a file, got a {kind} at {path}: name the file itself")
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot read {what} at {shown_path(path)}: {reason}: check the path") from None
    if len(content) > max_bytes:
        raise BadInput(f"{what} has at most {max_bytes:,} bytes, got more in {path}: check that it is the right file")
    return decoded(content, str(path))


def decoded(content: bytes, where: str) -> str:
    """The text of some bytes.

    Raises:
        BadInput: they are no UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{where} must be UTF-8 text, got byte 0x{content[error.start]:02x} at position {error.start}: "
            "save it as UTF-8"
        ) from None


def read_yaml(path: str | Path, what: str) -> Any:
    """What a YAML file says; JSON is YAML too.

    Raises:
        BadInput: it cannot be read, or is no YAML that a person would write; the message names the line.
    """
    return parse_yaml(read_text(path, what), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says.

    Args:
        text: one document.
        where: what errors call it.

    Raises:
        BadInput: see `read_yaml`.
    """
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except _Refused as error:
        raise BadInput(f"{where}{_at(error.problem_mark)}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        said = " ".join(filter(None, (error.context, error.problem)))
        raise BadInput(f"{where} is not YAML{_at(error.problem_mark or error.context_mark)}: {said}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a date in a thirteenth month
        raise BadInput(f"{where} is not YAML: {' '.join(str(error).split())}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values alone, and `1e-3` is a number, as in YAML 1.2 and everywhere else."""


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def as_yaml(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads as they are: short lists and mappings in one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)


def _at(mark: Any) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


def _check(text: str) -> None:
    """Refuse what would take for ever, and names given twice, before anything is built."""
    events = yaml.parse(text, _Loader)
    sizes: dict[str, int] = {}
    for event in events:
        if isinstance(event, (yaml.NodeEvent, yaml.AliasEvent)):
            _count(event, events, sizes, depth=0)


def _count(event: Any, events: Iterator[Any], sizes: dict[str, int], depth: int) -> int:
    """How many values and names a node stands for; by anchor in `sizes` for the aliases that come later."""
    if depth > MAX_DEPTH:
        raise _refused(event, f"is nested at most {MAX_DEPTH} deep: write it flatter")
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in sizes:
            raise _refused(event, f"has no alias *{event.anchor} before or inside its anchor: write the value out")
        return sizes[event.anchor]
    size = 1
    names: set[str] = set()
    for place, inner in enumerate(_inside(event, events)):
        if isinstance(event, yaml.MappingStartEvent) and place % 2 == 0:
            _check_once(inner, names)
        size += _count(inner, events, sizes, depth + 1)
        if size > MAX_NODES:
            raise _refused(inner, f"has at most {MAX_NODES:,} values, its aliases written out: write less")
    if event.anchor is not None:
        sizes[event.anchor] = size
    return size


def _inside(event: Any, events: Iterator[Any]) -> Iterator[Any]:
    """The events that begin a node inside of one that has begun."""
    if isinstance(event, yaml.CollectionStartEvent):
        while not isinstance(inner := next(events), yaml.CollectionEndEvent):
            yield inner


def _check_once(name: Any, names: set[str]) -> None:
    if not isinstance(name, yaml.ScalarEvent):
        return
    if name.value in names:
        raise _refused(name, f"gives each name once, got {shown(name.value)} twice: take one out")
    names.add(name.value)


class _Refused(yaml.MarkedYAMLError):
    """YAML, and no document that a person would write."""


def _refused(event: Any, why: str) -> _Refused:
    return _Refused(problem=f"a document {why}", problem_mark=event.start_mark)


def canonical_json(document: Any, *, allow_nan: bool = False) -> str:
    """One spelling per value, so that equal content has an equal digest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)


def content_key(document: Any, *, allow_nan: bool = False) -> str:
    """The sha256 of a JSON-able value, in hex."""
    return hashlib.sha256(canonical_json(document, allow_nan=allow_nan).encode()).hexdigest()
