"""Where a teacher's scores of a window lie: the document that students find them by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.spec.canonical import Digest
from pipeline.spec.documents import Frozen
from pipeline.spec.errors import BadInput
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part, read_row_group


class MissingScores(BadInput):
    """A student needs scores that its teacher has not left."""


class Scores(Frozen):
    """Where a teacher's scores of one window lie. Row group by row group they match the window's."""

    teacher: str
    """Key of the step that made them."""
    window_digest: str
    """Digest of the window they were made for."""
    files: tuple[Part, ...] = Field(min_length=1)
    """Parquet files with the columns `example_id` and `logit`."""
    places: tuple[tuple[int, int], ...]
    """For each row group of the window: its file and the row group therein."""
    digest: Digest
    """sha256 over ids and logits in the window's order."""

    @model_validator(mode="after")
    def _there(self) -> Scores:
        there = {(file, group) for file, part in enumerate(self.files) for group in range(part.num_row_groups)}
        if len(self.places) != len(there) or set(self.places) != there:
            raise ValueError("each row group of the files is that of one row group of the window, got other places")
        return self


def row_group_digest(ids: NDArray[np.uint64], logits: NDArray[np.float32]) -> str:
    """The sha256 of one row group's ids and logits."""
    return hashlib.sha256(ids.tobytes() + logits.tobytes()).hexdigest()


def joined(digests: Iterable[str]) -> str:
    """The digest of scores from those of their row groups, in the window's order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def content_digest(lake: Lake, scores: Scores) -> str:
    """The digest that scores have now, for comparison with their document's; reads all of them.

    Raises:
        MissingFile: a file is gone.
        Damaged: a file is not what was written.
    """
    tables = (read_row_group(lake, scores.files[file], group) for file, group in scores.places)
    return joined(row_group_digest(table["example_id"].to_numpy(), table["logit"].to_numpy()) for table in tables)
