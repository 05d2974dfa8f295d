"""The cells of a tuning: the arms of the studies, each under the same grid of batch size and learning rate."""

from __future__ import annotations

from itertools import product

from pipeline.spec.config import Continuous, OptimizerConfig, Variant
from pipeline.spec.lineup import LineUp
from pipeline.studies.distillation.cells import NO_TEACHER, TEACHER, schedules
from pipeline.studies.draft import Draft, both, kept, plain, shrunk, with_batch
from pipeline.studies.tuning.fields import Fields


def draft(base: LineUp, asked: Fields) -> Draft:
    """Every arm of the other studies, alone and taught, at every point of one grid.

    What it finds goes into the line-up, as optimizers of variants with the arms' names, before any reported seed is run.
    Students learn from the teacher with the settings that the line-up has: tune the teacher first.

    Cost: for each point of the grid one pass of each arm; what the schedules share is trained once.

    Args:
        base: gives the data set, the workers, the evaluation slice, and each arm's present optimizer: the one of its variant
            of that name, else its reference's.
        asked: the form's answers.
    """
    arms = _arms(base, asked)
    found = Draft(arms[0][0].name if asked.arms else NO_TEACHER)
    if asked.arms:
        for source in sorted({read.source for arm, _ in arms for read in arm.reads}):
            found.train(base.variant(source))
    for arm, rate in arms:
        found.train(arm)
        for batch_size, learning_rate in product(asked.batch_sizes, asked.learning_rates):
            point = _point(base, arm, rate, batch_size, learning_rate)
            found.add("setting", words(point.optimizer), point, learning_rate, against=arm.name)
    return found


def words(optimizer: OptimizerConfig) -> str:
    """A setting as tables call it."""
    return f"batch {optimizer.batch_size:,}, learning rates {optimizer.embedding_lr:g} and {optimizer.dense_lr:g}"


def _arms(base: LineUp, asked: Fields) -> list[tuple[Variant, float]]:
    """Every arm as the line-up sets it, with the fraction of negatives that it trains on."""
    if asked.arms:
        return [(arm, _negatives_left(arm)) for arm in map(base.variant, asked.arms)]
    students = schedules(base, plain(base, NO_TEACHER, asked.student_size), asked.soft_weight)
    whole = [plain(base, TEACHER, asked.teacher_size), *students]
    sample = kept(base, students[0], asked.centre)
    stays = Continuous(teacher=TEACHER, weight=asked.soft_weight)
    return [*((arm, 1.0) for arm in whole), (sample, asked.centre), (both(base, sample, stays), asked.centre)]


def _negatives_left(arm: Variant) -> float:
    """The fraction of its negatives that would leave as many rows as its selection does; below zero where clicks go, too."""
    prior = arm.model.prior
    return (arm.selection.share(prior) - prior) / (1 - prior)


def _point(base: LineUp, arm: Variant, rate: float, batch_size: int, learning_rate: float) -> Variant:
    """An arm at a point of the grid; the arm itself where that is its own setting."""
    ratio = arm.optimizer.dense_lr / arm.optimizer.embedding_lr
    rates = {"embedding_lr": learning_rate, "dense_lr": learning_rate * ratio}
    point = with_batch(arm.model_copy(update={"optimizer": arm.optimizer.model_copy(update=rates)}), batch_size)
    point = with_batch(point, shrunk(base, point, rate))
    if point == arm:
        return arm
    return point.model_copy(update={"name": f"{arm.name}_batch_{batch_size}_rate_{learning_rate:g}"})
