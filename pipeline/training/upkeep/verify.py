"""Reads again what manifests name, and lists each file that is missing or is not what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.data.dataset import (
    ContentDigest,
    WindowManifest,
    manifest_path,
    physical_schema,
    read_manifest,
    read_schema,
    schema_path,
)
from pipeline.selection.stored import SelectionManifest, SelectionStore
from pipeline.selection.synthetic import SyntheticManifest
from pipeline.spec.config import EvaluationConfig
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage import parquet
from pipeline.storage.damage import BrokenFile, Damaged, MissingFile, cure
from pipeline.storage.lake import Lake, LakeError
from pipeline.storage.parquet import Part
from pipeline.training.chain.evaluations import EvaluationManifest, EvaluationStore, evaluation_key
from pipeline.training.chain.steps import Pointer, StepManifest, StepStore
from pipeline.training.signals import Signal, content_digest

_TOPS = (
    "windows",
    "selections",
    "synthetic",
    "steps",
    "evaluations",
    "chains",
    "accepted",
    "unrecorded",
    "leases",
    "studies",
    "jobs",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that cannot be used."""

    file: str
    """Its address."""
    what: str
    """What is wrong with it."""
    cure: str
    """What makes it again."""


@dataclass(slots=True)
class Verified:
    """What was read, and what is wrong with it."""

    num_documents: int = 0
    num_files: int = 0
    """Those that documents name."""
    num_bytes: int = 0
    """In those files."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """By the file's address."""


def documents(lake: Lake, *, dataset: str | None = None, lineup: LineUp | None = None) -> list[str]:
    """The lake's documents, relative to its root: of a data set, of a line-up's data sets and chains, or all.

    Raises:
        LakeError: the lake has no such data set.
    """
    named = (
        {dataset} if dataset is not None else set(lineup.dataset.names(lineup.seeds)) if lineup is not None else None
    )
    found = []
    for path in sorted(file.path for top in _TOPS for file in lake.files_below(top)):
        match PurePosixPath(path).parts:
            case ("windows", of, _, "manifest.json" | "late.json") | ("windows", of, _) if named is None or of in named:
                found.append(path)
            case ("steps" | "evaluations" | "selections" | "synthetic", of, _, "manifest.json") if named is None or (
                of in named and lineup is None
            ):
                found.append(path)
            case ("chains" | "accepted", of, chain, *_) if named is None or (
                of in named and (lineup is None or chain == lineup.name)
            ):
                found.append(path)
            case ("jobs" | "leases", _) | ("unrecorded", *_) | ("studies", _, "timings", _) if named is None:
                found.append(path)
    if named is not None and not found:
        raise LakeError(f"the lake {lake.url} holds nothing of {', '.join(sorted(named))}: ingest it, or name another")
    return found


def verify(
    lake: Lake, paths: Sequence[str], progress: Callable[[str], None], chosen: EvaluationConfig | None = None
) -> Verified:
    """Read documents and all that they name: rows, signals, predictions and checkpoints; steps with those before them.

    Args:
        lake: where they lie.
        paths: the documents, as `documents` lists them.
        progress: called with a line for each document.
        chosen: read the steps' evaluations on this slice too, where there are any.
    """
    reading = _Reading(lake, chosen)
    waiting = list(reversed(paths))
    while waiting:
        path = waiting.pop()
        if path in reading.seen:
            continue
        before = len(reading.found.faults)
        waiting += reading.document(path)
        wrong = len(reading.found.faults) - before
        known = len(reading.seen | set(waiting))  # several documents may build on one
        progress(f"{len(reading.seen)} of {known}: {path}: {f'{wrong} broken' if wrong else 'sound'}")
    return reading.found


