"""Which chains of a job are trained side by side: what they share keeps them in one lane."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain as joined
from typing import TypeVar

from pipeline.spec.config import Variant
from pipeline.spec.job import OfVariants
from pipeline.spec.window import Window

T = TypeVar("T")
Chain = tuple[int, Variant]
"""A seed and a variant."""

BESIDE_TRAINING = 0.3
"""What scoring a window's evaluation slice and saving take, over training on all of the window's rows; roughly."""


def deal(job: OfVariants) -> list[list[Chain]]:
    """The chains of each lane, in the order in which they are trained: seeds, then variants, teachers first.

    Chains of one seed that begin alike stay together, since what they have in common is trained once, and so do those that
    read each other's logits, since a source comes first. The rest is spread evenly, the longest first.
    """
    seeds, chosen = job.lineup.seeds, job.chosen
    groups = [(seed, group) for seed in seeds for group in _together(job, chosen)]
    dealt = evenly(groups, job.lineup.workers.lanes, lambda each: cost(each[1], job.first, job.last))
    lanes = [[(seed, variant) for seed, group in lane for variant in group] for lane in dealt]
    place = {variant.name: number for number, variant in enumerate(chosen)}
    return [sorted(lane, key=lambda each: (seeds.index(each[0]), place[each[1].name])) for lane in lanes]


def _together(job: OfVariants, chosen: tuple[Variant, ...]) -> list[list[Variant]]:
    """Variants in groups that have nothing to do with each other, whatever the seed."""
    names = {variant.name for variant in chosen}
    groups: list[tuple[set[Hashable], list[Variant]]] = []
    for variant in chosen:
        first = _first(job, variant)
        begins: Hashable = (first, job.lineup.resolved(variant, first, job.lineup.seeds[0]).model_dump_json())
        marks = {begins, variant.name, *(read.source for read in variant.reads if read.source in names)}
        touched = [group for group in groups if group[0] & marks]
        groups = [group for group in groups if not group[0] & marks]
        groups.append(
            (marks.union(*(own for own, _ in touched)), [*joined.from_iterable(held for _, held in touched), variant])
        )
    return [held for _, held in groups]


def _first(job: OfVariants, variant: Variant) -> Window:
    return job.first if variant.start is None else max(job.first, variant.start)


def evenly(groups: Sequence[T], num: int, costs: Callable[[T], float]) -> list[list[T]]:
    """Groups dealt to so many, the dearest first, each to the one that costs least until then."""
    dealt: list[list[T]] = [[] for _ in range(num)]
    loads = [0.0] * num
    for group in sorted(groups, key=lambda group: -costs(group)):
        least = loads.index(min(loads))
        dealt[least].append(group)
        loads[least] += costs(group)
    return dealt


def cost(variants: Iterable[Variant], first: Window, last: Window) -> float:
    """About how long chains take over a span, in windows that are trained on whole, as if they shared nothing."""
    return sum(
        max(0, last.days_since(first if variant.start is None else max(first, variant.start)) + 1)
        * (variant.selection.share(variant.model.prior) + BESIDE_TRAINING)
        for variant in variants
    )
