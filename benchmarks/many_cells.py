"""How much faster a study's cells are side by side than one by one on warm workers: `python -m benchmarks.many_cells`."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.contest_data import DATASET, NUM_CATEGORICAL, NUM_DENSE
from benchmarks.measured import machine, mean_ratio, shown, verdict
from pipeline.data.simulator import simulate
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import ModelConfig, OptimizerConfig, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource, Workers
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.workers import lane, of_all_lanes, quiet, run_on_workers

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "many_cells.md"
GOAL = 0.6
LANES = 2
ORIGIN = SimulatorConfig().origin
RATES = (0.5, 0.3, 0.2, 0.1, 0.05)
ALL_CORES, ONE_CORE, PACKED = "one by one, all cores", "one by one, one core", "packed"
WAYS = (ALL_CORES, ONE_CORE, PACKED)


def cells(lanes: int, batch_size: int) -> LineUp:
    """Twelve tiny cells: all rows at two learning rates, and five rates of negatives under both corrections."""

    def cell(
        name: str, rate: float = 1.0, lr: float = 0.02, correction: Literal["weight", "offset"] = "weight"
    ) -> Variant:
        optimizer = OptimizerConfig(batch_size=batch_size, embedding_lr=lr)
        plain = Variant(name=name, model=ModelConfig(size="tiny"), optimizer=optimizer)
        if rate == 1:
            return plain
        return plain.model_copy(update={"selection": NegativeDownsampling(rate=rate, correction=correction)})

    kept = [cell(f"{how}_{rate:g}", rate, correction=how) for rate in RATES for how in ("weight", "offset")]
    return LineUp(
        name="cells",
        dataset=DatasetConfig(name=DATASET, source=SimulatedSource(origin=ORIGIN)),
        variants=(cell("all"), cell("all_slower", lr=0.01), *kept),
        reference="all",
        online_start=ORIGIN.next(),
        checkpoint_every=100,
        workers=Workers(lanes=lanes),
    )


def on_worker(config: dict[str, Any]) -> dict[str, list[float]]:
    """Train all cells in every way by turns, each time into a lake of its own.

    One by one, the first lane trains all cells while the others wait; packed, each trains its share on a core of its own.

    Returns:
        By way, seconds of each round by the clock, and under `processor` of all workers together.
    """
    quiet(logging.ERROR)
    found: dict[str, list[float]] = {name: [] for way in WAYS for name in (way, f"{way}, processor")}
    for way in WAYS:  # first steps build what later ones use again
        _once(way, -1, 1, config)
    for number in range(config["rounds"]):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            wall, own = _once(way, number, config["num_windows"], config)
            found[way].append(wall)
            found[f"{way}, processor"].append(own)
    return found


def _once(way: str, number: int, num_windows: int, config: dict[str, Any]) -> tuple[float, float]:
    """Seconds of one round one way."""
    mine, lanes = lane(), LANES if way == PACKED else 1
    folder = Path(config["folder"]) / f"{WAYS.index(way)}-{number}"
    if mine == 0:
        folder.mkdir()
        (folder / "windows").symlink_to(Path(config["windows"]) / "windows")
    torch.set_num_threads((os.cpu_count() or 1) if way == ALL_CORES else 1)
    last = ORIGIN.shift(num_windows - 1)
    job = TrainJob(lineup=cells(lanes, config["batch_size"]), first=ORIGIN, last=last, start="scratch")
    of_all_lanes(None)  # all are here
    wall, own = time.perf_counter(), time.process_time()
    if mine < lanes:
        Engine(Lake(str(folder)), job, None, torch.device("cpu"), lane=mine).run()
    spent = sum(of_all_lanes(time.process_time() - own))
    wall = time.perf_counter() - wall
    if mine == 0:
        shutil.rmtree(folder)
    return wall, spent


INTRODUCTION = f"""\
# Many cells side by side

Wall time of a study of twelve tiny cells (a DLRM on rows of Criteo's shape; all rows at two learning rates, and five rates
of negatives kept under both corrections), from the first cell's first read to the last cell's published step: *one by one*
on one worker, as a job without lanes trains them (by default with all cores), and *packed* in {LANES} lanes of one worker
and one core each (`workers: {{lanes: {LANES}}}`). The Ray Train workers are warm: all ways run by turns on the same processes,
so their start-up (stated apart) and what slows a whole round cancel out. Nothing is recorded in MLflow. Ratios are geometric
means over the rounds with a 95 % t-interval; the goal is met where the upper end is, against the default.
"""


def page(config: dict[str, Any], load: float, startup: float, found: dict[str, list[float]]) -> str:
    """The whole page."""
    lines = [
        INTRODUCTION,
        f"    {config['command']}\n",
        machine(load, "torch", "ray"),
        f"- {config['rounds']} rounds of 12 cells over {config['num_windows']} windows of {config['rows']:,} rows, batch "
        f"{config['batch_size']}. Start-up of Ray and its workers, warm-up included: {startup:.0f} s, in neither side.\n",
        "| way | wall time, s | packed over it | goal | processor time of all workers, s | packed over it |",
        "|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        wall, own = found[way], found[f"{way}, processor"]
        left, left_own = _left(found[PACKED], wall), _left(found[f"{PACKED}, processor"], own)
        goal = verdict(GOAL, left.high <= GOAL) if way == ALL_CORES else ""
        over, judged, over_own = ("", "", "") if way == PACKED else (shown(left), goal, shown(left_own))
        cells_of = (way, f"{statistics.median(wall):.1f}", over, judged, f"{statistics.median(own):.1f}", over_own)
        lines.append(f"| {' | '.join(cells_of)} |")
    return "\n".join([*lines, ""])


def _left(packed: list[float], alone: list[float]) -> Interval:
    return mean_ratio([ours / theirs for ours, theirs in zip(packed, alone, strict=True)])


def main(
    rows: Annotated[int, typer.Option(min=1024, help="Rows of each window.")] = 1 << 15,
    windows: Annotated[int, typer.Option(min=1, help="Windows that each cell is trained on.")] = 3,
    rounds: Annotated[int, typer.Option(min=2, help="How often all cells are trained each way.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Of every cell.")] = 512,
    write: Annotated[bool, typer.Option("--write", help="Also write docs/results/many_cells.md.")] = False,
) -> None:
    """Measure, and print a page of markdown."""
    from benchmarks.many_cells import on_worker as work  # not of `__main__`: workers import it

    load = os.getloadavg()[0]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        config = {
            "command": " ".join(["python -m benchmarks.many_cells", *sys.argv[1:]]),
            "folder": folder,
            "windows": f"{folder}/lake",
            "num_windows": windows,
            "rounds": rounds,
            "rows": rows,
            "batch_size": batch_size,
        }
        drawn = SimulatorConfig(num_dense=NUM_DENSE, num_categorical=NUM_CATEGORICAL, rows_per_window=rows)
        simulate(Lake(f"{folder}/lake"), DATASET, drawn, Window.span(ORIGIN, ORIGIN.shift(windows - 1)))
        began = time.perf_counter()
        found = run_on_workers(
            work, config, Workers(lanes=LANES), address="local", name=uuid.uuid4().hex, storage=f"{folder}/ray"
        )
        timed = sum(sum(found[way]) for way in WAYS)
        made = page(config, load, time.perf_counter() - began - timed, found)
    typer.echo(made)
    if write:
        PAGE.write_text(made)


if __name__ == "__main__":
    typer.run(main)
