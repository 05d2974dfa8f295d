"""A log of one's own: from its files to a schema and a line-up that train without an edit, and what is not clear is asked for."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.start.roles import area
from pipeline.reporting.dispatch import run_ingest
from pipeline.spec.job import IngestJob, TrainJob
from pipeline.spec.lineup import load_lineup
from pipeline.spec.schema import EventTime, Schema
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.steps import StepManifest, StepStore
from tests.trained import alone

NUM_ROWS = 1_200
SHARED = Path(os.environ.get("WINDROW_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def log(day: int = 0, num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """A day of a log with names, zones and types as people have them."""
    random = np.random.default_rng(day)
    users = random.integers(0, 80, num_rows)
    clicks = random.random(num_rows) < 0.1 + 0.1 * (users % 3 == 0)
    start = datetime(2024, 3, 1 + day, 9, 0, tzinfo=UTC)
    return {
        "row uuid": [f"{day}-{place:08x}" for place in range(num_rows)],
        "Was clicked?": clicks,
        "time": [(start + timedelta(seconds=20 * place)).strftime("%Y-%m-%d %H:%M:%S") for place in range(num_rows)],
        "User ID": users,
        "label": random.integers(0, 3, num_rows),
        "price (EUR)": np.round(random.lognormal(3, 2.5, num_rows), 2),
        "balance": random.integers(-900, 900, num_rows),
        "article": 5_000_000 + 37 * random.integers(0, 60, num_rows),
        "tags": ["|".join(random.choice(["new", "sale", "red", "blue"], 2)) for _ in range(num_rows)],
        "dwell": clicks * random.random(num_rows),
        "nothing": [None] * num_rows,
        "country": ["dk"] * num_rows,
    }


def init(folder: Path, *told: str) -> Any:
    return CliRunner().invoke(app, ["init", "mine", "--folder", str(folder), *told])


def written(folder: Path, days: int = 3) -> Path:
    """The log as CSV files, a day each."""
    folder.mkdir()
    for day in range(days):
        csv.write_csv(pa.table(log(day)), folder / f"clicks-2024-03-0{1 + day}.csv")
    return folder


ASKED = ("--label", "Was clicked?", "--zone", "Europe/Copenhagen")


def test_the_proposed_files_say_what_the_columns_are(tmp_path: Path) -> None:
    logs = written(tmp_path / "logs")
    ran = init(tmp_path, "--from", f"{logs}/*.csv", *ASKED)
    assert ran.exit_code == 0, ran.output
    schema = Schema.load(tmp_path / "mine.schema.yaml")
    text = (tmp_path / "mine.schema.yaml").read_text()
    assert schema.label == "Was clicked?"
    assert schema.event_time == EventTime(column="time", zone="Europe/Copenhagen", day="local")
    assert schema.id_columns == ("row uuid",)
    assert schema.cluster == "User ID"
    assert {(each.source, each.transform) for each in schema.dense} == {
        ("price (EUR)", "log1p"),
        ("balance", "identity"),
    }
    assert [each.source for each in schema.categorical] == ["User ID", "label", "article"]
    assert [(each.source, each.separator) for each in schema.lists] == [("tags", "|")]
    assert "# left out: dwell, suspected to give the label away" in text
    assert "# left out: nothing, always missing" in text
    assert "# left out: country, always 'dk'" in text
    lineup = load_lineup(tmp_path / "mine.yaml")
    assert lineup.dataset.source.files == (f"{logs}/clicks-{{date}}.csv",)  # type: ignore[union-attr]
    assert 0.1 < lineup.variant("baseline").model.prior < 0.2
    assert "windrow ingest --lineup" in ran.output
    assert "--first 2024-03-01 --last 2024-03-03" in ran.output


def test_the_proposed_files_train_without_an_edit(tmp_path: Path) -> None:
    logs = written(tmp_path / "logs")
    assert init(tmp_path, "--from", f"{logs}/*.csv", *ASKED).exit_code == 0
    assert set(trained(tmp_path, Window.of("2024-03-01"), Window.of("2024-03-03"))) >= {"baseline", "kept_10"}


def trained(folder: Path, first: Window, last: Window) -> dict[str, StepManifest]:
    """The last step of each variant of the proposed line-up, over some windows."""
    lineup, lake = load_lineup(folder / "mine.yaml"), Lake(str(folder / "lake"))
    run_ingest(IngestJob(dataset=lineup.dataset, first=first, last=last, seeds=lineup.seeds), lake)
    Engine(lake, TrainJob(lineup=lineup, first=first, last=last, start="scratch"), None, alone()).run()
    heads = {each.name: StepStore(lake, "mine").head("mine", each.name, 0, last) for each in lineup.variants}
    return {name: head for name, head in heads.items() if head is not None}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (("--zone", "Europe/Copenhagen"), None),
        (("--label", "clicks"), "the log has no column 'clicks'"),
        (("--label", "balance"), "a label is 0 or 1, or true and false, got others in column 'balance'"),
        (("--time", "country"), "times are timestamps, ISO text or epochs"),
        (("--zone", "Europe/Atlantis"), "Atlantis"),
        (("--leave-out", "dwel"), "the log has no column 'dwel': did you mean 'dwell'"),
    ],
)
def test_what_was_said_is_checked(tmp_path: Path, told: tuple[str, ...], why: str | None) -> None:
    logs = written(tmp_path / "logs", days=1)
    ran = init(tmp_path, "--from", f"{logs}/*.csv", *told)
    if why is None:
        assert ran.exit_code == 0, "one column is of true and false"
        return
    assert ran.exit_code == 2
    assert why in " ".join(ran.output.split())
    assert not (tmp_path / "mine.yaml").exists()


def test_two_columns_that_may_be_the_label_are_asked_for(tmp_path: Path) -> None:
    columns = {"seen": [True, False] * 20, "bought": [False, True] * 20, "item": list(range(40))}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    ran = init(tmp_path, "--from", str(tmp_path / "log.parquet"))
    assert ran.exit_code == 2
    assert (
        "it is not clear which column is the label; those of 0 and 1 are seen, bought: name it with --label"
        in " ".join(ran.output.split())
    )


@pytest.mark.parametrize(
    ("columns", "given", "why"),
    [
        ({"user_id": [["a"], ["b"]] * 20}, (), None),
        ({"user_id": [["a"], ["b"]] * 20}, ("--cluster", "user_id"), "a cluster is one value a row"),
        (
            {"when": [datetime(2024, 1, 1, tzinfo=UTC)] * 40},
            (),
            "at least one dense, categorical or list column, got none",
        ),
    ],
)
def test_awkward_types_are_features_or_are_refused(
    tmp_path: Path, columns: dict[str, Any], given: tuple[str, ...], why: str | None
) -> None:
    pq.write_table(pa.table({"click": [True, False, False, False] * 10} | columns), tmp_path / "log.parquet")
    ran = init(tmp_path, "--from", str(tmp_path / "log.parquet"), *given)
    assert (ran.exit_code, (tmp_path / "mine.schema.yaml").exists()) == ((0, True) if why is None else (2, False)), (
        ran.output
    )
    assert why is None or why in " ".join(ran.output.split())


def test_nothing_is_overwritten_unless_that_is_asked_for(tmp_path: Path) -> None:
    logs = written(tmp_path / "logs", days=1)
    told = ("--from", f"{logs}/*.csv", *ASKED)
    assert init(tmp_path, *told).exit_code == 0
    (tmp_path / "mine.yaml").write_text("mine")
    refused = init(tmp_path, *told)
    assert refused.exit_code == 2
    assert "is there already" in refused.output
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert init(tmp_path, *told, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "must hold rows, got an empty file"),
        (b"\xff\xfea\x00", "UTF-16"),
        (b"PAR1 and no more", "must be Parquet, CSV or TSV"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    ran = init(tmp_path, "--from", str(tmp_path / "log.csv"))
    assert ran.exit_code == 2
    assert why in " ".join(ran.output.split())


@pytest.mark.parametrize("name", ["../mine", "a b", ""])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    ran = CliRunner().invoke(app, ["init", name, "--from", "x.csv", "--folder", str(tmp_path)])
    assert ran.exit_code == 2
    assert "letters (a to z), digits" in " ".join(ran.output.split())


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    assert area(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0.75)
    assert area(np.ones(4), np.array([0.0, 1.0, 1.0, 0.0])) == 0.5


@pytest.mark.parametrize(
    ("files", "label", "time"),
    [
        ("upworthy/*.parquet", "click", EventTime(column="event_time")),
        ("ebnerd/*.parquet", "click", EventTime(column="event_time")),
        ("obd/*.csv.gz", "click", EventTime(column="timestamp")),
        ("criteo/*.tsv.gz", "column_1", "synthetic"),
    ],
)
def test_public_logs_are_understood_and_train_without_an_edit(
    tmp_path: Path, files: str, label: str, time: object
) -> None:
    if not (SHARED / files).parent.is_dir():
        pytest.skip(f"{SHARED / files} is not on this machine; the simulated log above always runs")
    ran = init(tmp_path, "--from", str(SHARED / files))
    assert ran.exit_code == 0, ran.output
    schema = Schema.load(tmp_path / "mine.schema.yaml")
    assert (schema.label, schema.event_time) == (label, time)
    assert len(schema.features) >= 4
    first, last = map(Window.of, re.findall(r"--(?:first|last) ([0-9-]+)", ran.output)[:2])
    done = trained(tmp_path, first, min(last, first.next()))
    assert set(done) >= {"baseline", "kept_10"}
    assert all(step.num_selected > 0 for step in done.values())
