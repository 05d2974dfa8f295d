"""The cells of an iso-compute study: for each budget a few sizes, each with the rows that spend the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import ModelConfig, Variant, Widths
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import StudyError
from pipeline.studies.draft import WIDTHS, Draft, at_width, sampled, shrunk, with_batch
from pipeline.studies.estimate import row_seconds, update_seconds
from pipeline.studies.iso_compute.fields import DataAxis, Fields
from pipeline.studies.operations import forward_flops, shape_of
from pipeline.studies.selection.cells import WITH_ALL_CLICKS, click_rate, on_few, policy

ALL_ROWS = "all_rows"
STEP = math.sqrt(2)
"""From one width of a valley to the next, at most."""
MIN_SIZES = 4
"""Fewer show no valley."""
LOWEST_RATE = 0.02
"""Of the negatives: with fewer, a cell shows how well a fiftieth stands for all, and not how large a model should be."""


def draft(base: LineUp, asked: Fields) -> Draft:
    """The line-up's reference on all rows, and for each budget the sizes that it can pay for, each with its rows.

    Paper: Jain et al. 2024, "Data Efficiency for Large Recommendation Models", iso-compute analysis: model size against sampling
    rate at one budget. Its valley at other budgets is a question that it leaves open.

    Cost: a pass of the reference over all rows, and the budgets, the one held out too, times the number of sizes.

    Args:
        base: gives the data set, the workers, the evaluation slice, the reference, and learning rates.
        asked: the form's answers.
    """
    grid = Grid(base, asked)
    found = Draft(ALL_ROWS)
    found.add("reference", "the line-up's reference on all rows", grid.reference)
    for budget in asked.budgets:
        for point in grid.points(budget):
            found.add("budget", point.label, grid.variant(point), point.width, family=grid.words(budget))
    if grid.held_out is not None:
        for point in grid.points(grid.held_out):
            found.add("held_out", point.label, grid.variant(point), point.width, family=grid.words(grid.held_out))
    return found


@dataclass(frozen=True)
class Point:
    """A width with the rows that spend a budget."""

    width: int
    share: float
    """Of all rows, those that it is trained on."""
    rate: float | None
    """Of the negatives, or of all rows where a policy keeps them; None where it gives up windows."""
    num_windows: int
    """From its first to the study's last."""
    gives_up: DataAxis = "negatives"
    """What a larger model has less of."""

    @property
    def label(self) -> str:
        """As tables call it."""
        if self.rate is None:
            return f"width {self.width}, {self.num_windows} windows"
        of = "negatives" if self.gives_up == "negatives" else f"rows by {self.gives_up}"
        return f"width {self.width}, {100 * self.rate:.3g} % of {of}"

    @property
    def name(self) -> str:
        """As a line-up calls it."""
        if self.rate is None:
            return f"width_{self.width}_windows_{self.num_windows}"
        by = "kept" if self.gives_up == "negatives" else self.gives_up
        return f"width_{self.width}_{by}_{100 * self.rate:.4g}"


