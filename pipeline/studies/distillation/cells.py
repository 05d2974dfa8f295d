"""The recipe of a study of knowledge distillation: schedules, and what else may matter, one factor at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.config import LATE_CUTOVER_WINDOWS, SIZES, Continuous, Cutover, Name, Rate, Size, Variant
from pipeline.spec.documents import Few, Real, Seeds, Whole
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import MIN_JUDGED, Study, StudyError
from pipeline.spec.window import Window
from pipeline.studies.draft import Draft, both, kept, plain, taught, tuned

DistillationAxis = Literal["start", "size", "age", "head", "weight"]

TEACHER, NO_TEACHER = "teacher", "no_teacher"
EARLY, LATE, CONTINUOUS = "early_cutover", "late_cutover", "continuous"
NUM_SIZES = 3
AGES = (1, 4)
"""Teacher ages beside 0, in windows."""
SHORTEST_HISTORY = 3
"""Windows; what starts later has hardly met a teacher."""
SETTLED_WINDOWS = 2 * LATE_CUTOVER_WINDOWS
"""Windows from the first online one to the first that is judged: as long again after the late cutover as before it."""


def distillation_study(
    base: LineUp,
    *,
    name: Name,
    first: Window,
    online_start: Window,
    last: Window,
    judged: Window | None = None,
    teacher_size: Size = "small",
    student_size: Size = "tiny",
    soft_weight: Real = 3.0,
    negative_rate: Rate | None = None,
    axes: Sequence[DistillationAxis] = (),
    num_starts: Annotated[Whole, Field(ge=1, le=100)] = 7,
    epsilons: Annotated[Sequence[Real], Few] = (0.1, 0.2, 0.5),
    seeds: Seeds = (0,),
) -> Study:
    """When shall a student stop listening to its teacher, and how much less data does it need if it never does?

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models": a student with a continuous teacher
    converges with 35 % less data than one whose teacher left at a later cutover.

    Command: `airflow dags trigger distillation_study`, or the form in the UI.

    Cost: a pass of the teacher and one of each student over the span, per seed. Students share what their schedules
    have in common up to the cutover, which is trained once. With the axis `start`, about half a pass more for each
    schedule and start.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size. An arm
            whose name one of its variants has takes that one's optimizer.
        name: names the study, its MLflow experiment and its chains in the lake.
        first: where everybody with full history starts.
        online_start: first window of the online phase, where the early cutover lies.
        last: last window, included.
        judged: first window on which all are judged; well after the late cutover when not given, if there is room.
        teacher_size: size of the teacher.
        student_size: size of every student.
        soft_weight: weight of the teacher's loss beside the labels'.
        negative_rate: also a continuous student that trains on this fraction of the negatives; none when not given.
        axes: what to vary beside the schedule, one at a time.
        num_starts: how many starts the axis `start` has, beside the full history.
        epsilons: percents of log-loss within which a student counts as converged; the headline takes the first.
        seeds: each variant is trained with each of them.

    Raises:
        StudyError: the windows have no room for what is asked.
    """
    judged = judged or _settled(online_start, last)
    asked = _Asked(base, first, judged, teacher_size, student_size, soft_weight, num_starts)
    draft = Draft(NO_TEACHER)
    draft.add("schedule", "teacher", plain(base, TEACHER, teacher_size))
    for student in asked.students:
        draft.add("schedule", _words(student.name), student)
    for axis in axes:
        AXES[axis](draft, asked)
    if negative_rate is not None:
        fewer = both(base, kept(base, asked.students[0], negative_rate), asked.schedule)
        draft.add("combined", f"continuous, {100 * negative_rate:g} % of negatives", fewer, negative_rate)
    return Study(
        kind="distillation",
        question="When shall a student stop listening to its teacher, and how much less data does it need if it never does?",
        lineup=draft.lineup(base, name, online_start, seeds),
        cells=tuple(draft.cells),
        first=first,
        last=last,
        judged=judged,
        epsilons=tuple(epsilons),
    )


@dataclass(frozen=True)
class _Asked:
    """What the axes vary."""

    base: LineUp
    first: Window
    judged: Window
    teacher_size: Size
    student_size: Size
    soft_weight: float
    num_starts: int

    @property
    def schedule(self) -> Continuous:
        """A teacher that stays."""
        return Continuous(teacher=TEACHER, weight=self.soft_weight)

    @property
    def students(self) -> list[Variant]:
        """The student under every schedule."""
        return schedules(self.base, plain(self.base, NO_TEACHER, self.student_size), self.soft_weight)

    @property
    def continuous(self) -> Variant:
        """The student whose teacher stays."""
        return self.students[-1]


def schedules(base: LineUp, student: Variant, soft_weight: float) -> list[Variant]:
    """A student under every schedule: without a teacher, with one until the early or late cutover, with one that stays."""
    taught_until: dict[str, Cutover | Continuous] = {
        EARLY: Cutover(teacher=TEACHER, at="early", weight=soft_weight),
        LATE: Cutover(teacher=TEACHER, at="late", weight=soft_weight),
        CONTINUOUS: Continuous(teacher=TEACHER, weight=soft_weight),
    }
    return [student, *(tuned(base, taught(student, name, schedule)) for name, schedule in taught_until.items())]


def _starts(draft: Draft, asked: _Asked) -> None:
    """The same students with less and less history, each held against the one with all of it."""
    for length in _lengths(asked.judged.days_since(asked.first), asked.num_starts):
        start = asked.judged.shift(-length)
        for student in asked.students:
            later = student.model_copy(update={"name": f"{student.name}_from_{start}", "start": start})
            draft.add("start", _words(student.name), later, length, against=CONTINUOUS)


def _sizes(draft: Draft, asked: _Asked) -> None:
    """Teachers larger than the student: one of its own size and seed is its twin and teaches it nothing."""
    sizes = list(SIZES)
    larger = sizes[sizes.index(asked.student_size) + 1 :]
    for size in larger[:NUM_SIZES]:
        if size == asked.teacher_size:
            draft.add("size", f"{size} teacher", asked.continuous)
            continue
        teacher = plain(asked.base, f"{TEACHER}_{size}", size)
        draft.train(teacher)
        schedule = asked.schedule.model_copy(update={"teacher": teacher.name})
        draft.add("size", f"{size} teacher", taught(asked.continuous, f"continuous_{size}_teacher", schedule))


def _ages(draft: Draft, asked: _Asked) -> None:
    """Teachers that are some windows behind; all listen from the window in which the oldest scores exist."""
    since = asked.first.shift(max(AGES))
    for age in (0, *AGES):
        schedule = asked.schedule.model_copy(update={"age": age, "since": since})
        draft.add("age", f"{age} windows old", taught(asked.continuous, f"continuous_age_{age}", schedule), age)


def _heads(draft: Draft, asked: _Asked) -> None:
    """The teacher's loss on the logit that is served, or on one of its own (Rec-Distill 2026, ExFM 2025)."""
    draft.add("head", "serving head", asked.continuous)
    model = asked.continuous.model.model_copy(update={"distillation_head": "auxiliary"})
    auxiliary = asked.continuous.model_copy(update={"name": "continuous_auxiliary_head", "model": model})
    draft.add("head", "auxiliary head", auxiliary)


