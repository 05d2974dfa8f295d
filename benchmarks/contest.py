"""Who is measured, and the measuring: everybody trains on the same rows in turn, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.spec.config import Widths

SHAPES: dict[str, Widths] = {
    "64-16 / 64-32-1": Widths(embedding_dim=16, bottom=(64,), over=(64, 32)),
    "512-256-16 / 512-256-1": Widths(embedding_dim=16, bottom=(512, 256), over=(512, 256)),
}
"""DLRM's bottom / over layers; a rival without a bottom MLP has the hidden layers of the second."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of Adagrad."""

    embedding: float
    """Of the embedding tables."""
    dense: float
    """Of all other weights."""


class Contestant(Protocol):
    """One way to train one model."""

    name: str
    """What the table calls it."""

    def train(self, window: str) -> float:
        """Train on a window once, in its order; seconds until the last weight is updated."""

    def log_loss(self, window: str) -> float | None:
        """Mean log-loss on a window; None where another contestant has the same weights."""


@dataclass(slots=True)
class Result:
    """What one contestant did."""

    name: str
    rates: list[float] = field(default_factory=list)
    """Examples/s in each round."""
    log_loss: float | None = None
    """On the held-out window, after the warm-up and one pass."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as another, from ratios within rounds: what slows a whole round cancels out."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Median and range over the rounds."""
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


def measure(
    contestants: Sequence[Contestant], *, num_rows: int, num_rounds: int, tell: Callable[[str], None]
) -> list[Result]:
    """Warm everybody up, then let all train on the same window in each round, forwards and backwards by turns.

    A round goes over the window again with the weights of the round before; the loss is taken after the first.

    Args:
        contestants: who takes part.
        num_rows: examples in the window.
        num_rounds: how often each is timed.
        tell: told in one line what came of each pass.
    """
    results = [Result(contestant.name) for contestant in contestants]
    for contestant in contestants:
        contestant.train("warm_up")
    for number in range(num_rounds):
        turn = list(zip(contestants, results, strict=True))
        for contestant, result in turn if number % 2 == 0 else reversed(turn):
            result.rates.append(num_rows / contestant.train("train"))
            tell(f"round {number + 1}: {contestant.name}: {result.rates[-1]:,.0f} examples/s")
            if number == 0:
                result.log_loss = contestant.log_loss("held_out")
    return results


def best_rates(
    make: Callable[[Rates], Contestant], grid: Sequence[Rates], tell: Callable[[str], None]
) -> tuple[Rates, float]:
    """The learning rates whose model has the least loss on the tuning windows, and that loss."""
    losses = {}
    for rates in grid:
        contestant = make(rates)
        contestant.train("tuning")
        loss = contestant.log_loss("tuning_held_out")
        if loss is None:
            raise ValueError(f"{contestant.name} has no loss to tune by: tune the contestant whose weights it shares")
        losses[rates] = loss
        tell(f"tuning {contestant.name}: embeddings {rates.embedding}, dense {rates.dense}: log-loss {loss:.5f}")
    best = min(losses, key=lambda rates: losses[rates])
    return best, losses[best]
