"""Bad input: each a clear error that says what, got and the cure, and leaves nothing half-written."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import BAD_INPUT, app
from pipeline.data.dataset import MissingWindow, publish_window, require_manifest
from pipeline.data.simulator import Simulator
from pipeline.spec.config import Continuous, ModelConfig, OptimizerConfig
from pipeline.spec.lineup import LogSource
from pipeline.spec.schema import Schema
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Conflict, Lake, LakeError
from pipeline.storage.tensors import MissingCheckpoint
from pipeline.storage.together import is_of_all
from pipeline.training.chain.engine import Diverged
from pipeline.training.chain.steps import ContradictoryParent, MissingParent, StepStore
from pipeline.training.models.features import FeatureError
from pipeline.training.signals import MissingSignal
from tests.trained import DATASET, DAY, TINY, engine, folders, lineup, listing, publish, steps, train, variant, windows

SCHEMA = {
    "label": "click",
    "event_time": {"column": "at"},
    "dense": [{"name": "price"}],
    "categorical": [{"name": "item", "hash_size": 100}],
}
GOOD = "at,click,item,price\n" + "".join(f"2024-01-01T{n % 24:02}:00:00,{n % 2},i{n},{n / 7:.3f}\n" for n in range(60))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder of one's own for everything, named by the environment and by nothing else."""
    with mock.patch.dict(os.environ, {"WINDROW_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}):
        for name in ("WINDROW_LAKE", "WINDROW_LINEUP"):
            os.environ.pop(name, None)
        yield tmp_path


@pytest.fixture
def lake(home: Path) -> Lake:
    """The lake that the command line uses."""
    return Lake(str(home / "home" / "lake"))


def ingest(home: Path, content: bytes | str, *options: str, name: str = "log.csv", **schema: Any) -> tuple[int, str]:
    """Run `windrow ingest` on one file; its exit status and what it said."""
    log, described = home / name, home / "schema.yaml"
    log.write_bytes(content.encode() if isinstance(content, str) else content)
    described.write_text(yaml.safe_dump({**SCHEMA, **schema}))
    fixed = ["--dataset", "mine", "--schema", str(described), "--file", str(log), "--first", "2024-01-01"]
    ran = CliRunner().invoke(app, ["-q", "ingest", *fixed, *options])
    return ran.exit_code, ran.output


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


TIMES = ["2024-01-01T00:00:00"] * 3
BAD_LOGS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "a column is missing": (GOOD.replace("price", "cost", 1), {}, ["log.csv", "price", "cost"]),
    "a column has the wrong type": (
        parquet(at=TIMES, click=[0, 1, 0], item=["a", "b", "c"], price=[[1.0], [2.0], [3.0]]),
        {},
        ["price", "list"],
    ),
    "every number is a word": (
        "at,click,item,price\n" + "".join("2024-01-01,1,a,cheap\n" for _ in range(20)),
        {},
        ["price", "cheap", "max_quarantine_share"],
    ),
    "the file is empty": ("", {}, ["must hold rows, got an empty file", "leave it out or write it again"]),
    "the file has a header alone": ("at,click,item,price\n", {}, ["a header alone", "leave it out or write it again"]),
    "the gzip is cut short": (
        gzip.compress(GOOD.encode() * 500)[:-100],
        {"name": "log.csv.gz"},
        ["whole gzip file", "truncated", "fetch or write the file again"],
    ),
    "a parquet file is cut short": (
        parquet(at=TIMES, click=[0, 1, 0], item=["a", "b", "c"], price=[1.0, 2, 3])[:-20],
        {},
        ["must be a whole table", "fetch or write the file again"],
    ),
    "labels are no clicks": (
        GOOD.replace(",1,i", ",maybe,i"),
        {},
        ["may be quarantined, got 30 of 60", "maybe", "mend the log or the schema, or raise max_quarantine_share"],
    ),
    "no row is of that day": (
        GOOD.replace("2024-01-01", "2024-02-01"),
        {},
        ["must hold good rows of the requested windows, got none", "check sources and schema"],
    ),
    "the schema names a column twice": (
        GOOD,
        {"categorical": [{"name": "price", "hash_size": 9}]},
        ["a feature's name occurs once, got price twice"],
    ),
    "the schema shows the label to the model": (
        GOOD,
        {"dense": [{"name": "click_too", "column": "click"}]},
        ["column 'click' gives the label away", "take it out"],
    ),
    "the schema misspells a field": (GOOD, {"densse": []}, ["there is no field 'densse': did you mean 'dense'?"]),
}


@pytest.mark.parametrize("published_before", [False, True], ids=["empty lake", "window there"])
@pytest.mark.parametrize("case", BAD_LOGS)
def test_a_bad_log_is_refused_and_the_lake_stays_as_it_was(
    home: Path, lake: Lake, case: str, published_before: bool
) -> None:
    content, changes, words = BAD_LOGS[case]
    if published_before:
        assert ingest(home, GOOD)[0] == 0
    before = listing(lake), folders(lake)
    status, said = ingest(home, content, **changes)
    assert status == BAD_INPUT, said
    assert said.startswith("windrow: ")
    assert "Traceback" not in said
    assert [word for word in words if word not in said] == [], said
    assert (listing(lake), folders(lake)) == before
    assert not list(home.glob("windrow-ingest-*")), "nothing staged is left either"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--file", "{home}/none.csv"], ["got none at", "none.csv", "check the path"]),
        (["--file", "$NOWHERE/log.csv"], ["environment variables that are not set", "$NOWHERE/log.csv"]),
        (["--schema", "{home}/none.yaml"], ["none.yaml", "criteo"]),
        (["--dataset", "../outside"], ["../outside", "name"]),
        (["--dataset", "/etc"], ["/etc", "name"]),
        (["--first", "01.01.2024"], ["a window is named YYYY-MM-DD, got '01.01.2024'"]),
        (["--last", "2023-12-31"], ["a span runs forward, got 2024-01-01 to 2023-12-31"]),
        (["--cut", "by_moon"], ["by_moon", "event_time"]),
        (["--cut", "equal"], ["a log with event times is cut by them, got cut 'equal'"]),
    ],
    ids=str,
)
def test_a_bad_question_is_refused_and_the_lake_stays_as_it_was(
    home: Path, lake: Lake, options: list[str], words: list[str]
) -> None:
    before = sorted(path for path in home.parent.iterdir()), listing(lake), folders(lake)
    status, said = ingest(home, GOOD, *(option.format(home=home) for option in options))
    if options[0] == "--file":
        assert "{home}" not in said
    assert status == BAD_INPUT, said
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said
    assert (sorted(path for path in home.parent.iterdir()), listing(lake), folders(lake)) == before