def _weights(draft: Draft, asked: _Asked) -> None:
    """The teacher's loss at a third, once and three times its weight, and ramped in."""
    for factor in (1 / 3, 1.0, 3.0):
        weight = asked.soft_weight * factor
        schedule = asked.schedule.model_copy(update={"weight": weight})
        other = taught(asked.continuous, f"continuous_weight_{weight:.3g}", schedule)
        draft.add("weight", f"weight {weight:.3g}", asked.continuous if factor == 1 else other, weight)
    ramp = asked.schedule.model_copy(update={"since": asked.first, "ramp": LATE_CUTOVER_WINDOWS})
    draft.add("weight", f"ramp over {LATE_CUTOVER_WINDOWS} windows", taught(asked.continuous, "continuous_ramp", ramp))


AXES: dict[DistillationAxis, Callable[[Draft, _Asked], None]] = {
    "start": _starts,
    "size": _sizes,
    "age": _ages,
    "head": _heads,
    "weight": _weights,
}
"""What each axis adds."""


def _settled(online_start: Window, last: Window) -> Window:
    """The first judged window: well after the late cutover where there is room for enough windows behind it."""
    return min(online_start.shift(SETTLED_WINDOWS), max(online_start, last.shift(1 - MIN_JUDGED)))


def _lengths(longest: int, count: int) -> list[int]:
    """So many lengths of history in windows, from short to two thirds of the longest, evenly in their logarithm.

    Raises:
        StudyError: the history is too short to start at so many points of it.
    """
    most = 2 * longest // 3
    if most - SHORTEST_HISTORY + 1 < count:
        raise StudyError(
            f"{count} starts of at least {SHORTEST_HISTORY} windows need {3 * (count + SHORTEST_HISTORY) // 2} windows "
            f"before the first judged one, got {longest}: begin earlier, judge later or ask for fewer starts"
        )
    ratio = (most / SHORTEST_HISTORY) ** (1 / max(1, count - 1))
    lengths: list[int] = []
    for place in range(count):
        wanted = round(SHORTEST_HISTORY * ratio**place)
        lengths.append(max(wanted, lengths[-1] + 1 if lengths else 0))
    return lengths


def _words(name: str) -> str:
    return name.replace("_", " ")
