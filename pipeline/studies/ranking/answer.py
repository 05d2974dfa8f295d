"""The answer of a ranking study: whether few rows put configurations into the order that all rows put them into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.interval import Interval
from pipeline.studies import measures
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.measures import percent
from pipeline.studies.ranking.cells import REFERENCE
from pipeline.studies.ranking.fields import Fields

ALL_ROWS = "all rows"
DECIDED = 0.5
"""Share of the pairs that all rows must decide: else the configurations are too alike to be ranked."""


@dataclass(frozen=True)
class Rankings:
    """Losses of C configurations under S seeds, on all rows and by each policy on few."""

    evidence: Evidence

    @cached_property
    def labels(self) -> list[str]:
        """The configurations."""
        return [cell.label for cell in self.evidence.study.of("all_rows")]

    @cached_property
    def losses(self) -> dict[str, NDArray[np.float64]]:
        """(C, S) percent of the reference's log-loss over the judged windows: on all rows, and by policy."""
        found = {ALL_ROWS: self._losses([cell.variant for cell in self.evidence.study.of("all_rows")])}
        few = self.evidence.study.of("few_rows")
        for way in Fields.of(self.evidence.study).policies:
            by_label = {cell.label: cell.variant for cell in few if cell.family == way}
            found[way] = self._losses([by_label[label] for label in self.labels])
        return found

    def _losses(self, variants: list[str]) -> NDArray[np.float64]:
        judged = self.evidence.judged
        return np.stack([self.evidence.series(name, REFERENCE, judged).values.mean(axis=1) for name in variants])

    @cached_property
    def decided(self) -> list[tuple[int, int]]:
        """Pairs (better, worse) of configurations whose difference on all rows has an interval without zero."""
        cells, judged, found = self.evidence.study.of("all_rows"), self.evidence.judged, []
        for one, other in combinations(range(len(cells)), 2):
            ours, theirs = (self.evidence.series(cells[each].variant, REFERENCE, judged) for each in (one, other))
            apart = (ours - theirs).mean().interval()
            if apart.high < 0:
                found.append((one, other))
            elif apart.low > 0:
                found.append((other, one))
        return found

    def taus(self, way: str) -> NDArray[np.float64]:
        """(S,) Kendall's tau of each seed's order with that of all rows under all seeds, over the decided pairs."""
        losses = self.losses[way]
        signs = [np.sign(losses[worse] - losses[better]) for better, worse in self.decided]
        return np.mean(signs, axis=0) if signs else np.full(losses.shape[1], np.nan)

    def regrets(self, way: str) -> NDArray[np.float64]:
        """(S,) what the configuration that a seed puts first loses on all rows, mean of all seeds, more than the best one."""
        whole = self.losses[ALL_ROWS].mean(axis=1)
        lost: NDArray[np.float64] = whole[self.losses[way].argmin(axis=0)] - whole.min()
        return lost


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    rankings, asked = Rankings(evidence), Fields.of(evidence.study)
    choosing, confirming = measures.split_seeds(evidence)
    judging = slice(None) if confirming is None else confirming
    metrics: dict[str, float] = {"decided_pairs": len(rankings.decided)}
    for way in (*asked.policies, ALL_ROWS):
        name = way.replace(" ", "_")
        metrics |= measures.ends(f"{name}_tau", _over(evidence, rankings.taus(way)[judging]))
        metrics |= measures.ends(f"{name}_regret_percent", _over(evidence, rankings.regrets(way)[judging]))
    return Findings(
        headline=_headline(rankings, asked, choosing, confirming, metrics),
        metrics=metrics,
        sections=(_orders(rankings, asked, choosing, confirming), _configurations(rankings), _costs(evidence)),
        checks=tuple(_checks(rankings)),
        notes=(measures.scope(evidence),),
    )


def _over(evidence: Evidence, by_seed: NDArray[np.float64]) -> Interval:
    return measures.over_seeds(by_seed, independent=evidence.independent)