def refused(kind: type[Exception], message: str, lake: Lake, *arguments: Any, **options: Any) -> None:
    """A train job that is refused before it changes anything, on all of its workers: none is started again in vain."""
    before = listing(lake), folders(lake)
    job = engine(lake, *arguments, **options)
    with pytest.raises(kind, match=message) as caught:
        job.run()
    assert (listing(lake), folders(lake)) == before
    assert is_of_all(caught.value)


def test_no_window_at_all(lake: Lake) -> None:
    refused(MissingWindow, "window 2024-01-01 of data set 'sim' is needed.*`windrow ingest`", lake, lineup(), 2)


def test_a_window_missing_in_the_middle_of_a_span(lake: Lake) -> None:
    publish(lake, [DAY, DAY.shift(2)])
    message = "window 2024-01-02 of data set 'sim' is needed, got none at .*: publish it with `windrow ingest`"
    with pytest.raises(MissingWindow, match=message):
        train(lake, lineup(), 3)
    assert [day for _, day in steps(lake, lineup(), 3)] == [DAY], "what came before is whole, and nothing after it"
    refused(MissingWindow, message, lake, lineup(), 3)
    publish(lake, [DAY.shift(1)])
    assert len(train(lake, lineup(), 3)) == 3


def test_a_window_whose_files_are_gone(lake: Lake) -> None:
    publish(lake, [DAY])
    manifest = require_manifest(lake, "sim", DAY)
    lake.files.delete_file(manifest.parts[0].path)
    refused(
        MissingWindow, "names files that are gone: .*publish it again with `windrow ingest --force`", lake, lineup(), 1
    )


