"""What the measurements say, as a page of markdown: the numbers, their spread, and each goal, met or not."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from benchmarks.contest import SHAPES, Rates, Ratio, Result
from benchmarks.measured import processor

MEMORY_GOAL = 0.9
RIVAL_GOAL = 2.0
LOSS_GOAL = 0.005
BFLOAT16_GOALS = {"Windrow, from parquet": 1.6, "DeepCTR-Torch DCN, its fit": 2.0, "DeepCTR-Torch DeepFM, its fit": 2.0}
"""At the wider layers, over these in float32."""

INTRODUCTION = """\
# Training speed

Examples a second from parquet to updated weights: DLRM over 13 dense and 26 categorical fields of 16 dimensions, batches
of 4,096, on one process without a GPU. Everybody trains on the same rows in the same order, by turns, on the same cores
and with as many threads. A ratio is taken within a round and the median over the rounds is given with its range, since
absolute speeds depend on the machine and on what else it does.

How the sides differ:

- Windrow reads and decodes parquet, assembles batches and computes progressive metrics inside its time. All others have
  their rows in memory before the clock starts, and DeepCTR-Torch's clock leaves out what its `fit` does before the
  first batch.
- DeepCTR-Torch has no DLRM. PNN is its nearest model (dot products of every pair of embeddings under an MLP), DCN and
  DeepFM are its usual ones. They have the same tables, the over layers' hidden widths and no bottom MLP, which is less
  to compute. PNN, DCN and DeepFM run in its public `fit` (silent, no metrics, no shuffling). A further row runs the same
  model and optimizer in a bare loop over slices of one tensor, without `fit` and its loader.
- Both sides use Adagrad. Windrow's is row-wise in the tables (one accumulator a row, only rows that were looked up);
  DeepCTR-Torch's is PyTorch's (one accumulator a weight, all rows, since its tables have dense gradients). Larger tables
  slow the latter down and not the former.
- Losses are those of a later window after equal rows. No side is regularised, both begin with the same distributions of
  weights. Each model has learning rates of its own; `--tune` chooses them on windows that nothing else uses.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """How a run was made."""

    command: str
    threads: int
    rows: int
    held_out_rows: int
    rounds: int
    num_ids: int
    table_rows: int
    load: float
    """Processes that wanted a core before the run, averaged over a minute."""
    versions: Mapping[str, str]
    """Of the rival's environment; empty without it."""
    bfloat16: bool
    """Whether the processor computes it, so that it was measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant with its goals; the first of a shape is Windrow."""

    result: Result
    rates: Rates
    speed_goal: float | None
    """How many times as fast Windrow shall be."""
    loss_goal: float | None
    """By what share Windrow's held-out loss may differ."""


def page(run: Run, shapes: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, _facts(run), *(_shape(name, rows) for name, rows in shapes)])


def _facts(run: Run) -> str:
    names = ("torch", "torchrec", "pyarrow", "numpy")
    ours = ", ".join(f"{name} {version(name)}" for name in names)
    theirs = ", ".join(f"{name} {number}" for name, number in run.versions.items()) or "not run"
    busy = run.load > 0.5 * run.threads
    note = " **The machine was not idle: trust the ratios' medians, not the speeds.**" if busy else ""
    return f"""\
## The run

    {run.command}

- {processor()}, {run.threads} of {os.cpu_count()} cores with a thread each; {platform.system()}, Python
  {platform.python_version()}. Load before the run: {run.load:.1f}.{note}
- Here: {ours}. DeepCTR-Torch's environment: {theirs}.
- {run.rounds} rounds over a simulated window of {run.rows:,} rows, losses on {run.held_out_rows:,} rows of the next.
  Tables of {run.table_rows:,} rows in all ({run.num_ids:,} ids alive in the largest field).
- bfloat16: {"a contestant of its own" if run.bfloat16 else "skipped, this processor has no avx512_bf16"}.
"""


def _shape(name: str, rows: Sequence[Row]) -> str:
    ours = rows[0].result
    lines = [
        f"## MLP widths {name}\n",
        "| | examples/s (range) | Windrow's speed over it (range) | goal | held-out log-loss | "
        "Windrow's over it | learning rates (tables, rest) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.result.name, _speeds(row.result.rates), *_speed_cells(ours, row), *_loss_cells(ours, row)]
        lines.append("| " + " | ".join([*cells, f"{row.rates.embedding:g}, {row.rates.dense:g}"]) + " |")
    return "\n".join([*lines, "", *_in_bfloat16(name, rows)])


def _in_bfloat16(shape: str, rows: Sequence[Row]) -> list[str]:
    """How many times as fast Windrow is in bfloat16, and what that does to its loss; nothing where that was not measured."""
    if (short := next((row for row in rows if row.result.name.endswith("parquet, bfloat16")), None)) is None:
        return []
    plain, *others = [row for row in rows if row is rows[0] or ", its fit" in row.result.name]
    lines = [
        "| in bfloat16 Windrow from parquet is | times as fast (range) | goal | its held-out log-loss over that |",
        "|---|---|---|---|",
    ]
    for row in (plain, *others):
        goal = BFLOAT16_GOALS.get(row.result.name) if shape == list(SHAPES)[-1] else None
        shown, met = _judged(Ratio.of(short.result.rates, row.result.rates), goal)
        loss = (short.result.log_loss or 0) / (row.result.log_loss or math.nan) - 1
        lines.append(f"| as {row.result.name} | {shown} | {met} | {loss:+.2%} |")
    return [*lines, ""]


def _speeds(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _speed_cells(ours: Result, row: Row) -> tuple[str, str]:
    if row.result is ours:
        return "", ""
    return _judged(Ratio.of(ours.rates, row.result.rates), row.speed_goal)


def _judged(ratio: Ratio, goal: float | None) -> tuple[str, str]:
    """A ratio with its range, and whether its median reaches a goal."""
    met = "" if goal is None else f"{goal:g}: {_verdict(ratio.median >= goal)}"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})", met


def _loss_cells(ours: Result, row: Row) -> tuple[str, str]:
    loss = row.result.log_loss
    if loss is None or ours.log_loss is None:
        return "", ""
    if row.result is ours:
        return f"{loss:.5f}", ""
    relative = ours.log_loss / loss - 1
    if row.loss_goal is None:
        return f"{loss:.5f}", f"{relative:+.2%}"
    return f"{loss:.5f}", f"{relative:+.2%}, within {row.loss_goal:.1%}: {_verdict(abs(relative) <= row.loss_goal)}"


def _verdict(met: bool) -> str:
    return "met" if met else "**not met**"
