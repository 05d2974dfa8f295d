"""How often the studies' intervals hold the truth, and their tests raise a false alarm: `python -m benchmarks.coverage`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import typer

from benchmarks.simulated_studies import TRUTHS, LawTruth, Truth, luck_of_starts, one_log, students, worlds
from pipeline.statistics.crossing import below_for_good, half_life
from pipeline.statistics.data_curve import data_needed, data_saved
from pipeline.statistics.interval import Interval
from pipeline.statistics.law import fit
from pipeline.statistics.trend import Trend, transfer_ratio, trend
from pipeline.statistics.valley import SPLIT, best_size

PAGE = Path(__file__).parents[1] / "docs" / "results" / "statistics.md"
SEEDS = (8, 24)
CORRELATIONS = (0.3, 0.85)
HISTORIES = np.array([1.0, 1.4, 1.9, 2.4, 2.8, 3.3])
"""Million examples that students had seen."""
GAIN = 3.0
"""Percent of loss over a million examples, the truth being c + GAIN / D."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Intervals against the truth."""

    truth: float
    intervals: Sequence[Interval]

    @property
    def share(self) -> float:
        """Of intervals that hold the truth."""
        return float(np.mean([i.low <= self.truth <= i.high for i in self.intervals]))

    @property
    def too_high(self) -> float:
        """Share of intervals that lie above the truth."""
        return float(np.mean([i.low > self.truth for i in self.intervals]))

    @property
    def too_low(self) -> float:
        """Share of intervals that lie below the truth; where it is infinite, that claim a convergence that is not."""
        return float(np.mean([i.high < self.truth for i in self.intervals]))

    @property
    def width(self) -> float:
        """Median."""
        return float(np.median([i.high - i.low for i in self.intervals]))


def studies(num: int, make: Callable[[np.random.Generator], Interval], truth: float) -> Coverage:
    """So many studies, each with random numbers of its own."""
    return Coverage(truth, [make(np.random.default_rng([1, study])) for study in range(num)])


def of_mean(num: int, seeds: int, rho: float) -> Coverage:
    """Of a relative loss of one percent over 20 windows."""
    return studies(num, lambda random: worlds(random, np.ones(20), seeds, rho).mean().interval(), 1.0)


def of_slope(num: int, seeds: int, rho: float) -> Coverage:
    """Of a slope of 0.02 percent a window over 20 windows."""
    curve = 1 + 0.02 * np.arange(20)
    return studies(num, lambda random: trend(worlds(random, curve, seeds, rho)).slope, 0.02)


def of_change(num: int, seeds: int, rho: float) -> Coverage:
    """Of a change over 20 windows by a fifth of the mean."""
    curve = 1 + 0.2 * np.linspace(-0.5, 0.5, 20)
    return studies(num, lambda random: trend(worlds(random, curve, seeds, rho)).change, 0.2)


def of_transfer(num: int, seeds: int, rho: float) -> Coverage:
    """Of a transfer ratio of one half, twelve windows."""

    def make(random: np.random.Generator) -> Interval:
        shared = worlds(random, np.zeros(12), seeds, rho)
        student, teacher = (
            shared * 0.5 + worlds(random, np.full(12, level), seeds, rho) * 0.5 for level in (-1.0, -2.0)
        )
        return transfer_ratio(student, teacher)

    return studies(num, make, 0.5)


def of_convergence(truth: Truth, num: int, seeds: int, rho: float, num_windows: int = 30) -> Coverage:
    """Of the windows until a curve comes to stay below its limit."""
    curve = truth.curve(np.arange(1, num_windows + 1, dtype=float))
    return studies(
        num,
        lambda random: below_for_good(worlds(random, curve, seeds, rho), truth.epsilon),
        truth.crossing(num_windows),
    )


def of_half_life(num: int, seeds: int, rho: float) -> Coverage:
    """Of the half-life of 4 windows of a gain of 1.5 percent that is lost."""
    curve = 1.5 * 2.0 ** (-np.arange(20) / 4)
    return studies(num, lambda random: half_life(worlds(random, curve, seeds, rho)), 4.0)


