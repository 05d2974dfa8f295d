"""Published windows: whole or not at all, the same however they are cut, and read back as written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import (
    BadBatch,
    MissingWindow,
    WindowManifest,
    WindowWriter,
    manifest_path,
    physical_schema,
    publish_window,
    read_manifest,
    read_row_group,
    read_schema,
    require_manifest,
)
from pipeline.data.simulator import Simulator
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.damage import Damaged, MissingFile
from pipeline.storage.lake import Conflict, Lake, LakeError

DAY = Window.of("2024-01-05")
SIMULATOR = Simulator(SimulatorConfig.tiny(rows_per_window=500, num_lists=1, cluster=True))
ROWS = pa.Table.from_batches(SIMULATOR.window(DAY))
OTHER = pa.Table.from_batches(Simulator(SimulatorConfig.tiny(seed=1, num_lists=1, cluster=True)).window(DAY))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def publish(lake: Lake, rows: pa.Table = ROWS, batch: int = 1000, group: int = 64, **options: object) -> WindowManifest:
    batches = rows.combine_chunks().to_batches(max_chunksize=batch)
    return publish_window(lake, "sim", DAY, SIMULATOR.schema, batches, row_group_size=group, **options)  # type: ignore[arg-type]


def read_all(lake: Lake, manifest: WindowManifest) -> pa.Table:
    return pa.concat_tables(read_row_group(lake, manifest, index) for index in range(manifest.num_row_groups))


def files_of(lake: Lake) -> list[str]:
    return sorted(str(path.relative_to(lake.root)) for path in lake.root.rglob("*.parquet"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 600), group=st.integers(1, 200), part=st.integers(1, 600))
def test_rows_and_digest_do_not_depend_on_the_cut(tmp_path: Path, batch: int, group: int, part: int) -> None:
    lake = Lake(str(tmp_path / "lake"))
    manifest = publish(lake, batch=batch, group=group, part_rows=part, force=True)
    assert read_all(lake, manifest).equals(ROWS)
    assert manifest.digest == publish(Lake(str(tmp_path / "whole"))).digest
    for path in manifest.parts:
        assert path.num_row_groups == -(-path.num_rows // group)
    sizes = [read_row_group(lake, manifest, index, ["label"]).num_rows for index in range(manifest.num_row_groups)]
    ends = set(np.cumsum([path.num_row_groups for path in manifest.parts]) - 1)
    assert all(size == group for index, size in enumerate(sizes) if index not in ends)


def test_the_digest_sees_every_column(tmp_path: Path) -> None:
    columns = physical_schema(SIMULATOR.schema)
    digests = {publish(Lake(str(tmp_path / "same"))).digest}
    for name, kind in zip(columns.names, columns.types, strict=True):
        values = ROWS[name].to_pylist()
        if pa.types.is_list(kind):
            values[7] = [*values[7], 0]
        elif name == "label":
            values[7] = 1 - values[7]
        elif name == "event_time":
            values[-1] = values[-1].replace(microsecond=7)
        else:
            values[7] += 1
        digests.add(publish(Lake(str(tmp_path / name)), change(name, pa.array(values, kind))).digest)
    assert len(digests) == 1 + len(columns.names)


def test_columns_come_in_the_order_asked_for(lake: Lake) -> None:
    manifest = publish(lake)
    assert read_row_group(lake, manifest, 1, ["label", "I2", "I1"]).equals(ROWS.select(["label", "I2", "I1"])[64:128])
    with pytest.raises(IndexError, match="has 8 row groups, got index 8"):
        read_row_group(lake, manifest, 8)


def test_a_manifest_survives_the_lake_and_brings_its_schema(lake: Lake) -> None:
    manifest = publish(lake, sources=["b", "a"], quarantined={"bad": 2})
    assert read_manifest(lake, "sim", DAY) == manifest
    assert read_schema(lake, "sim", manifest.schema_key) == SIMULATOR.schema
    assert (manifest.num_rows, manifest.num_positives) == (500, int(np.sum(ROWS["label"])))
    with pytest.raises(LakeError, match="schema 000000000000 of data set 'sim' is needed, got none.*--force"):
        read_schema(lake, "sim", "000000000000")


def test_a_missing_window_names_itself_and_the_cure(lake: Lake) -> None:
    publish(lake)
    gap = DAY.next()
    assert read_manifest(lake, "sim", gap) is None
    with pytest.raises(MissingWindow, match="2024-01-06 of data set 'sim'.*`windrow ingest`.*`ingest_windows`"):
        require_manifest(lake, "sim", gap)


def test_the_same_again_is_left_as_it_is_unless_forced(lake: Lake) -> None:
    told: list[str] = []
    first = publish(lake)
    again = publish(lake, batch=7, progress=told.append)
    assert again == first
    assert "already published" in told[0]
    assert files_of(lake) == [path.path for path in first.parts]
    forced = publish(lake, force=True)
    assert forced.generation != first.generation
    assert forced.digest == first.digest
    assert read_all(lake, first).equals(read_all(lake, forced))


def test_a_window_whose_files_are_gone_says_so_and_is_published_anew(lake: Lake) -> None:
    first = publish(lake)
    (lake.root / first.parts[0].path).unlink()
    with pytest.raises(MissingFile, match="is named by a manifest, got no such file.*--force"):
        read_row_group(lake, first, 0)
    assert read_all(lake, publish(lake)).equals(ROWS)


def failing(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from rows.combine_chunks().to_batches(max_chunksize=300)
    raise RuntimeError("the source broke")


def test_a_failure_leaves_the_old_window_and_nothing_else(lake: Lake) -> None:
    with pytest.raises(RuntimeError, match="the source broke"):
        publish_window(lake, "sim", DAY, SIMULATOR.schema, failing(ROWS), row_group_size=16)
    assert read_manifest(lake, "sim", DAY) is None
    first = publish(lake)
    with pytest.raises(RuntimeError, match="the source broke"):
        publish_window(lake, "sim", DAY, SIMULATOR.schema, failing(OTHER), row_group_size=16)
    assert require_manifest(lake, "sim", DAY) == first
    assert read_all(lake, first).equals(ROWS)
    assert files_of(lake) == [path.path for path in first.parts]


KILLED = """
import os, sys
from tests.data.test_dataset import DAY, OTHER, SIMULATOR
from pipeline.data.dataset import publish_window
from pipeline.storage.lake import Lake

