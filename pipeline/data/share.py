"""One worker's part of a window: every W-th row group, in time order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group
from pipeline.storage.lake import Lake


@dataclass(frozen=True)
class Share:
    """The row groups of a window that one of W workers reads."""

    lake: Lake
    manifest: WindowManifest
    rank: int = 0
    world_size: int = 1

    @property
    def row_groups(self) -> range:
        """Indices of this worker's row groups in the window."""
        return range(self.rank, self.manifest.num_row_groups, self.world_size)

    def starts(self) -> NDArray[np.int64]:
        """Position in the window's order of the first row of each of the window's row groups, and the number of rows."""
        sizes = [
            min(self.manifest.row_group_size, part.num_rows - group * self.manifest.row_group_size)
            for part in self.manifest.parts
            for group in range(part.num_row_groups)
        ]
        return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))

    @property
    def num_rows(self) -> int:
        """Rows of this worker's row groups."""
        return int(np.diff(self.starts())[list(self.row_groups)].sum())

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one row group."""
        return read_row_group(self.lake, self.manifest, group, columns)
