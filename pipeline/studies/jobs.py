"""A study's training jobs: teachers and pilots first, then the rest, in jobs that may run at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.spec.config import Read, StepConfig, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.study import Study
from pipeline.spec.window import Window

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
    groups = _balanced(study, list(families.values()), num_groups // num_dealt)
    return [
        *_jobs(study, read_from, 1),
        *(job for group in groups for job in _jobs(study, [v.name for v in group], num_dealt)),
    ]


def first_step(study: Study, variant: Variant) -> Step:
    """What a variant does in its first window: two of which this is equal begin with one and the same step."""
    window = variant.start or study.first
    config = study.lineup.resolved(variant, window, study.lineup.seeds[0])
    asked = variant.selection.reads()
    reads = {asked[name] for name in config.selection.reads()}
    if config.soft_weight is not None and variant.teacher is not None:
        reads.add(Read(variant.teacher, config.soft_age))
    return window, config, frozenset(reads)


def _balanced(study: Study, families: Sequence[list[Variant]], num_groups: int) -> list[list[Variant]]:
    """Families divided among that many groups at most, the most expensive first, each to the group that costs least until then."""
    groups: list[list[Variant]] = [[] for _ in range(max(1, min(num_groups, len(families))))]
    costs = [0.0] * len(groups)
    for family in sorted(families, key=lambda family: -_cost(study, family)):
        least = costs.index(min(costs))
        groups[least].extend(family)
        costs[least] += _cost(study, family)
    return [group for group in groups if group]


def _cost(study: Study, variants: Iterable[Variant]) -> float:
    """About how many windows' rows some variants train on, as if they shared nothing."""
    return sum(
        (study.last.days_since(variant.start or study.first) + 1) * variant.selection.share(variant.model.prior)
        for variant in variants
    )


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
