"""Which window a DAG run is about: one function decides, and says so in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pipeline.spec.errors import BadInput
from pipeline.spec.window import DAY, Window

log = logging.getLogger(__name__)


def resolve_window(params: Mapping[str, Any], start: Any, end: Any) -> Window:
    """The window given in the form, else the run's data interval.

    A run that is triggered by hand gets from Airflow the last interval that is complete, not the day it is
    triggered on: hence the line in the log.

    Args:
        params: the form's answers; `window_date` goes first.
        start: first instant of the run's data interval, if it has one.
        end: its end.

    Raises:
        BadInput: neither names a window.
    """
    if given := params.get("window_date"):
        window = Window.of(given)
        log.info("Window %s, as the form says", window)
        return window
    if start is None or end is None:
        raise BadInput("this run has no data interval: fill in the window's date, or trigger with a logical date")
    length: timedelta = end - start
    if length != DAY:
        raise BadInput(f"a window is one day, but this run's data interval is {start.isoformat()} + {length}")
    window = Window(start.astimezone(Window.of(start).start.tzinfo))
    log.info("Window %s, from the run's data interval", window)
    return window
