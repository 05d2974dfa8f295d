"""Inspection: what the stored selections of a window kept, and what they left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group, read_schema, require_manifest
from pipeline.selection.stored import IMPORTANCE, SelectionManifest
from pipeline.spec.window import Window
from pipeline.storage import parquet
from pipeline.storage.lake import Lake

RARE = 10
"""An id is rare that has at most so many rows of its window."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a selection kept of a window."""

    key: str
    """First digits of the selection's key."""
    policy: str
    """As it was in the window."""
    seed: int
    num_rows: int
    """Kept."""
    share: float
    """Of the window's rows."""
    clicks_kept: float
    """Share of the window's clicks."""
    click_rate: float
    """Among what is kept."""
    weighted_click_rate: float
    """Each row counted as often as it stands for: near the window's, or the selection is biased."""
    effective_rows: float
    """As many rows of equal importance would be as sure of a mean (Kish 1965)."""
    greatest_importance: float
    """Rows that one kept row stands for, at most."""
    rare_ids_kept: dict[str, float]
    """By categorical feature that has any: of the ids that are rare in the window, the share that is kept at least once."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A window, and what its stored selections kept."""

    dataset: str
    window: str
    num_rows: int
    click_rate: float
    kept: tuple[Kept, ...]


def inspect(lake: Lake, dataset: str, window: Window, seeds: Sequence[int] = ()) -> Inspected:
    """What the stored selections of a window kept.

    Args:
        lake: where they lie.
        dataset: the data set, one world of it.
        window: which.
        seeds: under which selections were made; all when empty.

    Raises:
        MissingWindow: the window is not published.
    """
    manifest = require_manifest(lake, dataset, window)
    schema = read_schema(lake, dataset, manifest.schema_key)
    features = [feature.name for feature in schema.categorical]
    counts = _counts(lake, manifest, features)
    kept = tuple(
        _kept(lake, manifest, selection, counts)
        for selection in _stored(lake, manifest)
        if not seeds or selection.seed in seeds
    )
    return Inspected(dataset, window.name, manifest.num_rows, manifest.num_positives / manifest.num_rows, kept)


def _stored(lake: Lake, manifest: WindowManifest) -> Iterator[SelectionManifest]:
    """The selections of a window as it is published now."""
    for file in sorted(lake.files_below(f"selections/{manifest.dataset}"), key=lambda file: file.path):
        if not file.path.endswith("/manifest.json"):
            continue
        found = lake.load(file.path, SelectionManifest)
        if found is not None and found.window == manifest.window and found.window_digest == manifest.digest:
            yield found


def _counts(lake: Lake, manifest: WindowManifest, features: list[str]) -> dict[str, dict[int, int]]:
    """How many rows of the window each id has, by feature."""
    found: dict[str, dict[int, int]] = {name: {} for name in features}
    for group in range(manifest.num_row_groups if features else 0):
        table = read_row_group(lake, manifest, group, features)
        for name in features:
            for each, count in _times(table, name):
                found[name][each] = found[name].get(each, 0) + count
    return found


def _times(table: pa.Table, name: str) -> Iterator[tuple[int, int]]:
    ids, counts = np.unique(table.column(name).to_numpy(), return_counts=True)
    yield from zip(ids.tolist(), counts.tolist(), strict=True)


def _kept(
    lake: Lake, manifest: WindowManifest, selection: SelectionManifest, counts: dict[str, dict[int, int]]
) -> Kept:
    importance, label = np.zeros(0), np.zeros(0)
    seen: dict[str, set[int]] = {name: set() for name in counts}
    for place in selection.places:
        if place is None:
            continue
        file, group = place
        table = parquet.read_row_group(lake, selection.files[file], group, ["label", IMPORTANCE, *counts])
        importance = np.concatenate([importance, table.column(IMPORTANCE).to_numpy()])
        label = np.concatenate([label, table.column("label").to_numpy()])
        for name, ids in seen.items():
            ids.update(np.unique(table.column(name).to_numpy()).tolist())
    return Kept(
        key=selection.key[:12],
        policy=_words(selection),
        seed=selection.seed,
        num_rows=selection.num_rows,
        share=selection.num_rows / manifest.num_rows,
        clicks_kept=_ratio(label.sum(), manifest.num_positives),
        click_rate=_ratio(label.sum(), len(label)),
        weighted_click_rate=_ratio(importance @ label, importance.sum()),
        effective_rows=_ratio(importance.sum() ** 2, np.square(importance).sum()),
        greatest_importance=float(importance.max(initial=0.0)),
        rare_ids_kept=dict(_rare(counts, seen)),
    )


def _rare(counts: dict[str, dict[int, int]], seen: dict[str, set[int]]) -> Iterator[tuple[str, float]]:
    """Of each feature that has rare ids, the share that was seen."""
    for name, of in counts.items():
        rare = {each for each, count in of.items() if count <= RARE}
        if rare:
            yield name, len(rare & seen[name]) / len(rare)


def _ratio(part: float | NDArray[np.floating], whole: float | NDArray[np.floating]) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _words(selection: SelectionManifest) -> str:
    """A policy and its settings."""
    document = selection.policy.model_dump(mode="json", exclude={"kind", "scope"}, exclude_defaults=True)
    given = ", ".join(f"{name} {value}" for name, value in document.items())
    return f"{selection.policy.kind}({given})"
