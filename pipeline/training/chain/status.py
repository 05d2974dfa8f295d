"""What is done and what is stale: each chain of a line-up compared with what would train it today, and the cure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TypeVar

from pipeline.data.dataset import WindowManifest, read_manifest
from pipeline.selection.policy import JointPolicy
from pipeline.selection.synthetic import SyntheticManifest, synthetic_path
from pipeline.spec.config import Read, Variant
from pipeline.spec.documents import Digest, Frozen
from pipeline.spec.errors import BadInput
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.paths import head_path
from pipeline.training.chain.plan import selection_identity
from pipeline.training.chain.steps import StepManifest, StepStore, step_key
from pipeline.training.signals import Signal

READERS = 16
"""Documents read at once: an object store answers each in tens of milliseconds."""
GONE = "its window is gone"
CHANGED = "the line-up's config changed"
MOVED = "its chain started on"
K = TypeVar("K")
T = TypeVar("T")


class StaleChain(BadInput):
    """A job would go on from a checkpoint that is not what it would be today."""


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """One variant's chain under one seed."""

    variant: str
    seed: int
    first: Window | None
    last: Window | None
    num_windows: int
    missing: tuple[Window, ...]
    """Windows between the first and the last that are not closed."""
    stale: dict[Window, str]
    """Windows whose step would be made of something else today, and what."""


@dataclass(frozen=True)
class _Reads:
    """The documents that chains are judged by, each read once however many chains share it."""

    lake: Lake
    lineup: LineUp
    _windows: dict[tuple[str, Window], WindowManifest | None] = field(default_factory=dict)
    _heads: dict[tuple[str, int, Window], StepManifest | None] = field(default_factory=dict)

    def window(self, dataset: str, window: Window) -> WindowManifest | None:
        return _once(self._windows, (dataset, window), lambda: read_manifest(self.lake, dataset, window))

    def head(self, variant: str, seed: int, window: Window) -> StepManifest | None:
        store = StepStore(self.lake, self.lineup.dataset.under(seed))
        return _once(self._heads, (variant, seed, window), lambda: store.head(self.lineup.name, variant, seed, window))

    def ahead(self, chain: Variant, seed: int, windows: Iterable[Window]) -> None:
        """Read what a chain's windows need, many at once."""
        sources = {chain.name, *(read.source for read in chain.reads)}
        dataset = self.lineup.dataset.under(seed)

        def read(window: Window) -> None:
            self.window(dataset, window)
            for name in sources:
                self.head(name, seed, window)

        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(read, windows))


def chain_statuses(
    lake: Lake, lineup: LineUp, variants: Sequence[str] = (), *, until: Window | None = None, accepted: bool = False
) -> list[ChainStatus]:
    """The chains of a line-up, variants in their order.

    Args:
        lake: where they lie.
        lineup: as it is now.
        variants: whose chains, teachers before students; all in the line-up's order when empty.
        until: windows after this one are not looked at.
        accepted: look only at what follows a stale step that somebody went on from on purpose.
    """
    reads = _Reads(lake, lineup)
    chosen = lineup.only(tuple(variants)) if variants else lineup.variants
    return [_status(reads, variant, seed, until, accepted) for variant in chosen for seed in lineup.seeds]


def require_fresh(lake: Lake, job: TrainJob) -> list[str]:
    """Refuse to go on from a stale chain, or to learn from one; where the job accepts that, remember so for later days.

    Returns:
        What was accepted, for people.

    Raises:
        StaleChain: says which windows are stale, why, and the cure.
    """
    stale = [chain for chain in _gone_on_from(lake, job) if chain.stale]
    if not stale:
        return []
    if job.despite_stale:
        for chain in stale:
            _accept(lake, job.lineup, chain)
        return [f"going on from a stale checkpoint: {line}" for line in stale_lines(stale)]
    lines = [
        f"{job.first} would go on from stale checkpoints:",
        *stale_lines(stale),
        cure(lake, job.lineup, stale),
        "Or go on from them as they are, now and on later days: `windrow train --go-on --despite-stale`, or the form's field of that name.",
    ]
    raise StaleChain("\n".join(lines))


def left_behind(lake: Lake, job: TrainJob) -> list[str]:
    """The windows after a job's last one that went on from what it has replaced, for people."""
    lineup, next_day = job.lineup, job.last.next()
    behind = []
    for variant in lineup.only(job.variants):
        for seed in lineup.seeds:
            store = StepStore(lake, lineup.dataset.under(seed))
            now, after = (store.head(lineup.name, variant.name, seed, day) for day in (job.last, next_day))
            if now is None or after is None or after.parent is None:
                continue
            if (after.parent, after.parent_lineage) != (now.key, now.lineage):
                behind += chain_statuses(
                    lake, lineup.model_copy(update={"seeds": (seed,)}), (variant.name,), accepted=True
                )
    behind = [chain for chain in behind if chain.stale]
    return [*stale_lines(behind), cure(lake, lineup, behind)] if behind else []


