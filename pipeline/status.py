"""What is done and what is stale: each chain of a line-up held against what it would be made of today."""

from __future__ import annotations

from dataclasses import dataclass

from pyarrow import fs

from pipeline.config import resolve
from pipeline.dataset import read_manifest
from pipeline.job import head_path
from pipeline.lake import Lake
from pipeline.lineup import LineUp
from pipeline.steps import StepManifest, StepStore
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
    store = StepStore(lake, lineup.dataset.name)
    folder = head_path(lineup.dataset.name, lineup.name, variant, seed, lineup.online_start).rsplit("/", 1)[0]
    files = lake.files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    windows = sorted(Window.of(f.base_name.removeprefix("window=").removesuffix(".json")) for f in files)
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
    manifest = read_manifest(lake, lineup.dataset.name, step.window)
    if manifest is None:
        return "its window is gone"
    if manifest.digest != step.window_digest:
        return "its window was published again with other rows"
    chosen = lineup.variant(variant)
    config = resolve(
        chosen, step.window, online_start=lineup.online_start, evaluation=lineup.evaluation, seed=step.config.seed
    )
    if config != step.config:
        return "the line-up's config changed"
    before = step.window.previous()
    if before in stale:
        return f"the step before it ({before}) is stale"
    if step.parent is not None and (before not in steps or steps[before].key != step.parent):
        return f"the step before it ({before}) was trained again as something else"
    if step.scores_read is not None and chosen.teacher is not None:
        teacher = StepStore(lake, lineup.dataset.name).head(lineup.name, chosen.teacher, step.config.seed, step.window)
        if teacher is None or teacher.scores is None or teacher.scores.digest != step.scores_read[1]:
            return f"its teacher {chosen.teacher} left other scores since"
    return None
