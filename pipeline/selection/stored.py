"""Stored selections: the examples that a policy keeps of a window, written once and read by all that select alike.

Whoever trains on a tenth of a window reads a tenth. Row group by row group a selection matches its window's, so that it is
dealt to workers as the window is, whoever made it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs
from pydantic import model_validator

from pipeline.data.dataset import WindowManifest, physical_schema
from pipeline.data.share import Place, Share, Written, aligned, check_places
from pipeline.selection.policy import Candidates, JointPolicy, ThinningPolicy
from pipeline.selection.sampling import Selected, select, selection_salt
from pipeline.spec.config import Policy, Selection
from pipeline.spec.documents import Digest, Frozen, Seed, content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.damage import Damaged
from pipeline.storage.generation import Generation, new_generation
from pipeline.storage.lake import Conflict, Lake, checked_name
from pipeline.storage.parquet import Part, PartWriter
from pipeline.storage.together import is_of_all, on_all, on_first

SELECTION_VERSION = 1
"""Raised by hand whenever the same policy keeps other examples of the same window, or with other weights."""

POSITION, IMPORTANCE, WEIGHT, OFFSET, LABEL = (
    f"selection.{name}" for name in ("position", "importance", "weight", "offset", "label")
)
"""Columns beside the window's own; no feature has a dot in its name. The label is there where the policy softens it."""
PART_BYTES = 1 << 22
"""Of a selection's files: few, so that writing takes as little memory for a large window as for a small one."""
_ADDED = [(POSITION, pa.int64()), (IMPORTANCE, pa.float32()), (WEIGHT, pa.float32()), (OFFSET, pa.float32())]

SignalColumn = Callable[[int, NDArray[np.uint64]], NDArray[np.float32]]
"""(N,) a signal of one row group of a window, by its index and its example ids."""


class SelectionManifest(Frozen):
    """A stored selection: what it was made of, and where it lies."""

    key: Digest
    """sha256 of everything that decides which examples it has."""
    generation: str
    """Which run left the files."""
    dataset: str
    window: Window
    policy: Selection
    """As it is in that window."""
    seed: Seed
    """Gives the salt."""
    signals: dict[str, Digest]
    """Digests of the signals that the policy read, by their name in its `reads`."""
    schema_key: str
    window_digest: str
    files: tuple[Part, ...]
    """Parquet files: example_id, label and features of the kept examples, with position, importance, weight, offset and, where
    the policy softens it, what is learned in the place of the label."""
    places: tuple[Place | None, ...]
    """For each row group of the window: its file and the row group therein; None where nothing of it is kept."""
    counts: tuple[int, ...]
    """Examples kept of each row group of the window."""
    digest: Digest
    """sha256 over ids, importance, weights and offsets in the window's order."""

    @model_validator(mode="after")
    def _consistent(self) -> SelectionManifest:
        check_places(self.files, self.places)
        if [count > 0 for count in self.counts] != [place is not None for place in self.places]:
            raise ValueError("a row group of the window has a place where some of it is kept, got other counts")
        return self

    @property
    def softens(self) -> bool:
        """Whether its examples have other labels than the window's."""
        return self.policy.softens

    @property
    def num_rows(self) -> int:
        """Examples kept."""
        return sum(self.counts)

    @property
    def identity(self) -> str:
        """What a step's key takes: of a joint selection its content, of any other what decides it."""
        return self.digest if isinstance(self.policy, JointPolicy) else self.key


def selection_key(policy: Policy, window: WindowManifest, seed: int, signals: Mapping[str, str]) -> str:
    """The identity of a selection.

    Args:
        policy: as it is in the window.
        window: whose examples.
        seed: gives the salt.
        signals: digests of what the policy reads.
    """
    return content_key(
        {
            "version": SELECTION_VERSION,
            "policy": policy.model_dump(mode="json"),
            "schema": window.schema_key,
            "window": window.digest,
            "seed": seed,
            "signals": dict(signals),
        }
    )


