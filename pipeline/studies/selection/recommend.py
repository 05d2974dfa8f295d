"""Which policy to take on a log that none was tried on: four rules, and what each loses against hindsight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.study import Cell
from pipeline.studies import measures
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Section, Table
from pipeline.studies.measures import percent
from pipeline.studies.selection.cells import ALL_ROWS, BASELINE

MIN_TRIAL = 2
"""Judged windows of a trial, and as many behind it, on which the rules are judged."""
ALWAYS, ELSEWHERE, SHORT, LONG = (
    f"always {BASELINE}",
    "what lost least on the choosing seeds",
    "a short trial: three windows with all policies, then the one that lost least in the last two",
    "a long trial: all policies until the middle of the judged windows, then the one that lost least in the judged ones",
)
IN_METRICS = {ALWAYS: "always", ELSEWHERE: "elsewhere", SHORT: "short_trial", LONG: "long_trial"}
FIRST_THREE = slice(1, 3)
"""A short trial's windows that count: in the first none has learned yet."""


def recommended(evidence: Evidence, rates: Sequence[float], metrics: dict[str, float]) -> Section | None:
    """What each rule loses on the seeds that had no part in a choice, in the second half of the judged windows.

    Args:
        evidence: of a selection study.
        rates: of the rows, that it kept.
        metrics: get each rule's regret.

    Returns:
        A section; None on too few seeds, policies or windows.
    """
    choosing, confirming = measures.split_seeds(evidence)
    windows = evidence.judged.stop - evidence.judged.start
    if confirming is None or windows < 2 * MIN_TRIAL:
        return None
    rows = []
    for rate in rates:
        cells = [cell for cell in evidence.study.of("policy") if cell.value == rate]
        if len(cells) < 2:
            continue
        taken = _taken(evidence, cells, choosing, confirming)
        for name, (losses, least) in taken.items():
            regret, apart = (
                measures.over_seeds(losses - other, independent=True) for other in (least, taken[ALWAYS][0])
            )
            rows.append(
                (f"{100 * rate:g} %", name, percent(regret), "" if name == ALWAYS else percent(apart)),
            )
            metrics |= measures.ends(f"regret_at_{100 * rate:g}_{IN_METRICS[name]}", regret)
    text = (
        "How should one choose on a log of one's own? By the labels, which is all that one has there. Each rule's regret: what its policy "
        "lost more than the policy that lost least, in hindsight, in the same world and windows, on the true probabilities where these are "
        "known. Hindsight has luck on its side, so that no rule comes to zero. All rules are judged by the seeds that had no part in the "
        "choice, in the second half of the judged windows."
    )
    header = ("rows kept", "rule", "regret, percent of log-loss (95 %)", f"against {ALWAYS}, percent (95 %)")
    return Section("Which policy to take", text, None, Table(header, tuple(rows))) if rows else None


def _taken(
    evidence: Evidence, cells: Sequence[Cell], choosing: slice, confirming: slice
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """By rule, (S,) what its policy lost against all rows by confirming seed, and the least that any policy lost."""
    middle = (evidence.judged.start + evidence.judged.stop) // 2
    early, late = slice(evidence.judged.start, middle), slice(middle, evidence.judged.stop)

    def losses(windows: slice, seeds: slice, *, labels: bool = True) -> NDArray[np.float64]:
        """(policies, seeds); who chooses has the labels alone."""
        found = [evidence.series(cell.variant, ALL_ROWS, windows, seeds, labels=labels) for cell in cells]
        return np.stack([series.values.mean(axis=1) for series in found])

    later = losses(late, confirming, labels=False)
    always = next(place for place, cell in enumerate(cells) if cell.family == BASELINE)
    elsewhere = int(losses(evidence.judged, choosing).mean(axis=1).argmin())
    chosen = {
        ALWAYS: np.full(later.shape[1], always),
        ELSEWHERE: np.full(later.shape[1], elsewhere),
        SHORT: losses(FIRST_THREE, confirming).argmin(axis=0),
        LONG: losses(early, confirming).argmin(axis=0),
    }
    return {name: (later[place, np.arange(later.shape[1])], later.min(axis=0)) for name, place in chosen.items()}
