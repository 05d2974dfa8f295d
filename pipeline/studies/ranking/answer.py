"""The answer of a ranking study: whether few rows put configurations into the order that all rows put them into."""

from __future__ import annotations

import math
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
    """Orders of C configurations under S seeds, each held against what all rows say under the *other* seeds."""

    evidence: Evidence

    @cached_property
    def labels(self) -> list[str]:
        """The configurations."""
        return [cell.label for cell in self.evidence.study.of("all_rows")]

    @cached_property
    def truth(self) -> NDArray[np.float64]:
        """(C, S) percent of the reference's log-loss on all rows over the judged windows: on true probabilities where known."""
        return self._losses(ALL_ROWS, labels=False)

    @cached_property
    def seen(self) -> dict[str, NDArray[np.float64]]:
        """The same on the labels, which is all that a person has to choose by: on all rows, and by policy on few."""
        return {way: self._losses(way, labels=True) for way in (ALL_ROWS, *Fields.of(self.evidence.study).policies)}

    def _losses(self, way: str, *, labels: bool) -> NDArray[np.float64]:
        study, judged = self.evidence.study, self.evidence.judged
        cells = study.of("all_rows") if way == ALL_ROWS else [c for c in study.of("few_rows") if c.family == way]
        by_label = {cell.label: cell.variant for cell in cells}
        found = [self.evidence.series(by_label[each], REFERENCE, judged, labels=labels) for each in self.labels]
        return np.stack([series.values.mean(axis=1) for series in found])

    @cached_property
    def decided(self) -> list[list[tuple[int, int]]]:
        """By seed, pairs (better, worse) of configurations that all rows tell apart under the others: an interval without zero."""
        return [self._pairs(np.delete(self.truth, seed, axis=1)) for seed in range(self.truth.shape[1])]

    @cached_property
    def of_all(self) -> list[tuple[int, int]]:
        """The same pairs under all seeds."""
        return self._pairs(self.truth)

    def _pairs(self, losses: NDArray[np.float64]) -> list[tuple[int, int]]:
        found = []
        for one, other in combinations(range(len(losses)), 2):
            if losses.shape[1]:
                apart = over(self.evidence, losses[one] - losses[other])
                if apart.high < 0 or apart.low > 0:
                    found.append((one, other) if apart.high < 0 else (other, one))
        return found

    def tau(self, way: str, seeds: slice) -> Interval:
        """Kendall's tau over the decided pairs of some seeds together, with its interval over these seeds.

        A ratio of two sums over seeds, agreements less reversals over pairs: its error is that of what each seed adds beyond it.
        """
        losses, agreed, pairs = self.seen[way], [], []
        for seed in range(losses.shape[1])[seeds]:
            signs = [np.sign(losses[worse, seed] - losses[better, seed]) for better, worse in self.decided[seed]]
            agreed.append(float(np.sum(signs)))
            pairs.append(len(signs))
        if not sum(pairs):
            return Interval(math.nan, math.nan, math.nan)
        tau = sum(agreed) / sum(pairs)
        return over(self.evidence, tau + (np.array(agreed) - tau * np.array(pairs)) / np.mean(pairs))

    def regrets(self, way: str) -> NDArray[np.float64]:
        """(S,) what the configuration that a seed puts first loses on all rows under the other seeds, more than the best there."""
        found = []
        for seed, first in enumerate(self.seen[way].argmin(axis=0)):
            others = np.delete(self.truth, seed, axis=1) if self.truth.shape[1] > 1 else self.truth
            whole = others.mean(axis=1)
            found.append(whole[first] - whole.min())
        return np.array(found)


def over(evidence: Evidence, by_seed: NDArray[np.float64]) -> Interval:
    """The mean over seeds, with its interval over worlds."""
    return measures.over_seeds(by_seed, independent=evidence.independent)


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    rankings, asked = Rankings(evidence), Fields.of(evidence.study)
    choosing, confirming = measures.split_seeds(evidence)
    if len(asked.policies) == 1 and confirming is not None:
        confirming = slice(None)  # nothing is chosen
    judging = slice(None) if confirming is None else confirming
    metrics: dict[str, float] = {"decided_pairs": len(rankings.of_all)}
    for way in (*asked.policies, ALL_ROWS):
        name = way.replace(" ", "_")
        metrics |= measures.ends(f"{name}_tau", rankings.tau(way, judging))
        metrics |= measures.ends(f"{name}_regret_percent", over(evidence, rankings.regrets(way)[judging]))
    return Findings(
        headline=_headline(rankings, asked, choosing, confirming, metrics),
        metrics=metrics,
        sections=(_orders(rankings, asked, choosing, judging), _configurations(rankings), _costs(evidence)),
        checks=tuple(_checks(rankings)),
        notes=(measures.scope(evidence),),
    )


