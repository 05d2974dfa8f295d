"""Every message that the page on troubleshooting quotes is one that the program has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
LEAST_LITERAL = 0.4
"""Share of a quoted message that must be the program's own words, the rest being what was found."""
Parts = tuple[str | None, ...]
"""A message: its own words, and None for each value put in."""


def parts(node: ast.AST) -> Parts:
    """What an expression that makes a text says."""
    match node:
        case ast.Constant(value=str(text)):
            pieces = re.split(r"\{\d[^}]*\}", text)  # filled in by str.format
            return tuple(part for piece in pieces for part in (None, piece))[1:]
        case ast.JoinedStr(values=values):
            return tuple(part for value in values for part in parts(value))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return parts(left) + parts(right)
    return (None,)


@cache
def messages() -> tuple[Parts, ...]:
    """Every text of the program, with gaps for its values."""
    files = [path for house in ("pipeline", "operators") for path in (ROOT / house).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    found = {parts(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)}
    return tuple(message for message in found if any(part and len(part.split()) > 1 for part in message))


def literal(quoted: str, within: int = 2) -> int:
    """The most characters of a text that are a message's own words; a value may be worded by a message in its turn."""
    most = 0
    for message in messages():
        own = [part.strip("\n") for part in message if part is not None]
        if not own or not all(part in quoted for part in own):
            continue
        pattern = "".join("(.*?)" if part is None else re.escape(part.strip("\n")) for part in message)
        # The file or the option that a fault is in stands before it.
        if found := re.fullmatch(rf"(?:.*?: )?{pattern}", quoted, re.DOTALL):
            values = [value for value in found.groups() if within and " " in value]
            most = max(most, sum(map(len, own)) + sum(literal(value, within - 1) for value in values))
    return most


def quoted() -> Iterator[str]:
    """The messages of the page."""
    for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL):
        yield block.strip()


@pytest.mark.parametrize("message", quoted(), ids=lambda message: message[:40])
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    assert literal(message) >= LEAST_LITERAL * len(message), "quote what the program says today"


def test_a_message_that_the_program_does_not_have_is_found() -> None:
    invented = "the window has too many moons, got 3 in 2024-01-07: take one out"
    assert literal(invented) < LEAST_LITERAL * len(invented)


def test_the_page_quotes_messages() -> None:
    assert len(list(quoted())) > 25