def stale_lines(chains: Iterable[ChainStatus]) -> list[str]:
    """What is stale, a line for each variant and cause; seeds with the same cause share one."""
    found: dict[tuple[str, Window, Window, str], list[int]] = {}
    for chain in chains:
        if chain.stale:
            first, last = min(chain.stale), max(chain.stale)
            found.setdefault((chain.variant, first, last, chain.stale[first]), []).append(chain.seed)
    return [
        f"{variant} (seed {', '.join(map(str, seeds))}) is stale "
        + (f"in {first}: {why}" if first == last else f"from {first} to {last}: {why}")
        for (variant, first, last, why), seeds in found.items()
    ]


def cure(lake: Lake, lineup: LineUp, stale: Sequence[ChainStatus]) -> str:
    """The commands that train again, in order, what is stale and whatever reads from it."""
    last = max(chain.last for chain in stale if chain.last is not None)
    lines = []
    gone = sorted({window for chain in stale for window, why in chain.stale.items() if why == GONE})
    if gone:
        lines.append(f"Publish {', '.join(w.name for w in gone[:5])} again first (`windrow ingest`).")
    for scratch, first, names in _plans(lake, lineup, stale):
        only = "" if len(names) == len(lineup.variants) else "".join(f" -v {name}" for name in names)
        how = "--scratch" if scratch else "--go-on"
        moved = {chain.variant for chain in stale if any(why.startswith(MOVED) for why in chain.stale.values())}
        how += " --force" if moved & set(names) else ""
        lines.append(
            f"Cure: `windrow train {how} --first {first} --last {last}{only}`{_by_dag(lineup, scratch, first, last)}."
        )
    if any(why == CHANGED for chain in stale for why in chain.stale.values()):
        lines.append("Or give the changed variant a name of its own, or take the change back.")
    return "\n".join(lines)


def backfill_command(lineup: str, first: Window, last: Window) -> str:
    """The backfill that trains again days that are done; without `--reprocess-behavior` Airflow leaves them as they are."""
    conf = json.dumps({"lineup": lineup})
    return (
        f"airflow backfill create --dag-id online_training --from-date {first} --to-date {last} --max-active-runs 1 "
        f"--reprocess-behavior completed --dag-run-conf '{conf}'"
    )


def _by_dag(lineup: LineUp, scratch: bool, first: Window, last: Window) -> str:
    if scratch:
        return f", or `historical_warmup` from {first} to {last}"
    return f", or `{backfill_command(lineup.name, first, last)}`"


def _plans(lake: Lake, lineup: LineUp, stale: Sequence[ChainStatus]) -> list[tuple[bool, Window, list[str]]]:
    """(from new weights?, first window, variants) of each command, teachers before students."""
    since: dict[str, Window] = {}
    for chain in stale:
        if chain.stale:
            since[chain.variant] = min(*chain.stale, since.get(chain.variant, max(chain.stale)))
    plans: list[tuple[bool, Window, list[str]]] = []
    for variant in lineup.only(()):
        # Whatever reads from what is trained again reads other logits from that day on.
        days = [since[name] for name in (variant.name, *(read.source for read in variant.reads)) if name in since]
        closed = [w for seed in lineup.seeds for w in _closed(lake, lineup, variant, seed)]
        if not days or not closed:
            continue
        first = max(min(days), min(closed))
        since[variant.name] = first
        scratch = first == min(closed)
        if plans and plans[-1][:2] == (scratch, first):
            plans[-1][2].append(variant.name)
        else:
            plans.append((scratch, first, [variant.name]))
    return plans


def _closed(lake: Lake, lineup: LineUp, variant: Variant, seed: int) -> list[Window]:
    """The windows that a chain has closed, in order; those before its variant's `start` are another chain's."""
    place = head_path(lineup.dataset.under(seed), lineup.name, variant.name, seed, lineup.online_start)
    named = [Window.of(PurePath(name).stem.removeprefix("window=")) for name in lake.names(place.rsplit("/", 1)[0])]
    return [window for window in named if variant.start is None or window >= variant.start]


def _gone_on_from(lake: Lake, job: TrainJob) -> list[ChainStatus]:
    """The chains that a job goes on from or learns from, up to the windows that it does not train itself."""
    lineup, chosen = job.lineup, job.lineup.only(job.variants)
    ours = [v.name for v in chosen if job.start == "parent" and (v.start is None or v.start < job.first)]
    sources = _sources(lineup, {v.name for v in chosen})
    found = chain_statuses(lake, lineup, ours, until=job.first.previous(), accepted=True) if ours else []
    return found + (chain_statuses(lake, lineup, tuple(sources), until=job.last, accepted=True) if sources else [])


def _sources(lineup: LineUp, names: set[str]) -> set[str]:
    """Those that the named variants read from, and those that these read from, without the named."""
    found = set(names)
    for variant in reversed(lineup.only(())):  # readers before their sources
        if variant.name in found:
            found |= {read.source for read in variant.reads}
    return found - names


