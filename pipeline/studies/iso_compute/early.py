"""Early answers: what stopping the sizes that are surely not the best would have saved, and cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.statistics.racing import Race, replay
from pipeline.statistics.series import MIN_WORLDS
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table
from pipeline.studies.iso_compute.cells import ALL_ROWS
from pipeline.studies.iso_compute.valleys import Valley


def section(evidence: Evidence, valleys: Sequence[Valley], metrics: dict[str, float]) -> Iterator[Section]:
    """The page's section, where all sizes were trained on all windows of eight worlds; its figures go among the metrics."""
    cells = [cell.variant for valley in valleys for cell in valley.cells]
    if not evidence.independent or len(evidence.study.lineup.seeds) < MIN_WORLDS or any(map(evidence.since, cells)):
        return
    races = [_race(evidence, valley) for valley in valleys]
    spent = [float(valley.flops.sum()) for valley in valleys]
    metrics["early_saved"] = float(np.average([race.saved for race in races], weights=spent))
    metrics["early_regret_percent"] = float(np.mean([race.regret for race in races]))
    metrics["early_regret_by_loss_so_far_percent"] = float(np.mean([race.regret_so_far for race in races]))
    num_windows = len(evidence.windows)
    rows = []
    for valley, race in zip(valleys, races, strict=True):
        ends = [
            f"{cell.value:g} after {end}"
            for cell, end in zip(valley.cells, race.stopped, strict=True)
            if end < num_windows
        ]
        chosen = f"{valley.cells[race.chosen].value:g}"
        lost = (f"{race.regret:.3f}", f"{race.regret_so_far:.3f}")
        rows.append((valley.words, ", ".join(ends) or "none", f"{race.saved:.0%}", chosen, *lost))
    header = (
        "budget",
        "widths stopped, after so many windows",
        "compute saved",
        "width chosen",
        "it loses more than the best, percent",
        "the same by least loss so far, at least the same saving, percent",
    )
    text = (
        "All sizes were trained to the end; this replays them, and judges by the same losses. A size is stopped once its forecast final loss "
        f"is surely above that of the leader (t-interval over the seeds of a line a + b / windows). That would have saved {metrics['early_saved']:.0%} of the "
        f"compute, and the size chosen would have lost {metrics['early_regret_percent']:.3f} % more than the best on average; stopping all "
        f"but the one with the least loss so far, {metrics['early_regret_by_loss_so_far_percent']:.3f} %."
    )
    yield Section("Early answers", text, None, Table(header, tuple(rows)))


def _race(evidence: Evidence, valley: Valley) -> Race:
    whole = slice(0, len(evidence.windows))
    losses = [evidence.series(cell.variant, ALL_ROWS, whole).values for cell in valley.cells]
    costs = [evidence.tracks[cell.variant]["training_flops"].mean(axis=0) for cell in valley.cells]
    return replay(np.stack(losses, axis=1), np.stack(costs), evidence.judged)
