"""How often the studies' intervals hold the truth, their tests raise a false alarm and see what is there: `python -m benchmarks.coverage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from benchmarks.simulated_studies import TRUTHS, Days, Truth
from pipeline.statistics.convergence import convergence, saved
from pipeline.statistics.effects import transfer_ratio
from pipeline.statistics.interval import Interval
from pipeline.statistics.needed import Student, history_needed
from pipeline.statistics.trend import Trend, decay, trend

PAGE = Path(__file__).parents[1] / "docs" / "results" / "statistics.md"
SEEDS = (1, 3, 5)
CORRELATIONS = (0.2, 0.5)
SETTLED = 8
"""Windows after which the noise of the start has died down."""
HISTORIES = (2e3, 5e3, 1.2e4, 3e4, 8e4)


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

    @property
    def value(self) -> float:
        """Median of the estimates."""
        values = [i.value for i in self.intervals]
        return float(np.median([v for v in values if not np.isnan(v)] or [np.nan]))

    @property
    def unbounded(self) -> float:
        """Share of intervals with an infinite end."""
        return float(np.mean([np.isinf(i.high) or np.isinf(i.low) for i in self.intervals]))


def studies(num: int, num_windows: int, seed: int) -> Iterator[tuple[np.random.Generator, Days, int]]:
    """So many studies: 1, 3 or 5 seeds in turn, the noise's correlation drawn between 0.2 and 0.5."""
    for study in range(num):
        random = np.random.default_rng([seed, study])
        days = Days.drawn(random, num_windows, random.uniform(*CORRELATIONS))
        yield random, days, SEEDS[study % len(SEEDS)]


def of_convergence(
    truth: Truth, num: int, *, num_windows: int = 30, persistent: float = 0.0, seed: int = 1
) -> Coverage:
    """Of the window of convergence."""
    curve = truth.curve(np.arange(num_windows, dtype=float))
    return Coverage(
        truth.crossing(num_windows),
        [
            convergence(days.variant(random, curve, seeds, persistent=persistent), truth.epsilon).window
            for random, days, seeds in studies(num, num_windows, seed)
        ],
    )


def of_saving(num: int, *, num_windows: int = 30, seed: int = 2) -> Coverage:
    """Of the data that a variant three tenths faster saves."""
    window = np.arange(num_windows, dtype=float)
    return Coverage(
        0.3,
        [
            saved(
                days.variant(random, 4 * np.exp(-window / 3.5), seeds),
                days.variant(random, 4 * np.exp(-window / 5), seeds),
                0.4,
            )
            for random, days, seeds in studies(num, num_windows, seed)
        ],
    )


def of_history(num: int, *, epsilon: float = 0.8, num_judged: int = 8, seed: int = 3) -> Coverage:
    """Of the history needed, where the relative loss is one percent at 10,000 examples and falls with their root."""
    found = []
    for random, days, seeds in studies(num, SETTLED + num_judged, seed):

        def student(
            examples: float, random: np.random.Generator = random, days: Days = days, seeds: int = seeds
        ) -> Student:
            curve = np.full(SETTLED + num_judged, (examples / 1e4) ** -0.5)
            return Student(examples, days.variant(random, curve, seeds, persistent=0.03).windows(slice(SETTLED, None)))

        found.append(history_needed([student(examples) for examples in HISTORIES], epsilon).examples)
    return Coverage(1e4 / epsilon**2, found)


def trends(num: int, fitted: int, *, slope: float = 0.0, seed: int = 4) -> list[Trend]:
    """Of a penalty of one percent with so much slope a window, over the windows that follow the start."""
    curve = 1 + slope * np.arange(-SETTLED, fitted, dtype=float)
    return [
        trend(days.variant(random, curve, seeds).series(), SETTLED)
        for random, days, seeds in studies(num, SETTLED + fitted, seed)
    ]


def alarms(found: Sequence[Trend]) -> float:
    """The share of runs in which a slope is seen."""
    return float(np.mean([t.p_value < 0.05 for t in found]))


def of_decay(
    num: int, *, half_life: float = 4.0, known: bool = False, num_windows: int = 25, seed: int = 5
) -> Coverage:
    """Of the half-life of a gain of 1.5 percent, that settles at zero."""
    curve = -1.5 * 2.0 ** (-np.arange(num_windows) / half_life)
    return Coverage(
        half_life,
        [
            decay(days.variant(random, curve, seeds).series(), 0, settles_at=0.0 if known else None).half_life
            for random, days, seeds in studies(num, num_windows, seed)
        ],
    )


def of_transfer(num: int, *, num_windows: int = 12, seed: int = 6) -> Coverage:
    """Of a transfer ratio of one half."""
    half, whole = np.full(num_windows, -0.5), np.full(num_windows, -1.0)
    return Coverage(
        0.5,
        [
            transfer_ratio(days.variant(random, half, seeds), days.variant(random, whole, seeds))
            for random, days, seeds in studies(num, num_windows, seed)
        ],
    )


