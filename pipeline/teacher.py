"""A teacher's scores: its logits for a window's examples, stored once and read by all students."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.examples import Share
from pipeline.lake import Lake
from pipeline.scores import MissingScores, Scores
from pipeline.together import on_all


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
    path = f"{folder}/worker-{share.rank:05d}.parquet"
    starts = share.starts()
    schema = pa.schema([("example_id", pa.uint64()), ("logit", pa.float32())])

    def write() -> tuple[str, list[tuple[int, str]]]:
        if share.lake.is_local:
            share.lake.files.create_dir(folder, recursive=True)
        written: list[tuple[int, str]] = []
        taken = 0
        with pq.ParquetWriter(path, schema, filesystem=share.lake.files, compression="lz4") as writer:
            for group in share.row_groups:
                first, last = int(starts[group]), int(starts[group + 1])
                stop = taken + last - first
                if not np.array_equal(positions[taken:stop], np.arange(first, last)):
                    raise RuntimeError(
                        f"{share.manifest.window}: rows {first} to {last} do not have exactly one score each"
                    )
                ids = share.read(group, ["example_id"]).column(0).combine_chunks()
                writer.write_table(pa.table([ids, logits[taken:stop]], schema=schema), row_group_size=last - first)
                content = hashlib.sha256(ids.to_numpy().tobytes() + logits[taken:stop].tobytes())
                written.append((group, content.hexdigest()))
                taken = stop
        return path, written

    gathered = on_all(write)
    found = {
        group: (file, place, digest)
        for file, (_, groups) in enumerate(gathered)
        for place, (group, digest) in enumerate(groups)
    }
    ordered = [found[group] for group in range(len(starts) - 1)]
    return Scores(
        teacher=teacher,
        window_digest=share.manifest.digest,
        files=tuple(name for name, _ in gathered),
        places=tuple((file, place) for file, place, _ in ordered),
        digest=hashlib.sha256("".join(digest for *_, digest in ordered).encode()).hexdigest(),
    )


class ScoreReader:
    """Reads a window's scores row group by row group, for any share of it."""

    def __init__(self, lake: Lake, scores: Scores, window_digest: str) -> None:
        if scores.window_digest != window_digest:
            raise MissingScores(
                f"the scores of teacher step {scores.teacher[:12]} were made for another generation of the window: "
                "train the teacher on the window again, before its students"
            )
        self._scores = scores
        try:
            self._files = [pq.ParquetFile(lake.files.open_input_file(path)) for path in scores.files]
        except FileNotFoundError as error:
            raise MissingScores(
                f"the scores of teacher step {scores.teacher[:12]} are named by its manifest, got no such file ({error}): "
                "train the teacher on the window again with `force`"
            ) from None

    def __call__(self, group: int, example_id: NDArray[np.uint64]) -> NDArray[np.float32]:
        """(N,) the teacher's raw logits of one row group of the window.

        Raises:
            MissingScores: they belong to other examples.
        """
        file, place = self._scores.places[group]
        table = self._files[file].read_row_group(place)
        if not np.array_equal(table.column("example_id").to_numpy(), example_id):
            raise MissingScores(
                f"scores of teacher step {self._scores.teacher[:12]} lack examples of row group {group}: "
                "train the teacher on the window again with `force`"
            )
        logits: NDArray[np.float32] = table.column("logit").to_numpy()
        return logits
