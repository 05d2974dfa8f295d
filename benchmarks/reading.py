"""What it costs to verify every byte that is read, against plain Parquet reading: `python -m benchmarks.reading`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.contest_data import make_examples
from benchmarks.measured import machine, mean_ratio, shown, verdict
from pipeline.data.share import Share
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import forget
from pipeline.training.loader import whole_rows
from pipeline.training.models.features import Features

PAGE = Path(__file__).parents[1] / "docs" / "results" / "reading.md"
GOAL = 0.95


@dataclass(frozen=True)
class Unverified(Share):
    """The same rows read by Arrow alone: no digest is taken of anything."""

    files: dict[str, pq.ParquetFile] = field(default_factory=dict)

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one row group."""
        for part in self.manifest.parts:
            if group < part.num_row_groups:
                if part.path not in self.files:
                    self.files[part.path] = pq.ParquetFile(self.lake.files.open_input_file(part.path), pre_buffer=False)
                return self.files[part.path].read_row_group(group, columns=columns, use_threads=False)
            group -= part.num_row_groups
        raise IndexError(group)


def load(share: Share, features: Features) -> int:
    """The way that a training pass reads: all columns of each row group, as rows."""
    return sum(len(rows) for rows in whole_rows(share, features))


PASSES: dict[str, Callable[[Share, Features], int]] = {"all columns, as a training pass reads them": load}


@dataclass(frozen=True, slots=True)
class Speeds:
    """One pass, rows/s of each round by both ways."""

    name: str
    verified: list[float]
    plain: list[float]
    processor: list[float]
    """By the seconds that the thread computed: plain over verified, whatever else the machine did."""

    @property
    def ratio(self) -> Interval:
        """How many times as fast verified reading is, with its 95 % interval over the rounds."""
        return mean_ratio([ours / theirs for ours, theirs in zip(self.verified, self.plain, strict=True)])


def timed(work: Callable[[Share, Features], int], share: Share, features: Features) -> tuple[float, float]:
    """Seconds by the clock and of the processor, from the first opening of a file."""
    forget()
    if isinstance(share, Unverified):
        share.files.clear()
    wall, own = time.perf_counter(), time.thread_time()
    work(share, features)
    return time.perf_counter() - wall, time.thread_time() - own


def measure(shares: tuple[Share, Share], features: Features, rounds: int, tell: Callable[[str], None]) -> list[Speeds]:
    """Both ways by turns within each round; what slows a whole round cancels out."""
    num_rows = shares[0].manifest.num_rows
    found = []
    for name, work in PASSES.items():
        if work(shares[0], features) != work(shares[1], features):
            raise RuntimeError(f"{name}: the two ways read different rows")
        speeds = Speeds(name, [], [], [])
        for number in range(rounds):
            taken = [(0.0, 0.0), (0.0, 0.0)]
            for way in (0, 1) if number % 2 == 0 else (1, 0):
                taken[way] = timed(work, shares[way], features)
            (verified, own), (plain, plain_own) = taken
            speeds.verified.append(num_rows / verified)
            speeds.plain.append(num_rows / plain)
            speeds.processor.append(plain_own / own)
        tell(f"{name}: {shown(speeds.ratio)}")
        found.append(speeds)
    return found


INTRODUCTION = """\
# What it costs to verify every byte

Rows/s of a window of Criteo's shape (13 dense and 26 categorical columns, lz4), read by one thread from the file system's
cache, once as Windrow reads (each column chunk verified against its XXH3, the footer and the chunks' index against a
SHA-256 in the manifest), once by Arrow alone. Both open their files anew in each round and go by turns, so that what slows
a round slows both. The ratio is the geometric mean over the rounds with a 95 % t-interval; the goal is met where its
lower end is. The last column has the same ratio by the processor's time of the reading thread, which other work on the
machine disturbs less.
"""


def page(command: str, rows: int, rounds: int, load_before: float, cores: int, found: Sequence[Speeds]) -> str:
    """The whole page."""
    lines = [
        INTRODUCTION,
        f"    {command}\n",
        machine(load_before, "pyarrow", "xxhash", cores=cores),
        f"- {rounds} rounds over {rows:,} rows.\n",
        "| pass | verified, rows/s | unverified, rows/s | verified over unverified | goal | by processor time |",
        "|---|---|---|---|---|---|",
    ]
    for speeds in found:
        cells = (
            speeds.name,
            f"{np.median(speeds.verified):,.0f}",
            f"{np.median(speeds.plain):,.0f}",
            shown(speeds.ratio),
            verdict(GOAL, speeds.ratio.low >= GOAL),
            shown(mean_ratio(speeds.processor)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(
    rows: Annotated[int, typer.Option(min=4096, help="Rows of the window.")] = 1 << 19,
    rounds: Annotated[int, typer.Option(min=2, help="How often each way reads it.")] = 20,
    write: Annotated[bool, typer.Option("--write", help="Also write the page to docs/results/reading.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        examples = make_examples(Lake(folder), rows=rows, held_out_rows=4096, num_ids=10_000, tuning=False)
        share = examples.share("train")
        plain = Unverified(share.lake, share.manifest)
        found = measure((share, plain), examples.features, rounds, lambda line: typer.echo(line, err=True))
    command = " ".join(["python -m benchmarks.reading", *sys.argv[1:]])
    made = page(command, rows, rounds, load_before, os.cpu_count() or 1, found)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
