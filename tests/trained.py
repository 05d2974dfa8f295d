"""A tiny simulated lake and the stage engine in this process, for tests of what training leaves behind."""

from __future__ import annotations

import atexit
import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, publish_window, read_schema
from pipeline.data.share import Share
from pipeline.data.simulator import Simulator
from pipeline.selection.stored import SelectionManifest, SelectionStore
from pipeline.spec.config import All, EvaluationConfig, ModelConfig, OptimizerConfig, Policy, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage import parquet
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine, Recorder
from pipeline.training.chain.evaluations import EvaluationManifest, EvaluationStore
from pipeline.training.chain.steps import StepManifest, StepStore

T = TypeVar("T")
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


def evaluation(lake: Lake, step: StepManifest, chosen: EvaluationConfig = EVALUATION) -> EvaluationManifest:
    """A step's evaluation on a slice; by default that of all these line-ups."""
    return EvaluationStore(lake, step.dataset).require(step, chosen, "a step")


def metrics(lake: Lake, step: StepManifest) -> dict[str, float]:
    """What a step's model scored on the evaluation slice, before the window."""
    return evaluation(lake, step).metrics


def predictions(lake: Lake, step: StepManifest, chosen: EvaluationConfig = EVALUATION) -> pa.Table:
    """A step's evaluation slice."""
    return parquet.read_table(lake, evaluation(lake, step, chosen).predictions)


def logits(lake: Lake, step: StepManifest) -> NDArray[np.float32]:
    """(N,) what a step's model predicted for the evaluation slice, before the window."""
    return predictions(lake, step).column("logit").to_numpy()


def as_workers(patch: pytest.MonkeyPatch, module: Any, num: int, work: Callable[[int], T]) -> list[T]:
    """What so many workers give, each in a thread of its own, where a module lets them work together."""
    told: list[Any] = [None] * num
    barrier = threading.Barrier(num)
    rank = threading.local()

    def on_all(part: Callable[[], Any]) -> list[Any]:
        told[rank.value] = part()
        barrier.wait(60)
        found = list(told)
        barrier.wait(60)
        return found

    def on_first(part: Callable[[], Any]) -> Any:
        return on_all(part if rank.value == 0 else lambda: None)[0]

    def run(number: int) -> T:
        rank.value = number
        return work(number)

    with patch.context() as patched, ThreadPoolExecutor(num) as pool:
        for name, ours in (("on_all", on_all), ("on_first", on_first)):
            patched.setattr(module, name, ours, raising=False)
        return list(pool.map(run, range(num)))


def stored(
    lake: Lake, manifest: WindowManifest, policy: Policy, seed: int = 0, signals: dict[str, Any] | None = None
) -> SelectionManifest | None:
    """What a policy keeps of a window, stored by this process alone; None for all rows."""
    alone()
    if isinstance(policy, All):
        return None
    schema = read_schema(lake, manifest.dataset, manifest.schema_key)
    given = {name: ("0" * 64, column) for name, column in (signals or {}).items()}
    return SelectionStore(lake, manifest.dataset).make(Share(lake, manifest), schema, policy, seed, given)


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
