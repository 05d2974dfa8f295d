"""History needed: how much data each schedule takes, counted to the middle of the judged windows, to lose as little."""

from __future__ import annotations

import math

import numpy as np

from pipeline.spec.study import Cell
from pipeline.statistics.data_curve import MIN_POINTS, Students, data_needed, data_saved
from pipeline.statistics.interval import Interval
from pipeline.studies import measures
from pipeline.studies.distillation.cells import CONTINUOUS, EARLY, LATE, NO_TEACHER
from pipeline.studies.distillation.fields import Fields
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table

SCHEDULES = (NO_TEACHER, EARLY, LATE, CONTINUOUS)


def sections(evidence: Evidence, metrics: dict[str, float]) -> tuple[Section, Section]:
    """Loss by the data seen, with what it takes; and the plain differences at equal data."""
    epsilons = Fields.of(evidence.study).epsilons
    names = {name: _names(evidence, name) for name in SCHEDULES}
    curves = {}
    rows = []
    for name, found in names.items():
        points = [evidence.series(each, CONTINUOUS, evidence.judged).mean().interval() for each in found]
        curves[_words(name)] = ([_data(evidence, each) for each in found], measures.band(points))
        saved = data_saved_against(evidence, name)
        if saved is None:
            rows.append((_words(name), "too few starts", *("" for _ in epsilons)))
            continue
        if name != CONTINUOUS:
            metrics |= measures.ends(f"data_saved_against_{name}", saved)
        needed = []
        for epsilon in epsilons:
            amount = data_needed(
                _students(evidence, name), np.full(_num_seeds(evidence), epsilon), independent=evidence.independent
            )
            metrics |= measures.ends(f"history_needed_{name}_at_{epsilon:g}", amount)
            needed.append(_examples(amount))
        rows.append((_words(name), "" if name == CONTINUOUS else percent_saved(saved), *needed))
    figure = by_number(
        "Loss on the judged windows by how much data a student had seen at their middle (95 %)",
        "examples from its start to the middle of the judged windows",
        "percent against all history and a teacher throughout",
        curves,
        levels={f"epsilon {epsilon:g} %": epsilon for epsilon in epsilons},
        logarithmic=True,
    )
    header = (
        "schedule",
        "data that a continuous student saves to reach its loss with all history (95 %)",
        *(
            f"examples needed to come within {epsilon:g} % of all history and a teacher throughout (95 %)"
            for epsilon in epsilons
        ),
    )
    text = (
        "Students start at different points of history, a cutover's early enough to have met their teacher, and are judged on "
        "the same last windows. Data count to the middle of these, since students go on learning there. A curve a + b/D + "
        "c log D is fitted to each schedule's students; what it takes to reach a loss is read off it. What a schedule loses more "
        "than continuous is measured between the students that have all history: those of one start share its luck."
    )
    equal = Section(
        "At equal data",
        "The same starts under two schedules: what continuous loses less.",
        None,
        _differences(evidence),
    )
    return Section("History needed", text, figure, Table(header, tuple(rows))), equal


def data_saved_against(evidence: Evidence, schedule: str) -> Interval | None:
    """The share of its data that a continuous student does without to reach a schedule's loss with all history.

    None where too few students of the schedule started early enough.
    """
    if len(_names(evidence, schedule)) < MIN_POINTS:
        return None
    ours, theirs = _students(evidence, CONTINUOUS), _students(evidence, schedule)
    return data_saved(ours, theirs, independent=evidence.independent)


def _names(evidence: Evidence, schedule: str) -> list[str]:
    """The students of a schedule, those that saw least first, the one with all history last."""
    return [*(c.variant for c in _by_length(evidence) if c.family == schedule), schedule]


def _by_length(evidence: Evidence) -> list[Cell]:
    return sorted(evidence.study.of("start"), key=lambda cell: cell.value or 0.0)


def _students(evidence: Evidence, schedule: str) -> Students:
    names = _names(evidence, schedule)
    losses = [evidence.series(name, CONTINUOUS, evidence.judged).values.mean(axis=1) for name in names]
    return Students(np.array([_data(evidence, name) for name in names]), np.stack(losses, axis=1))


def _data(evidence: Evidence, name: str) -> float:
    """Examples trained on at the middle of the judged windows."""
    return float(evidence.tracks[name]["examples"][:, evidence.judged].mean())


def _differences(evidence: Evidence) -> Table:
    lengths = sorted({cell.value or 0.0 for cell in evidence.study.of("start")})
    others = [name for name in SCHEDULES if name != CONTINUOUS]
    rows = []
    for length in [*lengths, None]:
        at = (
            {c.family: c.variant for c in evidence.study.of("start") if c.value == length}
            if length
            else {n: n for n in SCHEDULES}
        )
        gaps = [
            measures.percent(evidence.series(at[CONTINUOUS], at[name], evidence.judged).mean().interval())
            if name in at
            else ""
            for name in others
        ]
        rows.append((measures.many(_data(evidence, at[CONTINUOUS])), *gaps))
    return Table(("examples", *(f"against {_words(name)}, percent (95 %)" for name in others)), tuple(rows))


def _num_seeds(evidence: Evidence) -> int:
    return len(evidence.study.lineup.seeds)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _examples(found: Interval) -> str:
    """Examples as people read them."""

    def one(number: float) -> str:
        return measures.many(number) if math.isfinite(number) else "no bound"

    if math.isinf(found.value):
        return f"more than {one(found.low)}"
    return f"{one(found.value)} ({one(found.low)} to {one(found.high)})"


def percent_saved(share: Interval) -> str:
    """A share of data saved as people read it: a bound where only one is known, unless it says nothing.

    No more than 100 % can be saved, and "at least -100 %" allows for twice the data.
    """

    def one(number: float) -> str:
        return f"{100 * number:.0f} %" if math.isfinite(number) else "no bound"

    if math.isnan(share.low) and math.isnan(share.high):
        return f"{one(share.value)} (no interval from so few worlds)" if math.isfinite(share.value) else "not known"
    if math.isfinite(share.value):
        return f"{one(share.value)} ({one(share.low)} to {one(share.high)})"
    if share.low > -1:
        return f"at least {one(share.low)}"
    return f"at most {one(share.high)}" if share.high < 1 else "not known"
