"""An evaluation's predictions as they lie in the lake: what a model predicted for rows that it had not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import parquet
from pipeline.storage.hashing import keyed_uniform
from pipeline.storage.lake import Lake
from pipeline.training.chain.evaluations import EvaluationManifest
from pipeline.training.metrics import log_losses

ROW_CLUSTERS = 64
"""Where no column names clusters, rows are resampled in so many random groups per window."""

_GROUP_SALT = 3


@dataclass(frozen=True, slots=True)
class Predictions:
    """The evaluation slice of one window, N rows in the window's order."""

    label: NDArray[np.uint8]
    logit: NDArray[np.float32]
    example_id: NDArray[np.uint64]
    cluster: NDArray[np.uint64]
    """What must be resampled together."""
    true_prob: NDArray[np.float64] | None

    @classmethod
    def read(cls, lake: Lake, evaluation: EvaluationManifest) -> Predictions:
        """What an evaluation left in the lake.

        Raises:
            MissingFile: it is gone.
            Damaged: it is not what was written.
        """
        table = parquet.read_table(lake, evaluation.predictions)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        ids = columns["example_id"]
        # Random groups of one window are others than the next one's, where a column's clusters may come again.
        random_groups = (keyed_uniform(ids, salt=_GROUP_SALT) * ROW_CLUSTERS).astype(np.uint64)
        random_groups += np.uint64(ROW_CLUSTERS * evaluation.window.start.toordinal())
        return cls(
            columns["label"], columns["logit"], ids, columns.get("cluster", random_groups), columns.get("true_prob")
        )

    def losses(self) -> NDArray[np.float64]:
        """(N,) log-loss in nats."""
        return log_losses(self.logit, self.label)

    def grouped_losses(self, num_groups: int) -> NDArray[np.float64]:
        """(G,) summed losses of groups of whole clusters; a cluster falls into the same group in every window."""
        group = (keyed_uniform(self.cluster, salt=_GROUP_SALT) * num_groups).astype(np.int64)
        summed: NDArray[np.float64] = np.bincount(group, self.losses(), num_groups).astype(np.float64)
        return summed
