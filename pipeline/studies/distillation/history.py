"""History needed: how much data each schedule takes, from its start to the judged windows, to come within epsilon there."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from pipeline.statistics.needed import HistoryNeeded, Student, history_needed, history_saved
from pipeline.studies import measures
from pipeline.studies.distillation.cells import CONTINUOUS, EARLY, LATE, NO_TEACHER
from pipeline.studies.distillation.fields import Fields
from pipeline.studies.distillation.in_run import percent_saved
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table

SCHEDULES = (NO_TEACHER, EARLY, LATE, CONTINUOUS)


def section(evidence: Evidence, metrics: dict[str, float]) -> tuple[Section, str]:
    """The section, and the study's headline, which is about the first epsilon."""
    own = {name: _students(evidence, name, name) for name in SCHEDULES}
    shared = {name: _students(evidence, name, CONTINUOUS) for name in SCHEDULES}
    rows = []
    for epsilon in Fields.of(evidence.study).epsilons:
        for name in SCHEDULES:
            against, alone = (history_needed(students[name], epsilon) for students in (shared, own))
            rows.append(
                (
                    f"{epsilon:g} %",
                    name.replace("_", " "),
                    _millions(against),
                    _saved(shared, name, epsilon, metrics, "data_saved"),
                    _millions(alone),
                    _saved(own, name, epsilon, metrics, "data_saved_on_own_scale"),
                )
            )
            metrics[f"history_needed_{name}_at_{epsilon:g}"] = against.examples.value
    header = (
        "epsilon",
        "schedule",
        "examples needed (95 %)",
        "saved by continuous against it (95 %)",
        "examples needed to its own full history (95 %)",
        "saved by continuous against it (95 %)",
    )
    text = (
        "Students start at different points of history and are judged on the same last windows. Left, each is compared with "
        "the student with all history whose teacher stays; right, with the student of its own schedule with all history, "
        "since more data does not make up for what a cutover costs. Between two starts the loss is interpolated in the "
        "logarithm of the data."
    )
    return Section("History needed", text, _figure(evidence), Table(header, tuple(rows))), _headline(
        evidence, shared, own
    )


def _students(evidence: Evidence, schedule: str, reference: str) -> list[Student]:
    """The students of a schedule by their start, and the one with all history unless it is the reference."""
    names = [c.variant for c in evidence.study.of("start") if c.family == schedule]
    if schedule != reference:
        names.append(schedule)
    judged = evidence.judged
    return [
        Student(
            history=float(evidence.tracks[name].examples[:, judged.start].mean()),
            judged=evidence.paired(name, reference, judged),
        )
        for name in names
    ]


def _figure(evidence: Evidence) -> Figure:
    curves = {}
    for name in SCHEDULES:
        found = sorted(_students(evidence, name, CONTINUOUS), key=lambda student: student.history)
        gaps = [student.judged.series().mean().interval() for student in found]
        curves[name.replace("_", " ")] = ([student.history for student in found], measures.band(gaps))
    return by_number(
        "Loss on the judged windows by how much data a student had seen before them (95 %)",
        "examples from its start to the first judged window",
        "percent against all history and a teacher throughout",
        curves,
        levels={f"epsilon {epsilon:g} %": epsilon for epsilon in Fields.of(evidence.study).epsilons},
        logarithmic=True,
    )


def _saved(students: dict[str, list[Student]], name: str, epsilon: float, metrics: dict[str, float], key: str) -> str:
    if name == CONTINUOUS:
        return ""
    share = history_saved(students[CONTINUOUS], students[name], epsilon)
    key = f"{key}_against_{name}_at_{epsilon:g}"
    metrics |= {key: share.value} | measures.ends(key, share)
    return percent_saved(share)


def _millions(found: HistoryNeeded) -> str:
    def one(number: float) -> str:
        return f"{number / 1e6:.2f}M" if math.isfinite(number) else "no bound"

    interval = found.examples
    if found.left_censored:
        return f"at most {one(interval.value)} (upper end {one(interval.high)})"
    if found.right_censored:
        return f"more than {one(interval.low)}"
    return f"{one(interval.value)} ({one(interval.low)} to {one(interval.high)})"


def _headline(evidence: Evidence, shared: dict[str, list[Student]], own: dict[str, list[Student]]) -> str:
    """About the late cutover at the first epsilon: against the common reference where both converge, else each its own."""
    epsilon = Fields.of(evidence.study).epsilons[0]
    needs = [history_needed(shared[name], epsilon) for name in (CONTINUOUS, LATE)]
    share = history_saved(shared[CONTINUOUS], shared[LATE], epsilon)
    if math.isfinite(share.value):
        return (
            f"To come within {epsilon:g} % of all history and a teacher throughout, a continuous student needs "
            f"{percent_saved(share)} less data than one whose teacher leaves at the late cutover."
        )
    if needs[1].right_censored:
        on_own = history_saved(own[CONTINUOUS], own[LATE], epsilon)
        return (
            f"Within {epsilon:g} % of all history and a teacher throughout, a continuous student needs "
            f"{_millions(needs[0])} examples; one whose teacher leaves at the late cutover does not come as close with all "
            f"history. Data saved, each compared with its own full history: {percent_saved(on_own)}."
        )
    return f"To come within {epsilon:g} %, a continuous student needs {_millions(needs[0])} examples, and one with the late cutover {_millions(needs[1])}."
