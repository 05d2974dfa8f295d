"""Signals: one value per row of the window, whoever wrote and whoever reads them, and never another window's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_row_group
from pipeline.data.share import Share
from pipeline.storage.lake import Lake
from pipeline.training import signals as signals_module
from pipeline.training.metrics import log_losses
from pipeline.training.signals import MissingSignal, Scored, Signal, SignalReader, write_signals
from tests.trained import DAY, alone, as_workers, publish

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


def write(
    lake: Lake,
    manifest: WindowManifest,
    world_size: int,
    monkeypatch: pytest.MonkeyPatch,
    logits: NDArray[np.float32] = LOGITS,
) -> dict[str, Signal]:
    """Write as so many workers; rows come in no particular order."""

    def one(rank: int) -> tuple[Signal, ...]:
        share = Share(lake, manifest, rank, world_size)
        starts = share.starts()
        own = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in share.row_groups])
        own = np.random.default_rng(rank).permutation(own)
        return write_signals(
            share, f"steps/sim/by-{world_size}", KEY, 0, ["logit", "loss", "error"], Scored(own, logits[own])
        )

    answers = as_workers(monkeypatch, signals_module, world_size, one)
    assert all(each == answers[0] for each in answers), "every worker reports the same"
    return {signal.name: signal for signal in answers[0]}


def read(lake: Lake, manifest: WindowManifest, signal: Signal, world_size: int) -> NDArray[np.float32]:
    found = np.full(NUM_ROWS, np.nan, np.float32)
    for rank in range(world_size):
        reader = SignalReader(lake, signal, manifest.digest)
        share = Share(lake, manifest, rank, world_size)
        starts = share.starts()
        for group in share.row_groups:
            ids = share.read(group, ["example_id"]).column(0).to_numpy()
            found[starts[group] : starts[group + 1]] = reader(group, ids)
    return found


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2])
def test_signals_come_back_to_their_rows_for_any_number_of_workers(
    lake: Lake, manifest: WindowManifest, writers: int, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = write(lake, manifest, writers, monkeypatch)
    labels = pa.concat_tables([read_row_group(lake, manifest, g, ["label"]) for g in range(manifest.num_row_groups)])
    label = labels.column(0).to_numpy()
    expected = {"logit": LOGITS, "loss": log_losses(LOGITS, label), "error": np.abs(1 / (1 + np.exp(-LOGITS)) - label)}
    for name, signal in signals.items():
        assert np.allclose(read(lake, manifest, signal, readers), expected[name], atol=1e-6)
        assert Signal.model_validate_json(signal.model_dump_json()) == signal
    assert np.array_equal(read(lake, manifest, signals["logit"], readers), LOGITS)


def test_the_digest_is_of_the_content_and_not_of_the_workers(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {
        signal.digest for writers in (1, 2, 3) for signal in write(lake, manifest, writers, monkeypatch).values()
    }
    assert len(digests) == 3, "one of each signal"
    changed = LOGITS.copy()
    changed[17] = np.nextafter(changed[17], np.float32(9))
    assert write(lake, manifest, 1, monkeypatch, changed)["logit"].digest not in digests


@pytest.mark.parametrize(
    "positions",
    [np.arange(NUM_ROWS - 1), np.r_[np.arange(NUM_ROWS - 1), 0], np.arange(1, NUM_ROWS + 1)],
    ids=["one missing", "one twice", "shifted"],
)
def test_every_row_has_exactly_one_logit(lake: Lake, manifest: WindowManifest, positions: NDArray[np.int64]) -> None:
    share = Share(lake, manifest)
    with pytest.raises(RuntimeError, match="do not have exactly one logit each"):
        write_signals(share, "steps/sim/x", KEY, 0, ["logit"], Scored(positions, LOGITS[: len(positions)]))


def test_signals_of_another_generation_are_refused_with_the_cure(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = write(lake, manifest, 1, monkeypatch)["logit"]
    with pytest.raises(MissingSignal, match="ffffffffffff was made for another generation.*train that variant on the"):
        SignalReader(lake, signal, "0" * 64)


def test_signals_of_other_examples_are_refused_with_the_cure(
    lake: Lake, manifest: WindowManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = write(lake, manifest, 1, monkeypatch)["logit"]
    ids = Share(lake, manifest).read(2, ["example_id"]).column(0).to_numpy()
    reader = SignalReader(lake, signal, manifest.digest)
    with pytest.raises(MissingSignal, match="lacks examples of row group 1: train that variant.*with `force`"):
        reader(1, ids)
