"""What policies keep of windows, stored: by a step that trains on it, or ahead of all training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.distributed as dist

from pipeline.data.dataset import WindowManifest, read_schema, require_manifest, require_whole
from pipeline.data.share import Share
from pipeline.selection.stored import SelectionManifest, SelectionStore
from pipeline.spec.config import All, StepConfig, Variant
from pipeline.spec.job import SelectJob
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.together import on_first
from pipeline.training.chain.lanes import deal
from pipeline.training.chain.reads import Sources
from pipeline.training.signals import Signal, SignalReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A stored selection, and what it was made of."""

    variant: Variant
    seed: int
    window: WindowManifest
    selection: SelectionManifest
    signals: Mapping[str, Signal]
    """What the policy read, by its name there."""


def made_ahead(lake: Lake, job: SelectJob, lane: int = 0) -> Iterator[Made]:
    """Store what the policies of a job keep of its windows; every worker of a lane exhausts this.

    Seeds come first, then variants, then windows. What is stored already is left as it is, unless the job has `force`. Where a
    variant takes all rows of a window there is nothing to store.

    Args:
        lake: where to.
        job: variants and windows.
        lane: which of the job's lanes this worker is in.

    Raises:
        MissingWindow: a window is not published.
        MissingSignal: a pilot has not left what a policy reads.
    """
    sources, rank, world_size = Sources(lake, job.lineup), dist.get_rank(), dist.get_world_size()
    for seed, variant in deal(job)[lane]:
        first = job.first if variant.start is None else max(job.first, variant.start)
        for window in Window.span(first, job.last) if first <= job.last else ():
            config = job.lineup.resolved(variant, window, seed)
            if isinstance(config.selection, All):
                continue
            manifest, signals = on_first(lambda c=config, w=window, v=variant: _read(sources, v, w, c))  # type: ignore[misc]
            share = Share(lake, manifest, rank, world_size)
            stored = stored_selection(lake, share, config, signals, force=job.force)
            if stored is None:
                raise RuntimeError(f"{window}: a policy that selects has stored nothing")
            log.info(
                "%s %s seed %d: %d of %d rows kept", window, variant.name, seed, stored.num_rows, manifest.num_rows
            )
            yield Made(variant, seed, manifest, stored, signals)


def _read(
    sources: Sources, variant: Variant, window: Window, config: StepConfig
) -> tuple[WindowManifest, dict[str, Signal]]:
    """A window as it is now, and what a policy reads of it."""
    dataset = sources.store(config.seed).dataset
    manifest = require_whole(sources.lake, require_manifest(sources.lake, dataset, window))
    return manifest, sources.signals(variant, manifest, config)


def stored_selection(
    lake: Lake, share: Share, config: StepConfig, signals: Mapping[str, Signal], *, force: bool = False
) -> SelectionManifest | None:
    """The examples that a step trains on, stored now unless they are; None for all. Every worker calls this.

    Args:
        lake: where to.
        share: this worker's part of the window.
        config: the policy, and the seed that gives its salt.
        signals: what the policy reads.
        force: store them again even where they are stored.
    """
    if isinstance(config.selection, All):
        return None
    store = SelectionStore(lake, share.manifest.dataset)
    digests = {name: signal.digest for name, signal in signals.items()}
    known = on_first(lambda: store.of(config.selection, share.manifest, config.seed, digests))
    if known is not None and not force:
        return known
    readers = {
        name: (signal.digest, SignalReader(lake, signal, share.manifest.digest)) for name, signal in signals.items()
    }
    schema = read_schema(lake, share.manifest.dataset, share.manifest.schema_key)
    return store.make(share, schema, config.selection, config.seed, readers)
