"""What is done and what is stale: each chain of a line-up held against what it would be made of today."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from pipeline.config import OddsProportional
from pipeline.dataset import read_manifest
from pipeline.job import head_path
from pipeline.lake import Lake
from pipeline.lineup import LineUp
from pipeline.scores import Scores
from pipeline.steps import StepManifest, StepStore, step_key
from pipeline.window import Window


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


def chain_statuses(lake: Lake, lineup: LineUp) -> list[ChainStatus]:
    """The chains of a line-up, variants in their order."""
    return [_status(lake, lineup, variant.name, seed) for variant in lineup.variants for seed in lineup.seeds]


def _status(lake: Lake, lineup: LineUp, variant: str, seed: int) -> ChainStatus:
    dataset, start = lineup.dataset.under(seed), lineup.variant(variant).start
    store = StepStore(lake, dataset)
    folder = head_path(dataset, lineup.name, variant, seed, lineup.online_start).rsplit("/", 1)[0]
    named = [Window.of(PurePath(name).stem.removeprefix("window=")) for name in lake.names(folder)]
    windows = [window for window in named if start is None or window >= start]
    steps = {w: step for w in windows if (step := store.head(lineup.name, variant, seed, w)) is not None}
    stale: dict[Window, str] = {}
    for window, step in steps.items():
        if reason := _why_stale(lake, lineup, variant, step, steps, stale):
            stale[window] = reason
    whole = list(Window.span(windows[0], windows[-1])) if windows else []
    return ChainStatus(
        variant=variant,
        seed=seed,
        first=windows[0] if windows else None,
        last=windows[-1] if windows else None,
        num_windows=len(steps),
        missing=tuple(w for w in whole if w not in steps),
        stale=stale,
    )


def _why_stale(
    lake: Lake,
    lineup: LineUp,
    variant: str,
    step: StepManifest,
    steps: dict[Window, StepManifest],
    stale: dict[Window, str],
) -> str | None:
    dataset = step.dataset
    manifest = read_manifest(lake, dataset, step.window)
    if manifest is None:
        return "its window is gone"
    seed = step.config.seed
    chosen = lineup.variant(variant)
    config = lineup.resolved(chosen, step.window, seed)
    before = step.window.previous()
    parent = None if step.parent is None else steps.get(before)
    store = StepStore(lake, dataset)

    def left(source: str | None, age: int, read: tuple[str, str] | None) -> Scores | None:
        """What a teacher or pilot has left for the window by now."""
        if read is None or source is None:
            return None
        head = store.head(lineup.name, source, seed, step.window)
        return None if head is None else head.scores_of(age)

    scores = left(chosen.teacher, config.soft_age, step.scores_read)
    age = config.selection.pilot_age if isinstance(config.selection, OddsProportional) else 0
    pilot = left(chosen.pilot, age, step.pilot_read)
    reasons = (
        (manifest.digest != step.window_digest, "its window was published again with other rows"),
        (manifest.schema_key != step.schema_key, "its window was published again with another schema"),
        (config != step.config, "the line-up's config changed"),
        (
            chosen.start is not None and step.first < chosen.start,
            f"its chain started on {step.first}, and the line-up lets it start on {chosen.start}",
        ),
        (step.parent is not None and before in stale, f"the step before it ({before}) is stale"),
        (
            step.parent != (None if parent is None else parent.key),
            f"the step before it ({before}) was trained again as something else",
        ),
        (
            step.scores_read is not None and (scores is None or scores.digest != step.scores_read[1]),
            f"its teacher {chosen.teacher} left other scores since",
        ),
        (
            step.pilot_read is not None and (pilot is None or pilot.digest != step.pilot_read[1]),
            f"its pilot {chosen.pilot} left other scores since",
        ),
        (
            step_key(config, manifest, scores, parent, pilot) != step.key,
            "this version of Windrow trains it to something else",
        ),
    )
    return next((reason for holds, reason in reasons if holds), None)
