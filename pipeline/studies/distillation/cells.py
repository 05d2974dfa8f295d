"""The cells of a study of knowledge distillation: schedules, and what else may matter, one factor at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.spec.config import HINDSIGHT, LATE_CUTOVER_WINDOWS, SIZES, Continuous, Cutover, Variant, late_cutover
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import MIN_JUDGED, StudyError
from pipeline.spec.window import Window
from pipeline.studies.distillation.fields import Axis, Fields
from pipeline.studies.draft import Draft, at_width, both, kept, lengths, plain, taught, tuned

TEACHER, NO_TEACHER = "teacher", "no_teacher"
EARLY, LATE, CONTINUOUS = "early_cutover", "late_cutover", "continuous"
NUM_SIZES = 3
ARCHITECTURES = ("dlrm", "dcnv2")
AGES = (HINDSIGHT, 1, 4)
"""Teacher ages beside 0, in windows; in hindsight, the checkpoint that has closed the window itself."""
UPDATES = (2, 4, 8)
"""Windows between two updates of the teacher that a student sees, beside 1."""
TAUGHT_WINDOWS = LATE_CUTOVER_WINDOWS
"""A student that starts later than so many windows before its cutover has hardly met its teacher: no such one is trained."""
SETTLED_WINDOWS = 2 * LATE_CUTOVER_WINDOWS
"""Windows from the first online one to the first that is judged: as long again after the late cutover as before it."""


def draft(base: LineUp, asked: Fields) -> Draft:
    """A teacher, its students under every schedule, and the axes that are varied.

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models": a student with a continuous teacher
    converges with 35 % less data than one whose teacher left at a later cutover.

    Cost: a pass of the teacher and one of each student over the span, per seed. Students share what their schedules
    have in common up to the cutover, which is trained once. With the axis `start`, about half a pass more for each
    schedule and start; a cutover's students start early enough to have met their teacher.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size. An arm
            whose name one of its variants has takes that one's optimizer.
        asked: the form's answers.

    Raises:
        StudyError: the windows have no room for these cells.
    """
    plan = _Plan(base, asked, asked.judged or _settled(asked.online_start, asked.last))
    found = Draft(NO_TEACHER, judged=plan.judged)
    found.add("schedule", "teacher", plain(base, TEACHER, asked.teacher_size))
    for student in plan.students:
        found.add("schedule", _words(student.name), student)
    for axis in asked.axes:
        AXES[axis](found, plan)
    if (rate := asked.negative_rate) is not None:
        fewer = both(base, kept(base, plan.students[0], rate), plan.schedule)
        found.add("combined", f"continuous, {100 * rate:g} % of negatives", fewer, rate)
    return found


@dataclass(frozen=True)
class _Plan:
    """What the axes vary."""

    base: LineUp
    asked: Fields
    judged: Window

    @property
    def schedule(self) -> Continuous:
        """A teacher that stays."""
        return Continuous(teacher=TEACHER, weight=self.asked.soft_weight)

    @property
    def students(self) -> list[Variant]:
        """The student under every schedule."""
        student = plain(self.base, NO_TEACHER, self.asked.student_size)
        return schedules(self.base, student, self.asked.soft_weight)

    def taught_since(self, oldest: int, axis: Axis) -> Window:
        """The first window in which logits exist that are so many windows old.

        Raises:
            StudyError: it is not before the first judged one.
        """
        since = self.asked.first.shift(oldest)
        if since >= self.judged:
            raise StudyError(
                f"the axis {axis!r} has a teacher {oldest} windows old, which needs more windows before the first judged one, got "
                f"{self.judged.days_since(self.asked.first)}: begin earlier, judge later or leave the axis out"
            )
        return since

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


def _starts(draft: Draft, plan: _Plan) -> None:
    """The same students with less and less history, each compared with the one with all of it."""
    online = plan.asked.online_start
    cutovers = {EARLY: online, LATE: late_cutover(online)}
    for length in lengths(plan.judged.days_since(plan.asked.first), plan.asked.num_starts):
        start = plan.judged.shift(-length)
        for student in plan.students:
            cutover = cutovers.get(student.name)
            if cutover is not None and start.shift(TAUGHT_WINDOWS) > cutover:
                continue
            later = student.model_copy(update={"name": f"{student.name}_from_{start}", "start": start})
            draft.add("start", _words(student.name), later, length, against=CONTINUOUS, family=student.name)


def _sizes(draft: Draft, plan: _Plan) -> None:
    """Teachers larger than the student: one of its own size and seed is its twin and teaches it nothing."""
    sizes = list(SIZES)
    larger = sizes[sizes.index(plan.asked.student_size) + 1 :]
    for size in larger[:NUM_SIZES]:
        if size == plan.asked.teacher_size:
            draft.add("size", f"{size} teacher", plan.continuous)
            continue
        teacher = tuned(plan.base, at_width(plan.base, plain(plan.base, f"{TEACHER}_{size}", size)))
        draft.train(teacher)
        schedule = plan.schedule.model_copy(update={"teacher": teacher.name})
        draft.add("size", f"{size} teacher", taught(plan.continuous, f"continuous_{size}_teacher", schedule))


def _architectures(draft: Draft, plan: _Plan) -> None:
    """Teachers and students of both architectures, each student compared with the one of its own that has no teacher."""
    own = plan.continuous.model.arch
    for arch in ARCHITECTURES:
        plain_student, student = (_of_arch(found, arch, own) for found in (plan.students[0], plan.continuous))
        draft.train(plain_student)
        for teacher_arch in ARCHITECTURES:
            teacher = _of_arch(plain(plan.base, TEACHER, plan.asked.teacher_size), teacher_arch, own)
            draft.train(teacher)
            schedule = plan.schedule.model_copy(update={"teacher": teacher.name})
            name = student.name if teacher_arch == own else f"{student.name}_{teacher_arch}_teacher"
            label = f"{teacher_arch} teaches {arch}"
            draft.add("architecture", label, taught(student, name, schedule), against=plain_student.name)


def _of_arch(variant: Variant, arch: str, own: str) -> Variant:
    """A variant with another architecture, and its name then; as it is where that is the line-up's own."""
    if arch == own:
        return variant
    model = variant.model.model_copy(update={"arch": arch})
    return variant.model_copy(update={"name": f"{variant.name}_{arch}", "model": model})


