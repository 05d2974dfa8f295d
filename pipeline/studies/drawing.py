"""How pictures are drawn: one palette, one kind of axes, curves with bands; readable in grey and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator, StrMethodFormatter

from pipeline.spec.window import Window

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's palette (2008)."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))
INTERVAL = " (95 %)"
"""How a title says that points have intervals."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One more than there are colours: no two of 56 curves look alike."""

Band = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Values with the lower and upper ends of their intervals."""


class Drawn(Figure):
    """A figure that knows what its points say."""

    def __init__(self, *args: Any, **given: Any) -> None:
        """No point says anything yet."""
        super().__init__(*args, **given)
        self.said: dict[str, list[str]] = {}
        """By the `gid` of a line, for each of its points what a page shows when a mouse is over it."""

    def say(self, line: Line2D, label: str, across: Iterable[str], band: Band) -> None:
        """Let each point of a curve say its label, its place and its value with its interval; points without a value say nothing."""
        gid = f"points-{len(self.said)}"
        line.set_gid(gid)
        self.said[gid] = [
            f"{label}\n{where}: {value:.3g}" + (f" ({low:.3g} to {high:.3g})" if np.isfinite(low) else "")
            for where, value, low, high in zip(across, *band, strict=True)
            if np.isfinite(value)
        ]


def styles() -> Iterator[tuple[str, Any, str]]:
    """Colour, dash and marker of one curve after the other, each telling them apart by itself."""
    return zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)


def axes_of(title: str, across: str, up: str) -> tuple[Drawn, Axes]:
    """A figure with one plot."""
    figure = Drawn(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _as_known(title: str, bands: Iterable[Band]) -> str:
    """A title that promises an interval only where some point has one."""
    known = any(np.isfinite(lows).any() for _, lows, _ in bands)
    return title if known else title.replace(INTERVAL, "")


def by_window(
    title: str, up: str, curves: Mapping[str, tuple[Sequence[Window], Band]], marks: Mapping[str, Window]
) -> Figure:
    """Curves over windows with their bands.

    Args:
        title: what is seen.
        up: what the values are.
        curves: by label, the windows and the values there.
        marks: vertical lines by what happens there.
    """
    figure, axes = axes_of(_as_known(title, (band for _, band in curves.values())), "window", up)
    axes.axhline(0, color="#000000", linewidth=0.8)
    for (label, (windows, band)), style in zip(curves.items(), styles(), strict=False):
        days = np.array([w.name for w in windows], dtype="datetime64[D]")
        figure.say(_band(axes, days, band, label, style), label, [w.name for w in windows], band)
    for place, (label, window) in enumerate(marks.items()):
        day: Any = np.datetime64(window.name)
        axes.axvline(day, color="#777777", linewidth=0.8, linestyle=":")
        axes.annotate(label, (day, 1 - 0.05 * place), xycoords=("data", "axes fraction"), fontsize=8, va="top")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))  # whole days
    figure.autofmt_xdate()
    _legend(axes)
    return figure


def by_number(
    title: str,
    across: str,
    up: str,
    curves: Mapping[str, tuple[Sequence[float], Band]],
    *,
    levels: Mapping[str, float] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Curves over numbers, each point with its interval.

    Args:
        title: what is seen.
        across: what the numbers are.
        up: what the values are.
        curves: by label, the numbers and the values there.
        levels: horizontal lines by what they mean.
        logarithmic: whether the numbers lie on a logarithmic axis.
    """
    figure, axes = axes_of(_as_known(title, (band for _, band in curves.values())), across, up)
    for (label, (numbers, (values, lows, highs))), (colour, dash, marker) in zip(
        curves.items(), styles(), strict=False
    ):
        error = np.maximum(0, [np.subtract(values, lows), np.subtract(highs, values)])  # rounding may pass an end
        drawn = axes.errorbar(
            numbers,
            values,
            yerr=error,
            color=colour,
            linestyle=dash,
            marker=marker,
            capsize=3,
            markersize=5,
            label=label,
        )
        figure.say(drawn[0], label, (f"{number:,.7g}" for number in numbers), (values, lows, highs))
    for place, (label, level) in enumerate((levels or {}).items()):
        axes.axhline(level, color="#777777", linewidth=0.8, linestyle=":")
        along = 1 - 0.15 * (place % 4)  # side by side: levels may lie closer than letters are high
        axes.annotate(label, (along, level), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom")
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(sorted({number for numbers, _ in curves.values() for number in numbers}))
        axes.xaxis.set_minor_locator(NullLocator())
    largest = max(number for numbers, _ in curves.values() for number in numbers)
    # A rate of 0.08 is no "80m", and three million examples are no 3e6.
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if largest >= 1000 else StrMethodFormatter("{x:g}"))
    _legend(axes)
    return figure


def _band(axes: Axes, across: Any, band: Band, label: str, style: tuple[str, Any, str]) -> Line2D:
    colour, dash, marker = style
    values, lows, highs = band
    (line,) = axes.plot(across, values, color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
    axes.fill_between(across, lows, highs, color=colour, alpha=0.12, linewidth=0)
    return line


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
