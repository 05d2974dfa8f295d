"""Signals: columns that a model makes for a window's examples, stored by example id and read by students and policies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import expit, logit

from pipeline.data.share import Share, Written, aligned, check_places, digest_of
from pipeline.spec.config import MOST_PASSES, SKETCH_COLUMNS
from pipeline.spec.documents import Digest, Frozen
from pipeline.spec.errors import BadInput, nearest
from pipeline.storage import parquet
from pipeline.storage.damage import MissingFile
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part, PartWriter, read_row_group
from pipeline.storage.together import on_all
from pipeline.training.metrics import log_losses

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model's pass gave of this worker's rows. N rows, in any order."""

    positions: NDArray[np.int64]
    """(N,) places in the window's order."""
    logits: Floats
    """(N,) raw logits."""
    readings: Mapping[str, Floats] = field(default_factory=dict)
    """(N, K) each: what signals need beside the logits, by name."""

    @classmethod
    def of(cls, batches: Iterable[Scored]) -> Scored:
        """Those of all batches, one after the other."""
        parts = list(batches)
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0, np.float32))
        return cls(
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.logits for part in parts]),
            {name: np.concatenate([part.readings[name] for part in parts]) for name in parts[0].readings},
        )

    def at(self, places: Any) -> Scored:
        """Those of some rows."""
        return Scored(
            self.positions[places], self.logits[places], {name: read[places] for name, read in self.readings.items()}
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """One signal that models make."""

    value: Callable[[Scored, NDArray[np.uint8], float], NDArray[np.floating]]
    """(N,) what a pass over N rows, their labels and the window's click rate give."""
    reading: str | None = None
    """What it needs of the last layer's inputs, by its name in `last_layer.READINGS`; nothing else is computed."""
    passes: int = 1
    """Over the window: all but the first are by a copy of the model, which is thrown away."""


PASSES = "passes"
"""Among the readings, (N, P - 1) the logits of P passes but the first, each before the update on the row's batch."""


def _error(scored: Scored, label: NDArray[np.uint8]) -> NDArray[np.floating]:
    found: NDArray[np.floating] = expit(scored.logits) - label
    return found


def _gradient(place: int, scored: Scored, label: NDArray[np.uint8], click_rate: float) -> NDArray[np.floating]:
    return _error(scored, label) * scored.readings["sketch"][:, place]


def _forgotten(passes: int, scored: Scored, label: NDArray[np.uint8], click_rate: float) -> NDArray[np.floating]:
    logits = np.column_stack([scored.logits, scored.readings[PASSES][:, : passes - 1]])
    base = logit(click_rate)
    right = np.where(label[:, None] > 0, logits > base, logits < base)
    events = (right[:, :-1] & ~right[:, 1:]).sum(axis=1)
    return np.where(right.any(axis=1), events, passes - 1).astype(np.float32)


SIGNALS: dict[str, Kind] = {
    "logit": Kind(lambda scored, label, _: scored.logits),
    "loss": Kind(lambda scored, label, _: log_losses(scored.logits, label)),
    "error": Kind(lambda scored, label, _: np.abs(_error(scored, label))),
    "gradient_norm": Kind(
        lambda scored, label, _: np.abs(_error(scored, label)) * scored.readings["norm"][:, 0], reading="norm"
    ),
    **{f"gradient_{place}": Kind(partial(_gradient, place), reading="sketch") for place in range(SKETCH_COLUMNS)},
    **{f"forgetting_{num}": Kind(partial(_forgotten, num), passes=num) for num in range(2, MOST_PASSES + 1)},
}
"""What a model's passes and the labels give.

- The raw `logit`, the log-`loss` in nats, the `error` |p - y| (EL2N, Paul et al. 2021).
- `gradient_norm`: the length of the loss's gradient in the last layer, |p - y| sqrt(1 + |h|^2) with h the layer's inputs (GraNd, Paul et
  al. 2021, definition 2.1, of that layer alone: for a click's loss that is exact, the bias's part included).
- `gradient_0` to `gradient_7`: that gradient itself, sketched: its bias's part p - y, and seven random sums of its weights'.
- `forgetting_P`: in how many of P - 1 passes an example was predicted wrong that was predicted right in the pass before (Toneva et al.
  2019; Sachdeva et al. 2022, SVP-CF). Right is a loss below that of the window's click rate said of every row: since clicks are rare, a
  cut at one half would call every negative right. What no pass predicted right counts as forgotten in all P - 1.
"""


class MissingSignal(BadInput):
    """A signal is needed that its source has not left."""


class Signal(Frozen):
    """One signal of one window. Row group by row group it matches the window's."""

    name: str
    """Which of `SIGNALS`, or what its producer calls it."""
    age: Annotated[int, Field(ge=-1)] = 0
    """Windows between the checkpoint that made it and the window; 0: the producer's own training pass."""
    producer: Digest
    """Key of the step that made it."""
    window_digest: Digest
    """Of the window that it was made for."""
    files: tuple[Part, ...] = Field(min_length=1)
    """Parquet files with the columns `example_id` and `value`."""
    places: tuple[tuple[int, int], ...]
    """For each row group of the window: its file and the row group therein."""
    digest: Digest
    """sha256 over ids and values in the window's order."""

    @model_validator(mode="after")
    def _there(self) -> Signal:
        check_places(self.files, self.places)
        return self


def require_signal(name: str, age: int = 0) -> None:
    """Refuse a signal that no model makes, or none of an age.

    Raises:
        BadInput: there is none of that name, or an older checkpoint was to make several passes.
    """
    if name not in SIGNALS:
        raise BadInput(f"models make no signal {name!r}: {nearest(name, SIGNALS)}")
    if age and SIGNALS[name].passes > 1:
        raise BadInput(
            f"the signal {name} takes several passes over a window, which only the model that trains on it makes, got an age of {age}: "
            "read it at age 0"
        )


def passes_of(names: Iterable[str]) -> int:
    """The most passes over the window that any of some signals takes; one for a name that is none of `SIGNALS`."""
    return max((SIGNALS[name].passes for name in names if name in SIGNALS), default=1)


def readings_of(names: Iterable[str]) -> frozenset[str]:
    """What signals need of the last layer's inputs, by its name in `last_layer.READINGS`."""
    return frozenset(reading for name in names if (reading := SIGNALS[name].reading) is not None)


def write_signals(
    share: Share,
    folder: str,
    producer: str,
    age: int,
    names: Iterable[str],
    scored: Scored,
) -> tuple[Signal, ...]:
    """Store signals of every row of this worker's share; every worker calls this, and all get the same answer.

    Args:
        share: the worker's part of the window.
        folder: a new folder of the lake.
        producer: key of the step whose model it is.
        age: windows between the checkpoint and the window; -1 for the one that closed it.
        names: which of `SIGNALS`.
        scored: what the model's pass gave of all of the share's rows.

    Raises:
        RuntimeError: some row has no logit, or has two.
    """
    ordered = scored.at(np.argsort(scored.positions, kind="stable"))
    return tuple(
        _write(share, f"{folder}/{name}-{'hindsight' if age < 0 else f'age-{age}'}", name, age, producer, ordered)
        for name in sorted(names)
    )


def _write(share: Share, folder: str, name: str, age: int, producer: str, scored: Scored) -> Signal:
    starts, click_rate = share.starts(), share.manifest.num_positives / share.manifest.num_rows
    schema = pa.schema([("example_id", pa.uint64()), ("value", pa.float32())])

    def write() -> Written:
        writer = PartWriter(share.lake, lambda part: f"{folder}/worker-{share.rank:05d}-{part:05d}.parquet", schema)
        groups: list[tuple[int, str]] = []
        taken = 0
        for group in share.row_groups:
            first, last = int(starts[group]), int(starts[group + 1])
            here = scored.at(slice(taken, taken + last - first))
            if not np.array_equal(here.positions, np.arange(first, last)):
                raise RuntimeError(
                    f"{share.manifest.window}: rows {first} to {last} do not have exactly one logit each"
                )
            table = share.read(group, ["example_id", "label"])
            label = table.column("label").to_numpy()
            values = np.asarray(SIGNALS[name].value(here, label, click_rate), np.float32)
            ids = table.column("example_id").combine_chunks()
            writer.write(pa.table([ids, values], schema=schema), last - first)
            groups.append((len(values), row_group_digest(ids.to_numpy(), values)))
            taken += last - first
        return writer.finish(), groups

    files, places, _, digest = aligned(on_all(write), share)
    return Signal(
        name=name,
        age=age,
        producer=producer,
        window_digest=share.manifest.digest,
        files=files,
        places=places,
        digest=digest,
    )


class SignalReader:
    """Reads a signal of a window row group by row group, for any share of it."""

    def __init__(self, lake: Lake, signal: Signal, window_digest: str) -> None:
        if signal.window_digest != window_digest:
            raise MissingSignal(
                f"the {signal.name} of step {signal.producer[:12]} was made for another generation of the window: "
                "train that variant on the window again, before those that read it"
            )
        self._lake, self._signal = lake, signal
        try:
            for part in signal.files:
                parquet.columns(lake, part)  # refuses what is gone or damaged before anybody trains
        except MissingFile as error:
            raise MissingSignal(
                f"the {signal.name} of step {signal.producer[:12]} is named by its manifest, got no such file ({error}): "
                "train that variant on the window again with `force`"
            ) from None

    def __call__(self, group: int, example_id: NDArray[np.uint64]) -> Floats:
        """(N,) the signal of one row group of the window.

        Raises:
            MissingSignal: it belongs to other examples.
            Damaged: it is not what was written.
        """
        file, place = self._signal.places[group]
        table = parquet.read_row_group(self._lake, self._signal.files[file], place)
        if not np.array_equal(table.column("example_id").to_numpy(), example_id):
            raise self._lacks(group)
        values: Floats = table.column("value").to_numpy()
        return values

    def of_some(self, group: int, within: NDArray[np.int64], example_id: NDArray[np.uint64]) -> Floats:
        """(K,) the signal of some examples of one row group.

        Args:
            group: its index in the window.
            within: (K,) their places in the row group.
            example_id: (K,) theirs.

        Raises:
            MissingSignal: it belongs to other examples.
            Damaged: it is not what was written.
        """
        file, place = self._signal.places[group]
        table = parquet.read_row_group(self._lake, self._signal.files[file], place)
        ids = table.column("example_id").to_numpy()
        if len(within) and (within[-1] >= len(ids) or not np.array_equal(ids[within], example_id)):
            raise self._lacks(group)
        values: Floats = table.column("value").to_numpy()[within]
        return values

    def _lacks(self, group: int) -> MissingSignal:
        return MissingSignal(
            f"the {self._signal.name} of step {self._signal.producer[:12]} lacks examples of row group {group}: "
            "train that variant on the window again with `force`"
        )


def row_group_digest(ids: NDArray[np.uint64], values: Floats) -> str:
    """The sha256 of one row group's ids and values."""
    return hashlib.sha256(ids.tobytes() + values.tobytes()).hexdigest()


def content_digest(lake: Lake, signal: Signal) -> str:
    """The digest that a signal has now, for comparison with its document's; reads all of it.

    Raises:
        MissingFile: a file is gone.
        Damaged: a file is not what was written.
    """
    tables = (read_row_group(lake, signal.files[file], group) for file, group in signal.places)
    return digest_of(row_group_digest(table["example_id"].to_numpy(), table["value"].to_numpy()) for table in tables)
