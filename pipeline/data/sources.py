"""The files of a raw log: named by paths, globs, folders or URLs, and found."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from pipeline.spec.errors import BadInput, shown
from pipeline.storage.lake import remote_files

MAX_PATH = 4096


class IngestError(BadInput):
    """A log that cannot become windows as asked; says what, what was found, and what to do."""


class NoSource(IngestError):
    """A source names no file."""

    def __init__(self, source: str) -> None:
        super().__init__(f"a source names one file or more, got none at {source!r}: check the path")
        self.source = source


@dataclass(frozen=True)
class SourceFile:
    """One file of a log."""

    address: str
    """As people would write it."""
    files: fs.FileSystem
    """Where it lies."""
    path: str
    """Its path there."""
    num_bytes: int
    """As it lies there, packed or not."""


def find_sources(sources: Sequence[str]) -> list[SourceFile]:
    """The files that paths, globs, directories or URLs name: each once, `day_2` before `day_10`.

    Raises:
        NoSource: one of them names no file.
        IngestError: one of them can name none.
    """
    found: dict[str, SourceFile] = {}
    for source in sources:
        files = list(_remote(source) if "://" in source else _local(source))
        if not files:
            raise NoSource(source)
        found |= {file.address: file for file in files}
    if not found:
        raise IngestError("a log has one source or more, got none: name its files")
    return sorted(found.values(), key=lambda file: _natural(file.address))


def _local(source: str) -> Iterator[SourceFile]:
    if "\0" in source or len(source) > MAX_PATH:
        raise IngestError(f"a source is a path of at most {MAX_PATH:,} characters, got {shown(source)}: check the path")
    for name in sorted(glob.glob(source)) or ([source] if Path(source).exists() else []):
        path = Path(name).absolute()
        if not path.is_file() and not path.is_dir():
            raise IngestError(f"a source is a file or a folder, got a pipe or a device at {name!r}: write it to a file")
        inner = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in inner:
            if path == each or not each.name.startswith((".", "_")):
                yield SourceFile(str(each), fs.LocalFileSystem(), str(each), each.stat().st_size)


def _remote(source: str) -> Iterator[SourceFile]:
    files, path = remote_files(source)
    info = files.get_file_info(path)
    inner = [info] if info.type == fs.FileType.File else []
    if info.type == fs.FileType.Directory:
        inner = [each for each in files.get_file_info(fs.FileSelector(path, recursive=True)) if each.is_file]
    for each in inner:
        if each is info or not each.base_name.startswith((".", "_")):
            address = source.rstrip("/") + each.path.removeprefix(path.rstrip("/"))
            yield SourceFile(address, files, each.path, each.size or 0)


def _natural(address: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"([0-9]+)", address)]