def batches():
    yield from OTHER.combine_chunks().to_batches(max_chunksize=300)
    os._exit(9)

publish_window(Lake(sys.argv[1]), "sim", DAY, SIMULATOR.schema, batches(), row_group_size=16, part_rows=64)
"""


def test_a_killed_publication_leaves_the_old_window_readable(lake: Lake) -> None:
    first = publish(lake)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(lake.root)], cwd=root, env=environment, check=False)
    assert killed.returncode == 9
    assert len(files_of(lake)) > len(first.parts), "it was killed while it wrote"
    assert require_manifest(lake, "sim", DAY) == first
    assert read_all(lake, first).equals(ROWS)
    assert read_all(lake, publish(lake, OTHER)).equals(OTHER)


def test_of_two_publications_at_once_the_later_is_refused(lake: Lake) -> None:
    with WindowWriter(lake, "sim", DAY, SIMULATOR.schema) as late:
        late.write(ROWS.combine_chunks().to_batches()[0])
        early = publish(lake, OTHER)
        with pytest.raises(Conflict, match="changed while this job ran: trigger the job again"):
            late.publish([], {}, force=False)
    assert require_manifest(lake, "sim", DAY) == early
    assert files_of(lake) == [path.path for path in early.parts]


def test_a_name_that_would_leave_the_lake_is_refused(lake: Lake) -> None:
    for name in ("../sim", "/sim", "a/b", "", ".."):
        with pytest.raises(LakeError, match="a name is 1 to 100 letters"):
            publish_window(lake, name, DAY, SIMULATOR.schema, ROWS.to_batches())
        with pytest.raises(LakeError, match="a name is 1 to 100 letters"):
            manifest_path(name, DAY)
    assert files_of(lake) == []
    assert not (lake.root.parent / "sim").exists()


def test_a_manifest_that_points_outside_the_lake_is_refused(lake: Lake) -> None:
    document = publish(lake).model_dump(mode="json")
    path = manifest_path("sim", DAY)
    changed = document | {"parts": [document["parts"][0] | {"path": "../outside.parquet"}]}
    lake.replace(path, changed, document)
    with pytest.raises(Damaged, match="window=2024-01-05/manifest.json is damaged: .*stays inside it, got '../outside"):
        read_manifest(lake, "sim", DAY)


def change(name: str, values: pa.Array) -> pa.Table:
    return ROWS.set_column(ROWS.column_names.index(name), ROWS.schema.field(name), values)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.take(list(range(499, -1, -1))), "sorted by .event_time, example_id."),
        (pa.concat_tables([ROWS, ROWS]), "sorted by .event_time, example_id."),
        (ROWS.drop_columns(["I1"]), "rows must have the columns"),
        (change("I1", pa.nulls(500, pa.float32())), "no column of a window holds nulls, got some in I1"),
        (change("label", pa.array([2] * 500, pa.uint8())), "labels must be 0 or 1"),
        (ROWS[:0], "must hold rows, got none"),
    ],
)
def test_rows_that_break_the_format_are_refused(lake: Lake, rows: pa.Table, message: str) -> None:
    with pytest.raises(BadBatch, match=message):
        publish(lake, rows)
    assert files_of(lake) == []


def test_rows_of_another_day_are_refused(lake: Lake) -> None:
    with pytest.raises(BadBatch, match="must lie in window 2024-01-06"):
        publish_window(lake, "sim", DAY.next(), SIMULATOR.schema, ROWS.combine_chunks().to_batches())
