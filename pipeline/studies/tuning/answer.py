"""The answer of a tuning: the batch size and learning rate under which each arm loses least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.config import OptimizerConfig
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.tuning.cells import words


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    arms: dict[str, list[str]] = {}
    for cell in evidence.study.of("setting"):
        arms.setdefault(cell.against, [cell.against])
        if cell.variant not in arms[cell.against]:
            arms[cell.against].append(cell.variant)
    losses = {name: _losses(evidence, name) for points in arms.values() for name in points}
    best = {arm: min(points, key=lambda name: float(losses[name].mean())) for arm, points in arms.items()}
    gains = {arm: 100 * (losses[name] / losses[arm] - 1) for arm, name in best.items()}
    kept = sum(arm == name for arm, name in best.items())
    most = min(gains, key=lambda arm: float(gains[arm].mean()))
    metrics: dict[str, float] = {}
    for arm, name in best.items():
        optimizer = _optimizer(evidence, name)
        metrics |= {
            f"{arm}_batch_size": optimizer.batch_size,
            f"{arm}_embedding_lr": optimizer.embedding_lr,
            f"{arm}_dense_lr": optimizer.dense_lr,
            f"{arm}_gain_percent": float(gains[arm].mean()),
        }
    return Findings(
        headline=(
            f"{kept} of {len(arms)} arms lose least with the line-up's own settings; the most is gained for "
            f"{_words(most)}, {_by_seed(gains[most])} % of log-loss."
        ),
        metrics=metrics,
        sections=(
            _chosen(evidence, best, gains),
            *(_grid(evidence, arm, points, losses) for arm, points in arms.items()),
        ),
        checks=(_edges(evidence, best), _too_much_variance(gains[most])),
    )


def _losses(evidence: Evidence, name: str) -> NDArray[np.float64]:
    """(S,) mean log-loss over the judged windows."""
    means: NDArray[np.float64] = evidence.tracks[name].metric("log_loss")[:, evidence.judged].mean(axis=1)
    return means


def _chosen(evidence: Evidence, best: dict[str, str], gains: dict[str, NDArray[np.float64]]) -> Section:
    rows = tuple(
        (
            _words(arm),
            words(_optimizer(evidence, name)),
            words(_optimizer(evidence, arm)),
            "the same" if name == arm else _by_seed(gains[arm]),
        )
        for arm, name in best.items()
    )
    header = ("arm", "loses least with", "the line-up has", "against it, percent (each seed)")
    text = (
        f"Each arm got the same grid on seeds {', '.join(map(str, evidence.study.lineup.seeds))}, which no study may report, "
        "and the lowest mean loss on the judged windows is chosen. "
        "To take a setting over, give the line-up a variant of the arm's name with this optimizer, and commit it before a "
        "reported seed is run."
    )
    return Section("Settings", text, None, Table(header, rows))


def _grid(evidence: Evidence, arm: str, points: Sequence[str], losses: dict[str, NDArray[np.float64]]) -> Section:
    rows = []
    curves: dict[str, dict[float, NDArray[np.float64]]] = {}
    for name in points:
        optimizer = _optimizer(evidence, name)
        against = 100 * (losses[name] / losses[arm] - 1)
        shown = "the line-up's own" if name == arm else _by_seed(against)
        rows.append((words(optimizer), f"{losses[name].mean():.5f}", shown))
        curves.setdefault(f"batch {optimizer.batch_size:,}", {})[optimizer.embedding_lr] = against
    figure = by_number(
        f"{_words(arm).capitalize()}: loss on the judged windows against the line-up's own setting (range of seeds)",
        "learning rate of the embeddings",
        "percent of log-loss",
        {label: _range(dict(sorted(curve.items()))) for label, curve in curves.items()},
        levels={"the line-up's own": 0.0},
        logarithmic=True,
    )
    header = ("setting", "log-loss", "against the line-up's own, percent (each seed)")
    return Section(_words(arm).capitalize(), "The whole grid of this arm.", figure, Table(header, tuple(rows)))


def _range(curve: dict[float, NDArray[np.float64]]) -> tuple[list[float], tuple[list[float], list[float], list[float]]]:
    """Learning rates, with the mean, least and greatest of the seeds."""
    ends = [[float(end(values)) for values in curve.values()] for end in (np.mean, np.min, np.max)]
    return list(curve), (ends[0], ends[1], ends[2])


def _edges(evidence: Evidence, best: dict[str, str]) -> Check:
    """Whether a best setting has nothing tried on both sides of its learning rate, or of its batch where three were tried."""
    edges = []
    for arm, name in best.items():
        tried = [_optimizer(evidence, cell.variant) for cell in evidence.study.of("setting") if cell.against == arm]
        rates, batches = {each.embedding_lr for each in tried}, {each.batch_size for each in tried}
        own = _optimizer(evidence, name)
        if not min(rates) < own.embedding_lr < max(rates):
            edges.append(f"{_words(arm)} (learning rate)")
        if len(batches) > 2 and not min(batches) < own.batch_size < max(batches):
            edges.append(f"{_words(arm)} (batch)")
    found = f"at or beyond an end of what was tried: {', '.join(edges) or 'none'}"
    return Check("a best setting that lies at the edge of the grid", found, not edges)


def _too_much_variance(gain: NDArray[np.float64]) -> Check:
    signature = "too much run-to-run variance to see the effect"
    if len(gain) < 2:
        return Check(signature, "one seed only: spread between runs is not known", None)
    found = f"the largest gain by seed: {_by_seed(gain)} %"
    return Check(signature, found, bool(np.ptp(gain) <= abs(gain.mean())))


def _by_seed(values: NDArray[np.float64]) -> str:
    return f"{values.mean():+.2f} ({', '.join(f'{value:+.2f}' for value in values)})"


def _optimizer(evidence: Evidence, name: str) -> OptimizerConfig:
    return evidence.study.lineup.variant(name).optimizer


def _words(arm: str) -> str:
    return arm.replace("_", " ")
