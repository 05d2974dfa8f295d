"""An object store in this process's memory: no directories, conditional puts, and faults where a test asks for them."""

from __future__ import annotations

from typing import Any

from obstore.fsspec import FsspecStore
from obstore.store import MemoryStore
from pyarrow import fs

from pipeline.storage.lake import Lake


class _Files(FsspecStore):
    """The files of one store, as pyarrow reads and writes them."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__("memory", skip_instance_cache=True)
        self._one = store

    def _construct_store(self, _bucket: str) -> Any:
        return self._one

    def mkdir(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("an object store has no directories")


class ObjectLake(Lake):
    """A lake that is not local."""

    def __init__(self) -> None:
        self.url, self.is_local = "memory://", False
        self.store = MemoryStore()
        self.files = fs.SubTreeFileSystem("", fs.PyFileSystem(fs.FSSpecHandler(_Files(self.store))))
