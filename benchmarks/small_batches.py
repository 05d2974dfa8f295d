"""How much of its speed a tiny model keeps at small batches, and where a step's time goes: `python -m benchmarks.small_batches`."""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from benchmarks.contest_data import Examples, make_examples
from benchmarks.contestants import DEVICE, SEED, join_alone
from benchmarks.measured import machine, mean_ratio, shown, verdict
from pipeline.spec.config import All, ModelConfig, OptimizerConfig, StepConfig
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.training.batch import ClickBatch
from pipeline.training.losses import click_loss
from pipeline.training.train import OneByOne, Trainer

PAGE = Path(__file__).parents[1] / "docs" / "results" / "small_batches.md"
SMALL, LARGE = 297, 1024
GOAL = 0.6
PARTS = ("zero gradients", "lookup", "dense layers and interaction", "loss", "backward", "optimizer")
REST = "reading, batches and metrics"


class Timed(OneByOne):
    """The same steps with the seconds of each of their parts added up."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer.model, trainer.optimizer)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.num_steps = 0

    def progress(self, stream: Iterator[ClickBatch]) -> torch.Tensor:
        """(B,) logits of the next batch."""
        batch, network, ticks = next(stream), self._model.module.network.dlrm, [time.perf_counter()]
        self._dense.zero_grad()
        ticks.append(time.perf_counter())
        sparse = network.sparse_arch(batch.sparse)
        ticks.append(time.perf_counter())
        shared = network.inter_arch(dense_features=network.dense_arch(batch.dense), sparse_features=sparse)
        logits = network.over_arch(shared).squeeze(-1)
        ticks.append(time.perf_counter())
        loss = click_loss(logits, batch)
        ticks.append(time.perf_counter())
        loss.backward()  # type: ignore[no-untyped-call]
        ticks.append(time.perf_counter())
        self._dense.step()
        ticks.append(time.perf_counter())
        for part, start, end in zip(PARTS, ticks, ticks[1:], strict=False):
            self.seconds[part] += end - start
        self.num_steps += 1
        detached: torch.Tensor = logits.detach()
        return detached


@dataclass
class Side:
    """One batch size: a trainer, and what its rounds took."""

    batch_size: int
    trainer: Trainer
    config: StepConfig
    wall: list[float] = field(default_factory=list)
    """Rows/s by the clock of each round."""
    own: list[float] = field(default_factory=list)
    """Rows per second of the processor's time."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds of a step's parts, round by round."""

    @classmethod
    def of(cls, examples: Examples, batch_size: int) -> Side:
        """A tiny DLRM at its defaults."""
        model, optimizer = ModelConfig(size="tiny"), OptimizerConfig(batch_size=batch_size)
        config = StepConfig(model=model, optimizer=optimizer, selection=All(), seed=SEED)
        return cls(batch_size, Trainer(examples.features, model, optimizer, seed=SEED, device=DEVICE), config)

    def train(self, examples: Examples) -> None:
        """A pass over the window as a step of a chain makes it."""
        share = examples.share("train")
        wall, own = time.perf_counter(), time.process_time()
        self.trainer.train(share, self.config)
        self.wall.append(share.num_rows / (time.perf_counter() - wall))
        self.own.append(share.num_rows / (time.process_time() - own))

    def dissect(self, examples: Examples) -> None:
        """The same pass with a clock at each of its parts."""
        plain, timed = self.trainer._pipeline, Timed(self.trainer)
        self.trainer._pipeline = timed
        started = time.perf_counter()
        self.trainer.train(examples.share("train"), self.config)
        whole = time.perf_counter() - started
        self.trainer._pipeline = plain
        for part, seconds in {**timed.seconds, REST: whole - sum(timed.seconds.values())}.items():
            self.parts.setdefault(part, []).append(1000 * seconds / timed.num_steps)


def measure(examples: Examples, rounds: int, tell: Callable[[str], None]) -> tuple[Side, Side]:
    """Both batch sizes by turns within each round; what slows a whole round cancels out."""
    sides = Side.of(examples, SMALL), Side.of(examples, LARGE)
    for side in sides:  # first steps build what later ones use again
        side.train(examples)
        side.wall.clear()
        side.own.clear()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            side.train(examples)
        tell(f"round {number + 1}: {sides[0].wall[-1]:,.0f} and {sides[1].wall[-1]:,.0f} rows/s")
    for number in range(max(2, rounds // 4)):
        for side in sides if number % 2 == 0 else reversed(sides):
            side.dissect(examples)
    return sides


def kept(sides: tuple[Side, Side], *, own: bool = False) -> Interval:
    """The small batch's speed over the large one's, with its 95 % interval over the rounds."""
    small, large = (side.own if own else side.wall for side in sides)
    return mean_ratio([one / other for one, other in zip(small, large, strict=True)])


INTRODUCTION = f"""\
# A tiny model at small batches

