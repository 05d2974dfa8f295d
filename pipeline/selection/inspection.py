"""Inspection: what the stored selections of a window kept, and what they left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group, read_schema, require_manifest
from pipeline.selection.stored import IMPORTANCE, SelectionManifest, SelectionStore
from pipeline.spec.config import Policy
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


def inspect(
    lake: Lake,
    dataset: str,
    window: Window,
    *,
    seeds: Sequence[int] = (),
    policies: Sequence[Policy] | None = None,
) -> Inspected:
    """What the stored selections of a window kept.

    Memory is that of the embedding tables' row numbers, whatever the window's size.

    Args:
        lake: where they lie.
        dataset: the data set, one world of it.
        window: which.
        seeds: under which selections were made; all when empty.
        policies: as they are in the window; all when not given.

    Raises:
        MissingWindow: the window is not published.
    """
    manifest = require_manifest(lake, dataset, window)
    counts = _counts(lake, manifest)
    kept = tuple(
        _kept(lake, manifest, selection, counts)
        for selection in SelectionStore(lake, dataset).of_window(manifest)
        if (not seeds or selection.seed in seeds) and (policies is None or selection.policy in policies)
    )
    return Inspected(dataset, window.name, manifest.num_rows, manifest.num_positives / manifest.num_rows, kept)


def kept_by(lake: Lake, window: WindowManifest, selection: SelectionManifest) -> Kept:
    """What one stored selection kept of its window."""
    return _kept(lake, window, selection, _counts(lake, window))


def _counts(lake: Lake, manifest: WindowManifest) -> dict[str, NDArray[np.int64]]:
    """(H,) rows of the window that each id has, by categorical feature."""
    schema = read_schema(lake, manifest.dataset, manifest.schema_key)
    sizes = {feature.name: feature.hash_size for feature in schema.categorical}
    found = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    for group in range(manifest.num_row_groups if sizes else 0):
        table = read_row_group(lake, manifest, group, list(sizes))
        for name, size in sizes.items():
            found[name] += np.bincount(table.column(name).to_numpy(), minlength=size)
    return found


def _kept(
    lake: Lake, manifest: WindowManifest, selection: SelectionManifest, counts: dict[str, NDArray[np.int64]]
) -> Kept:
    seen = {name: np.zeros(len(of), np.bool_) for name, of in counts.items()}
    clicks = weight = square = weighted_clicks = greatest = 0.0
    for place in selection.places:
        if place is None:
            continue
        file, group = place
        table = parquet.read_row_group(lake, selection.files[file], group, ["label", IMPORTANCE, *counts])
        importance = table.column(IMPORTANCE).to_numpy().astype(np.float64)
        label = table.column("label").to_numpy()
        clicks += float(label.sum())
        weight += float(importance.sum())
        square += float(np.square(importance).sum())
        weighted_clicks += float(importance @ label)
        greatest = max(greatest, float(importance.max()))
        for name, ids in seen.items():
            ids[table.column(name).to_numpy()] = True
    return Kept(
        key=selection.key[:12],
        policy=_words(selection.policy),
        seed=selection.seed,
        num_rows=selection.num_rows,
        share=selection.num_rows / manifest.num_rows,
        clicks_kept=_ratio(clicks, manifest.num_positives),
        click_rate=_ratio(clicks, selection.num_rows),
        weighted_click_rate=_ratio(weighted_clicks, weight),
        effective_rows=_ratio(weight**2, square),
        greatest_importance=greatest,
        rare_ids_kept=dict(_rare(counts, seen)),
    )


def _rare(counts: dict[str, NDArray[np.int64]], seen: dict[str, NDArray[np.bool_]]) -> Iterator[tuple[str, float]]:
    """Of each feature that has rare ids, the share that was seen."""
    for name, of in counts.items():
        rare = (of > 0) & (of <= RARE)
        if rare.any():
            yield name, float(seen[name][rare].mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _words(policy: Policy) -> str:
    """A policy and its settings, those of its parts too."""
    given = []
    for name in policy.model_fields_set - {"kind", "scope"}:
        value = getattr(policy, name)
        if value == type(policy).model_fields[name].default:
            continue
        parts = value if isinstance(value, tuple) else ()
        shown = " x ".join(map(_words, parts)) if parts and all(isinstance(each, Policy) for each in parts) else value
        given.append(f"{name} {shown}")
    return f"{policy.kind}({', '.join(sorted(given))})"
