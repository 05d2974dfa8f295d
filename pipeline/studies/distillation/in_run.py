"""Convergence within a run: when students that started late come to stay within epsilon of the one with all history."""

from __future__ import annotations

import math

from pipeline.spec.config import late_cutover
from pipeline.spec.study import Cell
from pipeline.statistics.convergence import Convergence, convergence, saved
from pipeline.statistics.falling import MIN_WINDOWS
from pipeline.statistics.interval import Interval
from pipeline.statistics.paired import Paired
from pipeline.studies import measures
from pipeline.studies.distillation.cells import CONTINUOUS, EARLY, LATE, NO_TEACHER
from pipeline.studies.distillation.fields import Fields
from pipeline.studies.drawing import Band, by_window
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table

SCHEDULES = (NO_TEACHER, EARLY, LATE, CONTINUOUS)


def section(evidence: Evidence, metrics: dict[str, float]) -> Section | None:
    """Students that started together, from their first window to the last; None where they have too few windows."""
    starters = shortly_before_cutover(evidence)
    pairs = {name: evidence.paired(cell.variant, cell.against) for name, cell in starters.items()}
    if min(pair.num_windows for pair in pairs.values()) < MIN_WINDOWS:
        return None
    study = evidence.study
    start = study.lineup.variant(starters[CONTINUOUS].variant).start
    online = study.lineup.online_start
    figure = by_window(
        f"Students that started on {start}, relative to all history and a teacher throughout (95 %)",
        "percent of log-loss",
        {
            label: (windows[1:], _tail(shown))
            for label, (windows, shown) in measures.curves(evidence, starters.values()).items()
        },
        {"early cutover": online, "late cutover": late_cutover(online)},
    )
    rows = []
    for epsilon in Fields.of(study).epsilons:
        for name, pair in pairs.items():
            found = convergence(pair, epsilon)
            rows.append(
                (f"{epsilon:g} %", starters[name].label, *_words(found), *_savings(pairs, name, epsilon, metrics))
            )
    header = (
        "epsilon",
        "schedule",
        "verdict",
        "windows (95 %)",
        "examples (95 %)",
        "TFLOP (95 %)",
        "data saved by continuous against it (95 %)",
    )
    text = (
        "The students that started last before the early cutover. From its start on, each is compared with the same student with all history and a teacher throughout, on the "
        "same rows; the figure leaves out the first window, before any training. Data to converge is what it had trained on when it came within epsilon of that loss and stayed there; for a "
        "student that did not (censored) only a bound is known."
    )
    return Section("In-run convergence", text, figure, Table(header, tuple(rows)))


def shortly_before_cutover(evidence: Evidence) -> dict[str, Cell]:
    """The cells of the last start before the early cutover, by schedule: what starts long before has converged by then."""
    study = evidence.study
    starts = study.of("start")
    until_judged = study.judged.days_since(study.lineup.online_start)
    lengths = {cell.value or 0.0 for cell in starts}
    chosen = min((length for length in lengths if length > until_judged), default=max(lengths))
    return {name: next(cell for cell in starts if cell.value == chosen and cell.family == name) for name in SCHEDULES}


def _tail(shown: Band) -> Band:
    values, lows, highs = shown
    return values[1:], lows[1:], highs[1:]


def _words(found: Convergence) -> tuple[str, str, str, str]:
    return (
        found.verdict,
        _amount(found.window, 1, 1),
        _amount(found.examples, 1e-6, 2) + "M",
        _amount(found.flops, 1e-12, 3),
    )


def _amount(interval: Interval, unit: float, digits: int) -> str:
    def one(number: float) -> str:
        return f"{unit * number:,.{digits}f}" if math.isfinite(number) else "no bound"

    value = one(interval.value) if math.isfinite(interval.value) else f"more than {one(interval.low)}"
    return f"{value} ({one(interval.low)} to {one(interval.high)})"


def _savings(pairs: dict[str, Paired], name: str, epsilon: float, metrics: dict[str, float]) -> tuple[str]:
    if name == CONTINUOUS:
        return ("",)
    share = saved(pairs[CONTINUOUS], pairs[name], epsilon)
    key = f"in_run_data_saved_against_{name}_at_{epsilon:g}"
    metrics |= {key: share.value} | measures.ends(key, share)
    return (percent_saved(share),)


def percent_saved(share: Interval) -> str:
    """A share of data saved as people read it: a bound where only one is known, unless it says nothing.

    No more than 100 % can be saved, and "at least -100 %" allows for twice the data.
    """

    def one(number: float) -> str:
        return f"{100 * number:.0f} %" if math.isfinite(number) else "no bound"

    if math.isfinite(share.value):
        return f"{one(share.value)} ({one(share.low)} to {one(share.high)})"
    if share.low > -1:
        return f"at least {one(share.low)}"
    return f"at most {one(share.high)}" if share.high < 1 else "not known"
