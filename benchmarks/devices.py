"""How fast a GPU trains beside this machine's cores, by model size, batch and precision: `python -m benchmarks.devices`."""

from __future__ import annotations

import logging
import os
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from benchmarks.contest import SHAPES
from benchmarks.contest_data import Examples, make_examples
from benchmarks.contestants import SEED
from benchmarks.measured import machine, mean_ratio, shown
from pipeline.spec.config import (
    SIZES,
    All,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    StepConfig,
    Widths,
)
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.training.evaluate import evaluate
from pipeline.training.train import Trainer

PAGE = Path(__file__).parents[1] / "docs" / "results" / "devices.md"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
WIDE = "512-256-16 / 512-256-1"
WIDTHS: dict[str, Widths] = {**SIZES, WIDE: SHAPES[WIDE]}
"""By name: those of line-ups, and the wide one of the contest."""


@dataclass
class Side:
    """One trainer, and what its rounds took."""

    size: str
    batch_size: int
    precision: Precision
    device: torch.device
    speeds: list[float] = field(default_factory=list)
    """Rows/s of each round."""
    log_losses: list[float] = field(default_factory=list)
    """On rows that nobody trains on, after each round."""
    flops: int = 0
    """Of one row's training."""

    def run(self, examples: Examples, rounds: int) -> None:
        """Train on the window round after round, from parquet to updated weights; the first steps are not timed."""
        model = ModelConfig(size=WIDTHS[self.size], precision=self.precision)
        optimizer = OptimizerConfig(batch_size=self.batch_size)
        config = StepConfig(model=model, optimizer=optimizer, selection=All(), seed=SEED)
        trainer = Trainer(examples.features, model, optimizer, seed=SEED, device=self.device)
        self.flops = trainer.training_flops
        trainer.train(examples.share("warm_up"), config)
        judged = EvaluationConfig(max_rows=2**31 - 1)
        for _ in range(rounds):
            share, started = examples.share("train"), time.perf_counter()
            trainer.train(share, config)  # its logits are on the host when it returns
            self.speeds.append(share.num_rows / (time.perf_counter() - started))
            held_out = examples.share("held_out")
            self.log_losses.append(evaluate(trainer, held_out, judged, seed=SEED, extras=[]).metrics["log_loss"])

    @property
    def name(self) -> str:
        """For progress."""
        return f"{self.size}, batch {self.batch_size:,}, {self.precision}, {self.device.type}"


def over(side: Side, other: Side) -> Interval:
    """One's speed over another's, with its 95 % interval over the rounds."""
    return mean_ratio([one / two for one, two in zip(side.speeds, other.speeds, strict=True)])


INTRODUCTION = """\
# A GPU beside a machine's cores

Rows/s of DLRMs on one window of Criteo's shape (13 dense and 26 categorical columns), from parquet to updated
weights, progressive metrics included. The cores are one worker with all threads, and are timed before the GPU, not by turns.
Ratios are geometric means over rounds, with 95 % t-intervals. The last column is bfloat16's log-loss over float32's on rows that nobody trained on, after the first
round; the FLOPs are those that a budget counts.
"""


def page(command: str, rows: int, rounds: int, load: float, sides: Sequence[Side]) -> str:
    """The whole page."""
    found = {(s.size, s.batch_size, s.precision, s.device.type): s for s in sides}
    lines = [
        INTRODUCTION,
        f"    {command}\n",
        f"- {torch.cuda.get_device_name(GPU)}, CUDA {torch.version.cuda}.",
        machine(load, "torch", "torchrec"),
        f"- {rounds} rounds over {rows:,} rows.\n",
        "| size | batch | cores, rows/s | GPU, rows/s | GPU over cores | bfloat16 over float32 | GPU, TFLOP/s | log-loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, batch_size in dict.fromkeys((s.size, s.batch_size) for s in sides):
        cores = found[size, batch_size, "float32", "cpu"]
        plain, short = (found[size, batch_size, precision, "cuda"] for precision in ("float32", "bfloat16"))
        speed = statistics.median(plain.speeds)
        lines.append(
            f"| {size} | {batch_size:,} | {statistics.median(cores.speeds):,.0f} | {speed:,.0f} | {shown(over(plain, cores))} | "
            f"{shown(over(short, plain))} | {speed * plain.flops / 1e12:.2f} | "
            f"{short.log_losses[0] / plain.log_losses[0] - 1:+.4%} |"
        )
    return "\n".join([*lines, ""])


def main(
    rows: Annotated[int, typer.Option(min=4096, help="Rows of the window.")] = 1 << 18,
    rounds: Annotated[int, typer.Option(min=2, help="How often each trains on it.")] = 3,
    size: Annotated[list[str] | None, typer.Option(help=f"Of {list(WIDTHS)}. [default: all]")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes. [default: 4096, 32768]")] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/devices.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("this measures a GPU, and PyTorch sees none: run it where `nvidia-smi` shows one")
    load = os.getloadavg()[0]
    logging.getLogger().setLevel(logging.ERROR)  # TorchRec and FBGEMM tell every batch and table
    warnings.simplefilter("ignore")
    sides = [
        Side(name, batch_size, precision, device)
        for name in size or WIDTHS
        for batch_size in batch or (4096, 32_768)
        for device, precision in ((CPU, "float32"), (GPU, "float32"), (GPU, "bfloat16"))
    ]
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        examples = make_examples(Lake(folder), rows=rows, held_out_rows=rows // 4, num_ids=10_000, tuning=False)
        for device, backend in ((CPU, "gloo"), (GPU, "nccl")):
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            for side in sides:
                if side.device == device:
                    side.run(examples, rounds)
                    typer.echo(f"{side.name}: {max(side.speeds):,.0f} rows/s", err=True)
            dist.destroy_process_group()
    made = page(shlex.join(["python", "-m", "benchmarks.devices", *sys.argv[1:]]), rows, rounds, load, sides)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
