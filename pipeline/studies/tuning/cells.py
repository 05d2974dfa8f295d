"""The recipe of a tuning: the arms of the studies, each under the same grid of batch size and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated

from pipeline.spec.config import Continuous, Name, OptimizerConfig, Rate, Size, Variant
from pipeline.spec.documents import Few, Real, Seeds, Whole
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.studies.distillation.cells import NO_TEACHER, TEACHER, schedules
from pipeline.studies.downsampling.cells import CENTRE_RATE
from pipeline.studies.draft import Draft, both, kept, plain, shrunk, with_batch

TUNING_SEEDS = (1000,)
"""Which no other study has by default."""


def tuning_study(
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
    centre: Rate = CENTRE_RATE,
    batch_sizes: Annotated[Sequence[Whole], Few] = (1024, 4096),
    learning_rates: Annotated[Sequence[Real], Few] = (0.02, 0.04, 0.08),
    seeds: Seeds = TUNING_SEEDS,
) -> Study:
    """Which batch size and learning rate suit each arm, so that none wins because another was set badly?

    Every arm of `distillation_study` and the centre of `downsampling_study`, alone and taught, gets the same grid. Its seeds
    must be none that a study reports. What it finds goes into the line-up, as optimizers of variants with the arms' names,
    before any reported seed is run. Students listen to the teacher as the line-up has it: tune the teacher first.

    Command: `airflow dags trigger tuning_study`, or the form in the UI.

    Cost: for each point of the grid one pass of each arm; what the schedules share is trained once.

    Args:
        base: gives the data set, the workers, the evaluation slice, and each arm's present optimizer: the one of its variant
            of that name, else its reference's.
        name: names the study, its MLflow experiment and its chains in the lake.
        first: where everybody starts.
        online_start: first window of the online phase, where the early cutover lies.
        last: last window, included.
        judged: first window on which settings are judged; the first online window when not given.
        teacher_size: size of the teacher.
        student_size: size of every student.
        soft_weight: weight of the teacher's loss beside the labels'.
        centre: the fraction of negatives of the sampled arms.
        batch_sizes: rows per update; where a sample is drawn they shrink with the rows.
        learning_rates: of the embeddings; the dense layers keep the ratio that the line-up has.
        seeds: each setting is trained with each of them.
    """
    draft = Draft(NO_TEACHER)
    for arm, rate in _arms(base, teacher_size, student_size, soft_weight, centre):
        draft.train(arm)
        for batch_size, learning_rate in product(batch_sizes, learning_rates):
            point = _point(base, arm, rate, batch_size, learning_rate)
            draft.add("setting", words(point.optimizer), point, learning_rate, against=arm.name)
    return Study(
        kind="tuning",
        question="Which batch size and learning rate suit each arm?",
        lineup=draft.lineup(base, name, online_start, seeds),
        cells=tuple(draft.cells),
        first=first,
        last=last,
        judged=judged or online_start,
    )


def words(optimizer: OptimizerConfig) -> str:
    """A setting as tables call it."""
    return f"batch {optimizer.batch_size:,}, learning rates {optimizer.embedding_lr:g} and {optimizer.dense_lr:g}"


def _arms(
    base: LineUp, teacher_size: Size, student_size: Size, soft_weight: float, centre: float
) -> list[tuple[Variant, float]]:
    """Every arm as the line-up sets it, with the fraction of negatives that it trains on."""
    students = schedules(base, plain(base, NO_TEACHER, student_size), soft_weight)
    whole = [plain(base, TEACHER, teacher_size), *students]
    sample = kept(base, students[0], centre)
    stays = Continuous(teacher=TEACHER, weight=soft_weight)
    return [*((arm, 1.0) for arm in whole), (sample, centre), (both(base, sample, stays), centre)]


def _point(base: LineUp, arm: Variant, rate: float, batch_size: int, learning_rate: float) -> Variant:
    """An arm at a point of the grid; the arm itself where that is its own setting."""
    ratio = arm.optimizer.dense_lr / arm.optimizer.embedding_lr
    rates = {"embedding_lr": learning_rate, "dense_lr": learning_rate * ratio}
    point = with_batch(arm.model_copy(update={"optimizer": arm.optimizer.model_copy(update=rates)}), batch_size)
    point = with_batch(point, shrunk(base, point, rate))
    if point == arm:
        return arm
    return point.model_copy(update={"name": f"{arm.name}_batch_{batch_size}_rate_{learning_rate:g}"})
