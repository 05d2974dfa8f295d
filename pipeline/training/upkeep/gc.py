"""What nothing in the lake names: generations that were given up or replaced, and records of jobs long ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from filelock import FileLock, Timeout

from pipeline.selection.policy import JointPolicy
from pipeline.selection.stored import SelectionManifest
from pipeline.storage.damage import Damaged
from pipeline.storage.lake import Lake, StoredFile
from pipeline.storage.paths import GENERATIONS

RESULTS_KEPT = timedelta(days=7)
"""A job's outcome is kept so long at least: whoever waits for it may have been away."""

_KINDS = {top: f"{top.removesuffix('s')} files" for top in GENERATIONS}
"""By folder of the lake, what its generations are called."""
_GENERATION = re.compile(rf"((?:{'|'.join(_KINDS)})/[^/]+/[^/]+)/(gen-[^/]+)(?:/|$)")
_RAY_RUN = re.compile(r"ray-train/[^/]+(?=/)")


@dataclass
class Leftover:
    """Files that belong together and that nothing names."""

    path: str
    """A folder of the lake, or a file."""
    kind: str
    newest: datetime
    num_files: int = 0
    num_bytes: int = 0
    manifest: str | None = field(default=None, repr=False)
    """The document that would name it."""


def leftovers(lake: Lake, older_than: timedelta, now: datetime | None = None) -> list[Leftover]:
    """Everything that nothing names and that has not changed lately: a running job's files are not named yet.

    Files are listed before manifests are read, so that what is published meanwhile is seen. A manifest that cannot be
    read may name anything: all below it stays.

    Args:
        lake: where.
        older_than: what changed since stays; so do generations that were replaced since, which a job may be reading.
        now: the moment to count from.
    """
    now = now or datetime.now(UTC)
    edge = now - older_than
    found: dict[str, Leftover] = {}
    manifests: dict[str, datetime] = {}
    for top in _KINDS:
        for file in lake.files_below(top):
            if match := _GENERATION.match(file.path):
                _add(found, match[0].rstrip("/"), _KINDS[top], file, f"{match[1]}/manifest.json")
            elif file.path.endswith("/manifest.json"):
                manifests[file.path] = file.modified
    for path, modified in _empty_folders(lake):
        if path not in found and (match := _GENERATION.match(path)):
            kind = _KINDS[path.split("/")[0]]
            found[path] = Leftover(path, kind, modified, manifest=f"{match[1]}/manifest.json")
    old = [each for each in found.values() if each.newest < edge]
    unnamed = [each for each in old if manifests.get(str(each.manifest), edge) <= edge and not _is_named(lake, each)]
    return sorted(
        [*unnamed, *_selections(lake, edge), *_records(lake, edge, min(edge, now - RESULTS_KEPT))], key=lambda e: e.path
    )


def sweep(
    lake: Lake, found: list[Leftover], progress: Callable[[Leftover], None] = lambda _each: None
) -> list[Leftover]:
    """Remove leftovers, each after one more look at the manifest that would name it.

    Returns:
        Those that are gone now.
    """
    gone = []
    for each in found:
        if each.kind == "lock":
            if not _remove_lock(lake, each.path):
                continue
        elif each.manifest is not None and _is_named(lake, each):
            continue
        else:
            lake.remove(each.path)
        progress(each)
        gone.append(each)
    return gone


def _selections(lake: Lake, edge: datetime) -> Iterator[Leftover]:
    """Stored selections that were made long ago: whoever trains on one again makes it again, but for a joint one."""
    found: dict[str, Leftover] = {}
    for file in lake.files_below("selections"):
        folder = file.path.split("/gen-")[0].removesuffix("/manifest.json")
        _add(found, folder, "stored selection", file)
    for each in found.values():
        if each.newest < edge and not _is_joint(lake, each):
            yield each


def _is_joint(lake: Lake, each: Leftover) -> bool:
    """Whether the selection is a joint one, or nobody knows; its content is part of steps' identity."""
    try:
        known = lake.load(f"{each.path}/manifest.json", SelectionManifest)
    except Damaged:
        return True
    return known is not None and isinstance(known.policy, JointPolicy)


def _records(lake: Lake, edge: datetime, results_edge: datetime) -> Iterator[Leftover]:
    """Ray Train's own records, outcomes of jobs, and locks that nobody took lately."""
    found: dict[str, Leftover] = {}
    for file in lake.files_below("ray-train"):
        if match := _RAY_RUN.match(file.path):
            _add(found, match[0], "Ray Train record", file)
    yield from (each for each in found.values() if each.newest < edge)
    for file in lake.files_below("jobs"):
        if file.modified < results_edge:
            yield Leftover(file.path, "job result", file.modified, 1, file.num_bytes)
    if lake.is_local and (lake.root / ".locks").is_dir():
        for place in (lake.root / ".locks").glob("*.lock"):
            with suppress(FileNotFoundError):
                stat = place.stat()
                modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                if modified < edge:
                    yield Leftover(f".locks/{place.name}", "lock", modified, 1, stat.st_size)


def _add(found: dict[str, Leftover], path: str, kind: str, file: StoredFile, manifest: str | None = None) -> None:
    each = found.setdefault(path, Leftover(path, kind, file.modified, manifest=manifest))
    each.newest = max(each.newest, file.modified)
    each.num_files += 1
    each.num_bytes += file.num_bytes


def _empty_folders(lake: Lake) -> Iterator[tuple[str, datetime]]:
    """Folders of generations that were given up before their first file; an object store has none."""
    if not lake.is_local:
        return
    for top in _KINDS:
        for place in lake.root.glob(f"{top}/*/*/gen-*"):
            with suppress(FileNotFoundError):
                yield str(place.relative_to(lake.root)), datetime.fromtimestamp(place.stat().st_mtime, UTC)


def _is_named(lake: Lake, each: Leftover) -> bool:
    """Whether the manifest mentions the generation anywhere, or cannot be read."""
    try:
        document = lake.read(str(each.manifest))
    except Damaged:
        return True
    if document is None:
        return False
    name = each.path.rsplit("/", 1)[1]
    return (
        "generation" not in document or name == f"gen-{document['generation']}" or f"/{name}/" in json.dumps(document)
    )


def _remove_lock(lake: Lake, path: str) -> bool:
    """Remove a lock file unless somebody holds it; who waits for it sees that it is gone, and makes another."""
    lock = FileLock(lake.root / path, timeout=0)
    try:
        with lock:
            (lake.root / path).unlink(missing_ok=True)
    except Timeout:
        return False
    return True
