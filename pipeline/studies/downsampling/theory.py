"""Theory beside measurement: by how much sampling multiplies the excess loss, predicted by kappa and as it came out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.selection.sampling import keep_probabilities
from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.statistics.kappa import kappa_offset_of, kappa_weight_of
from pipeline.studies import measures
from pipeline.studies.downsampling.cells import ALL_ROWS
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table


def section(evidence: Evidence, metrics: dict[str, float]) -> Section | None:
    """The section; None where the true probabilities are not known or no policy was varied for it."""
    found = evidence.study.of("theory")
    logits = evidence.true_logit
    if not found or logits is None:
        return None
    rows: list[tuple[str, ...]] = []
    curves: dict[str, tuple[list[float], list[Interval]]] = {}
    for cell in found:
        predicted, measured = kappa(evidence, cell, logits), ratio(evidence, cell.variant)
        metrics |= {f"{cell.variant}_kappa": predicted, f"{cell.variant}_excess_ratio": measured.value}
        metrics |= measures.ends(f"{cell.variant}_excess_ratio", measured)
        rows.append(
            (cell.label, f"{predicted:.2f}", f"{measured.value:.2f} ({measured.low:.2f} to {measured.high:.2f})")
        )
        across, points = curves.setdefault(cell.family or cell.label, ([], []))
        across.append(predicted)
        points.append(measured)
    share = explained(
        np.array([metrics[f"{cell.variant}_kappa"] for cell in found]),
        np.stack([_ratios(evidence, cell.variant) for cell in found], axis=1),
    )
    metrics |= {"theory_share": share.value} | measures.ends("theory_share", share)
    figure = by_number(
        "Excess loss over the true probabilities: what sampling multiplies it by (95 %)",
        "kappa, predicted",
        "ratio to the excess on all rows, measured on the judged windows",
        {family: (across, measures.band(points)) for family, (across, points) in curves.items()},
        levels={"as on all rows": 1.0},
    )
    text = (
        "Theory: the excess of a well-specified model is d / 2N on all rows and kappa times that on a sample; kappa is taken over "
        "the log's true logits. Measured: the mean excess over the true probabilities on the judged windows, over that of the "
        "model on all rows, by seed. What a network cannot fit, and what drift makes stale, is in both and pulls the ratio to 1. "
        "Where the excess on all rows is that plus a share that sampling multiplies by kappa, the points lie on a line through "
        f"(1, 1) whose slope is this share: fitted over all cells it is {share.value:.2f} ({share.low:.2f} to {share.high:.2f})."
    )
    return Section("Theory beside measurement", text, figure, Table(("cell", "kappa", "measured (95 %)"), tuple(rows)))


def kappa(evidence: Evidence, cell: Cell, logits: NDArray[np.float64]) -> float:
    """What theory predicts for a cell, its pilot being as good as the truth."""
    policy = evidence.study.lineup.variant(cell.variant).selection
    rows = Candidates(np.arange(len(logits), dtype=np.uint64), dict.fromkeys(policy.reads(), logits.astype(np.float32)))
    if isinstance(policy, FeaturePolicy) and (tally := policy.tally(rows)) is not None:
        rows = replace(rows, summary=policy.summarize(tally))
    keep, _ = keep_probabilities(policy, rows)
    weighted = isinstance(policy, FeaturePolicy) and policy.correction == "weight"
    return kappa_weight_of(logits, keep) if weighted else kappa_offset_of(logits, keep)


def ratio(evidence: Evidence, variant: str) -> Interval:
    """A variant's excess over that on all rows, with a t-interval over the logarithms of the seeds' ratios."""
    logs = _over_seeds(np.log(_ratios(evidence, variant)))
    return Interval(*(float(np.exp(end)) for end in (logs.value, logs.low, logs.high)))


def explained(kappas: NDArray[np.float64], ratios: NDArray[np.float64]) -> Interval:
    """The share of the excess on all rows that sampling multiplies by kappa: the slope of ratios over kappas through (1, 1).

    Args:
        kappas: (C,) predicted, by cell.
        ratios: (S, C) measured, by seed and cell.
    """
    steeper = kappas - 1
    return _over_seeds((ratios - 1) @ steeper / (steeper @ steeper))


def _ratios(evidence: Evidence, variant: str) -> NDArray[np.float64]:
    """(S,) a variant's mean excess on the judged windows over that of the model on all rows."""
    ours, theirs = (
        evidence.tracks[name].metric("excess")[:, evidence.judged].mean(axis=1) for name in (variant, ALL_ROWS)
    )
    found: NDArray[np.float64] = ours / theirs
    return found


def _over_seeds(values: NDArray[np.float64]) -> Interval:
    """The mean of the seeds with a t-interval; without ends where there is one seed."""
    middle = float(values.mean())
    if len(values) == 1:
        return Interval(middle, float("nan"), float("nan"))
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Interval(middle, float(low), float(high))