def of_mean(num: int, *, persistent: float = 0.0, num_windows: int = 30, seed: int = 7) -> Coverage:
    """Of the relative loss over all windows, truly one percent."""
    return Coverage(
        1.0,
        [
            days.variant(random, np.ones(num_windows), seeds, persistent=persistent).series().mean().interval()
            for random, days, seeds in studies(num, num_windows, seed)
        ],
    )


INTRODUCTION = """\
# The studies' statistics against a known truth

How often 95 % intervals hold the truth, how often a test at 5 % raises a false alarm, and what it can see, over {num}
simulated studies a line. Made by

    python -m benchmarks.coverage --write

Each simulated study (`benchmarks/simulated_studies.py`) has 1, 3 or 5 seeds in turn; noise is AR(1) with a correlation drawn between
0.2 and 0.5, partly shared by the seeds, differs by window and is 2.5 times as loud at the start; on top of it comes the luck
of the rows, in 64 groups. With {num} studies a share of 95 % is known to within {error:.1f} points.
"""

CONVERGENCE = """
## Convergence in the run

30 windows. The curve fitted is c + a 2^-(t/h)^m, which holds the exponentials exactly and none of the others. Where the
truth never converges, "too early" is the share that claims it did.

| true curve | converges at window | median estimate | holds the truth | too early | too late | median width, windows | unbounded |
|---|---|---|---|---|---|---|---|
"""

OTHERS = """
## Other intervals

Where each seed's model is off for good, a third of these studies has a single seed, which can't know: intervals hold the
truth of that seed, not of all seeds.

| interval | truth | median estimate | holds the truth | below | above | median width | unbounded |
|---|---|---|---|---|---|---|---|
"""

SLOPES = """
## Slope of a penalty

A penalty of 1 percent, fitted from window 8 on. A false alarm is p < 0.05 without a slope. Power is that for the slope
named, in percent of loss per window. A dozen windows hardly
tell noise that lasts from a slope: there the test is cautious.

| windows fitted | false alarms | smallest slope with 80 % power, median | slope | power | "constant" where it is |
|---|---|---|---|---|---|
"""


def page(num: int, tell: Callable[[str], None]) -> str:
    """The whole page."""
    lines = [INTRODUCTION.format(num=f"{num:,}", error=196 * np.sqrt(0.95 * 0.05 / num)), CONVERGENCE]
    for truth in TRUTHS:
        tell(truth.name)
        found = of_convergence(truth, num)
        lines.append(_row(f"{truth.name}, epsilon {truth.epsilon:g}", found, "{:.1f}"))
    short = of_convergence(TRUTHS[1], num, num_windows=20)
    lines.append(_row(f"{TRUTHS[1].name}, 20 windows", short, "{:.1f}"))
    seedy = of_convergence(TRUTHS[0], num, persistent=0.1)
    lines.append(_row(f"{TRUTHS[0].name}; each seed off by 0.1 for good", seedy, "{:.1f}"))
    lines.append(OTHERS)
    others: list[tuple[str, Coverage, str]] = [
        ("relative loss over 30 windows, percent", of_mean(num), "{:.2f}"),
        ("the same; each seed off by 0.1 for good", of_mean(num, persistent=0.1), "{:.2f}"),
        ("data saved by a variant 0.3 faster, share", of_saving(num), "{:.2f}"),
        ("history needed, 8 judged windows, examples", of_history(num), "{:,.0f}"),
        ("half-life, level fitted, 25 windows", of_decay(num), "{:.1f}"),
        ("half-life, level known", of_decay(num, known=True), "{:.1f}"),
        ("transfer ratio, 12 windows", of_transfer(num), "{:.2f}"),
    ]
    lines += [_row(name, found, form) for name, found, form in others]
    lines.append(SLOPES)
    for fitted, slope in ((12, 0.09), (20, 0.04), (30, 0.02), (40, 0.014)):
        tell(f"slopes over {fitted} windows")
        none = trends(num, fitted)
        some = trends(num, fitted, slope=slope)
        smallest = float(np.median([t.smallest_slope for t in none]))
        constant = float(np.mean([t.constant for t in none]))
        lines.append(
            f"| {fitted} | {alarms(none):.1%} | {smallest:.3f} | {slope:g} | {alarms(some):.1%} | {constant:.1%} |\n"
        )
    return "".join(lines)


def _row(name: str, found: Coverage, form: str) -> str:
    truth, value, width = (form.format(x) for x in (found.truth, found.value, found.width))
    return (
        f"| {name} | {truth} | {value} | {found.share:.1%} | {found.too_low:.1%} | {found.too_high:.1%} | {width} | "
        f"{found.unbounded:.1%} |\n"
    )


def main(num: int = 1000, write: bool = False) -> None:
    """Measure, print and with --write keep the page."""
    made = page(num, lambda line: typer.echo(line, err=True))
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
