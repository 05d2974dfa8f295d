"""What the pages of all benchmarks share: the machine, a ratio with its interval, and whether a goal is met."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TypeVar

import numpy as np
from scipy.stats import ttest_1samp

from pipeline.statistics.interval import Interval
from pipeline.storage import parquet

T = TypeVar("T")


def mean_ratio(ratios: Sequence[float]) -> Interval:
    """Geometric mean of ratios within rounds, with a 95 % t-interval."""
    logs = np.log(ratios)
    ends = ttest_1samp(logs, 0.0).confidence_interval(0.95)
    return Interval(*(float(np.exp(log)) for log in (logs.mean(), ends.low, ends.high)))


class Turns:
    """Wall times of parts that go by turns, round after round."""

    def __init__(self) -> None:
        """No part has been timed."""
        self.seconds: dict[str, list[float]] = {}

    def time(self, part: str, work: Callable[[], T]) -> T:
        """Do a part, from files that nobody holds open."""
        parquet.forget()
        started = time.perf_counter()
        found = work()
        self.seconds.setdefault(part, []).append(time.perf_counter() - started)
        return found

    def ratio(self, *parts: str, over: str) -> Interval:
        """Parts' time together over that of another, with its interval over the rounds."""
        together = zip(*(self.seconds[part] for part in parts), strict=True)
        return mean_ratio([sum(ours) / theirs for ours, theirs in zip(together, self.seconds[over], strict=True)])


def shown(ratio: Interval) -> str:
    """A ratio with its interval, as people read it."""
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def verdict(goal: float, is_met: bool) -> str:
    """A goal, and whether it is met."""
    return f"{goal:g}: {'met' if is_met else '**not met**'}"


def machine(load: float, *packages: str, cores: int | None = None) -> str:
    """The line that says on what a page was measured: processor, versions, and how busy it was."""
    cores = cores or os.cpu_count() or 1
    note = " **The machine was not idle: trust the ratios, not the rest.**" if load > 0.5 * cores else ""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"- {processor()}, {cores} cores; {platform.system()}, Python {platform.python_version()}, {versions}. "
        f"Load before the run: {load:.1f}.{note}"
    )


def processor() -> str:
    """What the machine says it computes with."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
