"""Convergence within a run: when students that started late come to stay within epsilon of the one with all history."""

from __future__ import annotations

import math

import numpy as np

from pipeline.spec.config import late_cutover
from pipeline.statistics.crossing import MIN_WINDOWS, below_for_good, verdict
from pipeline.statistics.interval import Interval
from pipeline.studies import measures
from pipeline.studies.distillation.cells import EARLY, LATE
from pipeline.studies.distillation.fields import Fields
from pipeline.studies.drawing import by_window
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table


def section(evidence: Evidence, metrics: dict[str, float]) -> Section | None:
    """Students that started together, from their first window to the last; None where they have too few windows."""
    study = evidence.study
    length = min(cell.value or 0.0 for cell in study.of("start") if cell.family in (EARLY, LATE))
    starters = [cell for cell in study.of("start") if cell.value == length]
    start = evidence.since(starters[0].variant)
    trained = slice(start + 1, len(evidence.windows))
    """From the first window before which there was any training."""
    if trained.stop - trained.start < MIN_WINDOWS:
        return None
    series = {cell.label: evidence.series(cell.variant, cell.against, trained) for cell in starters}
    online = study.lineup.online_start
    figure = by_window(
        f"Students that started on {evidence.windows[start]}, relative to all history and a teacher throughout (95 %)",
        "percent of log-loss",
        {label: (evidence.windows[trained], measures.band(found.by_window())) for label, found in series.items()},
        {"early cutover": online, "late cutover": late_cutover(online)},
    )
    rows = []
    for epsilon in Fields.of(study).epsilons:
        for cell in starters:
            found = below_for_good(series[cell.label], epsilon)
            track = evidence.tracks[cell.variant]
            spent = (
                track["examples"][:, start:].mean(axis=0),
                np.nancumsum(track["training_flops"].mean(axis=0)[start:]),
            )
            examples, flops = (_spent(found, each) for each in (spent[0], np.concatenate([[0.0], spent[1]])))
            metrics |= measures.ends(f"in_run_windows_{cell.family}_at_{epsilon:g}", found)
            claim = verdict(found, series[cell.label].num_windows)
            rows.append(
                (
                    f"{epsilon:g} %",
                    cell.label,
                    claim,
                    _amount(found, 1, 1),
                    _amount(examples, 1e-6, 2) + "M",
                    _amount(flops, 1e-12, 3),
                )
            )
    header = ("epsilon", "schedule", "verdict", "windows (95 %)", "examples (95 %)", "TFLOP (95 %)")
    text = (
        "The students that started last of those that met a teacher before their cutover, each compared with the same student "
        "with all history and a teacher throughout, on the same rows. The window before any training is no part of the curve. "
        "Data to converge is what it had trained on when its fitted curve came within epsilon and stayed there; for a student "
        "that did not (censored) only a bound is known."
    )
    return Section("In-run convergence", text, figure, Table(header, tuple(rows)))


def _spent(windows: Interval, until: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Interval:
    """What had been spent after so many windows."""

    def at(window: float) -> float:
        return float(np.interp(window, np.arange(len(until)), until)) if math.isfinite(window) else window

    return Interval(at(windows.value), at(windows.low), at(windows.high))


def _amount(interval: Interval, unit: float, digits: int) -> str:
    def one(number: float) -> str:
        return f"{unit * number:,.{digits}f}" if math.isfinite(number) else "no bound"

    value = one(interval.value) if math.isfinite(interval.value) else f"more than {one(interval.low)}"
    return f"{value} ({one(interval.low)} to {one(interval.high)})"
