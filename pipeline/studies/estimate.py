"""What a study will take, said before anything trains: steps, rows, time, disk and compute, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from pipeline.spec.config import All, StepConfig
from pipeline.spec.lineup import SimulatedSource
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.storage.paths import manifest_path
from pipeline.studies.jobs import step_in
from pipeline.studies.operations import forward_flops, shape_of

if TYPE_CHECKING:
    from pipeline.storage.lake import Lake

PER_STEP, PER_UPDATE, PER_ROW, PER_FEATURE, PER_FLOP = 0.08, 3.5e-3, 2.7e-6, 1.3e-7, 6e-11
"""Seconds of one core of an AMD EPYC, fitted to the steps of published studies (docs/results/cells) and rounded: of a step, an
update, a row, an id of a row and an operation."""
PER_SCORED, PER_READ, PER_DRAWN = 1e-6, 8e-7, 3e-6
"""The same of a row that is scored and written down, that a selection reads, that is simulated."""
TO_START = 60.0
"""Seconds until Ray's workers stand and have read the code, for each of a study's two training jobs."""
ROW_BYTES, NUMBER_BYTES, ID_BYTES, SCORED_BYTES = 26.0, 4.0, 2.0, 18.0
"""Of a row on disk, compressed: itself, each of its numbers and ids, and what is predicted of it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a study takes over all seeds, if nothing of it is done yet; None where that is not known."""

    num_steps: int
    """Windows trained, over variants and seeds; what schedules have in common counts once."""
    num_rows: float | None = None
    """Rows trained on; not known of a log before its windows are published."""
    training_flops: float | None = None
    """Of training alone, as `forward_flops` counts; not known of architectures from outside."""
    minutes: float | None = None
    """Wall time on CPUs, with a core for each lane; not known of GPUs."""
    cores: int = 1
    disk_bytes: float | None = None
    """Windows, predictions and stored selections."""

    def words(self) -> str:
        """One sentence for people."""
        parts = [f"{self.num_steps:,} steps"]
        if self.num_rows is None:
            parts.append("time, disk and compute are known once the log's windows are published")
        else:
            parts.append(f"{self.num_rows / 1e6:,.1f} million rows to train on")
        if self.training_flops is not None:
            parts.append(f"{self.training_flops / 1e12:,.2f} TFLOP of training")
        if self.minutes is not None:
            cores = "one core" if self.cores == 1 else f"{self.cores} cores, one for each lane"
            parts.append(f"about {self.minutes:,.0f} minutes on {cores}")
        if self.disk_bytes is not None:
            parts.append(f"{self.disk_bytes / 1e9:,.1f} GB of disk")
        return f"This study takes, if nothing of it is done yet: {'; '.join(parts)}."


def estimate(study: Study, lake: Lake) -> Estimate:
    """What a study takes.

    Airflow's image, where a study is planned, has no torch to count with: hence arithmetic.

    Args:
        study: which.
        lake: knows how many rows a log's published windows have.

    Raises:
        BadInput: its log's schema or its simulator's settings cannot be used.
    """
    lineup, seeds, steps = study.lineup, len(study.lineup.seeds), list(_steps(study))
    rows, num_dense, num_sparse = shape_of(lineup)
    if rows is None:
        rows = _published_rows(study, lake)
    if rows is None:
        return Estimate(seeds * len(steps))
    trained = [rows * step.selection.share(step.model.prior) for step, _ in steps]
    flops = [forward_flops(step.model, num_dense, num_sparse) for step, _ in steps]
    known = [each or 0.0 for each in flops]
    scored = min(rows, lineup.evaluation.max_rows)
    seconds = sum(
        _seconds(step, passes, many, scored, num_sparse, operations, rows)
        for (step, passes), many, operations in zip(steps, trained, known, strict=True)
    )
    published = rows * (study.last.days_since(study.first) + 1) * len(lineup.dataset.names(lineup.seeds))
    drawn = PER_DRAWN * published if isinstance(lineup.dataset.source, SimulatedSource) else 0.0
    cores = min(lineup.workers.lanes, seeds)
    row_bytes = ROW_BYTES + NUMBER_BYTES * num_dense + ID_BYTES * num_sparse
    return Estimate(
        num_steps=seeds * len(steps),
        num_rows=seeds * sum(trained),
        training_flops=None if None in flops else seeds * sum(3 * f * n for f, n in zip(known, trained, strict=True)),
        minutes=None if lineup.workers.use_gpu else (2 * TO_START + drawn + ceil(seeds / cores) * seconds) / 60,
        cores=cores,
        disk_bytes=published * row_bytes + seeds * len(steps) * scored * SCORED_BYTES,
    )


def _published_rows(study: Study, lake: Lake) -> float | None:
    """Of a window, mean over those that are published."""
    windows = Window.span(study.first, study.last)
    manifests = (lake.read(manifest_path(study.lineup.dataset.name, window)) for window in windows)
    counted = [manifest["num_rows"] for manifest in manifests if manifest is not None]
    return sum(counted) / len(counted) if counted else None


def row_seconds(num_sparse: int, flops: float) -> float:
    """Of one core, to train on a row of so many ids with so many operations forward."""
    return PER_ROW + PER_FEATURE * num_sparse + 3 * PER_FLOP * flops


def update_seconds(num_updates: float, num_windows: float = 0.0) -> float:
    """Of one core, what updates take whatever their rows, and windows whatever their updates."""
    return PER_UPDATE * num_updates + PER_STEP * num_windows


def _steps(study: Study) -> Iterable[tuple[StepConfig, int]]:
    """The steps of one seed, each once however many variants share it, with the passes over the window that are asked of it."""
    found: dict[int, tuple[StepConfig, int]] = {}
    variants = study.lineup.only(())
    reads = [read for variant in variants for read in variant.reads]
    for variant in variants:
        passes = max((read.passes for read in reads if read.source == variant.name), default=1)
        chain: Hashable = None
        for window in Window.span(max(study.first, variant.start or study.first), study.last):
            step = step_in(study, variant, window)
            chain = hash((chain, step))
            found[chain] = step[1], max(passes, found[chain][1] if chain in found else 1)
    return found.values()


def _seconds(
    step: StepConfig, passes: int, trained: float, scored: float, num_sparse: int, flops: float, rows: float
) -> float:
    """Of one core: training, all passes, evaluation, and the pass that selects."""
    updates = trained / step.optimizer.batch_size
    training = passes * (update_seconds(updates, 1) + trained * row_seconds(num_sparse, flops))
    selecting = 0.0 if isinstance(step.selection, All) else PER_READ * rows
    return training + selecting + scored * (PER_SCORED + PER_FEATURE * num_sparse + PER_FLOP * flops)
