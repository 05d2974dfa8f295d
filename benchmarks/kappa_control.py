"""Kappa's positive control: where its assumptions hold, does sampling cost what theory says? `python -m benchmarks.kappa_control`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.special import expit, logit

from benchmarks.measured import mean_ratio, shown
from pipeline.data.simulator import Simulator
from pipeline.spec.simulated import SimulatorConfig
from pipeline.statistics.kappa import kappa_offset_of, kappa_weight_of
from pipeline.storage.hashing import keyed_uniform
from pipeline.training.metrics import entropy, log_losses

PAGE = Path(__file__).parents[1] / "docs" / "results" / "kappa_control.md"
NUM_DENSE = 30
BASE_RATE = 0.02
UPDATES = 4096
"""Of each fit by Adagrad, whatever it trains on: the batch shrinks with the rows."""
GOAL = 0.1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Rows of a log whose true logit is linear, and others to judge by."""

    x: Array
    """(N, d), the first column ones."""
    label: Array
    ids: NDArray[np.uint64]
    fresh: Array
    """(M, d)"""
    truth: Array
    """(M,) true probabilities of the fresh rows."""

    @classmethod
    def drawn(cls, seed: int, rows: int) -> World:
        """Two windows of the simulator without interactions, ids, drift, churn or new ids."""
        config = SimulatorConfig(
            seed=seed, rows_per_window=rows, base_rate=BASE_RATE, num_dense=NUM_DENSE, num_categorical=0, num_interactions=0,
            drift=0.0, churn=0.0, new_ids=0.0,
        )  # fmt: skip
        simulator = Simulator(config)
        trained, fresh = (list(simulator.window(config.origin.shift(day))) for day in range(2))

        def column(batches: list, name: str) -> Array:  # type: ignore[type-arg]
            return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches])

        def features(batches: list) -> Array:  # type: ignore[type-arg]
            numbers = [column(batches, f"I{index + 1}") for index in range(NUM_DENSE)]
            return np.column_stack([np.ones(len(numbers[0])), *numbers]).astype(np.float64)

        return cls(
            features(trained), column(trained, "label").astype(float), column(trained, "example_id"), features(fresh),
            column(fresh, "true_prob"),
        )  # fmt: skip

    def excess(self, beta: Array) -> float:
        """Mean Kullback-Leibler divergence from the truth on the fresh rows."""
        return float((log_losses(self.fresh @ beta, self.truth) - entropy(self.truth)).mean())


@dataclass(frozen=True)
class Sample:
    """Rows that are trained on, with weight and offset."""

    x: Array
    label: Array
    weight: Array
    offset: float

    @classmethod
    def ways(cls, world: World, rate: float) -> dict[str, Sample]:
        """All rows, and all positives with a fraction of the negatives under both corrections."""
        kept = (world.label > 0) | (keyed_uniform(world.ids, salt=1) < rate)
        x, label = world.x[kept], world.label[kept]
        weight = np.where(label > 0, 1.0, 1 / rate)
        return {
            "all": cls(world.x, world.label, np.ones(len(world.label)), 0.0),
            "weight": cls(x, label, weight, 0.0),
            "offset": cls(x, label, np.ones(len(label)), -np.log(rate)),
        }

    def gradient(self, beta: Array, rows: slice) -> Array:
        """Of the sum of losses."""
        x = self.x[rows]
        found: Array = x.T @ (self.weight[rows] * (expit(x @ beta + self.offset) - self.label[rows]))
        return found


def maximum_likelihood(sample: Sample) -> Array:
    """Newton's method."""
    beta = _start(sample)
    for _ in range(15):
        p = expit(sample.x @ beta + sample.offset)
        curvature = (sample.x * (sample.weight * p * (1 - p))[:, None]).T @ sample.x
        beta -= np.linalg.solve(curvature, sample.gradient(beta, slice(None)))
    return beta