def _ages(draft: Draft, plan: _Plan) -> None:
    """Teachers that are some windows behind; all students learn from the window on in which the oldest logits exist."""
    since = plan.taught_since(max(AGES), "age")
    for age in sorted({0, *AGES}):
        schedule = plan.schedule.model_copy(update={"age": age, "since": since})
        name, label = ("hindsight", "in hindsight") if age == HINDSIGHT else (f"age_{age}", f"{age} windows old")
        draft.add("age", label, taught(plan.continuous, f"continuous_{name}", schedule), age)


def _updates(draft: Draft, plan: _Plan) -> None:
    """Teachers of which students see an update now and then; all learn from the window on in which the oldest logits exist."""
    since = plan.taught_since(max(UPDATES), "updates")
    for every in (1, *UPDATES):
        schedule = plan.schedule.model_copy(update={"every": every, "since": since})
        label = "updated in every window" if every == 1 else f"updated in every {every} windows"
        draft.add("updates", label, taught(plan.continuous, f"continuous_updates_{every}", schedule), every)


def _heads(draft: Draft, plan: _Plan) -> None:
    """The teacher's loss on the logit that is served, or on one of its own (Rec-Distill 2026, ExFM 2025)."""
    draft.add("head", "serving head", plan.continuous)
    model = plan.continuous.model.model_copy(update={"distillation_head": "auxiliary"})
    auxiliary = plan.continuous.model_copy(update={"name": "continuous_auxiliary_head", "model": model})
    draft.add("head", "auxiliary head", auxiliary)


def _weights(draft: Draft, plan: _Plan) -> None:
    """The teacher's loss at a third, once and three times its weight, and ramped in."""
    for factor in (1 / 3, 1.0, 3.0):
        weight = plan.asked.soft_weight * factor
        schedule = plan.schedule.model_copy(update={"weight": weight})
        other = taught(plan.continuous, f"continuous_weight_{weight:.3g}", schedule)
        draft.add("weight", f"weight {weight:.3g}", plan.continuous if factor == 1 else other, weight)
    ramp = plan.schedule.model_copy(update={"since": plan.asked.first, "ramp": LATE_CUTOVER_WINDOWS})
    draft.add("weight", f"ramp over {LATE_CUTOVER_WINDOWS} windows", taught(plan.continuous, "continuous_ramp", ramp))


AXES: dict[Axis, Callable[[Draft, _Plan], None]] = {
    "start": _starts,
    "size": _sizes,
    "architecture": _architectures,
    "age": _ages,
    "updates": _updates,
    "head": _heads,
    "weight": _weights,
}
"""What each axis adds."""


def _settled(online_start: Window, last: Window) -> Window:
    """The first judged window: well after the late cutover where there is room for enough windows behind it."""
    return min(online_start.shift(SETTLED_WINDOWS), max(online_start, last.shift(1 - MIN_JUDGED)))


def _words(name: str) -> str:
    return name.replace("_", " ")
