"""What a study will take, said before anything trains: steps, rows, time, disk and compute, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from pipeline.spec.config import All, ModelConfig, StepConfig
from pipeline.spec.lineup import SimulatedSource
from pipeline.spec.schema import Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.studies.jobs import step_in

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
    """What a study takes if nothing of it is done yet; None where that is not known."""

    num_seeds: int
    num_steps: int
    """Windows trained, over variants, of one seed; what schedules have in common counts once."""
    num_rows: float | None
    """Rows trained on, of one seed; None of a log, whose windows are counted as they are ingested."""
    training_flops: float | None
    """Of training alone, of one seed, as `forward_flops` counts; None for architectures from outside too."""
    core_seconds: float | None
    """Of one seed on CPUs, its windows' simulation included; None on GPUs."""
    disk_bytes: float | None
    """Windows, predictions and checkpoints of one seed."""
    lanes: int

    @property
    def minutes(self) -> float | None:
        """Wall time of all seeds, with a core for each lane."""
        if self.core_seconds is None:
            return None
        return (2 * TO_START + ceil(self.num_seeds / self.lanes) * self.core_seconds) / 60

    def words(self) -> str:
        """One sentence for people."""
        seeds = "one seed" if self.num_seeds == 1 else f"{self.num_seeds} seeds"
        parts = [f"{self.num_steps:,} steps for each of {seeds}" if self.num_seeds > 1 else f"{self.num_steps:,} steps"]
        if self.num_rows is None:
            parts.append("as many rows as the log's windows have, which is not known before they are counted")
        else:
            parts.append(f"{self.num_seeds * self.num_rows / 1e6:,.1f} million rows to train on")
        if self.training_flops is not None:
            parts.append(f"{self.num_seeds * self.training_flops / 1e12:,.2f} TFLOP of training")
        if self.minutes is not None:
            lanes = "one core" if self.lanes == 1 else f"{self.lanes} cores, one for each lane"
            parts.append(f"about {self.minutes:,.0f} minutes on {lanes}")
        if self.disk_bytes is not None:
            parts.append(f"{self.num_seeds * self.disk_bytes / 1e9:,.1f} GB of disk")
        return f"This study takes, if nothing of it is done yet: {'; '.join(parts)}."


def estimate(study: Study) -> Estimate:
    """What a study takes.

    Raises:
        BadInput: its log's schema cannot be read.
    """
    lineup = study.lineup
    steps = list(_steps(study))
    source = lineup.dataset.source
    if isinstance(source, SimulatedSource):
        drawn = SimulatorConfig(**source.settings)
        rows: int | None = drawn.rows_per_window
        num_dense, num_sparse = drawn.num_dense, drawn.num_categorical + drawn.num_lists
    else:
        schema, rows = Schema.load(source.schema_file), None
        num_dense, num_sparse = len(schema.dense), len(schema.categorical) + len(schema.lists)
    if rows is None:
        return Estimate(len(lineup.seeds), len(steps), None, None, None, None, lineup.workers.lanes)
    trained = [rows * step.selection.share(step.model.prior) for step in steps]
    flops = [forward_flops(step.model, num_dense, num_sparse) for step in steps]
    known = [each or 0.0 for each in flops]
    num_windows = study.last.days_since(study.first) + 1
    own = lineup.dataset.has_worlds or len(lineup.seeds) == 1
    scored = min(rows, lineup.evaluation.max_rows)
    seconds = sum(
        _seconds(step, many, scored, num_sparse, operations, rows)
        for step, many, operations in zip(steps, trained, known, strict=True)
    )
    window_bytes = ROW_BYTES + NUMBER_BYTES * num_dense + ID_BYTES * num_sparse
    return Estimate(
        num_seeds=len(lineup.seeds),
        num_steps=len(steps),
        num_rows=sum(trained),
        training_flops=None if None in flops else sum(3 * f * n for f, n in zip(known, trained, strict=True)),
        core_seconds=None if lineup.workers.use_gpu else seconds + own * num_windows * rows * PER_DRAWN,
        disk_bytes=own * num_windows * rows * window_bytes + len(steps) * scored * SCORED_BYTES,
        lanes=lineup.workers.lanes,
    )


def _steps(study: Study) -> Iterator[StepConfig]:
    """The steps of one seed, each once however many variants share it."""
    seen: set[int] = set()
    for variant in study.lineup.only(()):
        chain: Hashable = None
        for window in Window.span(max(study.first, variant.start or study.first), study.last):
            step = step_in(study, variant, window)
            chain = hash((chain, step))
            if chain not in seen:
                seen.add(chain)
                yield step[1]


def _seconds(step: StepConfig, trained: float, scored: float, num_sparse: int, flops: float, rows: float) -> float:
    """Of one core: training, evaluation, and the pass that selects."""
    updates = trained / step.optimizer.batch_size
    training = PER_UPDATE * updates + trained * (PER_ROW + PER_FEATURE * num_sparse + 3 * PER_FLOP * flops)
    selecting = 0.0 if isinstance(step.selection, All) else PER_READ * rows
    return PER_STEP + training + selecting + scored * (PER_SCORED + PER_FEATURE * num_sparse + PER_FLOP * flops)


def forward_flops(model: ModelConfig, num_dense: int, num_sparse: int) -> float | None:
    """Floating-point operations of one example's forward pass, as PyTorch counts them; None for architectures from outside.

    Args:
        model: its widths and architecture.
        num_dense: numbers of an example that it sees.
        num_sparse: categorical and list features that it sees.

    >>> forward_flops(ModelConfig(size="tiny"), 4, 10)
    4368.0
    """
    widths = model.widths
    dim, fields = widths.embedding_dim, num_sparse + 1
    bottom = (max(1, num_dense), *widths.bottom, dim)
    match model.arch:
        case "dlrm":
            mixed, width = 2 * fields * fields * dim, dim + fields * (fields - 1) // 2
        case "dcnv2":
            width = fields * dim
            mixed = widths.cross_layers * 4 * width * widths.cross_rank
        case _:
            return None
    over = (width, *widths.over, 1)
    return float(mixed + sum(2 * a * b for layers in (bottom, over) for a, b in pairwise(layers)))
