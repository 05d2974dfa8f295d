"""A study's training jobs: teachers and pilots first, then the rest, in jobs that may run at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.spec.config import Read, StepConfig, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.training.chain.lanes import cost, evenly

Step = tuple[Window, StepConfig, frozenset[Read]]
"""A window, what is done in it, and the signals of others that it reads."""


def study_jobs(study: Study, num_groups: int = 1) -> list[TrainJob]:
    """A study's training jobs: teachers and pilots first, the rest in groups that may run at the same time.

    Without any of them, the reference comes first.

    Seeds share nothing and are dealt first. Variants of one seed that begin with the same step share it and all that their
    schedules have in common after it: they stay in one group, which trains that once. Others may be dealt apart, so that
    the groups cost about the same.
    """
    chosen, seeds = study.lineup.only(()), study.lineup.seeds
    first = study.lineup.teachers or {study.lineup.reference}
    read_from = [v.name for v in chosen if v.name in first]
    families: dict[Step, list[Variant]] = {}
    for variant in chosen:
        if variant.name not in read_from:
            families.setdefault(first_step(study, variant), []).append(variant)
    num_dealt = min(num_groups, len(seeds))
    num_apart = max(1, min(num_groups // num_dealt, len(families)))
    groups = evenly(list(families.values()), num_apart, lambda family: cost(family, study.first, study.last))
    return [
        *_jobs(study, read_from, 1),
        *(job for group in groups if group for job in _jobs(study, [v.name for f in group for v in f], num_dealt)),
    ]


def first_step(study: Study, variant: Variant) -> Step:
    """What a variant does in its first window: two of which this is equal begin with one and the same step."""
    return step_in(study, variant, variant.start or study.first)


def step_in(study: Study, variant: Variant, window: Window) -> Step:
    """What a variant does in a window, under any one seed."""
    config = study.lineup.resolved(variant, window, study.lineup.seeds[0])
    asked = variant.selection.reads()
    reads = {asked[name] for name in config.selection.reads()}
    if config.soft_weight is not None and variant.teacher is not None:
        reads.add(Read(variant.teacher, config.soft_age))
    return window, config, frozenset(reads)


def _jobs(study: Study, names: Sequence[str], num_dealt: int) -> list[TrainJob]:
    """The jobs that train some variants under all seeds, which are dealt to so many."""
    seeds = study.lineup.seeds
    return [
        TrainJob(
            lineup=study.lineup.model_copy(update={"seeds": seeds[place::num_dealt]}),
            variants=tuple(names),
            first=study.first,
            last=study.last,
            start="scratch",
        )
        for place in range(num_dealt)
    ]
