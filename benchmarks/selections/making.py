"""Measures what making a selection costs beside training on all rows, and whether its memory grows: `python -m benchmarks.selections.making`.

python -m benchmarks.selections.making --write
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.contest_data import DATASET, POSITIVES, rare_clicks
from benchmarks.contestants import DEVICE, SEED, join_alone
from benchmarks.measured import Turns, machine, shown, verdict
from benchmarks.selections.memory import POLICIES, peaks_of
from pipeline.data.share import Share
from pipeline.selection.sampling import selection_salt
from pipeline.selection.stored import SelectionStore, choices
from pipeline.spec.config import SKETCH_COLUMNS, All, ModelConfig, OptimizerConfig, Policy, StepConfig
from pipeline.spec.schema import Schema
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.training.models.features import Features
from pipeline.training.signals import PASSES, Scored, Signal, SignalReader, write_signals
from pipeline.training.train import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "results" / "making_selections.md"
KEY = "f" * 64
ALL_ROWS = "training on all rows"
THERE, FORWARD = 0.05, 0.4
"""Goals, over training on all rows: with a policy's signals in the lake already, and with a forward pass that makes them."""
GROWTH = 1.1
"""Goal: peak memory at ten times the rows over that at one."""


@dataclass
class Makings:
    """A model that trains on all rows and says what policies read, and what the rounds took, in seconds."""

    share: Share
    schema: Schema
    config: StepConfig
    trainer: Trainer
    turns: Turns = field(default_factory=Turns)

    def round(self) -> None:
        """All rows, a forward pass, further passes, and each policy; each from files that nobody holds open."""
        trained = self.turns.time(ALL_ROWS, lambda: self.trainer.train(self.share, self.config, score_all=True))
        scored = self.turns.time("forward pass", lambda: self._write(["logit", "loss", "error"]))
        scored += self.turns.time("forward pass with norms", lambda: self._write(["gradient_norm"], ["norm"]))
        sketches = [f"gradient_{place}" for place in range(SKETCH_COLUMNS)]
        scored += self.turns.time("forward pass with sketches", lambda: self._write(sketches, ["sketch"]))
        scored += self.turns.time("three further passes", lambda: self._further(trained.scored))
        signals = {signal.name: signal for signal in scored}
        for name, policy in POLICIES.items():
            read = {key: signals[asked.signal] for key, asked in policy.reads().items()}
            self.turns.time(f"choosing {name}", lambda p=policy, r=read: self._choose(p, r))  # type: ignore[misc]
            self.turns.time(f"storing {name}", lambda p=policy, r=read: self._store(p, r))  # type: ignore[misc]
            shutil.rmtree(Path(self.share.lake.root) / "selections")
        shutil.rmtree(Path(self.share.lake.root) / "signals")

    def _write(self, names: list[str], readings: list[str] | None = None) -> tuple[Signal, ...]:
        return write_signals(self.share, "signals", KEY, 1, names, self.trainer.score(self.share, readings or []))

    def _further(self, first: Scored) -> tuple[Signal, ...]:
        found = []
        with self.trainer.aside():
            for _ in range(3):
                again = self.trainer.train(self.share, self.config, score_all=True).scored
                found.append(again.logits)
        whole = Scored(first.positions, first.logits, {PASSES: np.column_stack(found)})
        return write_signals(self.share, "signals", KEY, 0, ["forgetting_4"], whole)

    def _choose(self, policy: Policy, signals: dict[str, Signal]) -> int:
        return sum(
            len(found.index) for found in choices(self.share, policy, selection_salt(SEED), self._readers(signals))
        )

    def _store(self, policy: Policy, signals: dict[str, Signal]) -> object:
        given = {name: (signals[name].digest, reader) for name, reader in self._readers(signals).items()}
        return SelectionStore(self.share.lake, DATASET).make(self.share, self.schema, policy, SEED, given)

    def _readers(self, signals: dict[str, Signal]) -> dict[str, SignalReader]:
        return {name: SignalReader(self.share.lake, s, self.share.manifest.digest) for name, s in signals.items()}

    def ratio(self, *names: str) -> Interval:
        """Parts' time together over that of training on all rows, with its interval over the rounds."""
        return self.turns.ratio(*names, over=ALL_ROWS)


