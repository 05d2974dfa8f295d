"""Sharded tensors in the lake: safetensors files and a JSON index, compared with their digests before they are read.

The storage layer under torch.distributed.checkpoint's planners, in the place of its own, which pickles. Nothing that
is read here can execute: tensors are safetensors, all else is JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, JsonValue, NonNegativeInt, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from pipeline.spec.documents import Frozen
from pipeline.spec.errors import BadInput, explain
from pipeline.storage.lake import Lake

INDEX = "index.json"
"""The file of a checkpoint that says where each tensor lies."""
FILE_BYTES = 256 << 20
"""A file holds at most so much; a larger shard is cut by its rows, so that no worker ever holds much more."""

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""What a checkpoint's tensors can be made of."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class MissingCheckpoint(BadInput):
    """A checkpoint that a step builds on is gone, or is another model's."""


class SpoiledCheckpoint(MissingCheckpoint):
    """A checkpoint's files are not as they were written; nothing of them was used."""


class Chunk(Frozen):
    """A box of a tensor, and the file that holds it."""

    offsets: tuple[NonNegativeInt, ...]
    """Where in the tensor it begins."""
    sizes: tuple[NonNegativeInt, ...]
    file: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,80}\.safetensors$")]

    def overlaps(self, other: Chunk) -> bool:
        """Whether some element lies in both."""
        sides = zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        return all(ours < theirs + length and theirs < ours + size for ours, size, theirs, length in sides)


class StoredTensor(Frozen):
    """A whole tensor, by its chunks."""

    dtype: Literal[
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"
    ]  # those of DTYPES
    shape: tuple[NonNegativeInt, ...]
    chunks: tuple[Chunk, ...]

    @model_validator(mode="after")
    def _whole(self) -> StoredTensor:
        for chunk in self.chunks:
            if not len(chunk.offsets) == len(chunk.sizes) == len(self.shape):
                raise ValueError(f"a chunk has as many dimensions as its tensor of shape {self.shape}, got {chunk}")
            if any(o + s > n for o, s, n in zip(chunk.offsets, chunk.sizes, self.shape, strict=True)):
                raise ValueError(f"a chunk lies inside its tensor of shape {self.shape}, got {chunk}")
        if sum(math.prod(chunk.sizes) for chunk in self.chunks) != math.prod(self.shape) or any(
            one.overlaps(other) for one, other in combinations(self.chunks, 2)
        ):
            raise ValueError(f"chunks cover a tensor of shape {self.shape} exactly once, got {self.chunks!s:.200}")
        return self


class Index(Frozen):
    """What a checkpoint consists of."""

    format: Literal["windrow-checkpoint-1"] = "windrow-checkpoint-1"
    tensors: dict[str, StoredTensor]
    """By their names in the state."""
    others: dict[str, JsonValue] = {}
    """What is no tensor in the state."""

    def metadata(self) -> Metadata:
        """The same as torch's planners take it."""
        found: dict[str, Any] = {name: BytesStorageMetadata() for name in self.others}
        for name, tensor in self.tensors.items():
            found[name] = TensorStorageMetadata(
                properties=TensorProperties(dtype=DTYPES[tensor.dtype]),
                size=torch.Size(tensor.shape),
                chunks=[ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in tensor.chunks],
            )
        return Metadata(state_dict_metadata=found)


