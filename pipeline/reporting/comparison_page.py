"""What people look at: the comparison as a table and as figures, readable in grey and by the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pipeline.reporting.comparison import VariantComparison
from pipeline.spec.window import Window
from pipeline.studies.drawing import axes_of, styles

HEADER = ("variant", "windows", "examples", "log-loss", "NE", "AUC", "calibration", "gap to reference, percent (95 %)")


def caption(compared: Sequence[VariantComparison]) -> str:
    """What the intervals of a comparison cover, and what not."""
    if not compared:
        return ""
    seeds = "one seed" if compared[0].num_seeds == 1 else f"{compared[0].num_seeds} seeds"
    if compared[0].of_worlds:
        return f"Intervals (95 %) are over {seeds}, each a world of its own."
    return (
        f"Intervals (95 %) are of the rows of these windows and {seeds} only: they say nothing of another day, another log or "
        "another seed, whose gaps may lie well outside."
    )


def table_rows(compared: Sequence[VariantComparison]) -> list[tuple[str, ...]]:
    """The comparison's table, a row per variant under `HEADER`."""
    return [
        (
            c.variant,
            str(len(c.windows)),
            f"{c.examples:,.0f}",
            *(f"{c.metrics[m]:.5f}" if m in c.metrics else "-" for m in ("log_loss", "normalized_entropy", "auc")),
            f"{c.metrics['calibration']:.3f}" if "calibration" in c.metrics else "-",
            "reference" if place == 0 else f"{c.gap.value:+.3f} ({c.gap.low:+.3f} to {c.gap.high:+.3f})",
        )
        for place, c in enumerate(compared)
    ]


def markdown(compared: Sequence[VariantComparison], notes: Sequence[str] = ()) -> str:
    """The comparison's table as markdown, and below it what a reader must know of it."""
    rows = [HEADER, ("---",) * len(HEADER), *table_rows(compared)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    return text + "".join(f"\n{note}\n" for note in (caption(compared), *notes))


def columns(compared: Sequence[VariantComparison]) -> dict[str, list[Any]]:
    """The comparison's table for programs: numbers, by column."""
    return {
        "variant": [c.variant for c in compared],
        "windows": [len(c.windows) for c in compared],
        "seeds": [c.num_seeds for c in compared],
        "examples": [c.examples for c in compared],
        "training_flops": [c.training_flops for c in compared],
        **{
            name: [c.metrics.get(name) for c in compared]
            for name in ("log_loss", "normalized_entropy", "auc", "calibration")
        },
        "gap_percent": [c.gap.value for c in compared],
        "gap_low": [c.gap.low for c in compared],
        "gap_high": [c.gap.high for c in compared],
    }


def figures(compared: Sequence[VariantComparison], online_start: Window) -> dict[str, Figure]:
    """The comparison's figures by file name."""
    return {
        "gap_by_window.png": _gap_by_window(compared, online_start),
        "loss_against_examples.png": _loss_against_examples(compared),
    }


def _gap_by_window(compared: Sequence[VariantComparison], online_start: Window) -> Figure:
    reference = compared[0].variant
    figure, axes = axes_of(
        f"Each day's log-loss before training on that day, same rows for all ({_bands(compared)})",
        "window (one day)",
        f"difference to {reference}, %  (below zero is better)",
    )
    for c, (colour, dash, marker) in zip(compared, styles(), strict=False):
        days = np.array([w.name for w in c.points], dtype="datetime64[D]")
        gaps = [p.gap for p in c.points.values()]
        if c.variant == reference:
            axes.axhline(0, color=colour, linewidth=1, label=f"{c.variant} (reference)")
            continue
        axes.plot(
            days,
            [g.value for g in gaps],
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            marker=marker,
            markersize=5,
            label=c.variant,
        )
        axes.fill_between(days, [g.low for g in gaps], [g.high for g in gaps], color=colour, alpha=0.12, linewidth=0)
    if any(w < online_start for c in compared for w in c.windows):
        start: Any = np.datetime64(online_start.name)
        axes.axvline(start, color="#777777", linewidth=1, linestyle=":")
        where: Any = dict(xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points", va="top")
        axes.annotate("online phase begins\n(early cutover)", (start, 1), fontsize=9, **where)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))  # whole days
    figure.autofmt_xdate(rotation=0, ha="center")
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return figure


def _bands(compared: Sequence[VariantComparison]) -> str:
    return f"95 % over {compared[0].num_seeds} seeds" if compared[0].of_worlds else "95 % of these rows only"


def _loss_against_examples(compared: Sequence[VariantComparison]) -> Figure:
    figure, axes = axes_of(
        "What each example bought: loss over all windows against examples trained on",
        "examples trained on until the last window",
        f"log-loss relative to {compared[0].variant}, percent ({_bands(compared)})",
    )
    for c, (colour, _, marker) in zip(compared, styles(), strict=False):
        error = [[c.gap.value - c.gap.low], [c.gap.high - c.gap.value]]
        axes.errorbar(
            [c.examples],
            [c.gap.value],
            yerr=error,
            color=colour,
            marker=marker,
            capsize=3,
            label=c.variant,
            linestyle="",
        )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.axhline(0, color="#000000", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return figure
