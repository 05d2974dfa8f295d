"""Synthetic windows: made examples with soft labels and weights that are trained on beside, or instead of, a window's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.data.dataset import physical_schema
from pipeline.spec.documents import Digest, Frozen
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.generation import Generation, new_generation
from pipeline.storage.lake import Lake, checked_name
from pipeline.storage.parquet import Part, PartWriter

ROW_GROUP_SIZE = 1024


class MissingSynthetic(BadInput):
    """A variant trains on synthetic examples that nobody has made."""


class BadSynthetic(ValueError):
    """Rows offered for a synthetic window break its format; the program that made them is wrong."""


class SyntheticManifest(Frozen):
    """A synthetic window: who made it, of what, and where it lies."""

    dataset: str
    """The data set whose windows it stands beside."""
    name: str
    """What variants call it among their `sources`."""
    window: Window
    generation: str
    schema_key: str
    """Key of the schema that its features follow."""
    made_of: dict[str, str] = {}
    """Digests or keys of what it was made of, by name: it must be nothing later than its window."""
    files: tuple[Part, ...] = Field(min_length=1)
    """Parquet files: example_id, label in [0, 1] (float32), weight above zero (float32), and the features."""
    num_rows: int = Field(ge=1)
    digest: Digest
    """sha256 of the rows, in their order."""


def synthetic_schema(schema: Schema) -> pa.Schema:
    """The columns of a synthetic window, in order; none holds nulls."""
    physical = physical_schema(schema)
    types = [("example_id", pa.uint64()), ("label", pa.float32()), ("weight", pa.float32())]
    features = [physical.field(feature.name) for feature in schema.features]
    return pa.schema([*(pa.field(name, kind, nullable=False) for name, kind in types), *features])


def synthetic_path(dataset: str, name: str, window: Window) -> str:
    """Where the manifest of a synthetic window lies, relative to the lake's root."""
    return f"synthetic/{checked_name(dataset)}/{checked_name(name)}-{window.name}/manifest.json"


def publish_synthetic(
    lake: Lake,
    dataset: str,
    name: str,
    window: Window,
    schema: Schema,
    batches: Iterable[pa.RecordBatch],
    made_of: dict[str, str] | None = None,
) -> SyntheticManifest:
    """Publish synthetic rows for a window, in the place of those that are there.

    Args:
        lake: where to.
        dataset: the data set whose windows they stand beside.
        name: what variants call them.
        window: the day on which they are trained on.
        schema: that of the data set's windows.
        batches: rows in the format of `synthetic_schema`.
        made_of: digests or keys of what they were made of, by name.

    Raises:
        BadSynthetic: the rows break the format, or there are none.
    """
    path = synthetic_path(dataset, name, window)
    generation = new_generation()
    folder = f"{path.rsplit('/', 1)[0]}/gen-{generation}"
    attempt = Generation(lake, generation, folder, path)
    columns = synthetic_schema(schema)
    writer = PartWriter(lake, lambda part: f"{folder}/part-{part:05d}.parquet", columns, use_dictionary=False)
    digest, num_rows = hashlib.sha256(), 0
    try:
        before = lake.sound(path)
        for batch in batches:
            _check(batch, columns)
            writer.write(pa.Table.from_batches([batch]), ROW_GROUP_SIZE)
            for column in batch.columns:
                flat = column.flatten() if pa.types.is_list(column.type) else column
                if pa.types.is_list(column.type):
                    digest.update(np.ascontiguousarray(pc.list_value_length(column).to_numpy()).tobytes())
                digest.update(np.ascontiguousarray(flat.to_numpy()).tobytes())
            num_rows += batch.num_rows
        if not num_rows:
            raise BadSynthetic(f"synthetic window {name} {window} must hold rows, got none")
        manifest = SyntheticManifest(
            dataset=dataset,
            name=name,
            window=window,
            generation=generation,
            schema_key=schema.key,
            made_of=made_of or {},
            files=writer.finish(),
            num_rows=num_rows,
            digest=digest.hexdigest(),
        )
        attempt.publish(manifest.model_dump(mode="json"), before)
    finally:
        attempt.leave()
    return manifest


def require_synthetic(lake: Lake, dataset: str, name: str, window: Window, schema_key: str) -> SyntheticManifest:
    """The synthetic rows of a window.

    Raises:
        MissingSynthetic: there are none, or they follow another schema.
    """
    found = lake.load(synthetic_path(dataset, name, window), SyntheticManifest)
    if found is None:
        raise MissingSynthetic(
            f"synthetic examples {name!r} of data set {dataset!r} are needed for {window}, got none at "
            f"{lake.address(synthetic_path(dataset, name, window))}: make them, or take {name!r} out of `sources`"
        )
    if found.schema_key != schema_key:
        raise MissingSynthetic(
            f"synthetic examples {name!r} of {window} follow schema {found.schema_key}, got windows of {schema_key}: "
            "make them again"
        )
    return found


def _check(batch: pa.RecordBatch, columns: pa.Schema) -> None:
    if not batch.schema.equals(columns):
        raise BadSynthetic(f"rows must have the columns\n{columns}\ngot\n{batch.schema}")
    if holes := [name for name in batch.schema.names if batch.column(name).null_count]:
        raise BadSynthetic(f"no column holds nulls, got some in {', '.join(holes)}")
    label, weight = batch.column("label").to_numpy(), batch.column("weight").to_numpy()
    if not ((label >= 0) & (label <= 1)).all():
        raise BadSynthetic(f"labels lie in [0, 1], got {label.min()} to {label.max()}")
    if not ((weight > 0) & np.isfinite(weight)).all():
        raise BadSynthetic(f"weights are finite and above zero, got {weight.min()} to {weight.max()}")
