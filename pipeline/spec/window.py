"""A window: one UTC day of examples, half-open, as a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pipeline.spec.errors import BadInput, shown

DAY = timedelta(days=1)
DAY_US = DAY // timedelta(microseconds=1)
"""The same in microseconds, the unit of event times."""
MAX_SPAN = 3660
"""Windows of the longest span: ten years. A longer one is a slip in a date."""
_FIRST, _LAST = date(1000, 1, 1), date(8999, 12, 31)
"""So that a span before and a span after are days too."""


def checked_zone(zone: str, what: str) -> str:
    """A zone's name, once it is known to be one."""
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        raise BadInput(f"{what} must be an IANA name such as 'UTC' or 'Europe/Berlin', got {zone!r}") from None
    return zone


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """One day of examples, `[start, end)` in UTC.

    >>> Window.of("2014-08-03").next().name
    '2014-08-04'
    """

    start: datetime
    """First instant inside; midnight, aware UTC."""

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.start.utcoffset() != timedelta(0):
            raise BadInput(f"a window starts at an aware UTC time, got {self.start!r}")
        if self.start.timetz().replace(tzinfo=None) != datetime.min.time():
            raise BadInput(f"a window starts at midnight UTC, got {self.start.isoformat()}")

    @property
    def end(self) -> datetime:
        """First instant after the window."""
        return self.start + DAY

    @property
    def name(self) -> str:
        """The day as `YYYY-MM-DD`: what paths and people read."""
        return self.start.date().isoformat()

    @classmethod
    def of(cls, day: str | date | datetime | Window) -> Window:
        """The window of a day given as `YYYY-MM-DD`, a date or an aware time inside it."""
        match day:
            case Window():
                return day
            case datetime():
                if day.tzinfo is None:
                    raise BadInput(f"give a time with its zone, got {day.isoformat()}")
                chosen = day.astimezone(UTC).date()
            case date():
                chosen = day
            case str():
                chosen = _day(day)
            case _:
                raise BadInput(f"a window is named YYYY-MM-DD, got {shown(day)}")
        if not _FIRST <= chosen <= _LAST:
            raise BadInput(f"a window lies between {_FIRST} and {_LAST}, got {chosen.isoformat()}: check the year")
        return cls(datetime(chosen.year, chosen.month, chosen.day, tzinfo=UTC))

    def shift(self, days: int) -> Window:
        """The window so many days later (earlier, when negative)."""
        return Window(self.start + days * DAY)

    def next(self) -> Window:
        """The following day."""
        return self.shift(1)

    def previous(self) -> Window:
        """The day before."""
        return self.shift(-1)

    def days_since(self, origin: Window) -> int:
        """How many days after `origin` this window starts."""
        return (self.start - origin.start) // DAY

    @staticmethod
    def span(first: Window, last: Window) -> Iterator[Window]:
        """Every window from `first` to `last`, both included, in order.

        Raises:
            BadInput: it runs backward, or is longer than anybody means.
        """
        if last < first:
            raise BadInput(f"a span runs forward, got {first.name} to {last.name}")
        if (num := last.days_since(first) + 1) > MAX_SPAN:
            raise BadInput(
                f"a span has at most {MAX_SPAN:,} windows, got {num:,} from {first.name} to {last.name}: check the dates, "
                "or ask for it in parts"
            )
        return (first.shift(day) for day in range(last.days_since(first) + 1))

    def local(self, zone: str) -> tuple[datetime, datetime]:
        """The first instant of the day of this name in a zone, and of the next day there; in UTC.

        They are one where the zone has skipped the day.
        """
        midnights = (self.start.replace(tzinfo=ZoneInfo(zone)), self.end.replace(tzinfo=ZoneInfo(zone)))
        return midnights[0].astimezone(UTC), midnights[1].astimezone(UTC)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read from and written to JSON as `YYYY-MM-DD`."""
        return core_schema.no_info_plain_validator_function(
            cls.of, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def _day(name: str) -> date:
    try:
        day = date.fromisoformat(name)
    except ValueError:
        day = None
    if day is None or day.isoformat() != name:
        raise BadInput(f"a window is named YYYY-MM-DD, got {shown(name)}")
    return day
