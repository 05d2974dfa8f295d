"""The answer of a study of knowledge distillation: who converges on how much data, and how a gain fades after the cutover."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.spec.config import late_cutover
from pipeline.spec.study import Cell
from pipeline.statistics.crossing import MIN_WINDOWS, half_life
from pipeline.statistics.interval import Interval
from pipeline.statistics.trend import transfer_ratio
from pipeline.studies import measures
from pipeline.studies.distillation import history, in_run
from pipeline.studies.distillation.cells import CONTINUOUS, EARLY, LATE, NO_TEACHER, TEACHER
from pipeline.studies.drawing import by_number, by_window
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.measures import percent

TITLES: dict[str, tuple[str, str]] = {
    "size": ("Size of the teacher", "The same student, learning throughout from teachers of several sizes."),
    "architecture": (
        "Architecture of teacher and student",
        "Teachers and students of both architectures at their sizes, each against the student of its own architecture without a "
        "teacher.",
    ),
    "age": (
        "Age of the teacher",
        "Teacher logits by the checkpoint that closed the window that many windows earlier. All students learn from them "
        "from the window in which the oldest exist.",
    ),
    "updates": (
        "How often the teacher is updated",
        "Between two updates students learn from the same checkpoint, which grows older. All learn from the same window on.",
    ),
    "head": (
        "Which head learns from the teacher",
        "The teacher's loss on the logit that is served, or on a head of its own that is never served.",
    ),
    "weight": (
        "Weight of the teacher's loss",
        "Relative to the loss on the labels, which has weight 1; constant or ramped in.",
    ),
    "combined": (
        "Together with downsampling",
        "A continuous student on few negatives, its teacher on all rows: is it as good as the full-data student alone, whose "
        "training is {alone} TFLOP?",
    ),
}


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    gain = evidence.series(CONTINUOUS, LATE, evidence.judged).mean().interval()
    metrics = measures.ends("gain_over_late_cutover_percent", gain)
    headline = measures.claim(
        f"On the judged windows a continuous student's log-loss differs from the late cutover's by {percent(gain)} %.",
        gain,
    )
    sections = [_schedules(evidence), _after_cutover(evidence, metrics)]
    if evidence.study.of("start"):
        sections += history.sections(evidence, metrics)
        saved = history.data_saved_against(evidence, LATE)
        if saved is not None:
            headline = measures.claim(
                "A continuous student reaches the loss that the late cutover has with all its history on "
                f"{history.percent_saved(saved)} less data.",
                saved,
            )
        within = in_run.section(evidence, metrics)
        sections += [] if within is None else [within]
    sections += _axes(evidence, metrics)
    return Findings(
        headline=headline,
        metrics=metrics,
        sections=tuple(sections),
        checks=tuple(_checks(evidence, gain)),
        notes=(_headroom(evidence, metrics), measures.scope(evidence)),
    )


def _headroom(evidence: Evidence, metrics: dict[str, float]) -> str:
    """Whether there is something to learn from the teacher, which comes before all else."""
    ahead = evidence.series(TEACHER, NO_TEACHER, evidence.judged).mean().interval()
    metrics |= measures.ends("teacher_headroom_percent", ahead)
    words = "is better" if ahead.high < 0 else "is not shown to be better"
    return f"The teacher {words} than the student without one: {percent(ahead)} % of log-loss."


def _schedules(evidence: Evidence) -> Section:
    schedules = evidence.study.of("schedule")
    online = evidence.study.lineup.online_start
    marks = {"early cutover": online, "late cutover": late_cutover(online), "judged from here": evidence.study.judged}
    figure = by_window(
        "Log-loss relative to the student without a teacher, on the same rows before training on them (95 %)",
        "percent; below zero is better",
        measures.curves(evidence, schedules),
        marks,
    )
    reference = Cell(variant=NO_TEACHER, against=NO_TEACHER, axis="schedule", label="no teacher")
    others = [cell for cell in schedules if cell.variant != NO_TEACHER]
    text = (
        "Each schedule over the whole run, and over the judged windows in the table. Compute counts training, evaluation "
        "and scoring; a teacher's is counted while students learn from it, whole or in equal parts for all of them."
    )
    return Section("Schedules", text, figure, measures.table(evidence, [reference, *others]))


def _after_cutover(evidence: Evidence, metrics: dict[str, float]) -> Section:
    """How the gain over the student without a teacher fades after the cutover."""
    online = evidence.study.lineup.online_start
    starts = {EARLY: online, LATE: late_cutover(online)}
    curves = {}
    rows = []
    for name, start in starts.items():
        if start > evidence.study.last:
            continue
        windows = evidence.between(start)
        cell = evidence.study.cell(name)
        points = evidence.series(name, CONTINUOUS, windows).by_window()
        curves[cell.label] = (list(range(len(points))), measures.band(points))
        gain = evidence.series(name, NO_TEACHER, windows)
        fade = "too few windows"
        if len(points) >= MIN_WINDOWS:
            found = half_life(gain * -1.0)
            fade = percent(found, 1)
            metrics |= measures.ends(f"{name}_half_life_windows", found)
        rows.append((cell.label, percent(points[-1]), percent(gain.by_window()[-1]), fade))
    figure = by_number(
        "After the cutover: log-loss relative to the student whose teacher stays (95 %)",
        "windows since the cutover",
        "percent; above zero is worse",
        curves,
    )
    header = (
        "schedule",
        "in the last window against continuous, percent (95 %)",
        "against no teacher, percent (95 %)",
        "half-life of the gain, windows (95 %)",
    )
    text = "The transient: after its cutover a student drifts back to where it would be without a teacher."
    return Section("After a cutover", text, figure, Table(header, tuple(rows)))


def _axes(evidence: Evidence, metrics: dict[str, float]) -> Iterator[Section]:
    """A section per axis that was varied besides the schedule."""
    for axis, (title, text) in TITLES.items():
        found = evidence.study.of(axis)
        if not found:
            continue
        rows = []
        for cell in found:
            gap = measures.judged(evidence, cell)
            teacher = evidence.study.lineup.variant(cell.variant).teacher or TEACHER
            ours, theirs = (evidence.series(name, cell.against, evidence.judged) for name in (cell.variant, teacher))
            ratio = transfer_ratio(ours, theirs)
            own, whole, _ = (f"{flops / 1e12:,.3f}" for flops in measures.compute(evidence, cell.variant))
            rows.append((cell.label, percent(gap), percent(ratio), own, whole))
            metrics |= measures.ends(f"{cell.variant}_percent", gap)
            metrics |= measures.ends(f"{cell.variant}_transfer_ratio", ratio)
        header = (
            axis,
            "log-loss against no teacher, percent (95 %)",
            "transfer ratio (95 %)",
            "own training, TFLOP",
            "with its teacher's training and scoring",
        )
        numbers = [cell for cell in found if cell.value is not None]
        figure = None
        if len(numbers) == len(found) > 1:
            band = measures.band([measures.judged(evidence, cell) for cell in numbers])
            across = [cell.value or 0.0 for cell in numbers]
            figure = by_number(title, axis, "percent; below zero is better", {"continuous": (across, band)})
        alone = f"{measures.compute(evidence, NO_TEACHER)[0] / 1e12:,.3f}"
        yield Section(title, text.format(alone=alone), figure, Table(header, tuple(rows)))


def _checks(evidence: Evidence, gain: Interval) -> Iterator[Check]:
    yield from _stale_teacher(evidence)
    yield measures.too_much_variance(evidence, CONTINUOUS, LATE, gain)
    behind = evidence.series(CONTINUOUS, TEACHER, evidence.judged)
    yield measures.growing("continuous against its teacher", measures.moved(behind))
    yield measures.jumps(evidence, evidence.study.of("schedule"))
    yield Check("an iso-compute curve without a minimum", "this study varies no budget", None)


def _stale_teacher(evidence: Evidence) -> Iterator[Check]:
    ahead = evidence.series(TEACHER, NO_TEACHER, evidence.judged).mean().interval()
    yield Check(
        "a teacher that is no better than its student",
        f"the teacher against the student without one: {percent(ahead)} %",
        measures.surely_not_above(ahead),
    )
    aged = sorted(evidence.study.of("age"), key=lambda cell: cell.value or 0.0)
    if not aged:
        yield Check("a stale teacher", "the teacher's age was not varied", None)
        return
    fresh = next(cell for cell in aged if cell.value == 0)
    loss = evidence.series(aged[-1].variant, fresh.variant, evidence.judged).mean().interval()
    yield Check(
        "a stale teacher",
        f"soft labels {aged[-1].value:g} windows old instead of none cost {percent(loss)} %",
        measures.surely_not_above(loss),
    )
