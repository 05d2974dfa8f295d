"""Which files of a log a window reads: with a day in their name, those of the days that it overlaps; else all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pipeline.data.sources import IngestError, NoSource, SourceFile, find_sources
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LogSource
from pipeline.spec.schema import EventTime, Schema
from pipeline.spec.window import Window

_DATE = "{date}"
_NEAR = range(-2, 3)  # a day of one zone overlaps the day of that name in any other, but for a few hours on either side


class MissingSource(IngestError):
    """A window needs a file that is not there."""


class DatedLog:
    """A log whose files may have a day in their name.

    Args:
        source: where the files lie, and at which midnight they are cut.
        schema: at which midnight windows are cut.

    Raises:
        BadInput: a path names an environment variable that is not set.
    """

    def __init__(self, source: LogSource, schema: Schema) -> None:
        self.schema = schema
        self.patterns = [os.path.expandvars(file) for file in source.files]
        if unset := [file for file in self.patterns if "$" in file]:
            raise BadInput(
                f"these paths name environment variables that are not set: {unset}; set them for the workers"
            )
        self.is_dated = source.is_dated
        time = schema.event_time
        self.has_times = isinstance(time, EventTime)
        self.windows_zone = time.zone if isinstance(time, EventTime) and time.day == "local" else "UTC"
        self._days: dict[Window, list[Window]] = {}
        self.files_zone = source.files_zone or (time.zone if isinstance(time, EventTime) else "UTC")

    def end(self, window: Window) -> datetime:
        """The first instant after a window."""
        return window.local(self.windows_zone)[1]

    def days(self, window: Window) -> list[Window]:
        """The days whose files hold rows of a window, if none came late or early."""
        if not self.has_times:
            return [window]
        if window in self._days:
            return self._days[window]
        start, end = window.local(self.windows_zone)
        days = {day: day.local(self.files_zone) for day in map(window.shift, _NEAR)}
        self._days[window] = [day for day, (first, last) in days.items() if max(first, start) < min(last, end)]
        return self._days[window]

    def readers(self, day: Window) -> list[Window]:
        """The windows that read the files of a day."""
        return [window for window in map(day.shift, _NEAR) if day in self.days(window)]

    def home(self, day: Window) -> Window:
        """The window of records without a usable time in the files of a day."""
        readers = self.readers(day)
        return day if day in readers else readers[0]

    def files(self, day: Window, window: Window) -> list[SourceFile]:
        """The files with that day in their name.

        Raises:
            MissingSource: one of them is not there; the message names it, and the window that needs it.
        """
        paths = self._paths(day)
        try:
            return find_sources(paths) if paths else []
        except NoSource as error:
            raise MissingSource(
                f"window {window} needs the files of {day}, got none at {error.source}: wait for it, check the path, or "
                f"say with `files_zone` at which zone's midnight files are cut (now {self.files_zone})"
            ) from None

    def _paths(self, day: Window) -> list[str]:
        return [pattern.replace(_DATE, day.name) for pattern in self.patterns if _DATE in pattern]

    def undated(self) -> list[SourceFile]:
        """The files that every window reads.

        Raises:
            IngestError: one of them is not there.
        """
        paths = [pattern for pattern in self.patterns if _DATE not in pattern]
        return find_sources(paths) if paths else []

    def missing(self, windows: Iterable[Window]) -> list[str]:
        """Paths and globs of dated files that are not there yet, of all that the windows need."""
        days = sorted({day for window in windows for day in self.days(window)})
        return [path for day in days for path in self._paths(day) if not _is_there(path)]

    def is_in_sight(self) -> bool:
        """Whether this machine has the folders in which dated local files appear; of URLs it is taken for granted."""
        return all("://" in pattern or _root(pattern).is_dir() for pattern in self.patterns if _DATE in pattern)


def _is_there(path: str) -> bool:
    try:
        find_sources([path])
    except NoSource:
        return False
    return True


def _root(pattern: str) -> Path:
    """The folder below which the files of all days appear."""
    return Path(re.split(r"[*?\[]|\{date\}", pattern)[0] + "x").parent
