"""A simulated click log whose true click probabilities are known: drifting, churning, and as large as asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.dataset import ROW_GROUP_SIZE, WindowManifest, physical_schema, publish_window, read_manifest
from pipeline.spec.schema import Categorical, Dense, EventTime, ListColumn, Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import DAY_US, Window
from pipeline.storage.hashing import bucket_of, key_of, splitmix64
from pipeline.storage.lake import Lake

CHUNK_ROWS = 1 << 16
"""Rows drawn at a time, at most: what bounds the memory."""

_SMALLEST_FIELD = 10

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Column:
    """The state on one day of a column of ids, or of the numbers taken together; arrays go by slot, not by rank."""

    weights: Floats
    """Linear effects, of unit variance; `(num_slots,)`."""
    latents: Floats
    """Latent vectors, entries of unit variance; `(interaction_rank, num_slots)`, or `(0, num_slots)` if nothing interacts."""
    popularity: Floats
    """What the slots are ranked by, uniform in [0, 1); `(num_slots,)`."""
    birth: npt.NDArray[np.int64]
    """Day on which the slot's id was first seen, relative to the origin; `(num_slots,)`."""


@dataclass(frozen=True)
class _Ids:
    """A column of ids as rows see it on one day: tables by popularity rank."""

    effects: Floats
    latents: Floats
    buckets: npt.NDArray[np.int32]
    clusters: npt.NDArray[np.uint64]