def of_data_needed(num: int, seeds: int) -> Coverage:
    """Of the data that lose half a percent, which is at two millions."""
    loss = GAIN / HISTORIES - GAIN / 2

    def make(random: np.random.Generator) -> Interval:
        luck = luck_of_starts(random, seeds, len(HISTORIES))
        return data_needed(students(random, HISTORIES, loss, luck), np.zeros(seeds))

    return studies(num, make, 2.0)


def of_data_saved(num: int, seeds: int, *, power: bool = True, alike: bool = True) -> Coverage:
    """Of the data saved where the others' curve is level with ours at 1.65 of 3.3 millions: one half.

    Args:
        num: of studies.
        seeds: of each.
        power: losses fall with a power of the data, else exponentially.
        alike: students that started at the same time share their luck.
    """

    def curve(data: float | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Any:
        return GAIN / np.asarray(data) if power else GAIN * np.exp(-np.asarray(data) / 0.8)

    ours, theirs = curve(HISTORIES), curve(HISTORIES[1:]) + curve(1.65) - curve(3.3)

    def make(random: np.random.Generator) -> Interval:
        luck = luck_of_starts(random, seeds, len(HISTORIES))
        other = luck if alike else luck_of_starts(random, seeds, len(HISTORIES))
        return data_saved(students(random, HISTORIES, ours, luck), students(random, HISTORIES[1:], theirs, other))

    return studies(num, make, 0.5)


def of_one_log(num: int, rho: float, *, slope: bool) -> Coverage:
    """Of the mean, or the slope, over 30 windows of a single log."""
    curve = 1 + 0.02 * (np.arange(30) - 14.5)

    def make(random: np.random.Generator) -> Interval:
        series = one_log(random, curve, rho)
        return trend(series).slope if slope else series.mean().interval()

    return studies(num, make, 0.02 if slope else 1.0)


def trends(num: int, seeds: int, rho: float, *, slope: float = 0.0) -> list[Trend]:
    """Of a penalty of one percent over 20 windows."""
    curve = 1 + slope * np.arange(20)
    return [trend(worlds(np.random.default_rng([2, study]), curve, seeds, rho)) for study in range(num)]


def alarms(found: Sequence[Trend]) -> float:
    """The share of runs in which a slope is seen."""
    return float(np.mean([t.p_value < 0.05 for t in found]))


def of_laws(num: int, seeds: int) -> dict[str, Coverage]:
    """Of what a law says: the best size of a budget, an exponent, and the loss at four times the size and the data."""
    truth = LawTruth()
    points = truth.grid()
    sizes = points["model"][6:12]
    far = {"model": np.array([4 * sizes.max()]), "data": np.array([4 * points["data"].max()])}
    found: dict[str, list[Interval]] = {
        "best size of a budget": [],
        "exponent of the size": [],
        "loss at four times all": [],
    }
    for study in range(num):
        law = fit(SPLIT, points, truth.losses(np.random.default_rng([3, study]), points, seeds, 0.02))
        found["best size of a budget"].append(best_size(law, sizes, lambda models: 3 / models))
        found["exponent of the size"].append(law.interval(lambda each: each.exponent(0)))
        found["loss at four times all"].append(law.interval(lambda each: float(each.at(far)[0])))
    truths = (truth.best(3.0), truth.alpha, float(truth.at(far["model"], far["data"])[0]))
    return {name: Coverage(true, found[name]) for name, true in zip(found, truths, strict=True)}


INTRODUCTION = """\
# The studies' statistics against a known truth

How often 95 % intervals hold the truth, and how often a test at 5 % raises a false alarm, over {num} simulated studies a
line. Made by

    python -m benchmarks.coverage --write

Seeds are worlds: each has a level of its own (standard deviation 0.25 % of the loss), a slope of its own (0.015 % a window) and
noise of its own from window to window (0.15 %, AR(1) with the correlation named). For data needed and saved, students that started
at the same time are off by a luck of 0.5 % that they share, and by 0.1 % of their own, as measured in the rich world. With {num} studies a share of 95 % is
known to within {error:.1f} points. *Below* and *above* say on which side of the truth the other intervals lie.

| statistic | seeds | correlation | truth | holds the truth | below | above | median width |
|---|---|---|---|---|---|---|---|
"""
SLOPES = """
## Slope of a penalty

A penalty of 1 % over 20 windows. A false alarm is p < 0.05 without a slope; power is for a slope of 0.02 % a window.

| seeds | correlation | false alarms | power | "constant" where it is |
|---|---|---|---|---|
"""
LAWS = """
## Scaling laws

loss = E + A size^-alpha + B rows^-beta with alpha 0.6 and beta 0.3, fitted to three budgets of six sizes each; each world has a
level and a steepness of its own (5 %) and noise of 0.02 % at each point. {num} studies a line.

| statistic | seeds | correlation | truth | holds the truth | below | above | median width |
|---|---|---|---|---|---|---|---|
"""
LINEAR: dict[str, Callable[[int, int, float], Coverage]] = {
    "relative loss, percent, 20 windows": of_mean,
    "slope, percent a window, 20 windows": of_slope,
    "change over 20 windows, share of the mean": of_change,
    "transfer ratio, 12 windows": of_transfer,
    "half-life, windows, of 20": of_half_life,
}
DATA: dict[str, Callable[[int, int], Coverage]] = {
    "data needed, millions, 6 starts": of_data_needed,
    "data saved, share; losses fall with a power": of_data_saved,
    "data saved, share; losses fall exponentially": partial(of_data_saved, power=False),
    "data saved, share; no luck is shared": partial(of_data_saved, alike=False),
}


def page(num: int, tell: Callable[[str], None]) -> str:
    """The whole page."""
    lines = [INTRODUCTION.format(num=f"{num:,}", error=196 * np.sqrt(0.95 * 0.05 / num))]
    by_correlation = LINEAR | {
        f"converged within {truth.epsilon:g} %, windows of 30; {truth.name}": partial(of_convergence, truth)
        for truth in TRUTHS
    }
    for seeds in SEEDS:
        for rho, (name, of) in product(CORRELATIONS, by_correlation.items()):
            tell(f"{name}, {seeds} seeds, correlation {rho}")
            lines.append(_row(name, seeds, rho, of(num, seeds, rho)))
        lines += [_row(name, seeds, "", in_data(num, seeds)) for name, in_data in DATA.items()]
    for rho in CORRELATIONS:
        for name, slope in (("relative loss, percent, 30 windows of a single log", False), ("slope, the same", True)):
            tell(f"{name}, correlation {rho}")
            lines.append(_row(name, "one log", rho, of_one_log(num, rho, slope=slope)))
    lines.append(SLOPES)
    for seeds, rho in product(SEEDS, CORRELATIONS):
        none = trends(num, seeds, rho)
        constant = float(np.mean([found.constant for found in none]))
        power = alarms(trends(num, seeds, rho, slope=0.02))
        lines.append(f"| {seeds} | {rho} | {alarms(none):.1%} | {power:.1%} | {constant:.1%} |\n")
    lines.append(laws(num // 4, tell))
    return "".join(lines)


def laws(num: int, tell: Callable[[str], None]) -> str:
    """The part of the page on scaling laws."""
    lines = [LAWS.format(num=f"{num:,}")]
    for seeds in SEEDS:
        tell(f"scaling laws, {seeds} seeds")
        lines += [_row(name, seeds, "", found) for name, found in of_laws(num, seeds).items()]
    return "".join(lines)


def _row(name: str, seeds: int | str, rho: float | str, found: Coverage) -> str:
    return (
        f"| {name} | {seeds} | {rho} | {found.truth:.3g} | {found.share:.1%} | {found.too_low:.1%} | {found.too_high:.1%} | "
        f"{found.width:.2g} |\n"
    )


def main(num: int = 4000, write: bool = False, only_laws: bool = False) -> None:
    """Measure, print and with --write keep the page; with --only-laws its part on scaling laws alone, in the place of the old."""
    tell = partial(typer.echo, err=True)
    if only_laws:
        whole = PAGE.read_text() if PAGE.exists() else ""
        made = whole.split("\n## Scaling laws")[0] + laws(num // 4, tell)
    else:
        made = page(num, tell)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
