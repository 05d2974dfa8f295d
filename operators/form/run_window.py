"""Which window a DAG run is about: one function decides, and says so in the log."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from pipeline.spec.errors import BadInput
from pipeline.spec.window import DAY, Window

log = logging.getLogger(__name__)
Interval = tuple[datetime | None, datetime | None]
"""First instant of a run's data interval and the first after it, where it has one."""


def resolve_window(given: Window | None, interval: Interval) -> Window:
    """The window given in the form, else the run's data interval.

    A run that is triggered by hand gets from Airflow the last interval that is complete, not the day it is
    triggered on: hence the line in the log.

    Args:
        given: the form's answer, which goes first.
        interval: the run's.

    Raises:
        BadInput: neither names a window.
    """
    if given is not None:
        log.info("Window %s, as the form says", given)
        return given
    start, end = interval
    if start is None or end is None:
        raise BadInput("this run has no data interval: fill in the window's date, or trigger with a logical date")
    length: timedelta = end - start
    if length != DAY:
        raise BadInput(f"a window is one day, but this run's data interval is {start.isoformat()} + {length}")
    window = Window(start.astimezone(Window.of(start).start.tzinfo))
    log.info("Window %s, from the run's data interval", window)
    return window
