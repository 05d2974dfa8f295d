"""The lines of a text file: cut out of its bytes, counted by themselves, and the unreadable ones set aside."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 1 << 22
"""Bytes of text read at a time; no line may be longer."""

NOT_UTF8 = "not UTF-8 text"
BAD_QUOTES = "a quote that its line does not close, or text behind one that closes"

_NEWLINE, _RETURN = 10, 13
_ENDS = b"\r\n"

csv.field_size_limit(max(csv.field_size_limit(), BLOCK_BYTES))


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes, fewer at the end."""


class OverlongLine(ValueError):
    """A line that is longer than a block."""


class BadQuotes(ValueError):
    """Quotes of a line are not closed, or text follows a closing one."""


class LineCount:
    """Counts the lines that are not blank in a stream of bytes, by where they begin: no matter how they are read later."""

    def __init__(self) -> None:
        self.total = 0
        self._behind_end = True

    def add(self, data: bytes) -> None:
        """Count in the next bytes of the stream; there is at least one."""
        ends = _is_end(data)
        begins = ~ends
        begins[0] &= self._behind_end
        begins[1:] &= ends[:-1]
        self.total += int(np.count_nonzero(begins))
        self._behind_end = bool(ends[-1])


def whole_lines(stream: Readable, count: LineCount) -> Iterator[bytes]:
    """The stream in pieces that end where a line ends, without a UTF-8 mark at its start; its lines are counted.

    A line ends with a newline, a carriage return or both: between the two there is a blank line, and blank lines are none.

    Raises:
        OverlongLine: a line is longer than a block.
    """
    rest, data = b"", stream.read(BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
    while data:
        count.add(data)
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        first = min((at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0), default=len(data))
        if len(rest) + first > BLOCK_BYTES:
            raise OverlongLine
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        else:
            rest += data
        data = stream.read(BLOCK_BYTES)
    if rest:
        yield rest


def set_aside(data: bytes, delimiter: str, quote: str | None) -> tuple[bytes, list[tuple[str, str]]]:
    """Whole lines without those that cannot be cut into columns, and these with their reasons, in their order.

    What is left is UTF-8, and in each of its lines quotes are closed.
    """
    spoilt: list[tuple[int, int, str]] = []
    if not data.isascii():
        spoilt += _not_utf8(data)
    if quote is not None and quote.encode() in data:
        known = {start for start, _, _ in spoilt}
        spoilt += [each for each in _bad_quotes(data, delimiter, quote) if each[0] not in known]
    if not spoilt:
        return data, []
    kept, refused, end = [], [], 0
    for start, stop, reason in sorted(spoilt):
        kept.append(data[end:start])
        refused.append((data[start:stop].decode(errors="backslashreplace"), reason))
        end = stop
    kept.append(data[end:])
    return b"".join(kept), refused


def _not_utf8(data: bytes) -> list[tuple[int, int, str]]:
    try:
        data.decode()
    except UnicodeDecodeError:
        return [(start, stop, NOT_UTF8) for start, stop in _spans(data) if not _is_utf8(data[start:stop])]
    return []


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each line starts and stops, blank ones too, the ends of lines left out."""
    start = 0
    for end in np.flatnonzero(_is_end(data)).tolist():
        yield start, end
        start = end + 1
    yield start, len(data)


def _is_end(data: bytes) -> npt.NDArray[np.bool_]:
    numbers = np.frombuffer(data, np.uint8)
    ends: npt.NDArray[np.bool_] = numbers == _NEWLINE
    if b"\r" in data:
        ends |= numbers == _RETURN
    return ends


def _bad_quotes(data: bytes, delimiter: str, quote: str) -> list[tuple[int, int, str]]:
    """Lines that a strict reader of CSV refuses.

    Quotes of a line open and close a value in turn. Where each that opens stands at the start of a value, each that closes
    at its end, and a doubled one inside counts as both, the line is sound. Only the others are looked at one by one.
    """
    numbers = np.frombuffer(data, np.uint8)
    ends, quotes = np.flatnonzero(_is_end(data)), np.flatnonzero(numbers == ord(quote))
    counts = np.diff(np.searchsorted(quotes, ends), prepend=0, append=len(quotes))
    odd = counts % 2 == 1
    pairs = quotes[np.repeat(~odd, counts)].reshape(-1, 2) if odd.any() else quotes.reshape(-1, 2)
    at_edge = np.zeros(256, bool)
    at_edge[[_NEWLINE, _RETURN, ord(delimiter), ord(quote)]] = True
    # Beyond either end of the data a quote finds itself, which is an edge as well.
    before, behind = (np.take(numbers, pairs[:, side] + step, mode="clip") for side, step in ((0, -1), (1, 1)))
    doubtful = np.searchsorted(ends, pairs[~(at_edge[before] & at_edge[behind]), 0])
    found = []
    for number in np.union1d(np.flatnonzero(odd), doubtful).tolist():
        start = int(ends[number - 1]) + 1 if number else 0
        stop = int(ends[number]) if number < len(ends) else len(data)
        if not _is_strict(data[start:stop], delimiter, quote):
            found.append((start, stop, BAD_QUOTES))
    return found


def _is_strict(line: bytes, delimiter: str, quote: str) -> bool:
    try:
        split(line.decode(errors="replace"), delimiter, quote)
    except BadQuotes:
        return False
    return True


def split(line: str, delimiter: str, quote: str | None) -> list[str]:
    """The values of one line.

    Raises:
        BadQuotes: its quotes are not closed, or text follows a closing one.
    """
    if quote is None:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote, strict=True))
    except csv.Error as error:
        raise BadQuotes(str(error)) from None


def first_line(data: bytes) -> tuple[bytes, bytes]:
    """The first line that is not blank, and what comes behind it."""
    data = data.lstrip(_ENDS)
    end = min((at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0), default=len(data))
    return data[:end], data[end:]