@dataclass(frozen=True)
class SelectionStore:
    """The stored selections of a data set."""

    lake: Lake
    dataset: str

    def path(self, key: str) -> str:
        """Where the manifest of a selection lies, relative to the lake's root."""
        return f"selections/{checked_name(self.dataset)}/{key[:16]}/manifest.json"

    def read(self, key: str) -> SelectionManifest | None:
        """The selection of that key, if it is stored whole; damaged or half gone, it counts as not stored."""
        try:
            found = self.lake.load(self.path(key), SelectionManifest)
        except Damaged:
            return None
        if found is None or found.key != key:
            return None
        infos = self.lake.files.get_file_info([part.path for part in found.files])
        return found if all(info.type == fs.FileType.File for info in infos) else None

    def of_window(self, window: WindowManifest) -> Iterator[SelectionManifest]:
        """All that are stored of a window as it is published now."""
        for path in sorted(file.path for file in self.lake.files_below(f"selections/{checked_name(self.dataset)}")):
            found = self.lake.load(path, SelectionManifest) if path.endswith("/manifest.json") else None
            if found is not None and found.window == window.window and found.window_digest == window.digest:
                yield found

    def of(
        self, policy: Policy, window: WindowManifest, seed: int, signals: Mapping[str, str]
    ) -> SelectionManifest | None:
        """What a policy keeps of a window, if it is stored; the arguments are those of `selection_key`."""
        return self.read(selection_key(policy, window, seed, signals))

    def make(
        self, share: Share, schema: Schema, policy: Policy, seed: int, signals: Mapping[str, tuple[str, SignalColumn]]
    ) -> SelectionManifest:
        """Select and store; every worker calls this, and all get the same answer.

        Args:
            share: the worker's part of the window.
            schema: the window's.
            policy: as it is in the window.
            seed: gives the salt.
            signals: what the policy reads: each one's digest, and its column.
        """
        columns = physical_schema(schema).names
        if missing := [name for name in getattr(policy, "columns", ()) if name not in columns]:
            raise BadInput(
                f"policy {policy.kind!r} looks at columns of the window, got {missing}: name some of {columns}"
            )
        digests = {name: digest for name, (digest, _) in signals.items()}
        key = selection_key(policy, share.manifest, seed, digests)
        generation, before = on_first(lambda: (new_generation(), self.lake.sound(self.path(key))))
        folder = f"{self.path(key).rsplit('/', 1)[0]}/gen-{generation}"
        attempt = Generation(self.lake, generation, folder, self.path(key))
        choice = _Choice(share, policy, selection_salt(seed), {name: column for name, (_, column) in signals.items()})
        choice.look_at_all()
        try:
            written = on_all(lambda: _write(share, schema, choice, folder))
            manifest = SelectionManifest(
                key=key,
                generation=generation,
                dataset=self.dataset,
                window=share.manifest.window,
                policy=policy,
                seed=seed,
                signals=digests,
                schema_key=share.manifest.schema_key,
                window_digest=share.manifest.digest,
                **aligned(written, share)._asdict(),
            )
            return on_first(lambda: self._publish(manifest, attempt, before))
        except Exception as error:
            if share.rank == 0 and is_of_all(error):  # else somebody may still be writing
                attempt.leave()
            raise

    def _publish(
        self, manifest: SelectionManifest, attempt: Generation, before: dict[str, Any] | None
    ) -> SelectionManifest:
        """Make a selection known in the place of what was read before it was made, or take another job's that is alike."""
        try:
            attempt.publish(manifest.model_dump(mode="json"), before)
        except Conflict:
            theirs = self.read(manifest.key)
            if theirs is None or theirs.digest != manifest.digest:
                raise
            attempt.leave()
            return theirs
        return manifest


def choices(share: Share, policy: Policy, salt: int, signals: Mapping[str, SignalColumn]) -> Iterator[Selected]:
    """What a policy keeps of each of a worker's row groups, nothing stored; every worker calls this.

    Args:
        share: the worker's part of the window.
        policy: as it is in the window.
        salt: key of the draws.
        signals: what the policy reads.
    """
    choice = _Choice(share, policy, salt, signals)
    choice.look_at_all()
    starts = share.starts()
    columns = ["example_id", "label", *(name for name in choice.columns if name not in ("example_id", "label"))]
    for group in share.row_groups:
        yield choice.of(group, share.read(group, columns), int(starts[group]))


