"""Theory beside measurement: by how much sampling multiplies the excess loss, predicted by kappa and as it came out."""

from __future__ import annotations

import numpy as np

from pipeline.statistics.interval import Interval
from pipeline.statistics.series import over_seeds
from pipeline.studies import measures
from pipeline.studies.downsampling.cells import ALL_ROWS
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table


def section(evidence: Evidence, metrics: dict[str, float]) -> Section | None:
    """The section; None where the true probabilities are not known or no policy was varied for it."""
    found = evidence.study.of("theory")
    if not found or not evidence.knows_truth:
        return None
    rows: list[tuple[str, ...]] = []
    curves: dict[str, tuple[list[float], list[Interval]]] = {}
    for cell in found:
        predicted = float(np.nanmean(evidence.tracks[cell.variant]["kappa"][:, evidence.judged]))
        measured = ratio(evidence, cell.variant)
        metrics |= {f"{cell.variant}_kappa": predicted} | measures.ends(f"{cell.variant}_excess_ratio", measured)
        rows.append(
            (cell.label, f"{predicted:.2f}", f"{measured.value:.2f} ({measured.low:.2f} to {measured.high:.2f})")
        )
        across, points = curves.setdefault(cell.family or cell.label, ([], []))
        across.append(predicted)
        points.append(measured)
    figure = by_number(
        "Excess loss over the true probabilities: what sampling multiplies it by (95 %)",
        "kappa, predicted",
        "ratio to the excess on all rows, measured on the judged windows",
        {family: (across, measures.band(points)) for family, (across, points) in curves.items()},
        levels={"as on all rows": 1.0},
    )
    text = (
        "Theory: the excess of a well-specified model that is fitted by maximum likelihood is d / 2N on all rows and kappa times "
        "that on a sample; kappa is taken over the log's true logits. Measured: the mean excess over the true probabilities on "
        "the judged windows, over that of the model on all rows, by seed. What a network cannot fit, what its optimizer's last "
        "steps leave, and what drift makes stale is in both and pulls the ratio to 1."
    )
    return Section("Theory beside measurement", text, figure, Table(("cell", "kappa", "measured (95 %)"), tuple(rows)))


def ratio(evidence: Evidence, variant: str) -> Interval:
    """A variant's excess over that on all rows, with a t-interval over the logarithms of the seeds' ratios."""
    ours, theirs = (
        evidence.tracks[name].metric("excess")[:, evidence.judged].mean(axis=1) for name in (variant, ALL_ROWS)
    )
    logs = over_seeds(np.log(ours / theirs)).interval()
    return Interval(*(float(np.exp(end)) for end in (logs.value, logs.low, logs.high)))
