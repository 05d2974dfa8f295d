"""What is done and what is stale: each chain of a line-up held against what it would be made of today."""

from __future__ import annotations

from dataclasses import dataclass

from pyarrow import fs

from pipeline.config import resolve
from pipeline.dataset import read_manifest
from pipeline.job import head_path
from pipeline.lake import Lake
from pipeline.lineup import LineUp
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
    files = lake.files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    named = sorted(Window.of(f.base_name.removeprefix("window=").removesuffix(".json")) for f in files)
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
    config = resolve(chosen, step.window, online_start=lineup.online_start, evaluation=lineup.evaluation, seed=seed)
    before = step.window.previous()
    parent = None if step.parent is None else steps.get(before)
    scores = None
    if step.scores_read is not None and chosen.teacher is not None:
        teacher = StepStore(lake, dataset).head(lineup.name, chosen.teacher, seed, step.window)
        scores = None if teacher is None else teacher.scores
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
        (step_key(config, manifest, scores, parent) != step.key, "this version of Windrow trains it to something else"),
    )
    return next((reason for holds, reason in reasons if holds), None)