def adagrad(sample: Sample, learning_rate: float) -> tuple[Array, Array]:
    """One pass: the last weights, and the mean of those of the second half (Polyak & Juditsky 1992)."""
    num = len(sample.label)
    edges = np.linspace(0, num, UPDATES + 1).astype(int)
    beta = _start(sample)
    squares, mean = np.full_like(beta, 1e-12), np.zeros_like(beta)
    for number, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        gradient = sample.gradient(beta, slice(first, last)) * UPDATES / num
        squares += gradient**2
        beta = beta - learning_rate * gradient / np.sqrt(squares)
        if number >= UPDATES // 2:
            mean += beta / (UPDATES - UPDATES // 2)
    return beta, mean


def _start(sample: Sample) -> Array:
    beta = np.zeros(sample.x.shape[1])
    beta[0] = logit(BASE_RATE)
    return beta


def fits(learning_rates: tuple[float, ...]) -> dict[str, Callable[[Sample], Array]]:
    """Every way to fit, by name."""
    found: dict[str, Callable[[Sample], Array]] = {"maximum likelihood": maximum_likelihood}
    for rate in learning_rates:
        found[f"Adagrad {rate:g}, averaged"] = lambda sample, rate=rate: adagrad(sample, rate)[1]  # type: ignore[misc]
        found[f"Adagrad {rate:g}, last weights"] = lambda sample, rate=rate: adagrad(sample, rate)[0]  # type: ignore[misc]
    return found


def measured(
    seeds: int, rows: int, rate: float, learning_rates: tuple[float, ...], tell: Callable[[str], None]
) -> tuple[dict[str, float], Mapping[tuple[str, str], list[float]]]:
    """Predicted kappa by correction, mean over seeds, and by fit and correction each seed's ratio of excesses."""
    ratios: dict[tuple[str, str], list[float]] = {}
    predicted: dict[str, list[float]] = {"weight": [], "offset": []}
    for seed in range(seeds):
        world = World.drawn(seed, rows)
        ways, logits = Sample.ways(world, rate), logit(world.truth)
        predicted["weight"].append(kappa_weight_of(logits, rate))
        predicted["offset"].append(kappa_offset_of(logits, rate))
        for name, fit in fits(learning_rates).items():
            whole = world.excess(fit(ways["all"]))
            for correction in predicted:
                ratios.setdefault((name, correction), []).append(world.excess(fit(ways[correction])) / whole)
        tell(f"seed {seed} of {seeds}")
    return {name: float(np.mean(values)) for name, values in predicted.items()}, ratios


INTRODUCTION = """\
# Kappa where its assumptions hold

The excess loss of a model fitted to a sample of the negatives, over that of the same model fitted to all rows: theory says
kappa, for a well-specified model that is fitted by maximum likelihood. Here is such a world: the simulator with {dense} numbers, and
no ids, interactions, drift or churn, and a linear model. Both are judged by their divergence from the true probabilities on
rows of another day. Geometric means over {seeds} seeds, each a world of its own, with 95 % t-intervals; the goal is a mean
within 10 % of theory, for maximum likelihood and for averaged weights.

    {command}

{rows:,} rows, clicks at {base:.0%}, {rate:.0%} of the negatives kept; Adagrad makes one pass of {updates:,} updates.

| fit | correction | kappa, predicted | measured (95 %) | measured over predicted | goal |
|---|---|---|---|---|---|
"""


def lines(predicted: Mapping[str, float], ratios: Mapping[tuple[str, str], list[float]]) -> Iterator[str]:
    """The table's rows."""
    for (name, correction), values in ratios.items():
        found, kappa = mean_ratio(values), predicted[correction]
        off = found.value / kappa
        goal = "" if "last" in name else "met" if abs(off - 1) <= GOAL else "**not met**"
        yield f"| {name} | {correction} | {kappa:.2f} | {shown(found)} | {off:.2f} | {goal} |\n"


def main(
    seeds: Annotated[int, typer.Option(min=2)] = 20,
    rows: Annotated[int, typer.Option(min=10_000, help="Rows trained on.")] = 600_000,
    rate: Annotated[float, typer.Option(min=0.001, max=1.0, help="Fraction of the negatives kept.")] = 0.02,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/kappa_control.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    predicted, ratios = measured(seeds, rows, rate, (0.5, 0.2, 0.02), lambda line: typer.echo(line, err=True))
    made = INTRODUCTION.format(
        dense=NUM_DENSE, seeds=seeds, command=" ".join(["python -m benchmarks.kappa_control", *sys.argv[1:]]), rows=rows,
        base=BASE_RATE, rate=rate, updates=UPDATES,
    ) + "".join(lines(predicted, ratios))  # fmt: skip
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