def _headline(
    rankings: Rankings, asked: Fields, choosing: slice, confirming: slice | None, metrics: dict[str, float]
) -> str:
    if confirming is None:
        why = "Too few seeds" if rankings.evidence.independent else "A single log"
        return f"{why} to say which configurations differ on all rows, and so whether few rows put them into the same order."
    best = max(asked.policies, key=lambda way: rankings.tau(way, choosing).value)
    tau, regret = rankings.tau(best, confirming), over(rankings.evidence, rankings.regrets(best)[confirming])
    metrics |= measures.ends("chosen_tau", tau) | measures.ends("chosen_regret_percent", regret)
    if not _decides_enough(rankings):
        return f"Not shown: all rows decide {len(rankings.of_all)} of {_num_pairs(rankings)} pairs, too few to speak of an order."
    chosen = "" if len(asked.policies) == 1 else ", chosen on other seeds,"
    return (
        f"On {100 * asked.rate:g} % of the rows {best}{chosen} puts configurations into an order with a Kendall tau of {_tau(tau)} with "
        f"that of all rows in other worlds; what it puts first loses {percent(regret)} % more than the best."
    )


def _num_pairs(rankings: Rankings) -> int:
    return math.comb(len(rankings.labels), 2)


def _decides_enough(rankings: Rankings) -> bool:
    return len(rankings.of_all) >= DECIDED * _num_pairs(rankings)


def _tau(interval: Interval) -> str:
    """As people read it."""
    if math.isnan(interval.value):
        return "not known"
    if math.isnan(interval.low):
        return f"{interval.value:.2f} (interval not known)"
    if interval.low == interval.high:
        return f"{interval.value:.2f} (alike in all of these seeds)"
    return f"{interval.value:.2f} ({max(-1, interval.low):.2f} to {min(1, interval.high):.2f})"


def _orders(rankings: Rankings, asked: Fields, choosing: slice, judging: slice) -> Section:
    evidence, rows = rankings.evidence, []
    chose = judging != slice(None)
    for way in (*asked.policies, ALL_ROWS):
        regret = over(evidence, rankings.regrets(way)[judging])
        rows.append(
            (
                way if way == ALL_ROWS else f"{way}, {100 * asked.rate:g} % of rows",
                *((f"{rankings.tau(way, choosing).value:.2f}",) if chose else ()),
                _tau(rankings.tau(way, judging)),
                f"{regret.value:+.2f} (alike in all of these seeds)" if regret.low == regret.high else percent(regret),
            )
        )
    text = (
        f"All rows decide {len(rankings.of_all)} of {_num_pairs(rankings)} pairs of configurations: the interval of their difference "
        "over the seeds does not hold zero. Where none differs, one pair in twenty is decided by chance. A seed's order is held "
        "against the pairs that the other seeds decide: tau is the share of these that it has the same way round, less the share that it has "
        "the other way round. The last line is one seed's own order on all rows. Regret is what the configuration that a seed puts first "
        "loses on all rows under the other seeds, more than the best one. Orders are by the labels, what they are held against by the "
        "true probabilities where these are known."
    )
    header = (
        "compared on",
        *(("tau on the choosing seeds",) if chose else ()),
        "Kendall tau on the others (95 %)" if chose else "Kendall tau (95 %)",
        "regret, percent of log-loss (95 %)",
    )
    return Section("Orders", text, None, Table(header, tuple(rows)))


def _configurations(rankings: Rankings) -> Section:
    study, curves = rankings.evidence.study, {}
    sizes = dict.fromkeys(str(cell.family) for cell in study.of("all_rows"))
    for way, losses in rankings.seen.items():
        for size in sizes:
            places = [place for place, cell in enumerate(study.of("all_rows")) if cell.family == size]
            numbers = [float(study.of("all_rows")[place].value or 0.0) for place in places]
            bands = [over(rankings.evidence, losses[place]) for place in places]
            curves[f"{size}, {way}"] = (numbers, measures.band(bands))
    figure = by_number(
        "Each configuration on all rows and on few (95 %)",
        "learning rate of the embeddings",
        "percent of log-loss against the reference on all rows",
        curves,
        logarithmic=True,
    )
    rows = [
        (label, *(percent(over(rankings.evidence, losses[place])) for losses in rankings.seen.values()))
        for place, label in enumerate(rankings.labels)
    ]
    header = ("configuration", *(f"{way}, percent (95 %)" for way in rankings.seen))
    text = (
        "On the labels. Curves may lie apart and still have one order: what counts is the order of the points of each."
    )
    return Section("Configurations", text, figure, Table(header, tuple(rows)))


def _costs(evidence: Evidence) -> Section:
    cells = [*evidence.study.of("all_rows"), *evidence.study.of("few_rows")]
    text = "The pilot trains on all rows, once for all configurations that share it."
    return Section("What it cost", text, None, measures.table(evidence, cells))


def _checks(rankings: Rankings) -> Iterator[Check]:
    enough = measures.split_seeds(rankings.evidence)[1] is not None
    yield Check(
        "configurations too alike to be ranked",
        f"all rows decide {len(rankings.of_all)} of {_num_pairs(rankings)} pairs",
        _decides_enough(rankings) if enough else None,
    )
    lowest = int(rankings.truth.mean(axis=1).argmin())
    rates = [float(cell.value or 0.0) for cell in rankings.evidence.study.of("all_rows")]
    yield Check(
        "a best configuration at the edge of the learning rates",
        f"on all rows {rankings.labels[lowest]} loses least",
        min(rates) < rates[lowest] < max(rates) if len(set(rates)) > 2 else None,
    )