def test_no_parent_at_all(lake: Lake) -> None:
    publish(lake, windows(2))
    refused(
        MissingParent,
        "'plain' .line-up 'test', seed 0. has no checkpoint of 2024-01-01.*run `online_training` for 2024-01-01, or "
        "`historical_warmup`",
        lake,
        lineup(),
        1,
        first=DAY.shift(1),
        start="parent",
    )


@pytest.mark.parametrize("damage", ["gone", "index gone", "cut short"])
def test_a_parents_checkpoint_that_cannot_be_read(lake: Lake, damage: str) -> None:
    publish(lake, windows(2))
    step = train(lake, lineup(), 1)["plain", DAY]
    assert step.checkpoint is not None
    folder = lake.root / step.checkpoint
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "index gone":
        (folder / "index.json").unlink()
    else:
        for part in folder.glob("*.safetensors"):
            part.write_bytes(part.read_bytes()[:100])
    what = "cannot be trusted.*" if damage == "cut short" else "is gone"
    message = f"the checkpoint file {folder}/.* {what}: train its window again with `--force`, or restore the file"
    refused(MissingCheckpoint, message, lake, lineup(), 1, first=DAY.shift(1), start="parent")
    train(lake, lineup(), 1, force=True)
    assert len(train(lake, lineup(), 1, first=DAY.shift(1), start="parent")) == 1, "the cure works"


STUDENT = variant("student", distillation=Continuous(teacher="teacher"))


def test_scores_that_were_never_made(lake: Lake) -> None:
    publish(lake, windows(1))
    refused(
        MissingSignal,
        "'teacher' .line-up 'test', seed 0. has stored no logit for 2024-01-01, which 'student' reads: train 'teacher' on 2024-01-01",
        lake,
        lineup(variant("teacher"), STUDENT),
        1,
        variants=("student",),
    )


def test_scores_of_other_rows(lake: Lake) -> None:
    publish(lake, windows(1))
    chosen = lineup(variant("teacher"), STUDENT)
    train(lake, chosen, 1, variants=("teacher",))
    publish(lake, windows(1), seed=5)
    message = (
        "made for another generation of the window: train that variant on the window again, before those that read it"
    )
    refused(MissingSignal, message, lake, chosen, 1, variants=("student",))
    assert len(train(lake, chosen, 1)) == 2, "the cure works"


def test_scores_whose_files_are_gone(lake: Lake) -> None:
    publish(lake, windows(1))
    chosen = lineup(variant("teacher"), STUDENT)
    step = train(lake, chosen, 1, variants=("teacher",))["teacher", DAY]
    (lake.root / step.signals[0].files[0].path).unlink()
    message = f"logit of step {step.key[:12]} is named by its manifest, got no such file.*with `force`"
    refused(MissingSignal, message, lake, chosen, 1, variants=("student",))
    train(lake, chosen, 1, variants=("teacher",), force=True)
    assert len(train(lake, chosen, 1)) == 2, "the cure works"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ModelConfig(size="small", prior=0.2), "'plain' has model .*but its checkpoint of 2024-01-01 was trained with"),
        (ModelConfig(arch="dcnv2", size="tiny", prior=0.2), "give the changed variant a new name and warm it up"),
        (ModelConfig(size="tiny", prior=0.2, exclude=("C1",)), "or take the change back"),
    ],
)
def test_a_config_that_contradicts_its_parents(lake: Lake, model: ModelConfig, words: str) -> None:
    publish(lake, windows(2))
    train(lake, lineup(), 1)
    changed = lineup(variant(model=model))
    refused(ContradictoryParent, words, lake, changed, 1, first=DAY.shift(1), start="parent")


@pytest.mark.parametrize("start", ["scratch", "parent"])
def test_a_window_with_another_schema_than_its_parents(lake: Lake, start: str) -> None:
    """The columns still fit the model, and mean something else: going on would train on nonsense."""
    publish(lake, windows(1))
    simulator = Simulator(SimulatorConfig.tiny(rows_per_window=500, num_lists=1, cluster=True))
    document = simulator.schema.model_dump(mode="json")
    document["lists"][0]["pooling"] = "sum"
    day = DAY.shift(1)
    publish_window(lake, DATASET, day, Schema.of(document, "the test"), simulator.window(day), row_group_size=100)
    train(lake, lineup(), 1)
    span: dict[str, Any] = {"first": DAY, "num": 2} if start == "scratch" else {"first": day, "num": 1}
    message = "2024-01-02 was published with schema .*'plain' was trained on 2024-01-01 with schema .*publish both with"
    refused(ContradictoryParent, message, lake, lineup(), start=start, **span)


