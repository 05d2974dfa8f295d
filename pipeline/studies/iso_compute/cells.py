"""The cells of an iso-compute study: for each budget a few sizes, each with the rows that spend exactly the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import ModelConfig, Variant, Widths
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import StudyError
from pipeline.studies.draft import Draft, at_width, sampled, shrunk, with_batch
from pipeline.studies.estimate import forward_flops, row_seconds, shape_of, update_seconds
from pipeline.studies.iso_compute.fields import Fields

ALL_ROWS = "all_rows"
WIDTHS = tuple(range(4, 516, 4))
"""Of embedding rows: tables take multiples of four."""
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

    Cost: a pass of the reference over all rows, and the budgets times the number of sizes.

    Args:
        base: gives the data set, the workers, the evaluation slice, the reference, and learning rates.
        asked: the form's answers.
    """
    grid = Grid(base, asked)
    found = Draft(ALL_ROWS)
    found.add("reference", "the line-up's reference on all rows", grid.reference)
    for budget in asked.budgets:
        for size in grid.sizes(budget):
            found.add("budget", size.label, grid.variant(size), size.width, family=grid.words(budget))
    return found


@dataclass(frozen=True)
class Size:
    """One point of a valley."""

    width: int
    share: float
    """Of the rows that it is trained on."""
    rate: float | None
    """Of the negatives; None where it gives up windows."""
    num_windows: int
    """From its first to the study's last."""

    @property
    def label(self) -> str:
        """As tables call it."""
        kept = f"{self.num_windows} windows" if self.rate is None else f"{100 * self.rate:.3g} % of negatives"
        return f"width {self.width}, {kept}"

    @property
    def name(self) -> str:
        """As the line-up calls it."""
        kept = f"windows_{self.num_windows}" if self.rate is None else f"kept_{100 * self.rate:.4g}"
        return f"width_{self.width}_{kept}"


@dataclass(frozen=True)
class Grid:
    """What a study's budgets pay for."""

    base: LineUp
    asked: Fields

    @property
    def reference(self) -> Variant:
        """The line-up's own, on all rows and without a teacher."""
        origin = self.base.variant(self.base.reference)
        return Variant(name=ALL_ROWS, model=self._arch(origin.model), optimizer=origin.optimizer)

    @property
    def num_windows(self) -> int:
        """From the study's first window to its last."""
        return self.asked.last.days_since(self.asked.first) + 1

    @property
    def rows(self) -> float:
        """Of a window, all of them.

        Raises:
            StudyError: the log is no simulated one, and the form does not say.
        """
        found = self.asked.rows_per_window or shape_of(self.base)[0]
        if found is None:
            raise StudyError(
                "how many rows a budget pays for is known only with the rows of a window, got none for a log of one's own: "
                "give `rows_per_window`, about what `windrow status` shows"
            )
        return float(found)

    def words(self, budget: float) -> str:
        """A budget as people read it."""
        return f"{budget:.3g} {self.asked.unit}"

    def sizes(self, budget: float) -> list[Size]:
        """The sizes of a budget: of all that it can pay for, those in the middle.

        Raises:
            StudyError: they are fewer than four.
        """
        found = [size for width in WIDTHS if (size := self.size(budget, width)) is not None]
        if len(found) < MIN_SIZES:
            tried = (budget * 10 ** (step / 5) for step in range(-15, 16))
            fit = [each for each in tried if sum(self.size(each, w) is not None for w in WIDTHS) >= MIN_SIZES]
            cure = (
                f"budgets from {self.words(fit[0])} to {self.words(fit[-1])} have"
                if fit
                else "give more windows, or rows with rarer clicks"
            )
            raise StudyError(
                f"a valley needs at least {MIN_SIZES} sizes, got {len(found)} that a budget of {self.words(budget)} can pay for "
                f"on {self.num_windows} windows of {self.rows:,.0f} rows: {cure}"
            )
        return _spread(found, self.asked.num_sizes)

    def size(self, budget: float, width: int) -> Size | None:
        """A width with the rows that spend the budget; None where there are not so many rows, or where too few are left."""
        share = self.share(budget, self.flops(width))
        prior = self.reference.model.prior
        if self.asked.gives_up == "windows":
            num = round(share * self.num_windows)
            judged = self.asked.last.days_since(self.asked.judged or self.asked.online_start) + 1
            return Size(width, num / self.num_windows, None, num) if judged < num <= self.num_windows else None
        rate = (share - prior) / (1 - prior)
        return Size(width, share, rate, self.num_windows) if LOWEST_RATE <= rate <= 1 else None

    def variant(self, size: Size) -> Variant:
        """A size as a variant; its batch shrinks with its rows, so that all take as many updates a window."""
        own = self.reference.optimizer
        whole = at_width(self.base, Variant(name=size.name, model=self.model(size.width), optimizer=own))
        if size.rate is None:
            return whole.model_copy(update={"start": self.asked.last.shift(1 - size.num_windows)})
        batch = shrunk(self.base, whole, size.rate)
        return with_batch(sampled(whole, size.name, NegativeDownsampling(rate=size.rate)), batch)

    def model(self, width: int) -> ModelConfig:
        """The reference's model at another width."""
        widths = Widths(embedding_dim=width, bottom=(2 * width,), over=(4 * width, 2 * width), cross_rank=width)
        return self.reference.model.model_copy(update={"size": widths})

    def _arch(self, model: ModelConfig) -> ModelConfig:
        return model if self.asked.arch == "as the line-up says" else model.model_copy(update={"arch": self.asked.arch})

    def share(self, budget: float, flops: float) -> float:
        """Of all rows, those that a budget pays for, by the operations of an example's forward pass; may be more than one."""
        rows, num_sparse = self.rows * self.num_windows, shape_of(self.base)[2]
        if self.asked.unit == "FLOPs":
            return budget / (3 * flops * rows)
        updates = rows / self.reference.optimizer.batch_size
        return (3600 * budget - update_seconds(updates, self.num_windows)) / (rows * row_seconds(num_sparse, flops))

    def flops(self, width: int) -> float:
        """Of an example's forward pass through the model at a width.

        Raises:
            StudyError: they are not known of its architecture.
        """
        _, num_dense, num_sparse = shape_of(self.base)
        flops = forward_flops(self.model(width), num_dense, num_sparse)
        if flops is None:
            raise StudyError(
                f"operations of {self.reference.model.arch!r} are not known before it is built, got it in line-up "
                f"{self.base.name!r}: choose `arch` dlrm or dcnv2"
            )
        return flops


def _spread(found: list[Size], num: int) -> list[Size]:
    """So many sizes in the middle of those that a budget can pay for, evenly in their logarithm."""
    low, high = math.log(found[0].width), math.log(found[-1].width)
    reach = min(high - low, (num - 1) * math.log(STEP)) / 2
    left = list(found)
    for place in range(min(num, len(found))):
        target = (low + high) / 2 + reach * (2 * place / (num - 1) - 1)
        left.remove(min(left, key=lambda size: abs(math.log(size.width) - target)))
    return [size for size in found if size not in left]
