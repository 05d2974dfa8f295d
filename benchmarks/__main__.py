"""Training speed from parquet to updated weights, against the same step in memory, TorchRec and DeepCTR-Torch."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from benchmarks import contest, contest_page, contestants
from benchmarks.contest import SHAPES, Contestant, Rates
from benchmarks.contest_data import BATCH_SIZE, Examples, make_examples
from benchmarks.deepctr_torch import rival
from pipeline.spec.config import Widths
from pipeline.storage.lake import Lake

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "benchmarks.md"
OURS = "Windrow"

RATES: dict[str, Rates] = {
    OURS: Rates(embedding=0.05, dense=0.005),
    "PNN": Rates(embedding=0.02, dense=0.005),
    "DCN": Rates(embedding=0.02, dense=0.005),
    "DeepFM": Rates(embedding=0.02, dense=0.005),
}
"""Without `--tune`, which takes many times as long."""
GRID = [Rates(embedding=table, dense=rest) for table, rest in product((0.02, 0.05), (0.002, 0.005, 0.01, 0.02))]
"""What `--tune` tries for each model."""


def tell(line: str) -> None:
    """Progress goes to stderr, the page to stdout."""
    typer.echo(line, err=True)


def benchmark(
    rows: Annotated[int, typer.Option(min=BATCH_SIZE, help="Examples of the window that is timed.")] = 128 * BATCH_SIZE,
    rounds: Annotated[int, typer.Option(min=1, help="How often everybody trains on it.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads, and cores, of each side; 0: all cores.")] = 0,
    num_ids: Annotated[int, typer.Option(min=10, help="Ids alive in the largest categorical field.")] = 10_000,
    shape: Annotated[list[str] | None, typer.Option(help=f"MLP widths, of {list(SHAPES)}. [default: all]")] = None,
    rival: Annotated[bool, typer.Option(help="Measure DeepCTR-Torch too; installs it when first run.")] = True,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose every model's learning rates anew, on other windows.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few batches, two rounds, first widths, no verdicts.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Also write the page to docs/results/benchmarks.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    if write and quick:
        raise typer.BadParameter("a quick run is no result to keep: leave out --quick or --write")
    if unknown := sorted(set(shape or ()) - set(SHAPES)):
        raise typer.BadParameter(f"--shape must be of {list(SHAPES)}, got {unknown}")
    if quick:
        rows, rounds, shape = 4 * BATCH_SIZE, 2, [next(iter(SHAPES))]
    load = os.getloadavg()[0]
    threads = _bind(threads)
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder, _alone():
        held_out_rows = max(rows // 2, BATCH_SIZE)
        examples = make_examples(
            Lake(f"{folder}/lake"), rows=rows, held_out_rows=held_out_rows, num_ids=num_ids, tuning=tune
        )
        with _rival(Path(folder), examples, threads) if rival else _nobody() as process:
            measured = [
                (name, _measure(name, examples, process, rounds=rounds, tune=tune, judge=not quick))
                for name in shape or SHAPES
            ]
            run = contest_page.Run(
                command=" ".join(["python -m benchmarks", *sys.argv[1:]]),
                threads=threads,
                rows=rows,
                held_out_rows=held_out_rows,
                rounds=rounds,
                num_ids=num_ids,
                table_rows=sum(feature.hash_size for feature in examples.features.categorical),
                load=load,
                versions={} if process is None else process.versions(),
                bfloat16=contestants.computes_bfloat16(),
            )
    page = contest_page.page(run, measured)
    typer.echo(page)
    if write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(page)


def _measure(
    shape: str, examples: Examples, process: rival.Process | None, *, rounds: int, tune: bool, judge: bool
) -> list[contest_page.Row]:
    """All contestants at one shape, Windrow first."""
    widths = SHAPES[shape]
    rates = dict(RATES)
    if tune:
        rates |= _tuned(examples, widths, process)
    kept = {window: contestants.in_memory(examples, window) for window in ("warm_up", "train")}
    ours = rates[OURS]
    entries: list[tuple[Contestant, Rates, float | None]] = [
        (contestants.FromParquet(examples, widths, ours), ours, None),
        (contestants.FromMemory(examples, widths, ours, kept), ours, contest_page.MEMORY_GOAL),
        (contestants.StockFromMemory(examples, widths, ours, kept), ours, None),
    ]
    if contestants.computes_bfloat16():
        entries.append((contestants.FromParquet(examples, widths, ours, "bfloat16"), ours, None))
    if process is not None:
        goal = contest_page.RIVAL_GOAL if shape == next(iter(SHAPES)) else None
        for model in rival.MODELS:
            entries.append((rival.Rival(process, model, widths, rates[model]), rates[model], goal))
            if contestants.computes_bfloat16():
                entries.append((rival.Rival(process, model, widths, rates[model], "fit_bfloat16"), rates[model], None))
            entries.append((rival.Rival(process, model, widths, rates[model], "loop"), rates[model], None))
    num_rows = examples.manifests["train"].num_rows
    results = contest.measure([made for made, _, _ in entries], num_rows=num_rows, num_rounds=rounds, tell=tell)
    if process is not None:
        process.ask("drop")
    return [
        contest_page.Row(result, used, goal if judge else None, contest_page.LOSS_GOAL if judge else None)
        for result, (_, used, goal) in zip(results, entries, strict=True)
    ]


def _tuned(examples: Examples, widths: Widths, process: rival.Process | None) -> dict[str, Rates]:
    """The best learning rates of each model, on windows that nothing else uses."""
    makers: dict[str, Callable[[Rates], Contestant]] = {OURS: partial(contestants.FromParquet, examples, widths)}
    if process is not None:
        makers |= {model: partial(rival.Rival, process, model, widths) for model in rival.MODELS}
    return {name: contest.best_rates(make, GRID, tell)[0] for name, make in makers.items()}


def _bind(threads: int) -> int:
    """Keep this process and the rival's to so many cores, which Windrow's reading thread has to share as well."""
    cores: Sequence[int] = range(os.cpu_count() or 1)
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
    threads = min(threads or len(cores), len(cores))
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores[:threads])
    torch.set_num_threads(threads)
    return threads


@contextmanager
def _alone() -> Iterator[None]:
    """A process group of one, and libraries that keep to themselves."""
    logging.getLogger().setLevel(logging.ERROR)  # TorchRec and FBGEMM tell every batch and table
    warnings.simplefilter("ignore")
    contestants.join_alone()
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _rival(folder: Path, examples: Examples, threads: int) -> Iterator[rival.Process | None]:
    python = rival.install(tell)
    exported = folder / "exported"
    exported.mkdir()
    examples.export(exported)
    with rival.Process(python, exported, examples, threads) as process:
        process.versions()
        yield process


@contextmanager
def _nobody() -> Iterator[rival.Process | None]:
    yield None


if __name__ == "__main__":
    typer.run(benchmark)
