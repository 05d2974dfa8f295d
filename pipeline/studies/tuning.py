"""The answer of a tuning: the batch size and learning rate under which each arm loses least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.drawing import by_number
from pipeline.evidence import Evidence
from pipeline.findings import Check, Findings, Section, Table
from pipeline.recipes.tuning import words
from pipeline.statistics.interval import Interval
from pipeline.studies import cells
from pipeline.studies.cells import percent
from pipeline.study import Cell


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    arms: dict[str, list[Cell]] = {}
    for cell in evidence.study.of("setting"):
        arms.setdefault(cell.against, []).append(cell)
    losses = {cell.variant: cells.judged(evidence, cell) for cell in evidence.study.cells}
    best = {arm: min(points, key=lambda cell: losses[cell.variant].value) for arm, points in arms.items()}
    gains = {arm: _gain(evidence, arm, losses[cell.variant]) for arm, cell in best.items()}
    kept = sum(gain.high >= 0 for gain in gains.values())
    most = min(gains, key=lambda arm: gains[arm].value)
    metrics: dict[str, float] = {}
    for arm, cell in best.items():
        optimizer = evidence.study.lineup.variant(cell.variant).optimizer
        metrics |= {
            f"{arm}_batch_size": optimizer.batch_size,
            f"{arm}_embedding_lr": optimizer.embedding_lr,
            f"{arm}_dense_lr": optimizer.dense_lr,
            f"{arm}_gain_percent": gains[arm].value,
        } | cells.ends(f"{arm}_gain_percent", gains[arm])
    return Findings(
        headline=(
            f"{kept} of {len(arms)} arms gain nothing sure over the line-up's own settings; the most would be gained for "
            f"{most.replace('_', ' ')}, {percent(gains[most])} % of log-loss."
        ),
        metrics=metrics,
        sections=(
            _chosen(evidence, best, gains),
            *(_grid(evidence, arm, points, losses) for arm, points in arms.items()),
        ),
        checks=tuple(_checks(evidence, arms, best, gains)),
    )


def _gain(evidence: Evidence, arm: str, loss: Interval) -> Interval:
    """What the best point of the grid loses against the line-up's own setting; nothing where that is no worse."""
    return loss if loss.value < 0 else Interval(0.0, 0.0, 0.0)


def _chosen(evidence: Evidence, best: dict[str, Cell], gains: dict[str, Interval]) -> Section:
    rows = []
    for arm, cell in best.items():
        own = evidence.study.lineup.variant(arm).optimizer
        better = gains[arm].value < 0
        chosen = evidence.study.lineup.variant(cell.variant).optimizer if better else own
        rows.append((arm.replace("_", " "), words(chosen), words(own), percent(gains[arm])))
    header = ("arm", "loses least with", "the line-up has", "against it, percent (95 %)")
    text = (
        "Each arm got the same grid on seeds that no study reports. To take a setting over, give the line-up a variant of the "
        "arm's name with this optimizer, and commit it before a reported seed is run."
    )
    return Section("Settings", text, None, Table(header, tuple(rows)))


def _grid(evidence: Evidence, arm: str, points: Sequence[Cell], losses: dict[str, Interval]) -> Section:
    rows = []
    curves: dict[str, tuple[list[float], list[Interval]]] = {}
    for cell in points:
        optimizer = evidence.study.lineup.variant(cell.variant).optimizer
        track = evidence.tracks[cell.variant]
        loss = float(np.nanmean(track.metric("log_loss")[:, evidence.judged]))
        shown = "the line-up's own" if cell.variant == arm else percent(losses[cell.variant])
        rows.append((cell.label, f"{loss:.5f}", shown))
        across, values = curves.setdefault(f"batch {optimizer.batch_size:,}", ([], []))
        across.append(optimizer.embedding_lr)
        values.append(losses[cell.variant])
    figure = by_number(
        f"{arm.replace('_', ' ').capitalize()}: loss on the judged windows against the line-up's own setting (95 %)",
        "learning rate of the embeddings",
        "percent of log-loss",
        {label: (across, cells.band(values)) for label, (across, values) in curves.items()},
        levels={"the line-up's own": 0.0},
        logarithmic=True,
    )
    header = ("setting", "log-loss", "against the line-up's own, percent (95 %)")
    return Section(
        arm.replace("_", " ").capitalize(), "The whole grid of this arm.", figure, Table(header, tuple(rows))
    )


def _checks(
    evidence: Evidence, arms: dict[str, list[Cell]], best: dict[str, Cell], gains: dict[str, Interval]
) -> Iterator[Check]:
    edges = []
    for arm, cell in best.items():
        tried = sorted({other.value or 0.0 for other in arms[arm]})
        if gains[arm].value < 0 and cell.value in (tried[0], tried[-1]):
            edges.append(arm.replace("_", " "))
    found = f"at an end of the learning rates tried: {', '.join(edges) or 'none'}"
    yield Check("a best setting that lies at the edge of the grid", found, not edges)
    arm = min(gains, key=lambda name: gains[name].value)
    if best[arm].variant != arm:
        yield cells.too_much_variance(evidence, best[arm].variant, arm, gains[arm])
