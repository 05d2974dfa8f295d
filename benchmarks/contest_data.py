"""The examples that every contestant trains on: simulated windows of Criteo's shape in a temporary lake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.dataset import WindowManifest, read_row_group
from pipeline.data.share import Share
from pipeline.data.simulator import Simulator, simulate
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.training.models.features import Features

DATASET = "benchmark"
NUM_DENSE = 13
NUM_CATEGORICAL = 26
BATCH_SIZE = 4096
POSITIVES = 1 / 51
"""One click to fifty other rows, where clicks are rare."""
WARM_UP_ROWS = 4 * BATCH_SIZE
"""Rows that every model trains on before the clock starts; first steps build what later ones use again."""

DAYS = {"tuning": 0, "tuning_held_out": 1, "warm_up": 2, "train": 3, "held_out": 4}
"""Days after the first: the learning rates are chosen on windows that nothing is measured on."""


@dataclass(frozen=True)
class Examples:
    """Windows by what they are for, and the features that a model sees of them."""

    lake: Lake
    features: Features
    manifests: dict[str, WindowManifest]
    """By the names of `DAYS`."""

    def share(self, name: str) -> Share:
        """A whole window, as the only worker takes it."""
        return Share(self.lake, self.manifests[name])

    def export(self, folder: Path) -> None:
        """Write each window as two arrays: `<name>.x.npy` (N, D + F) and `<name>.y.npy` (N,), both float32.

        An id below 2^24 is exact as a float32, which is what DeepCTR-Torch takes ids as.
        """
        for name, manifest in self.manifests.items():
            x = np.empty((manifest.num_rows, len(self.features.columns)), np.float32)
            y = np.empty(manifest.num_rows, np.float32)
            start = 0
            for group in range(manifest.num_row_groups):
                table = read_row_group(self.lake, manifest, group, ["label", *self.features.columns])
                rows = slice(start, start + table.num_rows)
                y[rows] = table.column("label")
                for place, column in enumerate(self.features.columns):
                    x[rows, place] = table.column(column)
                start += table.num_rows
            np.save(folder / f"{name}.x.npy", x)
            np.save(folder / f"{name}.y.npy", y)


def rare_clicks(lake: Lake, rows: int) -> tuple[Simulator, WindowManifest]:
    """Draw and publish one window of so many rows, one click to fifty others."""
    config = SimulatorConfig(
        num_dense=NUM_DENSE, num_categorical=NUM_CATEGORICAL, rows_per_window=rows, base_rate=POSITIVES
    )
    (manifest,) = simulate(lake, DATASET, config, [config.origin])
    return Simulator(config), manifest


def make_examples(lake: Lake, *, rows: int, held_out_rows: int, num_ids: int, tuning: bool) -> Examples:
    """Draw and publish the windows.

    Args:
        lake: where to.
        rows: of the window that training is timed on, and of the one that learning rates are tuned on.
        held_out_rows: of the windows that losses are taken on.
        num_ids: ids alive in the largest categorical field; its table has twice as many rows.
        tuning: whether to make the windows for tuning as well.
    """
    sizes = {"tuning": rows, "warm_up": WARM_UP_ROWS, "train": rows}
    names = [name for name in DAYS if tuning or not name.startswith("tuning")]
    manifests = {}
    config = SimulatorConfig(num_dense=NUM_DENSE, num_categorical=NUM_CATEGORICAL, num_ids=num_ids)
    for name in names:
        sized = config.model_copy(update={"rows_per_window": sizes.get(name, held_out_rows)})
        (manifests[name],) = simulate(lake, DATASET, sized, [config.origin.shift(DAYS[name])])
    return Examples(lake, Features(Simulator(config).schema), manifests)