class Simulator:
    """Draws the windows of one config, in any order, each a function of (config, window) alone."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self._num_slots = _sizes(config.num_categorical, config.num_ids) + _sizes(config.num_lists, config.num_ids)
        self._pairs = _pairs(config)
        self._interacting = {column for pair in self._pairs for column in pair}
        self._kept: tuple[Window, int, list[_Column]] | None = None

    @functools.cached_property
    def schema(self) -> Schema:
        """The schema that the windows are published with."""
        config = self.config
        sizes = [config.hash_size or 2 * num_slots for num_slots in self._num_slots]
        ids, lists = sizes[: config.num_categorical], sizes[config.num_categorical :]
        return Schema(
            label="label",
            event_time=EventTime(column="event_time"),
            dense=tuple(Dense(name=f"I{index + 1}") for index in range(config.num_dense)),
            categorical=tuple(Categorical(name=f"C{index + 1}", hash_size=size) for index, size in enumerate(ids)),
            lists=tuple(ListColumn(name=f"L{index + 1}", hash_size=size) for index, size in enumerate(lists)),
            cluster="C1" if config.cluster else None,
            true_prob="true_prob",
        )

    def window(self, window: Window, origin: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a window in the format of `physical_schema`, sorted, in batches of at most `CHUNK_ROWS`.

        Args:
            window: the day.
            origin: where drift and churn begin, in place of the config's own.
        """
        day = window.days_since(origin or self.config.origin)
        dense, ids = self._tables(origin or self.config.origin, day)
        num_rows = self.config.rows_per_window
        num_chunks = -(-num_rows // CHUNK_ROWS)
        for chunk in range(num_chunks):
            first, last = chunk * num_rows // num_chunks, (chunk + 1) * num_rows // num_chunks
            random = _generator(self.config.seed, "rows", day, chunk)
            yield self._draw(window, np.arange(first, last), dense, ids, random)

    def _tables(self, origin: Window, day: int) -> tuple[_Column, list[_Ids]]:
        dense, *columns = self._state(origin, day)
        seed, schema = self.config.seed, self.schema
        ids = [(feature.name, feature.hash_size) for feature in schema.categorical]
        ids += [(feature.name, feature.hash_size) for feature in schema.lists]
        return dense, [_by_rank(column, *each, seed) for column, each in zip(columns, ids, strict=True)]

    def _state(self, origin: Window, day: int) -> list[_Column]:
        """Every column's state on a day, stepped from the day kept last if that lies on the way from the origin."""
        kept_origin, at, columns = self._kept or (origin, 0, [])
        if not columns or kept_origin != origin or at * day < 0 or abs(at) > abs(day):
            at, columns = 0, self._first()
        step = 1 if day > 0 else -1
        while at != day:
            at += step
            columns = [self._step(column, number, at) for number, column in enumerate(columns)]
        self._kept = (origin, at, columns)
        return columns

    def _first(self) -> list[_Column]:
        columns = []
        for number, num_slots in enumerate([self.config.num_dense, *self._num_slots]):
            random = _generator(self.config.seed, "column", number)
            # Lists do not interact, and neither do most columns of ids: they need no latent vectors.
            latents = self.config.interaction_rank if number == 0 or number - 1 in self._interacting else 0
            columns.append(
                _Column(
                    weights=random.standard_normal(num_slots, dtype=np.float32),
                    latents=random.standard_normal((latents, num_slots), dtype=np.float32),
                    popularity=random.random(num_slots, dtype=np.float32),
                    birth=np.zeros(num_slots, np.int64),
                )
            )
        return columns

    def _step(self, column: _Column, number: int, day: int) -> _Column:
        config = self.config
        random = _generator(config.seed, "step", number, day)
        num_slots = len(column.weights)
        is_new = (random.random(num_slots) < config.new_ids) & (number > 0)
        is_moved = is_new | (random.random(num_slots) < config.churn)
        stays, moves = np.float32(np.sqrt(1 - config.drift**2)), np.float32(config.drift)

        def drifted(old: Floats) -> Floats:
            noise = random.standard_normal(old.shape, dtype=np.float32)
            return np.where(is_new, noise, stays * old + moves * noise)

        return replace(
            column,
            weights=drifted(column.weights),
            latents=drifted(column.latents),
            popularity=np.where(is_moved, random.random(num_slots, dtype=np.float32), column.popularity),
            birth=np.where(is_new, day, column.birth),
        )

    def _draw(
        self,
        window: Window,
        rows: npt.NDArray[np.int64],
        dense: _Column,
        ids: list[_Ids],
        random: np.random.Generator,
    ) -> pa.RecordBatch:
        """The rows numbered `rows` (N,) of a window."""
        config, num_rows = self.config, len(rows)
        numbers = random.standard_normal((config.num_dense, num_rows), dtype=np.float32)
        linear = dense.weights @ numbers
        arrays: dict[str, pa.Array] = {f"I{index + 1}": pa.array(row) for index, row in enumerate(numbers)}
        latents: dict[int, Floats] = {}
        for index, table in enumerate(ids[: config.num_categorical]):
            ranks = _zipf_ranks(len(table.effects), config.zipf, num_rows, random)
            linear += table.effects[ranks]
            arrays[f"C{index + 1}"] = pa.array(table.buckets[ranks])
            if index == 0 and config.cluster:
                arrays["cluster"] = pa.array(table.clusters[ranks])
            if index in self._interacting:
                latents[index] = table.latents[:, ranks]
        for index, table in enumerate(ids[config.num_categorical :]):
            arrays[f"L{index + 1}"] = self._draw_list(table, linear, random)
        for column in self._interacting - latents.keys():
            latents[column] = dense.latents[:, -1 - column, None] * numbers[-1 - column]
        truth = self._probabilities(linear, latents)
        start = int(window.start.timestamp()) * 1_000_000
        stream = key_of("example", config.seed) + np.uint64(window.start.toordinal() << 32)
        arrays |= {
            "example_id": pa.array(splitmix64(stream + rows.astype(np.uint64))),
            "event_time": pa.array(start + rows * DAY_US // config.rows_per_window).cast(pa.timestamp("us", "UTC")),
            "label": pa.array((random.random(num_rows) < truth).astype(np.uint8)),
            "true_prob": pa.array(truth),
        }
        columns = physical_schema(self.schema)
        return pa.RecordBatch.from_arrays([arrays[name] for name in columns.names], schema=columns)

    def _draw_list(self, table: _Ids, linear: Floats, random: np.random.Generator) -> pa.Array:
        """A list for each row; adds the effects to `linear` (N,) in place."""
        mean, num_rows = self.config.mean_list_length, len(linear)
        lengths = random.integers(0, 2 * mean, num_rows, endpoint=True)
        ranks = _zipf_ranks(len(table.effects), self.config.zipf, int(lengths.sum()), random)
        sums = np.bincount(np.repeat(np.arange(num_rows), lengths), table.effects[ranks], num_rows)
        # The mean over `mean` draws has variance 1 / mean: scale it back to that of one id.
        linear += (np.sqrt(mean) * sums / np.maximum(lengths, 1)).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(table.buckets[ranks]))

    def _probabilities(self, linear: Floats, latents: dict[int, Floats]) -> npt.NDArray[np.float64]:
        """True probabilities (N,), with the intercept that makes their mean the base rate."""
        config = self.config
        share = config.interaction_strength if self._pairs else 0.0
        num_columns = config.num_dense + config.num_categorical + config.num_lists
        logits = config.signal * np.sqrt((1 - share) / num_columns) * linear.astype(np.float64)
        if self._pairs:
            scale = np.float32(config.signal * np.sqrt(share / (len(self._pairs) * config.interaction_rank)))
            products = np.zeros_like(linear)
            for left, right in self._pairs:
                for one, other in zip(latents[left], latents[right], strict=True):
                    products += one * other
            logits += scale * products
        return _calibrated(logits, config.base_rate)


def simulate(
    lake: Lake,
    dataset: str,
    config: SimulatorConfig,
    windows: Iterable[Window],
    *,
    force: bool = False,
    row_group_size: int = ROW_GROUP_SIZE,
    progress: Callable[[str], None] | None = None,
) -> list[WindowManifest]:
    """Publish simulated windows; those that the same config has published already are left as they are.

    Args:
        lake: where to.
        dataset: the data set's name.
        config: what the log looks like.
        windows: which days.
        force: publish new generations even so.
        row_group_size: rows of a row group.
        progress: called with a line for each window.

    Returns:
        The manifests of the windows, in their order.
    """
    simulator = Simulator(config)
    sources = [f"simulator:{config.key}"]
    manifests = []
    for window in windows:
        current = None if force else read_manifest(lake, dataset, window)
        if current is not None and _is_current(current, sources, row_group_size):
            manifests.append(current)
            if progress is not None:
                progress(f"{dataset} {window.name}: already published, left as it is ({current.num_rows:,} rows)")
            continue
        batches = simulator.window(window)
        manifests.append(
            publish_window(
                lake,
                dataset,
                window,
                simulator.schema,
                batches,
                sources,
                row_group_size=row_group_size,
                force=force,
                progress=progress,
            )
        )
    return manifests


def _is_current(manifest: WindowManifest, sources: Sequence[str], row_group_size: int) -> bool:
    return list(manifest.sources) == list(sources) and manifest.row_group_size == row_group_size


def _generator(seed: int, *words: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(int(key_of(seed, *words))))


def _sizes(num_columns: int, largest: int) -> list[int]:
    smallest = min(_SMALLEST_FIELD, largest)
    if num_columns == 1:
        return [largest]
    return [round(smallest * (largest / smallest) ** (index / (num_columns - 1))) for index in range(num_columns)]


def _pairs(config: SimulatorConfig) -> list[tuple[int, int]]:
    """Which columns interact: ids by their index, numbers by -1 - index.

    The smaller half of the columns of ids, and as many numbers: what meets too seldom cannot be learned.
    """
    ids = range(-(-config.num_categorical // 2))
    numbers = range(-1, -1 - min(config.num_dense, max(len(ids), 2)), -1)
    columns = [*ids, *numbers]
    every = [(left, right) for place, left in enumerate(columns) for right in columns[place + 1 :]]
    random = _generator(config.seed, "pairs")
    chosen = random.permutation(len(every))[: config.num_interactions]
    return [every[place] for place in sorted(chosen)]


def _by_rank(column: _Column, name: str, hash_size: int, seed: int) -> _Ids:
    order = np.argsort(column.popularity, kind="stable")
    slots = np.arange(len(order), dtype=np.uint64)
    hashes = splitmix64(splitmix64(slots ^ key_of("id", seed, name)) + column.birth.astype(np.uint64))
    return _Ids(
        effects=column.weights[order],
        latents=np.ascontiguousarray(column.latents[:, order]),
        buckets=bucket_of(hashes, hash_size)[order],
        clusters=hashes[order],
    )


@functools.lru_cache(maxsize=64)
def _alias(num_ids: int, exponent: float) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """Vose's alias table of the Zipf law: a slot's threshold in 32 bits, and who gets the rest of the slot.

    Source: Vose, "A linear algorithm for generating random numbers with a given distribution", IEEE TSE 1991.
    """
    shares = np.arange(1, num_ids + 1, dtype=np.float64) ** -exponent
    scaled = (shares * (num_ids / shares.sum())).tolist()
    aliases = list(range(num_ids))
    small = [rank for rank, share in enumerate(scaled) if share < 1]
    large = [rank for rank, share in enumerate(scaled) if share >= 1]
    while small and large:
        poor, rich = small.pop(), large[-1]
        aliases[poor] = rich
        scaled[rich] -= 1 - scaled[poor]
        if scaled[rich] < 1:
            small.append(large.pop())
    for rank in (*small, *large):  # what rounding left over
        scaled[rank] = 1.0
    thresholds = (np.array(scaled) * 2**32).astype(np.uint64)
    return thresholds, np.array(aliases, np.int32)


def _zipf_ranks(num_ids: int, exponent: float, num_rows: int, random: np.random.Generator) -> npt.NDArray[np.int32]:
    """Popularity ranks `(num_rows,)`, 0 the most popular."""
    thresholds, aliases = _alias(num_ids, exponent)
    bits = random.integers(0, 2**64, num_rows, dtype=np.uint64)
    slots = ((bits >> np.uint64(32)) * np.uint64(num_ids) >> np.uint64(32)).astype(np.int32)
    own = (bits & np.uint64(0xFFFFFFFF)) < thresholds[slots]
    return np.where(own, slots, aliases[slots])


def _calibrated(logits: npt.NDArray[np.float64], base_rate: float) -> npt.NDArray[np.float64]:
    """Probabilities of logits (N,) after the shift that makes their mean the base rate."""
    low, high = -logits.max() - 40.0, -logits.min() + 40.0
    intercept = float(np.log(base_rate / (1 - base_rate)) - logits.mean())
    for _ in range(100):
        truth = 1.0 / (1.0 + np.exp(-(logits + intercept)))
        excess = float(truth.mean()) - base_rate
        if abs(excess) < 1e-9 * base_rate:
            break
        low, high = (low, intercept) if excess > 0 else (intercept, high)
        newton = intercept - excess / max(float((truth * (1 - truth)).mean()), 1e-12)
        intercept = newton if low < newton < high else (low + high) / 2
    return truth
