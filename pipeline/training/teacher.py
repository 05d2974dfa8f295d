"""A teacher's scores: its logits for a window's examples, stored once and read by all students."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.storage import parquet
from pipeline.storage.damage import MissingFile
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part, PartWriter
from pipeline.storage.together import on_all
from pipeline.training.loader import Share
from pipeline.training.scores import MissingScores, Scores, joined, row_group_digest


def write_scores(
    share: Share, folder: str, teacher: str, positions: NDArray[np.int64], logits: NDArray[np.float32]
) -> Scores:
    """Store the logits of every row of this worker's share; every worker calls this, and all get the same answer.

    Args:
        share: the worker's part of the window.
        folder: a new folder of the lake.
        teacher: key of the teacher's step.
        positions: (N,) places in the window's order, in any order, of all of the share's rows.
        logits: (N,) the teacher's raw logits of those rows.

    Raises:
        RuntimeError: some row has no logit, or has two.
    """
    order = np.argsort(positions, kind="stable")
    positions, logits = positions[order], logits[order].astype(np.float32)
    starts = share.starts()
    schema = pa.schema([("example_id", pa.uint64()), ("logit", pa.float32())])

    def write() -> tuple[tuple[Part, ...], list[str]]:
        writer = PartWriter(share.lake, lambda part: f"{folder}/worker-{share.rank:05d}-{part:05d}.parquet", schema)
        digests: list[str] = []
        taken = 0
        for group in share.row_groups:
            first, last = int(starts[group]), int(starts[group + 1])
            stop = taken + last - first
            if not np.array_equal(positions[taken:stop], np.arange(first, last)):
                raise RuntimeError(
                    f"{share.manifest.window}: rows {first} to {last} do not have exactly one score each"
                )
            ids = share.read(group, ["example_id"]).column(0).combine_chunks()
            writer.write(pa.table([ids, logits[taken:stop]], schema=schema), last - first)
            digests.append(row_group_digest(ids.to_numpy(), logits[taken:stop]))
            taken = stop
        return writer.finish(), digests

    files: list[Part] = []
    found: dict[int, tuple[tuple[int, int], str]] = {}
    for rank, (parts, digests) in enumerate(on_all(write)):
        places = [(len(files) + file, group) for file, part in enumerate(parts) for group in range(part.num_row_groups)]
        groups = range(rank, len(starts) - 1, share.world_size)
        found |= dict(zip(groups, zip(places, digests, strict=True), strict=True))
        files += parts
    ordered = [found[group] for group in range(len(starts) - 1)]
    return Scores(
        teacher=teacher,
        window_digest=share.manifest.digest,
        files=tuple(files),
        places=tuple(place for place, _ in ordered),
        digest=joined(digest for _, digest in ordered),
    )


class ScoreReader:
    """Reads a window's scores row group by row group, for any share of it."""

    def __init__(self, lake: Lake, scores: Scores, window_digest: str) -> None:
        if scores.window_digest != window_digest:
            raise MissingScores(
                f"the scores of teacher step {scores.teacher[:12]} were made for another generation of the window: "
                "train the teacher on the window again, before its students"
            )
        self._lake, self._scores = lake, scores
        try:
            for part in scores.files:
                parquet.columns(lake, part)  # refuses what is gone or damaged before anybody trains
        except MissingFile as error:
            raise MissingScores(
                f"the scores of teacher step {scores.teacher[:12]} are named by its manifest, got no such file ({error}): "
                "train the teacher on the window again with `force`"
            ) from None

    def __call__(self, group: int, example_id: NDArray[np.uint64]) -> NDArray[np.float32]:
        """(N,) the teacher's raw logits of one row group of the window.

        Raises:
            MissingScores: they belong to other examples.
        Damaged: they are not what was written.
        """
        file, place = self._scores.places[group]
        table = parquet.read_row_group(self._lake, self._scores.files[file], place)
        if not np.array_equal(table.column("example_id").to_numpy(), example_id):
            raise MissingScores(
                f"scores of teacher step {self._scores.teacher[:12]} lack examples of row group {group}: "
                "train the teacher on the window again with `force`"
            )
        logits: NDArray[np.float32] = table.column("logit").to_numpy()
        return logits