Rows/s of training passes over one window of Criteo's shape (13 dense and 26 categorical columns) from parquet to updated
weights, progressive metrics included: a tiny DLRM, one worker on CPUs, at batch {SMALL} and at {LARGE}. Both go by turns
within a round; the ratio is the geometric mean over the rounds with a 95 % t-interval, and the goal is met where
its lower end is. By the processor's time the ratio is free of what else the machine did.
"""


def page(command: str, rows: int, rounds: int, load: float, found: Sequence[tuple[int, tuple[Side, Side]]]) -> str:
    """The whole page."""
    lines = [
        INTRODUCTION,
        f"    {command}\n",
        machine(load, "torch", "torchrec"),
        f"- {rounds} rounds over {rows:,} rows.\n",
        f"| threads | batch {SMALL}, rows/s | batch {LARGE}, rows/s | ratio | goal | ratio by processor time |",
        "|---|---|---|---|---|---|",
    ]
    for threads, sides in found:
        ratio = kept(sides)
        speeds = [f"{statistics.median(side.wall):,.0f}" for side in sides]
        goal = verdict(GOAL, ratio.low >= GOAL)
        cells = (str(threads), *speeds, shown(ratio), goal, shown(kept(sides, own=True)))
        lines.append(f"| {' | '.join(cells)} |")
    threads, sides = found[0]
    lines += [
        f"\n## Where a step's time goes, with {threads} thread{'s' if threads > 1 else ''}\n",
        "Medians over passes of their own, in milliseconds. *Fixed* is what a step costs however few rows it has: the line",
        "through both batch sizes at zero rows.\n",
        f"| part | batch {SMALL} | batch {LARGE} | fixed |",
        "|---|---|---|---|",
    ]
    medians = [{part: statistics.median(times) for part, times in side.parts.items()} for side in sides]
    for part in (REST, *PARTS):
        lines.append(_line(part, medians[0][part], medians[1][part]))
    lines.append(_line("together", *(sum(each.values()) for each in medians)))
    return "\n".join([*lines, ""])


def _line(part: str, small: float, large: float) -> str:
    fixed = max(0.0, small - SMALL * (large - small) / (LARGE - SMALL))
    return f"| {part} | {small:.2f} | {large:.2f} | {fixed:.2f} |"


def main(
    rows: Annotated[int, typer.Option(min=4096, help="Rows of the window.")] = 1 << 16,
    rounds: Annotated[int, typer.Option(min=2, help="How often each batch size trains on it.")] = 20,
    threads: Annotated[
        list[int] | None, typer.Option(help="Threads, a measurement each. [default: 1, as in a lane, and all cores]")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/small_batches.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    load = os.getloadavg()[0]
    logging.getLogger().setLevel(logging.ERROR)  # TorchRec and FBGEMM tell every batch and table
    warnings.simplefilter("ignore")
    join_alone()
    found = []
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        examples = make_examples(Lake(folder), rows=rows, held_out_rows=4096, num_ids=10_000, tuning=False)
        for number in threads or sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(number)
            found.append((number, measure(examples, rounds, lambda line: typer.echo(line, err=True))))
    dist.destroy_process_group()
    made = page(" ".join(["python -m benchmarks.small_batches", *sys.argv[1:]]), rows, rounds, load, found)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
