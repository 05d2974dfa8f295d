"""Measures what a stored selection saves: a tenth of the negatives, read and trained on, against all rows.

python -m benchmarks.selections.saving --write
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from benchmarks.contest_data import DATASET, POSITIVES, rare_clicks
from benchmarks.contestants import DEVICE, SEED, join_alone
from benchmarks.measured import Turns, machine, shown, verdict
from pipeline.data.share import Share
from pipeline.data.simulator import Simulator
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.stored import SelectionManifest, SelectionStore
from pipeline.spec.config import All, ModelConfig, OptimizerConfig, StepConfig
from pipeline.storage.lake import Lake
from pipeline.training.models.features import Features
from pipeline.training.train import Trainer

T = TypeVar("T")
PAGE = Path(__file__).parents[1] / "docs" / "results" / "stored_selections.md"
POLICY = NegativeDownsampling(rate=0.1)
SHARE = POSITIVES + (1 - POSITIVES) * POLICY.rate
"""Of the rows that is kept, 0.118."""
GOALS = {"training from the stored selection": 0.25, "storing it": 0.1}


@dataclass
class Sides:
    """A model on all rows and one on a tenth of the negatives, and what their rounds took, in seconds."""

    share: Share
    simulator: Simulator
    batch_size: int
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        features = Features(self.simulator.schema)
        model = ModelConfig(size="tiny", prior=POSITIVES)
        scaled = max(1, round(SHARE * self.batch_size))
        self.sizes = {"all": self.batch_size, "kept": scaled}
        optimizers = {name: OptimizerConfig(batch_size=size) for name, size in self.sizes.items()}
        policies = {"all": All(), "kept": POLICY}
        self.configs = {
            name: StepConfig(model=model, optimizer=optimizers[name], selection=policies[name], seed=SEED)
            for name in policies
        }
        self.trainers = {
            name: Trainer(features, model, optimizer, seed=SEED, device=DEVICE)
            for name, optimizer in optimizers.items()
        }

    def round(self) -> None:
        """All rows, storing, training from what is stored; each from files that nobody holds open."""
        self.turns.time("all rows", lambda: self.trainers["all"].train(self.share, self.configs["all"]))
        stored = self.turns.time("storing it", self._store)
        self.turns.time(
            "training from the stored selection",
            lambda: self.trainers["kept"].train(self.share, self.configs["kept"], selection=stored),
        )
        shutil.rmtree(Path(self.share.lake.root) / "selections")

    def _store(self) -> SelectionManifest:
        store = SelectionStore(self.share.lake, DATASET)
        return store.make(self.share, self.simulator.schema, POLICY, SEED, {})


def page(command: str, rows: int, load: float, found: Sides) -> str:
    """The whole page."""
    lines = [
        "# Stored selections\n",
        "Wall time of a training pass over one window of Criteo's shape (13 dense and 26 categorical columns, one click to",
        "fifty other rows): a tiny DLRM, one worker on one core, on all rows, and on a tenth of the negatives, "
        f"{SHARE:.3f} of the rows, from a",
        "stored selection with the batch scaled with the rows; reading included, the evaluation slice apart. Storing the",
        "selection is timed apart: it is done once for all that select alike. All go by turns within a round; ratios are",
        "geometric means over the rounds with a 95 % t-interval, and a goal is met where the upper end is.\n",
        f"    {command}\n",
        machine(load, "torch"),
        f"- {len(found.turns.seconds['all rows'])} rounds over {rows:,} rows; batch {found.sizes['all']:,} on all rows, "
        f"{found.sizes['kept']:,} on the selection.\n",
        "| part | seconds | over training on all rows | goal |",
        "|---|---|---|---|",
        f"| training on all rows | {statistics.median(found.turns.seconds['all rows']):.2f} | 1 |  |",
    ]
    for name, goal in GOALS.items():
        ratio = found.turns.ratio(name, over="all rows")
        met = verdict(goal, ratio.high <= goal)
        lines.append(f"| {name} | {statistics.median(found.turns.seconds[name]):.2f} | {shown(ratio)} | {met} |")
    return "\n".join([*lines, ""])


def main(
    rows: Annotated[int, typer.Option(min=1024, help="Rows of the window.")] = 1 << 18,
    rounds: Annotated[int, typer.Option(min=2, help="How often each part is timed.")] = 7,
    batch_size: Annotated[int, typer.Option(min=1, help="On all rows.")] = 4096,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/stored_selections.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    join_alone()
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        lake = Lake(folder)
        simulator, manifest = rare_clicks(lake, rows)
        sides = Sides(Share(lake, manifest), simulator, batch_size)
        sides.round()  # first steps build what later ones use again
        sides.turns.seconds.clear()
        for number in range(rounds):
            sides.round()
            typer.echo(
                f"round {number + 1} of {rounds}: {[f'{s[-1]:.2f}' for s in sides.turns.seconds.values()]}", err=True
            )
        made = page(" ".join(["python -m benchmarks.selections.saving", *sys.argv[1:]]), rows, load, sides)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
