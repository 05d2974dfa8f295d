"""Parquet files of the lake: what is read is what was written, or it is refused by name; also bit by bit."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import parquet
from pipeline.storage.damage import Damaged, MissingFile
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part, PartWriter, forget, read_row_group, read_table, write_table

RANDOM = np.random.default_rng(0)
ROWS = pa.table(
    {
        "example_id": pa.array(RANDOM.integers(0, 2**63, 40), pa.uint64()),
        "label": pa.array(RANDOM.integers(0, 2, 40), pa.uint8()),
        "dense": pa.array(RANDOM.normal(size=40), pa.float32()),
        "list": pa.array([[7] * (row % 3) for row in range(40)], pa.list_(pa.int32())),
        "text": pa.array([None if row % 5 == 0 else "word" * (row % 4) for row in range(40)]),
    }
)


@pytest.fixture(params=["local", "remote"])
def lake(tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    """A lake; `remote` is read as an object store is, by ranged requests."""
    made = Lake(str(tmp_path / "lake"))
    made.is_local = request.param == "local"
    return made


def write(lake: Lake, rows: pa.Table = ROWS, group: int = 16, **options: int) -> tuple[Part, ...]:
    writer = PartWriter(lake, lambda number: f"x/part-{number}.parquet", rows.schema, **options)
    writer.write(rows, group)
    return writer.finish()


def test_what_is_written_is_read_whatever_is_asked_for(lake: Lake) -> None:
    (part,) = write(lake)
    assert (part.num_rows, part.num_row_groups) == (40, 3)
    assert read_table(lake, part).equals(ROWS)
    for names in (["label"], ["dense", "example_id"], ["text", "list", "label"], ROWS.column_names):
        assert read_row_group(lake, part, 1, names).equals(ROWS.select(names)[16:32])
    assert pq.read_table(lake.root / part.path).equals(ROWS), "other tools read the file as it is"
    empty = write_table(lake, "x/empty.parquet", ROWS[:0])
    assert read_table(lake, empty).equals(ROWS[:0])


def test_rows_spread_over_parts(lake: Lake) -> None:
    parts = write(lake, group=8, part_rows=16)
    assert [part.num_rows for part in parts] == [16, 16, 8]
    assert pa.concat_tables(read_table(lake, part) for part in parts).equals(ROWS)


def test_a_part_ends_when_it_has_grown(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PART_BYTES", 700)
    parts = write(lake, group=4)
    assert len(parts) > 2
    assert all(part.num_bytes - part.tail_bytes < 1400 for part in parts)
    assert pa.concat_tables(read_table(lake, part) for part in parts).equals(ROWS)


def test_rows_that_were_read_do_not_change_when_more_is_read(lake: Lake) -> None:
    """All files are read into the same memory: nothing that was decoded may still lie in it."""
    plain = pa.table({f"c{number}": RANDOM.normal(size=4000) for number in range(3)} | {"id": np.arange(4000)})
    texts = pa.table({"text": pa.array([f"{n:05d}" for n in RANDOM.permutation(4000)]), "one": pa.array([b"x"] * 4000)})
    for rows in (plain, texts):
        (part,) = write(lake, rows, group=1000)
        kept = [read_row_group(lake, part, group) for group in range(4)]
        forget()
        assert pa.concat_tables(kept).equals(rows)


def test_every_flipped_bit_is_refused_by_name_or_harmless(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (part,) = write(lake, ROWS.select(["example_id", "list"])[:4], group=2)
    path = lake.root / part.path
    content, expected = path.read_bytes(), read_table(lake, part)
    refused: list[str] = []
    for bit in range(8 * len(content)):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        forget()
        try:
            found = read_table(lake, part)
        except Damaged as error:
            refused.append(error.address)
        else:
            assert found.equals(expected)
            with pytest.raises(Damaged, match="does not begin with"):
                parquet.verify_start(lake, part)
    assert refused == [str(path)] * (8 * (len(content) - 4)), "all but the first four bytes, which no reader looks at"


def test_who_reads_some_columns_verifies_those_and_no_others(lake: Lake) -> None:
    (part,) = write(lake)
    path = lake.root / part.path
    edges = [metadata.column(column) for metadata in groups(path) for column in range(5)]
    offsets = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in edges]
    for chunk, offset in enumerate(offsets):
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)
        forget()
        for group in range(3):
            for column, name in enumerate(ROWS.column_names):
                if (group, column) == divmod(chunk, 5):
                    with pytest.raises(Damaged, match=f"column '{name}' of row group {group} has another digest"):
                        read_row_group(lake, part, group, [name])
                else:
                    assert read_row_group(lake, part, group, [name]).equals(ROWS.select([name])[16 * group :][:16])
        content[offset] ^= 1
        path.write_bytes(content)


def groups(path: Path) -> list[pq.RowGroupMetaData]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group) for group in range(metadata.num_row_groups)]


@pytest.mark.parametrize("spoil", ["cut short", "longer", "empty", "of another", "swapped groups"])
def test_other_damage(lake: Lake, spoil: str) -> None:
    (part,) = write(lake, ROWS[:32])
    path = lake.root / part.path
    content = path.read_bytes()
    other = write_table(lake, "x/other.parquet", ROWS[8:])
    edge = groups(path)[1].column(0).dictionary_page_offset
    spoilt = {
        "cut short": content[:-1],
        "longer": content + b"\0",
        "empty": b"",
        "of another": (lake.root / other.path).read_bytes(),
        "swapped groups": content[:4] + content[edge : 2 * edge - 4] + content[4:edge] + content[2 * edge - 4 :],
    }
    path.write_bytes(spoilt[spoil])
    with pytest.raises(Damaged, match="part-0.parquet is damaged: .*Nothing of it was used: "):
        read_table(lake, part)


def test_a_file_that_is_gone(lake: Lake) -> None:
    (part,) = write(lake)
    (lake.root / part.path).unlink()
    with pytest.raises(MissingFile, match="part-0.parquet is named by a manifest, got no such file: ") as caught:
        read_row_group(lake, part, 0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "workers tell each other"


def test_a_torn_read_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (part,) = write(lake)
    torn: list[int] = []
    whole = os.preadv

    def tear(file: int, into: list[memoryview], offset: int) -> int:
        count = whole(file, into, offset)
        if offset == 4 and len(torn) < 1:
            torn.append(offset)
            into[0][-1] ^= 1
        return count

    monkeypatch.setattr(os, "preadv", tear)
    assert read_table(lake, part).equals(ROWS)
    assert torn == [4]


def test_threads_do_not_read_into_each_other(lake: Lake) -> None:
    parts = write(lake, group=8, part_rows=16)
    wrong: list[int] = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(100):
            number = int(random.integers(0, 3))
            part = parts[number]
            group = int(random.integers(0, part.num_row_groups))
            start = 16 * number + 8 * group
            if not read_row_group(lake, part, group).equals(ROWS[start : start + 8]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "claimed",
    [
        {"num_bytes": 10**15, "tail_bytes": 10**15},
        {"num_bytes": 2**62},
        {"num_row_groups": 2**40},
        {"num_rows": 2**40},
        {"tail_bytes": 1},
    ],
    ids=str,
)
def test_a_manifest_that_claims_absurd_sizes(lake: Lake, claimed: dict[str, int]) -> None:
    (part,) = write(lake)
    with pytest.raises(Damaged, match="part-0.parquet is damaged"):
        read_table(lake, part.model_copy(update=claimed))