@dataclass(frozen=True)
class Grid:
    """What a study's budgets pay for."""

    base: LineUp
    asked: Fields
    grown: float = 1.0
    """Times the rows of a window that the log has now."""

    @property
    def reference(self) -> Variant:
        """The line-up's own, on all rows and without a teacher, in the architecture that is asked for."""
        origin = self.base.variant(self.base.reference)
        model = origin.model
        if self.asked.arch not in ("as the line-up says", model.arch):
            model = model.model_copy(update={"arch": self.asked.arch, "options": ()})
        return Variant(name=ALL_ROWS, model=model, optimizer=origin.optimizer)

    @cached_property
    def _shape(self) -> tuple[float | None, int, int]:
        """Rows of a window, if they are known, and the numbers and ids of a row that the reference sees."""
        return shape_of(self.base, self.reference.model)

    @property
    def held_out(self) -> float | None:
        """The budget that no law is fitted to, if there is one."""
        return None if self.asked.held_out is None else self.asked.held_out * max(self.asked.budgets)

    @property
    def num_windows(self) -> int:
        """From the study's first window to its last."""
        return self.asked.last.days_since(self.asked.first) + 1

    @property
    def num_judged(self) -> int:
        """Judged windows."""
        return self.asked.last.days_since(self.asked.judged or self.asked.online_start) + 1

    @property
    def rows(self) -> float:
        """Of a window, all of them.

        Raises:
            StudyError: the form says it of a simulated log, or does not of a log of one's own.
        """
        given, simulated = self.asked.rows_per_window, self._shape[0]
        if given is not None and simulated is not None:
            raise StudyError(
                f"a simulated log has {simulated:,.0f} rows a window, got `rows_per_window` {given:,} too: leave it out"
            )
        if given is None and simulated is None:
            raise StudyError(
                "how many rows a budget pays for is known only with the rows of a window, got none for a log of one's own: "
                "give `rows_per_window`, about the rows that `windrow ingest` shows over the days"
            )
        return self.grown * float(given or simulated or 0)

    def words(self, budget: float) -> str:
        """A budget as people read it: `3e10 FLOPs`."""
        return f"{short(budget)} {self.asked.unit}"

    def points(self, budget: float) -> list[Point]:
        """The widths of a budget with their rows: of all that it can pay for, those in the middle.

        Raises:
            StudyError: they are fewer than four, or the click rate is not known.
        """
        if self.asked.gives_up == "negatives":
            shrunk(self.base, self.reference, LOWEST_RATE)  # refuses a prior that is no click rate
        elif self.asked.gives_up != "windows":
            click_rate(self.base, self.reference)
        found = self.paid(budget)
        if len(found) < MIN_SIZES:
            tried = [budget * 10 ** (step / 5) for step in range(-15, 16)]
            fit = [each for each in tried if len(self.paid(each)) >= MIN_SIZES]
            cure = (
                f"budgets from {self.words(fit[0])} to {self.words(fit[-1])} have"
                if fit
                else "give more windows, judge fewer, or take rows with rarer clicks"
            )
            raise StudyError(
                f"a valley needs at least {MIN_SIZES} sizes, got {len(found)} that a budget of {self.words(budget)} can pay for "
                f"on {self.num_windows} windows of {self.rows:,.0f} rows: {cure}"
            )
        return _spread(found, self.asked.num_sizes)

    def paid(self, budget: float) -> list[Point]:
        """All widths that a budget can pay for: there are so many rows, and enough are left."""
        return [point for width in WIDTHS if (point := self._point(budget, width)) is not None]

    def _point(self, budget: float, width: int) -> Point | None:
        share = self.share(budget, self.flops(width))
        prior = self.reference.model.prior
        if self.asked.gives_up == "windows":
            num = round(share * self.num_windows)
            # As many windows before the judged ones as there are of these, at least.
            return (
                Point(width, num / self.num_windows, None, num, "windows")
                if 2 * self.num_judged <= num <= self.num_windows
                else None
            )
        if self.asked.gives_up != "negatives":
            least = 2 * prior if self.asked.gives_up in WITH_ALL_CLICKS else LOWEST_RATE
            return Point(width, share, share, self.num_windows, self.asked.gives_up) if least <= share <= 1 else None
        rate = (share - prior) / (1 - prior)
        return Point(width, share, rate, self.num_windows) if LOWEST_RATE <= rate <= 1 else None

    def variant(self, point: Point) -> Variant:
        """A point as a variant; where negatives are left out its batch shrinks with its rows, and updates stay as many."""
        own = self.reference.optimizer
        whole = at_width(self.base, Variant(name=point.name, model=self.model(point.width), optimizer=own))
        if point.rate is None:
            return whole.model_copy(update={"start": self.asked.last.shift(1 - point.num_windows)})
        if point.gives_up != "windows" and point.gives_up != "negatives":
            kept = policy(point.gives_up, point.rate, self.reference.model.prior, ALL_ROWS)
            return on_few(self.base, whole, point.name, kept, point.rate)
        batch = shrunk(self.base, whole, point.rate)
        return with_batch(sampled(whole, point.name, NegativeDownsampling(rate=point.rate)), batch)

    def model(self, width: int) -> ModelConfig:
        """A model whose layers all follow from the width of its embedding rows; else the reference's."""
        own = self.reference.model
        layers = {"bottom": (2 * width,), "over": (4 * width, 2 * width), "cross_rank": width}
        widths = Widths(embedding_dim=width, cross_layers=own.widths.cross_layers, **layers)
        return own.model_copy(update={"size": widths})

    def share(self, budget: float, flops: float) -> float:
        """Of all rows, those that a budget pays for; may be more than one, or less than none.

        Args:
            budget: in the unit of the form.
            flops: of an example's forward pass.
        """
        rows = self.rows * self.num_windows
        if self.asked.unit == "FLOPs":
            return budget / (3 * flops * rows)
        updating = update_seconds(rows / self.reference.optimizer.batch_size, self.num_windows)
        training = rows * self.row_seconds(flops)
        if self.asked.gives_up == "windows":  # which take their updates with them
            return 3600 * budget / (updating + training)
        return (3600 * budget - updating) / training

    def row_seconds(self, flops: float) -> float:
        """Of one core, to train on a row with so many operations of its forward pass."""
        return row_seconds(self._shape[2], flops)

    def dearer(self, flops: float) -> float:
        """By how many percent a row takes more of the budget, if the model has one percent more operations."""
        if self.asked.unit == "FLOPs":
            return 1.0
        return math.log(self.row_seconds(1.01 * flops) / self.row_seconds(flops)) / math.log(1.01)

    def flops(self, width: int) -> float:
        """Of an example's forward pass through the model at a width.

        Raises:
            StudyError: they are not known of its architecture.
        """
        _, num_dense, num_sparse = self._shape
        flops = forward_flops(self.model(width), num_dense, num_sparse)
        if flops is None:
            raise StudyError(
                f"operations of {self.reference.model.arch!r} are not known before it is built, got it in line-up "
                f"{self.base.name!r}: choose `arch` dlrm or dcnv2"
            )
        return flops


def short(budget: float) -> str:
    """A budget's number, as a name may hold it.

    >>> short(3e10), short(0.02)
    ('3e10', '0.02')
    """
    return f"{budget:.3g}".replace("e+0", "e").replace("e+", "e")


def _spread(found: list[Point], num: int) -> list[Point]:
    """So many points in the middle of those that a budget can pay for, evenly in the logarithm of their widths."""
    low, high = math.log(found[0].width), math.log(found[-1].width)
    reach = min(high - low, (num - 1) * math.log(STEP)) / 2
    left = list(found)
    for place in range(min(num, len(found))):
        target = (low + high) / 2 + reach * (2 * place / (num - 1) - 1)
        left.remove(min(left, key=lambda point: abs(math.log(point.width) - target)))
    return [point for point in found if point not in left]