def _status(reads: _Reads, variant: Variant, seed: int, until: Window | None, accepted: bool) -> ChainStatus:
    windows = [w for w in _closed(reads.lake, reads.lineup, variant, seed) if until is None or w <= until]
    since = _accepted_until(reads, variant.name, seed) if accepted else None
    judged = [w for w in windows if since is None or w > since]
    wanted = judged if since is None else [since, *judged]
    reads.ahead(variant, seed, wanted)
    steps = {w: step for w in wanted if (step := reads.head(variant.name, seed, w)) is not None}
    stale: dict[Window, str] = {}
    for window in judged:
        if window in steps and (reason := _why_stale(reads, variant.name, steps[window], steps, stale)):
            stale[window] = reason
    whole = list(Window.span(judged[0], judged[-1])) if judged else []
    return ChainStatus(
        variant=variant.name,
        seed=seed,
        first=windows[0] if windows else None,
        last=windows[-1] if windows else None,
        num_windows=len(steps),
        missing=tuple(w for w in whole if w not in steps),
        stale=stale,
    )


def _why_stale(
    reads: _Reads,
    variant: str,
    step: StepManifest,
    steps: dict[Window, StepManifest],
    stale: dict[Window, str],
) -> str | None:
    lineup = reads.lineup
    manifest = reads.window(step.dataset, step.window)
    if manifest is None:
        return GONE
    seed = step.config.seed
    chosen = lineup.variant(variant)
    config = lineup.resolved(chosen, step.window, seed)
    before = step.window.previous()
    parent = None if step.parent is None else steps.get(before)

    def left(read: Read) -> Signal | None:
        """What another variant has left for the window by now."""
        head = reads.head(read.source, seed, step.window)
        return None if head is None else head.signal(read.signal, read.age)

    soft = left(Read(chosen.teacher, config.soft_age)) if step.soft_read is not None and chosen.teacher else None
    asked = chosen.selection.reads()
    found = {name: left(asked[name]) for name in step.selection_read if name in asked}
    signals = {name: signal for name, signal in found.items() if signal is not None}
    others = [
        name for name, read in step.selection_read.items() if name not in signals or signals[name].digest != read[1]
    ]
    selection = step.selection  # a joint one is taken as it was
    if not isinstance(config.selection, JointPolicy):
        selection = selection_identity(reads.lake, manifest, config.selection, seed, signals)
    now = {
        name: reads.lake.load(synthetic_path(step.dataset, name, step.window), SyntheticManifest)
        for name in chosen.sources
    }
    made = {name: each for name, each in now.items() if each is not None}
    reasons = (
        (manifest.digest != step.window_digest, "its window was published again with other rows"),
        (manifest.schema_key != step.schema_key, "its window was published again with another schema"),
        (config != step.config, CHANGED),
        (
            chosen.start is not None and step.first < chosen.start,
            f"{MOVED} {step.first}, and the line-up lets it start on {chosen.start}",
        ),
        (step.parent is not None and before in stale, f"the step before it ({before}) is stale"),
        (
            step.parent != (None if parent is None else parent.key),
            f"the step before it ({before}) was trained again with another result",
        ),
        (
            parent is not None and step.parent_lineage != parent.lineage,
            f"the step before it ({before}) was trained again by another number of workers",
        ),
        (
            step.soft_read is not None and (soft is None or soft.digest != step.soft_read[1]),
            f"its teacher {chosen.teacher} has stored other logits since",
        ),
        (bool(others), f"the signals that its selection reads ({', '.join(others)}) have changed"),
        (
            {name: each.digest for name, each in made.items()} != step.synthetic,
            "its synthetic rows have changed",
        ),
        (
            step_key(config, manifest, parent, soft=soft, selection=selection, synthetic=[*made.values()]) != step.key,
            "this version of Windrow gives another result",
        ),
    )
    return next((reason for holds, reason in reasons if holds), None)


class _Accepted(Frozen):
    """From which stale step somebody goes on on purpose."""

    window: Window
    step: Digest


def _accepted_path(lineup: LineUp, variant: str, seed: int) -> str:
    return f"accepted/{lineup.dataset.under(seed)}/{lineup.name}/{variant}/seed={seed}.json"


def _accept(lake: Lake, lineup: LineUp, chain: ChainStatus) -> None:
    """Remember from which stale step somebody goes on on purpose."""
    if chain.last is None:
        return
    step = StepStore(lake, lineup.dataset.under(chain.seed)).head(lineup.name, chain.variant, chain.seed, chain.last)
    if step is not None:
        path = _accepted_path(lineup, chain.variant, chain.seed)
        accepted = _Accepted(window=chain.last, step=step.key)
        lake.replace(path, accepted.model_dump(mode="json"), lake.sound(path))


def _accepted_until(reads: _Reads, variant: str, seed: int) -> Window | None:
    """The window up to which a chain was accepted as it is, unless it was trained again since."""
    accepted = reads.lake.load(_accepted_path(reads.lineup, variant, seed), _Accepted)
    if accepted is None:
        return None
    step = reads.head(variant, seed, accepted.window)
    return accepted.window if step is not None and step.key == accepted.step else None


def _once(known: dict[K, T], key: K, read: Callable[[], T]) -> T:
    if key not in known:
        known[key] = read()
    return known[key]