@dataclass(frozen=True)
class Stored:
    """The files of one checkpoint in the lake."""

    lake: Lake
    folder: str
    digests: dict[str, str]
    """sha256 of each file by its name, from the manifest that names the checkpoint."""

    def read(self, name: str) -> bytes:
        """A file's bytes, once they are known to be those that were written.

        Raises:
            MissingCheckpoint: there is no such file.
            SpoiledCheckpoint: it holds something else, also when it is read once more.
        """
        path = f"{self.folder}/{name}"
        if name not in self.digests:
            raise self.spoiled(name, "its step's manifest names no such file")
        for _ in range(2):  # a read can be torn
            found = self.lake.read_bytes(path)
            if found is None:
                raise MissingCheckpoint(f"the checkpoint file {self.lake.address(path)} is gone: {_CURE}")
            if hashlib.sha256(found).hexdigest() == self.digests[name]:
                return found
        raise self.spoiled(name, f"its sha256 is not {self.digests[name][:12]}..., which its step's manifest names")

    def index(self) -> Index:
        """What the checkpoint consists of.

        Raises:
            MissingCheckpoint: there is none.
            SpoiledCheckpoint: it is not the one that was written, or says what no checkpoint can.
        """
        try:
            return Index.model_validate_json(self.read(INDEX))
        except ValidationError as error:
            raise self.spoiled(INDEX, explain(error)) from None

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of a file, on the CPU.

        Raises:
            MissingCheckpoint: there is no such file.
            SpoiledCheckpoint: it is not the one that was written, or no safetensors file.
        """
        content = self.read(name)
        try:
            return tensors_of(content)
        except (SafetensorError, KeyError) as error:  # KeyError: of a type that torch lacks
            raise self.spoiled(name, f"no safetensors file ({error})") from None

    def spoiled(self, name: str, why: str) -> SpoiledCheckpoint:
        """The error about one of its files."""
        return SpoiledCheckpoint(
            f"the checkpoint file {self.lake.address(f'{self.folder}/{name}')} cannot be trusted, nothing of it was "
            f"used: {why}: {_CURE}"
        )


_CURE = "train its window again with `--force`, or restore the file from a copy"


class ShardWriter(StorageWriter):
    """Writes each worker's shards in files of its own, and the index on worker 0."""

    def __init__(self, lake: Lake, folder: str, rank: int) -> None:
        self._lake, self._folder, self._rank = lake, folder, rank
        self.digests: dict[str, str] = {}
        """sha256 of each file by its name; whole on worker 0 once all is written."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this worker's items."""
        written = []
        digests: dict[str, str] = {}
        # What every worker will need lies apart from the shards, each of which only some will.
        for kind, whole in (("dense", True), ("shards", False)):
            items = [i for i in plan.items if (i.type == WriteItemType.TENSOR) is whole]
            for number, pieces in enumerate(_files(items, planner)):
                name = f"{kind}-{self._rank:05d}-{number:05d}.safetensors"
                digests[name] = self._put(name, bytes_of({piece.key: piece.tensor for piece in pieces}))
                written += [_result(piece, name) for piece in pieces]
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                text = cast("io.BytesIO", planner.resolve_data(item)).getvalue()
                written.append(WriteResult(item.index, len(text), text))
        done: Future[list[WriteResult]] = Future()
        done.set_result([*written, WriteResult(MetadataIndex(INDEX), 0, digests)])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index; worker 0 alone does."""
        chunks: dict[str, list[Chunk]] = {}
        others: dict[str, JsonValue] = {}
        for result in (result for worker in results for result in worker):
            match result.storage_data:
                case Chunk():
                    chunks.setdefault(result.index.fqn, []).append(result.storage_data)
                case bytes():
                    others[result.index.fqn] = json.loads(result.storage_data)
                case found:
                    self.digests |= found
        tensors = {
            name: StoredTensor(
                dtype=_NAMES[stored.properties.dtype], shape=tuple(stored.size), chunks=tuple(chunks.get(name, ()))
            )
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        index = Index(tensors=dict(sorted(tensors.items())), others=others)
        self.digests[INDEX] = self._put(INDEX, (index.model_dump_json(indent=1) + "\n").encode())

    def _put(self, name: str, content: bytes) -> str:
        self._lake.put_bytes(f"{self._folder}/{name}", content)
        return hashlib.sha256(content).hexdigest()

    def reset(self, checkpoint_id: object = None) -> None:
        """A writer serves once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All is known from the start."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As the planner says."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As the planner says."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """Never chosen by an id."""
        return False


@dataclass
class ShardReader(StorageReader):
    """Reads what a worker needs, whoever wrote it."""

    stored: Stored
    contents: Index
    _places: dict[MetadataIndex, Chunk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.contents.tensors.items():
            self._places |= {MetadataIndex(name, chunk.offsets): chunk for chunk in tensor.chunks}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint consists of."""
        return self.contents.metadata()

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what a worker needs into its tensors, one file after the other."""
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(json.dumps(self.contents.others[item.storage_index.fqn]).encode()))
            else:
                by_file.setdefault(self._places[item.storage_index].file, []).append(item)
        for name, items in by_file.items():
            content = self.stored.tensors(name)
            for item in items:
                self._copy(item, name, content, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _copy(self, item: ReadItem, file: str, content: dict[str, torch.Tensor], planner: LoadPlanner) -> None:
        fqn, chunk = item.storage_index.fqn, self._places[item.storage_index]
        found = content.get(_key(fqn, chunk.offsets))
        dtype = DTYPES[self.contents.tensors[fqn].dtype]
        if found is None or tuple(found.shape) != chunk.sizes or found.dtype != dtype:
            raise self.stored.spoiled(file, f"it does not hold the part of {fqn!r} that the index promises")
        box = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
        target = planner.resolve_tensor(item).detach()
        target.copy_(found[box])
        planner.commit_tensor(item, target)

    def reset(self, checkpoint_id: object = None) -> None:
        """A reader serves once."""

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All is known from the start."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As the planner says."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As the planner says."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """Never chosen by an id."""
        return False


class JsonSavePlanner(DefaultSavePlanner):
    """Torch's own planner, but what is no tensor becomes JSON. What all workers hold is written by worker 0."""

    def __init__(self) -> None:
        super().__init__(dedup_save_to_lowest_rank=True)

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """A tensor as it is, all else as JSON."""
        if write_item.type != WriteItemType.BYTE_IO:
            return object
        text = json.dumps(object)
        if json.loads(text) != object:
            raise TypeError(f"a checkpoint holds tensors and JSON, got {object!r} for {write_item.index.fqn!r}")
        return io.BytesIO(text.encode())


