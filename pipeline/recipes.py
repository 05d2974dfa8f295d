"""Recipes: functions that return a complete line-up, each with its paper, its command and what it costs."""

from __future__ import annotations

from typing import Literal

from pipeline.config import Continuous, Cutover, ModelConfig, NegativeDownsampling, Variant
from pipeline.lineup import LineUp
from pipeline.window import Window

Size = Literal["tiny", "small", "medium", "large"]
TEACHER = "teacher"
REFERENCE = "no_teacher"


def distillation_study(
    base: LineUp,
    *,
    name: str,
    online_start: Window,
    teacher_size: Size = "medium",
    student_size: Size = "small",
    soft_weight: float = 1.0,
    negative_rate: float | None = None,
    num_seeds: int = 1,
) -> LineUp:
    """A student without a teacher, with one until an early or a late cutover, and with one that keeps training.

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models": a student that stops listening to its
    teacher when the online phase begins falls back; one whose teacher keeps training does not.

    Command: `airflow dags trigger distillation_study`, or the form in the UI.

    Cost: a pass of the teacher and one of each student over the span, per seed. The students share what their
    schedules have in common up to the cutover, which is trained once.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size.
        name: names the study, its MLflow experiment and its chains in the lake.
        online_start: first window of the online phase, where the early cutover lies.
        teacher_size: size of the teacher.
        student_size: size of every student.
        soft_weight: weight of the teacher's loss beside the labels'.
        negative_rate: also a continuous student that trains on this fraction of the negatives; none when not given.
        num_seeds: each variant is trained with the seeds 0 to this.
    """
    if name == base.name:
        raise ValueError(f"a study has a name of its own: {name!r} is the line-up's, whose chains it would take over")
    origin = base.variant(base.reference)
    plain = Variant(name=REFERENCE, model=_sized(origin.model, student_size), optimizer=origin.optimizer)
    continuous = Continuous(teacher=TEACHER, weight=soft_weight)
    variants = [
        plain.model_copy(update={"name": TEACHER, "model": _sized(origin.model, teacher_size)}),
        plain,
        _taught(plain, "early_cutover", Cutover(teacher=TEACHER, at="early", weight=soft_weight)),
        _taught(plain, "late_cutover", Cutover(teacher=TEACHER, at="late", weight=soft_weight)),
        _taught(plain, "continuous", continuous),
    ]
    if negative_rate is not None:
        sampled = _taught(plain, f"continuous_downsampled_{100 * negative_rate:g}", continuous)
        variants.append(sampled.model_copy(update={"selection": NegativeDownsampling(rate=negative_rate)}))
    return LineUp(
        name=name,
        dataset=base.dataset,
        variants=tuple(variants),
        reference=REFERENCE,
        online_start=online_start,
        seeds=tuple(range(num_seeds)),
        workers=base.workers,
        evaluation=base.evaluation,
        checkpoint_every=base.checkpoint_every,
    )


def _sized(model: ModelConfig, size: Size) -> ModelConfig:
    return model.model_copy(update={"size": size})


def _taught(student: Variant, name: str, distillation: Cutover | Continuous) -> Variant:
    return student.model_copy(update={"name": name, "distillation": distillation})
