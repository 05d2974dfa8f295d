"""Windows: whole UTC days whatever way they are named, in an order without gaps."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.spec.window import Window

days = st.dates(date(1990, 1, 1), date(2099, 12, 31)).map(Window.of)


@given(
    st.datetimes(datetime(1990, 1, 2), datetime(2099, 12, 30)),  # noqa: DTZ001 - the zone is drawn beside it
    st.integers(-14 * 60, 14 * 60),
)
def test_every_instant_lies_in_exactly_one_window_whatever_its_zone(moment: datetime, minutes: int) -> None:
    instant = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    window = Window.of(instant)
    assert window.start <= instant < window.end
    assert not window.previous().end > instant
    assert not window.next().start <= instant


@given(days)
def test_all_spellings_of_a_day_are_one_value(window: Window) -> None:
    spellings: list[Any] = [window.name, window.start, window.start.date(), window, window.end - timedelta(seconds=1)]
    assert {Window.of(each) for each in spellings} == {window}
    adapter = TypeAdapter(Window)
    assert adapter.validate_json(adapter.dump_json(window)) == window
    assert json.loads(adapter.dump_json(window)) == window.name


@given(days, st.integers(0, 400))
def test_a_span_has_every_day_once_in_order(first: Window, num_days: int) -> None:
    last = first.shift(num_days)
    span = list(Window.span(first, last))
    assert (span[0], span[-1], len(span)) == (first, last, num_days + 1)
    assert all(a.end == b.start and a < b for a, b in zip(span, span[1:], strict=False))
    assert last.days_since(first) == num_days
    assert [w.name for w in span] == sorted(w.name for w in span)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("2024-13-01", "a window is named YYYY-MM-DD, got '2024-13-01'"),
        ("../2024-01-01", "a window is named YYYY-MM-DD, got '../2024-01-01'"),
        ("yesterday", "a window is named YYYY-MM-DD, got 'yesterday'"),
        (20240101, "a window is named YYYY-MM-DD, got 20240101"),
        (datetime(2024, 1, 1), "give a time with its zone, got 2024-01-01T00:00:00"),  # noqa: DTZ001 - the point
    ],
)
def test_what_names_no_day_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match="YYYY-MM-DD|zone") as refused:
        Window.of(given)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "start",
    [
        datetime(2024, 1, 1),  # noqa: DTZ001 - the point
        datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_window_starts_at_midnight_in_utc(start: datetime) -> None:
    with pytest.raises(ValueError, match="a window starts at"):
        Window(start)


def test_a_span_that_runs_backward_is_refused() -> None:
    with pytest.raises(ValueError, match="a span runs forward, got 2024-01-02 to 2024-01-01"):
        Window.span(Window.of("2024-01-02"), Window.of("2024-01-01"))
