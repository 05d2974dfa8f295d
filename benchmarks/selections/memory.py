"""Peak memory of making selections: a process of its own for each policy, on windows of two sizes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import torch.distributed as dist
from numpy.typing import NDArray

from benchmarks.contest_data import POSITIVES
from pipeline.data.dataset import WindowManifest, physical_schema, publish_window, read_schema, require_manifest
from pipeline.data.share import Share
from pipeline.selection.policies.coreset import Coreset
from pipeline.selection.policies.density import Density
from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.forgetting import Forgetting
from pipeline.selection.policies.grand import Grand
from pipeline.selection.policies.local_case_control import LocalCaseControl
from pipeline.selection.policies.low_loss import LowLoss
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.selection.policies.stages import Stages
from pipeline.selection.stored import SelectionStore
from pipeline.spec.config import Policy
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.hashing import keyed_uniform
from pipeline.storage.lake import Lake

DATASET = "plain"
DAY = Window.of("2024-01-01")
POLICIES: dict[str, Policy] = {
    "negatives": NegativeDownsampling(rate=0.1),
    "density": Density(rate=0.1, features=("C1", "C2", "C3", "C4")),
    "odds": OddsProportional(rate=0.1, pilot="pilot"),
    "local_case_control": LocalCaseControl(rate=0.1, pilot="pilot"),
    "el2n": El2n(rate=0.1, pilot="pilot"),
    "grand": Grand(rate=0.1, pilot="pilot"),
    "low_loss": LowLoss(rate=0.1, pilot="pilot"),
    "stages": Stages(of=(NegativeDownsampling(rate=0.2), Grand(rate=0.5, pilot="pilot"))),
    "forgetting": Forgetting(rate=0.1, pilot="pilot", propensity="C1"),
    "coreset": Coreset(rate=0.1, pilot="pilot"),
}
"""Each keeps about a tenth."""


PLAIN = Schema.of(
    {
        "label": "click",
        "event_time": {"column": "at"},
        "dense": [{"name": "I1"}],
        "categorical": [{"name": name, "hash_size": 1000} for name in ("C1", "C2", "C3", "C4")],
    },
    "the benchmark",
)


def plain_window(lake: Lake, rows: int) -> WindowManifest:
    """A window of so many rows, written a piece at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, 1 << 16):
            place = np.arange(start, min(rows, start + (1 << 16)))
            micros = int(DAY.start.timestamp() * 1e6) + place * (86_400_000_000 // rows)
            drawn = {
                name: keyed_uniform(place.astype(np.uint64), salt)
                for salt, name in enumerate(("label", "I1", "C1", "C2", "C3", "C4"))
            }
            columns = {
                "example_id": place.astype(np.uint64),
                "event_time": micros,
                "label": (drawn["label"] < POSITIVES).astype(np.uint8),
                "I1": drawn["I1"].astype(np.float32),
                **{name: (1000 * drawn[name] ** 3).astype(np.int32) for name in ("C1", "C2", "C3", "C4")},
            }
            fields = physical_schema(PLAIN)
            yield pa.record_batch([pa.array(columns[f.name]).cast(f.type) for f in fields], schema=fields)

    return publish_window(lake, DATASET, DAY, PLAIN, batches())


def peaks_of(rows: int) -> dict[str, float]:
    """By policy, the peak resident memory, MB, of a process that stores its selection of a window of so many rows."""
    with tempfile.TemporaryDirectory(prefix="windrow-benchmark-") as folder:
        plain_window(Lake(folder), rows)
        command = [sys.executable, "-m", "benchmarks.selections.memory", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(folder: str, name: str) -> float:
    """Of this process, once it has stored a policy's selection of the plain window of a lake."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    lake, policy = Lake(folder), POLICIES[name]
    manifest = require_manifest(lake, DATASET, DAY)

    def column(place: int) -> Callable[[int, NDArray[np.uint64]], NDArray[np.float32]]:
        return lambda _, ids: (3 * keyed_uniform(ids, 100 + place) + 0.01).astype(np.float32)

    signals = {read: ("f" * 64, column(place)) for place, read in enumerate(policy.reads())}
    schema = read_schema(lake, DATASET, manifest.schema_key)
    SelectionStore(lake, DATASET).make(Share(lake, manifest), schema, policy, 0, signals)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: str) -> None:
    """Print the peaks as JSON. Policies go in forks of this process, which has imported everything and done nothing."""
    found = {}
    for name in POLICIES:
        with get_context("fork").Pool(1) as pool:
            found[name] = pool.apply(_peak, (folder, name))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
