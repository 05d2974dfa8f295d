"""A tiny simulated lake and the stage engine in this process, for tests of what training leaves behind."""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, publish_window
from pipeline.data.simulator import Simulator, SimulatorConfig
from pipeline.spec.config import EvaluationConfig, ModelConfig, OptimizerConfig, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.spec.window import Window
from pipeline.storage import parquet
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine, Recorder
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.loader import Share
from pipeline.training.model import Features

DAY = SimulatorConfig().origin
"""The first window of every span."""
DATASET = "sim"
TINY = ModelConfig(size="tiny", prior=0.2)
STEPS = OptimizerConfig(batch_size=128, embedding_lr=0.1, dense_lr=0.05)
EVALUATION = EvaluationConfig(max_rows=10_000)


def windows(num: int, first: Window = DAY) -> list[Window]:
    """So many windows from the first one on."""
    return list(Window.span(first, first.shift(num - 1)))


def publish(lake: Lake, days: Iterable[Window], *, group: int = 100, **config: Any) -> list[WindowManifest]:
    """Publish windows of a simulated log with 500 rows a day, a list column and a cluster."""
    simulator = Simulator(SimulatorConfig.tiny(**{"rows_per_window": 500, "num_lists": 1, "cluster": True} | config))
    return [
        publish_window(lake, DATASET, day, simulator.schema, simulator.window(day), row_group_size=group)
        for day in days
    ]


def variant(name: str = "plain", **choices: Any) -> Variant:
    """A tiny variant."""
    return Variant(**{"name": name, "model": TINY, "optimizer": STEPS} | choices)


def lineup(*variants: Variant, **choices: Any) -> LineUp:
    """A line-up of tiny variants; the first is the reference, and the online phase begins on the third day."""
    chosen = variants or (variant(),)
    given = {
        "name": "test",
        "dataset": DatasetConfig(name=DATASET, source=SimulatedSource(origin=DAY)),
        "variants": chosen,
        "reference": chosen[0].name,
        "online_start": DAY.shift(2),
        "evaluation": EVALUATION,
    }
    return LineUp(**given | choices)


@cache
def alone() -> torch.device:
    """One process group of this process alone, and one thread: what an engine at world size 1 needs."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(dist.destroy_process_group)
    return torch.device("cpu")


def train(
    lake: Lake,
    chosen: LineUp,
    num: int = 1,
    *,
    first: Window = DAY,
    start: str = "scratch",
    recorder: Recorder | None = None,
    **options: Any,
) -> dict[tuple[str, Window], StepManifest]:
    """Run a train job over `num` windows in this process.

    Returns:
        Every step of the span by variant and window, under the line-up's first seed.
    """
    made = engine(lake, chosen, num, first=first, start=start, recorder=recorder, **options)
    made.run()
    return steps(lake, chosen, num, first=first, only=made.job.variants)


def engine(
    lake: Lake,
    chosen: LineUp,
    num: int = 1,
    *,
    first: Window = DAY,
    start: str = "scratch",
    recorder: Recorder | None = None,
    **options: Any,
) -> Engine:
    """What runs a train job over `num` windows in this process."""
    job = TrainJob(lineup=chosen, first=first, last=first.shift(num - 1), start=start, **options)
    return Engine(lake, job, recorder, alone())


def steps(
    lake: Lake, chosen: LineUp, num: int, *, first: Window = DAY, only: tuple[str, ...] = ()
) -> dict[tuple[str, Window], StepManifest]:
    """The steps that a line-up's chains point to, under its first seed."""
    store = StepStore(lake, DATASET)
    found = {
        (each.name, day): store.head(chosen.name, each.name, chosen.seeds[0], day)
        for each in chosen.only(only)
        for day in windows(num, first)
    }
    return {place: step for place, step in found.items() if step is not None}


def predictions(lake: Lake, step: StepManifest) -> pa.Table:
    """A step's evaluation slice."""
    return parquet.read_table(lake, step.predictions)


def logits(lake: Lake, step: StepManifest) -> NDArray[np.float32]:
    """(N,) what a step's model predicted for the evaluation slice, before the window."""
    return predictions(lake, step).column("logit").to_numpy()


def share(lake: Lake, manifest: WindowManifest, features: Features, rank: int = 0, world_size: int = 1) -> Share:
    """One worker's part of a window."""
    return Share(lake, manifest, features, rank, world_size)


def listing(lake: Lake) -> dict[str, str]:
    """Every file of a lake with a digest of its content; locks do not count."""
    return {
        str(path.relative_to(lake.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(lake.root).rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def folders(lake: Lake) -> set[str]:
    """Every folder of a lake but the locks'."""
    return {
        str(path.relative_to(lake.root))
        for path in Path(lake.root).rglob("*")
        if path.is_dir() and ".locks" not in path.parts
    }
