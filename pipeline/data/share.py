"""One worker's part of a window, every W-th row group in time order, and files that workers write row group by row group beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part


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


Written = tuple[tuple[Part, ...], list[tuple[int, str]]]
"""A worker's files, which hold a row group for each of its own that is not empty, and the rows and digest of each of its own."""
Place = tuple[int, int]
"""A file by its number, and a row group therein."""


class AlignedFiles(NamedTuple):
    """Files that match a window row group by row group, whoever wrote them."""

    files: tuple[Part, ...]
    places: tuple[Place | None, ...]
    """For each row group of the window, where it lies; None where it is empty."""
    counts: tuple[int, ...]
    """Rows of each row group of the window."""
    digest: str
    """sha256 over the row groups' digests, in the window's order."""


def aligned(written: Sequence[Written], share: Share) -> AlignedFiles:
    """What all workers wrote, in their order, as one whole in the window's order."""
    num_groups = share.manifest.num_row_groups
    files: list[Part] = []
    places: list[Place | None] = [None] * num_groups
    found: list[tuple[int, str]] = [(0, "")] * num_groups
    for rank, (parts, groups) in enumerate(written):
        before = len(files)
        free = ((before + file, group) for file, part in enumerate(parts) for group in range(part.num_row_groups))
        for group, (count, digest) in zip(range(rank, num_groups, share.world_size), groups, strict=True):
            found[group] = (count, digest)
            places[group] = next(free) if count else None
        files += parts
    return AlignedFiles(
        tuple(files),
        tuple(places),
        tuple(count for count, _ in found),
        digest_of(digest for _, digest in found),
    )


def digest_of(groups: Iterable[str]) -> str:
    """The digest of a whole from those of its row groups, in the window's order."""
    return hashlib.sha256("".join(groups).encode()).hexdigest()


def check_places(files: Sequence[Part], places: Sequence[Place | None]) -> None:
    """Refuse places that are not those of the files' row groups, each once.

    Raises:
        ValueError: they are others.
    """
    there = {(file, group) for file, part in enumerate(files) for group in range(part.num_row_groups)}
    named = [place for place in places if place is not None]
    if len(named) != len(there) or set(named) != there:
        raise ValueError("each row group of the files is that of one row group of the window, got other places")