MADE_BY = {
    "grand": "forward pass with norms",
    "stages": "forward pass with norms",
    "coreset": "forward pass with sketches",
    "forgetting": "three further passes",
}
"""What makes a policy's signals where it is no plain forward pass."""


def page(
    command: str, rows: int, load: float, found: Makings, peaks: dict[str, tuple[float, float]], sizes: tuple[int, int]
) -> str:
    """The whole page."""
    lines = [
        "# Making selections\n",
        "Wall time of choosing about a tenth of a window of Criteo's shape (13 dense and 26 categorical columns, one click to fifty",
        "other rows), over that of a training pass of a tiny DLRM on all its rows: one worker on one core, reading included. *Choosing*",
        "reads signals and ids and says which rows are kept; *storing* also reads the kept rows and writes them. A policy's signals are",
        "there already where its pilot is a teacher, or trains anyway; else a forward pass of a model of the student's size makes them, or",
        "for `forgetting` three further passes of training. All go by turns within a round; ratios are geometric means over the rounds with a",
        "95 % t-interval, and a goal is met where the upper end is. `forgetting` and `coreset` have no goal.\n",
        f"    {command}\n",
        machine(load, "torch"),
        f"- {len(found.turns.seconds[ALL_ROWS])} rounds over {rows:,} rows; training on all of them takes "
        f"{statistics.median(found.turns.seconds[ALL_ROWS]):.2f} s.\n",
        f"| policy | choosing | goal {THERE:g} | with what makes its signals | goal {FORWARD:g} | choosing and storing |",
        "|---|---|---|---|---|---|",
    ]
    for name, policy in POLICIES.items():
        chosen, stored = found.ratio(f"choosing {name}"), found.ratio(f"storing {name}")
        goal = "" if name in ("forgetting", "coreset") else verdict(THERE, chosen.high <= THERE)
        made = met = ""
        if policy.reads():
            whole = found.ratio(f"choosing {name}", MADE_BY.get(name, "forward pass"))
            made = shown(whole)
            met = "" if name in ("forgetting", "coreset") else verdict(FORWARD, whole.high <= FORWARD)
        lines.append(f"| `{name}` | {shown(chosen)} | {goal} | {made} | {met} | {shown(stored)} |")
    lines += [
        "\n## Memory\n",
        "Greatest resident memory of a process that does nothing else than make and store a selection of a window of two columns, whose",
        "signals are functions of the ids.\n",
        f"| policy | MB at {sizes[0]:,} rows | MB at {sizes[1]:,} rows | ratio | goal |",
        "|---|---|---|---|---|",
    ]
    for name, (small, large) in peaks.items():
        met = verdict(GROWTH, large / small <= GROWTH)
        lines.append(f"| `{name}` | {small:,.0f} | {large:,.0f} | {large / small:.3f} | {met} |")
    return "\n".join([*lines, ""])


def main(
    rows: Annotated[int, typer.Option(min=1024, help="Rows of the window that is timed.")] = 1 << 17,
    rounds: Annotated[int, typer.Option(min=2, help="How often each part is timed.")] = 7,
    small: Annotated[
        int, typer.Option(min=1024, help="Rows at which memory is measured, and ten times that.")
    ] = 1_000_000,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/making_selections.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    torch.set_num_threads(1)
    load, sizes = os.getloadavg()[0], (small, 10 * small)
    join_alone()
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        lake = Lake(folder)
        simulator, manifest = rare_clicks(lake, rows)
        model, optimizer = ModelConfig(size="tiny", prior=POSITIVES), OptimizerConfig()
        trainer = Trainer(Features(simulator.schema), model, optimizer, seed=SEED, device=DEVICE)
        found = Makings(
            Share(lake, manifest),
            simulator.schema,
            StepConfig(model=model, optimizer=optimizer, selection=All(), seed=SEED),
            trainer,
        )
        found.round()  # first steps build what later ones use again
        found.turns.seconds.clear()
        for number in range(rounds):
            found.round()
            typer.echo(
                f"round {number + 1} of {rounds}: {found.turns.seconds[ALL_ROWS][-1]:.2f} s on all rows",
                err=True,
            )
    less, more = (peaks_of(size) for size in sizes)
    peaks = {name: (less[name], more[name]) for name in less}
    made = page(" ".join(["python -m benchmarks.selections.making", *sys.argv[1:]]), rows, load, found, peaks, sizes)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
