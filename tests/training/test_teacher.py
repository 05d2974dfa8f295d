"""A teacher's scores: one per row of the window, whoever wrote and whoever reads them, and never another window's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest
from pipeline.data.simulator import Simulator, SimulatorConfig
from pipeline.storage.lake import Lake
from pipeline.training import teacher
from pipeline.training.loader import Share
from pipeline.training.model import Features
from pipeline.training.teacher import MissingScores, ScoreReader, Scores, write_scores
from tests.trained import DAY, alone, publish

FEATURES = Features(Simulator(SimulatorConfig.tiny(num_lists=1, cluster=True)).schema)
NUM_ROWS = 310
KEY = "f" * 64
LOGITS = np.random.default_rng(0).normal(size=NUM_ROWS).astype(np.float32)


@pytest.fixture(autouse=True)
def _group() -> None:
    """Workers write together: a process group of this process alone."""
    alone()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


@pytest.fixture
def manifest(lake: Lake) -> WindowManifest:
    return publish(lake, [DAY], group=40, rows_per_window=NUM_ROWS)[0]


class _Stop(Exception):
    """Ends a worker where it would wait for the others."""


def write(
    lake: Lake,
    manifest: WindowManifest,
    world_size: int,
    monkeypatch: pytest.MonkeyPatch,
    logits: NDArray[np.float32] = LOGITS,
) -> Scores:
    """Write as so many workers would, one after the other; rows come in no particular order."""
    told: list[Any] = []

    def stop(work: Callable[[], Any]) -> None:
        told.append(work())
        raise _Stop

    def answer(work: Callable[[], Any]) -> list[Any]:
        work()
        return told

    def one(rank: int) -> Scores:
        share = Share(lake, manifest, FEATURES, rank, world_size)
        starts = share.starts()
        own = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in share.row_groups])
        own = np.random.default_rng(rank).permutation(own)
        return write_scores(share, f"steps/sim/by-{world_size}", KEY, own, logits[own])

    monkeypatch.setattr(teacher, "on_all", stop)
    for rank in range(world_size):
        with pytest.raises(_Stop):
            one(rank)
    monkeypatch.setattr(teacher, "on_all", answer)
    answers = [one(rank) for rank in range(world_size)]
    assert all(each == answers[0] for each in answers), "every worker tells the same"
    return answers[0]


def read(lake: Lake, manifest: WindowManifest, scores: Scores, world_size: int) -> NDArray[np.float32]:
    found = np.full(NUM_ROWS, np.nan, np.float32)
    for rank in range(world_size):
        reader = ScoreReader(lake, scores, manifest.digest)
        share = Share(lake, manifest, FEATURES, rank, world_size)
        starts = share.starts()
        for group in share.row_groups:
            ids = share.read(group, ["example_id"]).column(0).to_numpy()
            found[starts[group] : starts[group + 1]] = reader(group, ids)
    return found


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2])
def test_scores_come_back_to_their_rows_for_any_number_of_workers(
    lake: Lake, manifest: WindowManifest, writers: int, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = write(lake, manifest, writers, monkeypatch)
    assert np.array_equal(read(lake, manifest, scores, readers), LOGITS)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores


def test_the_digest_is_of_the_content_and_not_of_the_workers(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {write(lake, manifest, writers, monkeypatch).digest for writers in (1, 2, 3)}
    assert len(digests) == 1
    changed = LOGITS.copy()
    changed[17] = np.nextafter(changed[17], np.float32(9))
    assert write(lake, manifest, 1, monkeypatch, changed).digest not in digests


@pytest.mark.parametrize(
    "positions",
    [np.arange(NUM_ROWS - 1), np.r_[np.arange(NUM_ROWS - 1), 0], np.arange(1, NUM_ROWS + 1)],
    ids=["one missing", "one twice", "shifted"],
)
def test_every_row_has_exactly_one_score(lake: Lake, manifest: WindowManifest, positions: NDArray[np.int64]) -> None:
    share = Share(lake, manifest, FEATURES)
    with pytest.raises(RuntimeError, match="do not have exactly one score each"):
        write_scores(share, "steps/sim/x", KEY, positions, LOGITS[: len(positions)])


def test_scores_of_another_generation_are_refused_with_the_cure(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = write(lake, manifest, 1, monkeypatch)
    with pytest.raises(MissingScores, match="ffffffffffff were made for another generation.*train the teacher on the"):
        ScoreReader(lake, scores, "0" * 64)


def test_scores_of_other_examples_are_refused_with_the_cure(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = write(lake, manifest, 1, monkeypatch)
    ids = Share(lake, manifest, FEATURES).read(2, ["example_id"]).column(0).to_numpy()
    reader = ScoreReader(lake, scores, manifest.digest)
    with pytest.raises(MissingScores, match="lack examples of row group 1: train the teacher.*with `force`"):
        reader(1, ids)
