"""The answer of a scaling study: a curve for each scheme, what the next doubling would bring, and what the papers say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.study import Cell
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import Fit, Form, Law, TooWeak, fit
from pipeline.studies import measures
from pipeline.studies.drawing import by_number
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Check, Findings, Section, Table
from pipeline.studies.measures import percent
from pipeline.studies.scaling.cells import PRESENT
from pipeline.studies.scaling.fields import SCHEMES, Fields, Scheme

Array = NDArray[np.float64]
Verdict = Literal["still pays", "saturated", "cannot tell"]

NEAR = 0.05
"""How far from two a scale may lie to count as twice the present point."""
POWER = Form("one axis", (("scale",),))
"""loss = c + a x^-b (Ardalani et al. 2022)."""
TITLES: dict[Scheme, str] = {
    "data": "Data",
    "embedding_dim": "Embedding width",
    "embedding_rows": "Embedding rows",
    "over_width": "Width above the interactions",
    "over_depth": "Depth above the interactions",
    "dense_arch": "Width below the interactions",
    "compute": "Compute",
}
PARAMETERS: tuple[Scheme, ...] = ("embedding_dim", "embedding_rows", "over_width", "over_depth", "dense_arch")


@dataclass(frozen=True)
class _Curve:
    """The cells of one scheme, from the smallest to the largest."""

    scheme: Scheme
    cells: tuple[Cell, ...]
    scales: Array
    """(K,) relative to the present point."""
    losses: Array
    """(S, K) percent of the present point's loss."""
    fitted: Fit | None
    weak: str
    """Why no law is fitted."""
    doubled: Interval | None
    """Percent of loss that twice the present point loses less, as it was trained; None where it was not."""

    @classmethod
    def of(cls, evidence: Evidence, scheme: Scheme) -> _Curve:
        """As the ledger and the evaluations have it."""
        found = [(_scale(evidence, scheme, cell), cell) for cell in evidence.study.of(scheme)]
        found.sort(key=lambda each: each[0])
        scales = np.array([scale for scale, _ in found])
        losses = np.stack([_losses(evidence, cell.variant) for _, cell in found], axis=1)
        try:
            fitted, weak = fit(POWER, {"scale": scales}, losses, independent=evidence.independent), ""
        except TooWeak as error:
            fitted, weak = None, str(error)
        twice = [cell for scale, cell in found if abs(scale / 2 - 1) < NEAR]
        doubled = None
        if twice:
            series = evidence.series(twice[0].variant, PRESENT, evidence.judged) * -1.0
            gain = series.mean().interval()
            doubled = gain if series.of_worlds or not evidence.independent else _without_ends(gain)
        return cls(scheme, tuple(cell for _, cell in found), scales, losses, fitted, weak, doubled)

    @property
    def misfit(self) -> float:
        """Root of the mean squared residual of the law, percent."""
        return math.inf if self.fitted is None else float(np.sqrt(np.square(self.fitted.residuals).mean()))

    @property
    def doubling(self) -> Interval | None:
        """Percent of loss that the next doubling takes away, as trained or else by the law; below zero is worse."""
        if self.doubled is not None or self.fitted is None:
            return self.doubled
        found = self.fitted.interval(_of_doubling)
        return found if math.isfinite(self.fitted.law.exponent(0)) else _without_ends(found)

    def verdict(self, worthwhile: float) -> Verdict:
        """A claim only where the whole interval agrees, and only by a law that comes near what was trained."""
        gain = self.doubling
        if gain is None or not np.isfinite([gain.low, gain.high]).all():
            return "cannot tell"
        if self.doubled is None and self.misfit > worthwhile / 2:
            return "cannot tell"
        return "still pays" if gain.low > worthwhile else "saturated" if gain.high < worthwhile else "cannot tell"


def _without_ends(interval: Interval) -> Interval:
    return Interval(interval.value, math.nan, math.nan)


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    asked = Fields.of(evidence.study)
    curves = [_Curve.of(evidence, scheme) for scheme in SCHEMES if scheme in asked.schemes]
    metrics: dict[str, float] = {}
    for curve in curves:
        if curve.doubling is not None:
            metrics |= measures.ends(f"{curve.scheme}_doubling_percent", curve.doubling)
        if curve.fitted is not None:
            metrics |= measures.ends(f"{curve.scheme}_exponent", curve.fitted.interval(_exponent))
    return Findings(
        headline=_headline(curves, asked.worthwhile),
        metrics=metrics,
        sections=(
            _returns(curves, asked.worthwhile),
            *(_drawn(evidence, curve) for curve in curves),
            _claims(curves, asked.worthwhile),
            Section(
                "All cells",
                "What each lost against the present point, and what it cost.",
                None,
                measures.table(evidence, evidence.study.cells),
            ),
        ),
        checks=tuple(_checks(evidence, curves)),
        notes=(measures.scope(evidence),),
        documents={
            "laws": {curve.scheme: curve.fitted.document() for curve in curves if curve.fitted is not None},
        },
    )


def _scale(evidence: Evidence, scheme: Scheme, cell: Cell) -> float:
    if scheme != "compute":
        return cell.value or 1.0
    return evidence.tracks[cell.variant].training_flops / evidence.tracks[PRESENT].training_flops


def _losses(evidence: Evidence, variant: str) -> Array:
    means: Array = evidence.series(variant, PRESENT, evidence.judged).values.mean(axis=1)
    return means