class _Reading:
    """One pass over documents, which are read once each."""

    def __init__(self, lake: Lake, chosen: EvaluationConfig | None) -> None:
        self.lake, self.found, self.chosen = lake, Verified(), chosen
        self.seen: set[str] = set()

    def document(self, path: str) -> list[str]:
        """Read a document and what it names.

        Returns:
            Other documents that it builds on.
        """
        self.seen.add(path)
        self.found.num_documents += 1
        others: list[str] = []
        with self._noted(path):
            match PurePosixPath(path).parts:
                case ("windows", dataset, folder, "manifest.json"):
                    others = self._window(dataset, Window.of(folder.removeprefix("window=")))
                case ("windows", dataset, name):
                    read_schema(self.lake, dataset, PurePosixPath(name).stem.removeprefix("schema-"))
                case ("steps", dataset, _, _):
                    others = self._step(dataset, path)
                case ("evaluations", _, _, _):
                    self._parts(path, self.lake.load(path, EvaluationManifest))
                case ("selections", _, _, _):
                    self._parts(path, self.lake.load(path, SelectionManifest))
                case ("synthetic", _, _, _):
                    self._parts(path, self.lake.load(path, SyntheticManifest))
                case ("chains", dataset, *_):
                    head = self.lake.load(path, Pointer)
                    others = [] if head is None else [StepStore(self.lake, dataset).path(head.step)]
                case _:
                    self.lake.read(path)
        return others

    def _window(self, dataset: str, window: Window) -> list[str]:
        manifest = read_manifest(self.lake, dataset, window)
        if manifest is None:
            return []
        schema = schema_path(dataset, manifest.schema_key)
        with self._noted(schema):
            self._rows(manifest)
        for part in manifest.quarantine:
            self._part(part)
        return [schema]

    def _rows(self, manifest: WindowManifest) -> None:
        schema = read_schema(self.lake, manifest.dataset, manifest.schema_key)
        digest = ContentDigest(physical_schema(schema))
        sound = [self._part(part, digest) for part in manifest.parts]
        if all(sound) and digest.hexdigest() != manifest.digest:
            path = manifest_path(manifest.dataset, manifest.window)
            raise Damaged(self.lake.address(path), f"its rows have the digest {digest.hexdigest()}, not its own", path)

    def _part(self, part: Part, digest: ContentDigest | None = None) -> bool:
        """Read a file whole; whether it is what was written."""
        self.found.num_files += 1
        before = len(self.found.faults)
        with self._noted(part.path):
            parquet.verify_start(self.lake, part)
            for table in parquet.row_groups(self.lake, part):
                if digest is not None:
                    for batch in table.to_batches():
                        digest.update(batch)
            self.found.num_bytes += part.num_bytes
        return len(self.found.faults) == before

    def _step(self, dataset: str, path: str) -> list[str]:
        step = self.lake.load(path, StepManifest)
        if step is None:
            raise MissingFile(self.lake.address(path), "a chain or a step names it, and there is no such file", path)
        store = StepStore(self.lake, dataset)
        if (step.dataset, store.path(step.key)) != (dataset, path):
            raise Damaged(
                self.lake.address(path), f"it is the manifest of step {step.key[:16]} of {step.dataset!r}", path
            )
        for signal in step.signals:
            self._signal(signal, path)
        for name, digest in step.checkpoint_files.items():
            self._file(f"{step.checkpoint}/{name}", digest)
        read = [*step.selection_read.values(), *([] if step.soft_read is None else [step.soft_read])]
        keys = [step.parent, *(producer for producer, _ in read)]
        return [*(store.path(key) for key in keys if key is not None), *self._beside(step)]

    def _beside(self, step: StepManifest) -> list[str]:
        """What was made with a step and may be gone: its selection, and its evaluation on the chosen slice."""
        found = []
        if step.selection is not None:
            found.append(SelectionStore(self.lake, step.dataset).path(step.selection))
        if self.chosen is not None:
            found.append(EvaluationStore(self.lake, step.dataset).path(evaluation_key(step.key, self.chosen)))
        return [path for path in found if self.lake.read_bytes(path) is not None]

    def _parts(self, path: str, manifest: EvaluationManifest | SelectionManifest | SyntheticManifest | None) -> None:
        if manifest is None:
            raise MissingFile(self.lake.address(path), "there is no such file", path)
        for part in [manifest.predictions] if isinstance(manifest, EvaluationManifest) else manifest.files:
            self._part(part)

    def _signal(self, signal: Signal, path: str) -> None:
        sound = [self._part(part) for part in signal.files]
        if all(sound) and content_digest(self.lake, signal) != signal.digest:
            raise Damaged(self.lake.address(path), f"its {signal.name} has another digest than it says", path)

    def _file(self, path: str, digest: str) -> None:
        self.found.num_files += 1
        with self._noted(path):
            for _ in range(2):  # a read may be torn
                try:
                    found, num_bytes = self.lake.sha256(path)
                except FileNotFoundError:
                    raise MissingFile(self.lake.address(path), "there is no such file", path) from None
                if found == digest:
                    self.found.num_bytes += num_bytes
                    return
            raise Damaged(self.lake.address(path), "it has another digest than its step's manifest says", path)

    @contextmanager
    def _noted(self, path: str) -> Iterator[None]:
        """Whatever is broken inside is noted, and the reading goes on."""
        try:
            yield
        except BrokenFile as error:
            self.found.faults[error.address] = Fault(error.address, error.what, error.cure)
        except (BadInput, OSError) as error:
            address = self.lake.address(path)
            self.found.faults[address] = Fault(address, f"it cannot be read ({error})", cure(path))