class _Choice:
    """A policy at work on one window."""

    def __init__(self, share: Share, policy: Policy, salt: int, signals: Mapping[str, SignalColumn]) -> None:
        self._share, self._policy, self._salt, self._signals = share, policy, salt, signals
        self.columns = policy.columns if isinstance(policy, ThinningPolicy | JointPolicy) else ()
        self._summary: object = None
        self._chosen: Selected | None = None
        self.softens = policy.softens
        self._part: tuple[int, Selected] | None = None
        """The last part of the window that was chosen of, by its number, and what was; places are the window's."""

    def look_at_all(self) -> None:
        """What must be known of the whole window before the first example is kept; every worker calls this."""
        if isinstance(self._policy, JointPolicy):
            if self._policy.rows_at_once is None:
                self._chosen = on_first(lambda: self._choose(0, self._share.manifest.num_rows))
        elif isinstance(self._policy, ThinningPolicy):
            for _ in range(self._policy.num_looks):
                tallies = [tally for tally in on_all(self._tally) if tally is not None]
                self._summary = self._policy.after_look(np.sum(tallies, axis=0), self._summary) if tallies else None

    def of(self, group: int, table: pa.Table, start: int) -> Selected:
        """What is kept of one row group.

        Args:
            group: its index in the window.
            table: its columns.
            start: position of its first row in the window.
        """
        if isinstance(self._policy, JointPolicy):
            return self._joint(self._policy.rows_at_once, start, start + table.num_rows)
        rows = self._candidates(group, table)
        return select(self._policy, rows, table.column("label").to_numpy(), salt=self._salt)

    def _candidates(self, group: int, table: pa.Table) -> Candidates:
        ids = table.column("example_id").to_numpy()
        signals = {name: column(group, ids) for name, column in self._signals.items()}
        return Candidates(ids, signals, table.select(self.columns) if self.columns else None, self._summary, self._salt)

    def _tally(self) -> NDArray[np.int64] | None:
        total: NDArray[np.int64] | None = None
        policy = self._policy
        if not isinstance(policy, ThinningPolicy):
            return None
        for group in self._share.row_groups:
            table = self._share.read(group, ["example_id", *self.columns])
            found = policy.tally(self._candidates(group, table))
            total = found if total is None or found is None else total + found
        return total

    def _joint(self, at_once: int | None, start: int, stop: int) -> Selected:
        """What a joint policy chose among the window's rows from `start` to `stop`, places counted from there."""
        parts = [self._chosen] if self._chosen is not None else []
        if at_once is not None:
            parts = [self._of_part(number, at_once) for number in range(start // at_once, -(-stop // at_once))]
        found: list[Selected] = []
        for part in parts:
            here = slice(*np.searchsorted(part.index, (start, stop)))
            found.append(
                Selected(part.index[here] - start, part.importance[here], part.weight[here], part.offset[here])
            )
        names = ("index", "importance", "weight", "offset")  # joint policies keep labels as they are
        return Selected(**{name: np.concatenate([getattr(part, name) for part in found]) for name in names})

    def _of_part(self, number: int, at_once: int) -> Selected:
        """What is chosen of one part of the window; each worker finds the same, whichever of its rows it reads."""
        if self._part is None or self._part[0] != number:
            first = number * at_once
            self._part = number, self._choose(first, min(first + at_once, self._share.manifest.num_rows))
        return self._part[1]

    def _choose(self, first: int, last: int) -> Selected:
        """A joint choice among the window's rows from `first` to `last`, by their places in the window."""
        whole = Share(self._share.lake, self._share.manifest)
        starts = whole.starts()
        parts: list[Candidates] = []
        labels: list[NDArray[np.uint8]] = []
        for group in whole.row_groups:
            if starts[group] >= last or starts[group + 1] <= first:
                continue
            table = whole.read(group, ["example_id", "label", *self.columns])
            here = slice(max(0, first - int(starts[group])), last - int(starts[group]))
            parts.append(self._candidates(group, table).at(here))
            labels.append(table.column("label").to_numpy()[here])
        rows = Candidates(
            np.concatenate([part.example_id for part in parts]),
            {name: np.concatenate([part.signals[name] for part in parts]) for name in self._signals},
            pa.concat_tables([part.columns for part in parts]) if self.columns else None,
        )
        found = select(self._policy, rows, np.concatenate(labels), salt=self._salt)
        return Selected(found.index + first, found.importance, found.weight, found.offset)


def _write(share: Share, schema: Schema, choice: _Choice, folder: str) -> Written:
    """Write what is kept of a worker's row groups, each as one row group of its own."""
    columns = ["example_id", "label", *(feature.name for feature in schema.features)]
    fields = physical_schema(schema)
    more = [*_ADDED, (LABEL, pa.float32())] if choice.softens else _ADDED
    physical = pa.schema([*(fields.field(name) for name in columns), *(pa.field(*added) for added in more)])
    writer = PartWriter(
        share.lake,
        lambda part: f"{folder}/worker-{share.rank:05d}-{part:05d}.parquet",
        physical,
        part_bytes=PART_BYTES,
        use_dictionary=False,
        write_statistics=False,
    )
    starts = share.starts()
    kept: list[tuple[int, str]] = []
    for group in share.row_groups:
        table, start = share.read(group, columns), int(starts[group])
        found = choice.of(group, table, start)
        added = [found.index + start, found.importance, found.weight, found.offset]
        if found.label is not None:
            added.append(found.label)
        arrays = [*table.take(found.index).columns, *(pa.array(values) for values in added)]
        chosen = pa.Table.from_arrays(arrays, schema=physical)
        writer.write(chosen, max(1, chosen.num_rows))
        kept.append((chosen.num_rows, _digest(chosen)))
    return writer.finish(), kept


def _digest(table: pa.Table) -> str:
    whole = hashlib.sha256()
    for name in ("example_id", IMPORTANCE, WEIGHT, OFFSET, *([LABEL] if LABEL in table.column_names else [])):
        whole.update(np.ascontiguousarray(table.column(name).to_numpy()).tobytes())
    return whole.hexdigest()