def _of_doubling(law: Law) -> float:
    at = law.at({"scale": np.array([1.0, 2.0])})
    return float(at[0] - at[1])


def _exponent(law: Law) -> float:
    return law.exponent(0)


def _headline(curves: Sequence[_Curve], worthwhile: float) -> str:
    found = {curve.scheme: curve.verdict(worthwhile) for curve in curves}
    parts = []
    for verdict, words in (
        ("still pays", "still pays"),
        ("saturated", "is saturated"),
        ("cannot tell", "stays open"),
    ):
        names = [TITLES[scheme].lower() for scheme, each in found.items() if each == verdict]
        if names:
            parts.append(f"{', '.join(names)} {words}")
    return f"Where a doubling must bring {worthwhile:g} % of log-loss: {'; '.join(parts)}."


def _returns(curves: Sequence[_Curve], worthwhile: float) -> Section:
    rows = []
    for curve in curves:
        exponent = None if curve.fitted is None else curve.fitted.interval(_exponent)
        rows.append(
            (
                TITLES[curve.scheme],
                curve.weak if curve.doubling is None else percent(curve.doubling),
                "by the law" if curve.doubled is None else "as trained",
                "not determined" if exponent is None or math.isnan(exponent.value) else percent(exponent),
                f"{curve.misfit:.3f}",
                curve.verdict(worthwhile),
            )
        )
    header = (
        "what grows",
        "the next doubling takes away, percent of log-loss (95 %)",
        "",
        "exponent b (95 %)",
        "root of the mean squared residual, percent",
        f"a gain of {worthwhile:g} %?",
    )
    text = (
        "What twice the present point loses less was trained where there is such a model. Else (data, rows of tables) it is read off a "
        "curve a x^-b + c through the losses against the present point, x = 1, outside what was trained: nothing is claimed of it "
        "where the curve misses these by more than half of a gain worth having. Losses are of the same rows, so that a percent "
        "of log-loss is a percent of normalised cross-entropy."
    )
    return Section("Returns left", text, None, Table(header, tuple(rows)))


def _drawn(evidence: Evidence, curve: _Curve) -> Section:
    losses = [measures.judged(evidence, cell) for cell in curve.cells]
    lines = {"trained": (list(curve.scales), measures.band(losses))}
    if curve.fitted is not None:
        fitted = list(curve.fitted.law.at({"scale": curve.scales}))
        lines["a x^-b + c"] = (list(curve.scales), (fitted, fitted, fitted))
    figure = by_number(
        f"{TITLES[curve.scheme]}: loss on the judged windows against the present point (95 %)",
        "relative to the present point",
        "percent of log-loss",
        lines,
        levels={"the present point": 0.0},
        logarithmic=True,
    )
    rows = tuple(
        (cell.label, f"{scale:.3g}", percent(loss))
        for cell, scale, loss in zip(curve.cells, curve.scales, losses, strict=True)
    )
    header = ("cell", "relative to the present point", "loss, percent (95 %)")
    return Section(TITLES[curve.scheme], curve.weak or "Measured and fitted.", figure, Table(header, rows))


def _claims(curves: Sequence[_Curve], worthwhile: float) -> Section:
    found = {curve.scheme: curve.verdict(worthwhile) for curve in curves}
    rows = []
    for claim, scheme in (("data still pay", "data"), ("compute still pays", "compute")):
        if scheme in found:
            held = {"still pays": "held", "saturated": "not held", "cannot tell": "cannot tell"}[found[scheme]]
            rows.append((claim, held))
    of_parameters = {found[scheme] for scheme in PARAMETERS if scheme in found}
    if of_parameters:
        whole = of_parameters == {"saturated"} and set(PARAMETERS) <= set(found)
        held = "not held" if "still pays" in of_parameters else "held" if whole else "cannot tell"
        rows.append(("parameters are out of steam, whichever scheme", held))
        spread = "held" if {"still pays", "saturated"} <= of_parameters else "cannot tell"
        rows.append(("the schemes of parameters differ", spread))
    text = (
        "Ardalani et al. 2022 on Meta's DLRM. What this study shows of each, for its log and around its present point."
    )
    return Section("The paper's claims", text, None, Table(("claim", "here"), tuple(rows)))


def _checks(evidence: Evidence, curves: Sequence[_Curve]) -> Iterator[Check]:
    yield Check(
        "a law that its points do not determine",
        f"refused: {', '.join(TITLES[curve.scheme] for curve in curves if curve.fitted is None) or 'none'}",
        all(curve.fitted is not None for curve in curves),
    )
    worse = [
        f"{TITLES[curve.scheme]} ({curve.losses.mean(axis=0)[-1]:+.2f} %)"
        for curve in curves
        if curve.scales[-1] > 1 and curve.losses.mean(axis=0)[-1] > 0
    ]
    yield Check(
        "a larger model that loses more, for want of data or tuning",
        f"{', '.join(worse) or 'none'}",
        not worse,
    )
    widest = max(curves, key=lambda curve: float(np.ptp(curve.losses.mean(axis=0))))
    far = widest.cells[int(np.abs(widest.losses.mean(axis=0)).argmax())].variant
    effect = evidence.series(far, PRESENT, evidence.judged).mean().interval()
    yield measures.too_much_variance(evidence, far, PRESENT, effect)
