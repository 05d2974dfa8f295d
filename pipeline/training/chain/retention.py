"""Which checkpoints a job keeps: disks are finite, and what is not kept is trained again when it is needed."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.spec.config import Cutover, NoTeacher, Variant, cutover_window
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window


def keeps_checkpoint(job: TrainJob, variant: Variant, window: Window) -> bool:
    """Every k-th, the last, those from which schedules part, and all of a variant that scores windows that come later."""
    lineup = job.lineup
    kth = (window.days_since(job.first) + 1) % lineup.checkpoint_every == 0
    scores_later = max((age for _, age in lineup.signals_read(variant.name)), default=0) > 1
    return kth or scores_later or window == job.last or window.next() in set(_branches(lineup))


def _branches(lineup: LineUp) -> Iterator[Window]:
    """The windows in which a schedule may part from another."""
    yield lineup.online_start
    for variant in lineup.variants:
        taught, policy = variant.distillation, variant.selection
        if isinstance(taught, Cutover):
            yield cutover_window(taught, lineup.online_start)
        if not isinstance(taught, NoTeacher) and taught.since is not None:
            yield taught.since
        yield from (value for _, value in policy if isinstance(value, Window))