def _headline(
    rankings: Rankings, asked: Fields, choosing: slice, confirming: slice | None, metrics: dict[str, float]
) -> str:
    share = f"{100 * asked.rate:g} % of the rows"
    if not rankings.decided:
        return "Not shown: all rows decide no pair of these configurations, so that nothing can be in their order."
    best = max(asked.policies, key=lambda way: float(rankings.taus(way)[choosing].mean()))
    if confirming is None:
        why = "so few seeds" if rankings.evidence.independent else "a single log"
        return (
            f"No policy is recommended on {why}; there {best} puts configurations on {share} into an order with a Kendall tau of "
            f"{float(rankings.taus(best).mean()):.2f} with that of all rows, over the {len(rankings.decided)} pairs that these decide."
        )
    tau, regret = (_over(rankings.evidence, found(best)[confirming]) for found in (rankings.taus, rankings.regrets))
    metrics |= measures.ends("chosen_tau", tau) | measures.ends("chosen_regret_percent", regret)
    return (
        f"On {share} {best}, chosen on other seeds, puts configurations into an order with a Kendall tau of {_tau(tau)} with that of all "
        f"rows, over the {len(rankings.decided)} pairs that these decide; what it puts first loses {percent(regret)} % more than the best."
    )


def _tau(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _orders(rankings: Rankings, asked: Fields, choosing: slice, confirming: slice | None) -> Section:
    evidence, rows = rankings.evidence, []
    judging = slice(None) if confirming is None else confirming
    for way in (*asked.policies, ALL_ROWS):
        taus, regrets = rankings.taus(way), rankings.regrets(way)
        chose = () if confirming is None else (f"{float(taus[choosing].mean()):.2f}",)
        rows.append(
            (
                way if way == ALL_ROWS else f"{way}, {100 * asked.rate:g} % of rows",
                *chose,
                _tau(_over(evidence, taus[judging])),
                percent(_over(evidence, regrets[judging])),
            )
        )
    total = len(rankings.labels) * (len(rankings.labels) - 1) // 2
    text = (
        f"Of {total} pairs of configurations all rows decide {len(rankings.decided)}: the interval of their difference over all seeds "
        "does not hold zero. Tau is the share of these that one seed's order has the same way round, less the share that it has the "
        "other way round. The last line is one seed's order on all rows: no sample can be expected to do better. Regret is what the "
        "configuration that a seed puts first loses on all rows, over all seeds, more than the best one."
    )
    header = (
        "compared on",
        *(() if confirming is None else ("tau on the choosing seeds",)),
        "Kendall tau (95 %)" if confirming is None else "Kendall tau on the others (95 %)",
        "regret, percent of log-loss (95 %)",
    )
    return Section("Orders", text, None, Table(header, tuple(rows)))


def _configurations(rankings: Rankings) -> Section:
    study, curves = rankings.evidence.study, {}
    sizes = dict.fromkeys(str(cell.family) for cell in study.of("all_rows"))
    for way, losses in rankings.losses.items():
        for size in sizes:
            places = [place for place, cell in enumerate(study.of("all_rows")) if cell.family == size]
            numbers = [float(study.of("all_rows")[place].value or 0.0) for place in places]
            bands = [_over(rankings.evidence, losses[place]) for place in places]
            curves[f"{size}, {way}"] = (numbers, measures.band(bands))
    figure = by_number(
        "Each configuration on all rows and on few (95 %)",
        "learning rate of the embeddings",
        "percent of log-loss against the reference on all rows",
        curves,
        logarithmic=True,
    )
    rows = [
        (label, *(percent(_over(rankings.evidence, losses[place])) for losses in rankings.losses.values()))
        for place, label in enumerate(rankings.labels)
    ]
    header = ("configuration", *(f"{way}, percent (95 %)" for way in rankings.losses))
    text = "Curves may lie apart and still have one order: what counts is which point of each is lowest."
    return Section("Configurations", text, figure, Table(header, tuple(rows)))


def _costs(evidence: Evidence) -> Section:
    cells = [*evidence.study.of("all_rows"), *evidence.study.of("few_rows")]
    text = "The pilot trains on all rows, once for all configurations that share it."
    return Section("What it cost", text, None, measures.table(evidence, cells))


def _checks(rankings: Rankings) -> Iterator[Check]:
    total = len(rankings.labels) * (len(rankings.labels) - 1) // 2
    yield Check(
        "configurations too alike to be ranked",
        f"all rows decide {len(rankings.decided)} of {total} pairs",
        len(rankings.decided) >= DECIDED * total,
    )
    lowest = int(rankings.losses[ALL_ROWS].mean(axis=1).argmin())
    rates = [float(cell.value or 0.0) for cell in rankings.evidence.study.of("all_rows")]
    yield Check(
        "a best configuration at the edge of the learning rates",
        f"on all rows {rankings.labels[lowest]} loses least",
        min(rates) < rates[lowest] < max(rates),
    )