def test_a_feature_that_the_schema_does_not_have(lake: Lake) -> None:
    publish(lake, windows(1))
    chosen = lineup(variant(model=TINY.model_copy(update={"exclude": ("colour",)})))
    refused(FeatureError, "cannot exclude .'colour'.: the schema has .'I1', ", lake, chosen, 1)


@pytest.mark.parametrize("path", ["../x.json", "/etc/x.json", "a/../../x.json", "", "a\\b", "a\0b"])
def test_a_path_that_would_leave_the_lake(lake: Lake, path: str) -> None:
    before = folders(lake)
    for act in (lambda: lake.read(path), lambda: lake.create(path, {}), lambda: lake.address(path)):
        with pytest.raises(LakeError, match="a path in the lake is relative and stays inside it, got"):
            act()
    with pytest.raises(LakeError, match="stays inside it"):
        lake.replace(path, {}, None)
    assert folders(lake) == before
    assert not list(lake.root.parent.rglob("*x.json*"))


def test_a_step_that_somebody_else_published_meanwhile(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two jobs that train the same step, the second to end is refused, and the first's step stays whole."""
    publish(lake, windows(1))
    publish_first = StepStore.publish
    raced: list[Any] = []

    def race(store: StepStore, manifest: Any, previous: Any, attempt: Any) -> None:
        if not raced:
            raced.append(manifest.model_copy(update={"generation": "faster"}))
            publish_first(store, raced[0], previous, store.attempt(manifest.key, "faster"))
        publish_first(store, manifest, previous, attempt)

    monkeypatch.setattr(StepStore, "publish", race)
    with pytest.raises(Conflict, match="changed while this job ran: trigger the job again"):
        train(lake, lineup(), 1)
    assert StepStore(lake, DATASET).read(raced[0].key) == raced[0]


def test_new_weights_in_the_middle_of_a_chain(lake: Lake) -> None:
    publish(lake, windows(4))
    train(lake, lineup(), 3)
    message = "in a chain that started on 2024-01-01.*start on 2024-01-01, go on from the window before, or start here with `force`"
    for first in (DAY.shift(2), DAY.shift(3)):  # closed before, and the one where the chain would go on
        refused(ContradictoryParent, message, lake, lineup(), 1, first=first)
    again = train(lake, lineup(), 1, first=DAY.shift(2), force=True)
    assert [step.first for step in again.values()] == [DAY.shift(2)], "only when it is asked for in so many words"


def test_scores_of_a_teacher_that_was_another_model(lake: Lake) -> None:
    publish(lake, [DAY])
    student = variant("student", distillation=Continuous(teacher="teacher"))
    train(lake, lineup(variant("teacher"), student), 1, variants=("teacher",))
    other = lineup(variant("teacher", optimizer=OptimizerConfig(batch_size=50)), student)
    message = "'teacher' .* had another config when it scored 2024-01-01: train 'teacher' on 2024-01-01 first"
    refused(MissingSignal, message, lake, other, 1, variants=("student",))


def test_a_model_that_diverges_is_not_published(lake: Lake) -> None:
    publish(lake, [DAY, DAY.next()])
    wild = variant(optimizer=OptimizerConfig(batch_size=100, dense_lr=1e38, embedding_lr=1e38))
    with pytest.raises(Diverged, match="diverged in 2024-01-0[12].*learning rates 1e\\+38 and 1e\\+38; lower them"):
        train(lake, lineup(wild), 2)
    assert len(steps(lake, lineup(wild), 2)) < 2


def test_a_log_without_times_says_where_it_begins() -> None:
    with pytest.raises(ValueError, match="says which window is its `first`"):
        LogSource(schema_file="criteo", files=("log.tsv",), cut="equal", count=3)
    with pytest.raises(ValueError, match="the `count` of its windows"):
        LogSource(schema_file="criteo", files=("log.tsv",), cut="equal", first=DAY)
    LogSource(schema_file="criteo", files=("{date}.tsv",), cut="file_per_window")