class JsonLoadPlanner(DefaultLoadPlanner):
    """Torch's own planner, but what is no tensor comes from JSON, and every name, shape and type must be the model's.

    Args:
        stored: the checkpoint, for the message.
        whole: refuse a model that leaves a part of the checkpoint unread.
    """

    def __init__(self, stored: Stored, *, whole: bool = True) -> None:
        super().__init__()
        self._stored, self._whole = stored, whole

    def create_local_plan(self) -> LoadPlan:
        """What this worker needs.

        Raises:
            MissingCheckpoint: the checkpoint is another model's.
        """
        for name, value in self.state_dict.items():
            ours, theirs = _kind(value), _kind(self._theirs.get(name))
            if ours != theirs:
                raise self._another(f"{name!r} is {ours} in the model and {theirs} in the checkpoint")
        return super().create_local_plan()

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """What all workers need: each holds some of the tables only, and together they hold all.

        Raises:
            MissingCheckpoint: the checkpoint is another model's.
        """
        read = {item.dest_index.fqn for plan in global_plan for item in plan.items}
        left = sorted(n for n, m in self._theirs.items() if n not in read and math.prod(getattr(m, "size", ())))
        if left and self._whole:
            raise self._another(f"the model has no {left[0]!r}")
        return super().create_global_plan(global_plan)

    @property
    def _theirs(self) -> dict[str, STORAGE_TYPES]:
        return {} if self.metadata is None else self.metadata.state_dict_metadata

    def _another(self, why: str) -> MissingCheckpoint:
        address = self._stored.lake.address(self._stored.folder)
        return MissingCheckpoint(f"the checkpoint {address} is another model's: {why}: {_CURE}")

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put what is no tensor in its place."""
        place = self.original_state_dict
        *path, last = self.mappings[read_item.dest_index.fqn]
        for step in path:
            place = place[step]  # type: ignore[index]
        place[last] = json.load(value)  # type: ignore[index]


def _kind(value: Any) -> str:
    """What stands under a name in a model or in a checkpoint."""
    if value is None:
        return "missing"
    if isinstance(value, TensorStorageMetadata):
        return f"{value.properties.dtype} {tuple(value.size)}"
    return f"{value.dtype} {tuple(value.size())}" if hasattr(value, "dtype") else "no tensor"


@dataclass(frozen=True)
class _Piece:
    """A part of a tensor on its way to a file."""

    fqn: str
    offsets: tuple[int, ...]
    tensor: torch.Tensor

    @property
    def key(self) -> str:
        return _key(self.fqn, self.offsets)


def _key(fqn: str, offsets: tuple[int, ...]) -> str:
    """A piece's name in its file: two shards of one table may lie in one."""
    return f"{fqn}@{','.join(map(str, offsets))}"


def _result(piece: _Piece, file: str) -> WriteResult:
    chunk = Chunk(offsets=piece.offsets, sizes=tuple(piece.tensor.shape), file=file)
    return WriteResult(MetadataIndex(piece.fqn, piece.offsets), piece.tensor.nbytes, chunk)


def _files(items: list[WriteItem], planner: SavePlanner) -> Iterator[list[_Piece]]:
    """The pieces of each file; a file's worth of them is in host memory at a time."""
    pending: list[_Piece] = []
    size = 0
    for item in items:
        if item.type == WriteItemType.BYTE_IO:
            continue
        for piece in _pieces(item, cast("torch.Tensor", planner.resolve_data(item)).detach()):
            if pending and size + piece.tensor.nbytes > FILE_BYTES:
                yield pending
                pending, size = [], 0
            pending.append(piece)
            size += piece.tensor.nbytes
    if pending:
        yield pending


def _pieces(item: WriteItem, tensor: torch.Tensor) -> Iterator[_Piece]:
    """A shard cut by its rows where it is larger than a file; none of an empty one."""
    offsets = tuple(item.index.offset or (0,) * tensor.dim())
    if tensor.numel() == 0:
        return
    if tensor.dim() == 0 or tensor.nbytes <= FILE_BYTES:
        yield _Piece(item.index.fqn, offsets, tensor.cpu().contiguous())
        return
    rows = max(1, FILE_BYTES // (tensor.nbytes // len(tensor)))
    for first in range(0, len(tensor), rows):
        part = tensor[first : first + rows].cpu().contiguous()
        yield _Piece(item.index.fqn, (offsets[0] + first, *offsets[1:]), part)
