"""What MLflow holds: one curve per variant and seed, a run per stage with its data, and comparisons that do not pile up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run, ViewType
from typer.testing import CliRunner

from pipeline import cli
from pipeline.data.dataset import read_schema, require_manifest
from pipeline.reporting.tracking.comparisons import record_comparison
from pipeline.reporting.tracking.recorder import MlflowRecorder
from pipeline.reporting.tracking.selection_runs import SelectionRuns
from pipeline.reporting.tracking.server import MAX_DIGEST, data_of
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import Continuous, OptimizerConfig
from pipeline.spec.job import GAP_VIEW, SUBMISSION_TAG, SUBMISSION_VARIABLE, TAGS_VARIABLE, SelectJob
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.selections import made_ahead
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.checkpoint import load_served
from pipeline.training.models.features import Features
from tests.trained import DATASET, DAY, lineup, metrics, publish, train, variant, windows

STUDENT = variant("student", distillation=Continuous(teacher="plain"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store with its tables made once; making them takes seconds."""
    path = tmp_path_factory.mktemp("mlflow")
    MlflowClient(f"sqlite:///{path}/mlflow.db").search_experiments()
    return path / "mlflow.db"


@pytest.fixture
def uri(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh copy of it, its artifacts in the test's own folder."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(store.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in (SUBMISSION_VARIABLE, TAGS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return f"sqlite:///{copy}"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(4))
    return lake


def record(
    lake: Lake, uri: str, chosen: LineUp, num: int, *, first: Window = DAY, daily: bool = False, **options: Any
) -> dict[tuple[str, Window], StepManifest]:
    """Train and record, as a worker does."""
    recorder = MlflowRecorder(lake, chosen, first=first, daily=daily, tracking_uri=uri)
    try:
        made = train(
            lake, chosen, num, first=first, start="parent" if daily else "scratch", recorder=recorder, **options
        )
    except BaseException:
        recorder.end("FAILED")
        raise
    recorder.end()
    return made


def runs(uri: str, name: str = "test", view: int = ViewType.ACTIVE_ONLY, **tags: str) -> list[Run]:
    """The runs with these `windrow.` tags, first those that began first."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], run_view_type=view, order_by=["attributes.start_time ASC"])
    return [run for run in found if all(run.data.tags.get(f"windrow.{k}") == v for k, v in tags.items())]


def curve(uri: str, run: Run, metric: str = "log_loss") -> list[tuple[int, float]]:
    """Every point that was ever logged, twice if it was logged twice."""
    history = MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def test_one_curve_for_each_variant_and_seed_with_windows_as_steps(lake: Lake, uri: str) -> None:
    chosen = lineup(variant(), STUDENT, seeds=(0, 5))
    made = record(lake, uri, chosen, 3)
    curves = runs(uri, kind="variant")
    assert sorted((run.data.tags["windrow.variant"], run.data.tags["windrow.seed"]) for run in curves) == [
        ("plain", "0"),
        ("plain", "5"),
        ("student", "0"),
        ("student", "5"),
    ]
    for name in ("plain", "student"):
        run = runs(uri, kind="variant", variant=name, seed="0")[0]
        losses = [metrics(lake, made[name, day])["log_loss"] for day in windows(3)]
        assert curve(uri, run) == [(n, pytest.approx(loss)) for n, loss in enumerate(losses)]
        assert curve(uri, run, "examples") == [(0, 500), (1, 1000), (2, 1500)]
        assert run.info.status == "FINISHED"
        assert run.data.params["knowledge_distillation"] == ("continuous" if name == "student" else "none")


def test_a_span_that_is_done_already_adds_no_point_and_no_run(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(), 3)
    before = {run.info.run_id: curve(uri, run) for run in runs(uri)}
    record(lake, uri, lineup(), 3)
    assert {run.info.run_id: curve(uri, run) for run in runs(uri)} == before
    record(lake, uri, lineup(), 4)
    run = runs(uri, kind="variant")[0]
    assert [step for step, _ in curve(uri, run)] == [0, 1, 2, 3]


def test_steps_that_another_lineup_trained_still_make_a_whole_curve(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(), 3)
    record(lake, uri, lineup(name="other"), 3)
    assert curve(uri, runs(uri, "other")[0]) == curve(uri, runs(uri, kind="variant")[0])
    assert runs(uri, "other", kind="stage") == [], "nothing was trained for it"


def test_an_earlier_window_lies_left_of_the_origin(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(), 2, first=DAY.shift(2))
    record(lake, uri, lineup(), 1)
    assert [step for step, _ in curve(uri, runs(uri, kind="variant")[0])] == [-2, 0, 1]


def test_a_stage_is_a_phase_of_a_span_and_adds_up(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(variant(selection=NegativeDownsampling(rate=0.3, scope="historical"))), 4)
    stages = runs(uri, kind="stage")
    assert [run.data.tags["windrow.phase"] for run in stages] == ["historical", "online"]
    assert [run.data.tags["windrow.windows"] for run in stages] == [
        "2024-01-01 to 2024-01-02",
        "2024-01-03 to 2024-01-04",
    ]
    parent = runs(uri, kind="variant")[0].info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in stages} == {parent}
    assert stages[0].data.params["selection.rate"] == "0.3"
    assert stages[1].data.params["selection.kind"] == "all"
    assert stages[0].data.metrics["stage/examples"] < stages[1].data.metrics["stage/examples"] == 1000
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}


def test_inputs_name_the_data_by_its_content(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(), 2)
    inputs = {each.dataset.name: each.dataset for each in runs(uri, kind="stage")[0].inputs.dataset_inputs}
    assert set(inputs) == {"sim 2024-01-01", "sim 2024-01-02"}
    for day in windows(2):
        manifest = require_manifest(lake, DATASET, day)
        found = inputs[f"sim {day}"]
        assert found.digest == manifest.digest[:MAX_DIGEST]
        assert json.loads(found.source)["digest"] == manifest.digest
        assert json.loads(found.profile) == {"num_rows": 500, "num_positives": manifest.num_positives}


def test_the_daily_run_makes_a_run_a_day_and_marks_what_it_replaces(lake: Lake, uri: str) -> None:
    chosen = lineup()
    record(lake, uri, chosen, 2)
    day = DAY.shift(2)
    record(lake, uri, chosen, 1, first=day, daily=True)
    record(lake, uri, chosen, 1, first=day.next(), daily=True)
    assert [r.data.tags["windrow.window"] for r in runs(uri, kind="stage", phase="online")] == [
        day.name,
        day.next().name,
    ]
    publish(lake, [day], seed=8)
    record(lake, uri, chosen, 1, first=day, daily=True)
    old, new = runs(uri, kind="stage", window=day.name)
    assert old.data.tags["windrow.superseded"] == "true"
    assert "windrow.superseded" not in new.data.tags
    assert old.data.tags["windrow.step"] != new.data.tags["windrow.step"]
    other = runs(uri, kind="stage", window=day.next().name)
    assert ["windrow.superseded" in run.data.tags for run in other] == [False]
    assert len(runs(uri, kind="variant")) == 1


def test_a_stage_links_step_checkpoint_parent_and_submission(
    lake: Lake, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUBMISSION_VARIABLE, "raysubmit_7")
    monkeypatch.setenv(TAGS_VARIABLE, json.dumps({"dag_id": "online_training", "task_try": 2}))
    made = record(lake, uri, lineup(), 2)
    tags = runs(uri, kind="stage")[0].data.tags
    last = made["plain", DAY.shift(1)]
    assert tags["windrow.step"] == last.key
    assert tags["windrow.parent_step"] == made["plain", DAY].key
    assert Path(tags["windrow.checkpoint"]).is_dir()
    for run in runs(uri):
        found = run.data.tags
        assert (found[SUBMISSION_TAG], found["dag_id"], found["task_try"]) == ("raysubmit_7", "online_training", "2")


def models(uri: str, name: str = "test") -> dict[str, LoggedModel]:
    """The experiment's models, by name."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return {model.name: model for model in client.search_logged_models([experiment.experiment_id])}


def test_the_model_of_yesterday_is_found_and_serves(lake: Lake, uri: str) -> None:
    """A model for the last checkpoint of each stage; its tags lead to files that a server reads."""
    chosen, day = lineup(), DAY.shift(2)
    record(lake, uri, chosen, 2)
    made = record(lake, uri, chosen, 1, first=day, daily=True)
    found = models(uri)
    assert sorted(found) == ["plain seed 0 2024-01-02", "plain seed 0 2024-01-03"]
    yesterday, (run,) = found["plain seed 0 2024-01-03"], runs(uri, kind="stage", window=day.name)
    assert (yesterday.status, yesterday.source_run_id) == (LoggedModelStatus.READY, run.info.run_id)
    step = StepStore(lake, DATASET).read(yesterday.tags["windrow.step"])
    assert step == made["plain", day]
    assert step.checkpoint is not None
    assert yesterday.tags["windrow.checkpoint"] == lake.address(step.checkpoint)
    features = Features(read_schema(lake, DATASET, step.schema_key))
    load_served(lake, step.checkpoint, step.checkpoint_files, features, step.config.model)

    publish(lake, [day], seed=8)
    record(lake, uri, chosen, 1, first=day, daily=True)
    same = MlflowClient(uri).search_logged_models(
        [run.info.experiment_id], filter_string="name = 'plain seed 0 2024-01-03'"
    )
    assert sorted("windrow.superseded" in model.tags for model in same) == [False, True]


def test_a_job_that_fails_leaves_no_run_open(lake: Lake, uri: str) -> None:
    with pytest.raises(ValueError, match="window 2024-01-05"):
        record(lake, uri, lineup(), 5)
    stages = {run.data.tags["windrow.phase"]: run.info.status for run in runs(uri, kind="stage")}
    assert stages == {"historical": "FINISHED", "online": "FAILED"}
    assert [run.info.status for run in runs(uri, kind="variant")] == ["FAILED"]
    assert [step for step, _ in curve(uri, runs(uri, kind="variant")[0])] == [0, 1, 2, 3], "what was done is recorded"
    publish(lake, [DAY.shift(4)])
    record(lake, uri, lineup(), 5)
    found = runs(uri, kind="variant")
    assert [run.info.status for run in found] == ["FINISHED"], "the curve goes on where it stopped"
    assert [step for step, _ in curve(uri, found[0])] == [0, 1, 2, 3, 4]


def test_a_job_that_is_killed_leaves_a_run_that_the_next_one_finishes(lake: Lake, uri: str) -> None:
    recorder = MlflowRecorder(lake, lineup(), first=DAY, daily=False, tracking_uri=uri)
    train(lake, lineup(), 2, recorder=recorder)  # and no end: the process was killed
    assert {run.info.status for run in runs(uri)} == {"RUNNING"}
    record(lake, uri, lineup(), 3)
    run = runs(uri, kind="variant")[0]
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(uri, run)] == [0, 1, 2]


def test_variants_of_one_name_in_two_lineups_do_not_share_a_curve(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(), 2)
    record(lake, uri, lineup(variant(optimizer=OptimizerConfig(batch_size=64)), name="other"), 2)
    assert len(runs(uri, kind="variant")) == len(runs(uri, "other", kind="variant")) == 1


def compare_twice(uri: str, gap: float) -> str:
    points: Mapping[Window, Mapping[str, float]] = {day: {"log_loss": 0.5, "gap_percent": gap} for day in windows(3)}
    return record_comparison(
        lineup(variant(), STUDENT),
        first=DAY,
        tracking_uri=uri,
        summaries={"plain": points, "student": points},
        headline={"plain": {"gap_percent": 0.0}, "student": {"gap_percent": gap}},
        table={"variant": ["plain", "student"], "gap_percent": [0.0, gap]},
        figures={"gap.png": Figure()},
        text=f"| student | {gap} |\n",
    )


def test_a_comparison_made_twice_has_one_summary_for_each_variant(uri: str) -> None:
    compare_twice(uri, 1.0)
    last = compare_twice(uri, 2.0)
    for name in ("plain", "student"):
        summaries = runs(uri, kind="summary", variant=name)
        assert len(summaries) == 1
        assert curve(uri, summaries[0], "gap_percent") == [(0, 2.0), (1, 2.0), (2, 2.0)]
        assert summaries[0].info.status == "FINISHED"
    assert runs(uri, kind="summary", variant="student")[0].data.metrics["overall/gap_percent"] == 2.0
    assert [run.info.run_id for run in runs(uri, kind="comparison")] == [last]
    client = MlflowClient(uri)
    assert sorted(each.path for each in client.list_artifacts(last)) == ["comparison.json", "comparison.md", "gap.png"]
    assert Path(client.download_artifacts(last, "comparison.md")).read_text() == "| student | 2.0 |\n"
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{GAP_VIEW}"])
    assert view["searchFilter"] == "tags.`windrow.kind` = 'summary'"
    assert [chart["metricKey"] for chart in view["compareRunCharts"]] == ["gap_percent"]
    deleted = runs(uri, view=ViewType.DELETED_ONLY)
    assert len(deleted) == 3, "the earlier ones can be restored"


def test_a_comparison_is_printed_once_and_says_what_its_intervals_know(
    lake: Lake, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = lineup(variant(), variant("a_variant_with_a_name_of_40_characters__"))
    train(lake, chosen, 2)
    path = lake.root.parent / "lineup.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    monkeypatch.setenv("WINDROW_LAKE", lake.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(cli.out, "_width", 100)
    ran = CliRunner().invoke(
        cli.app, ["compare", "--first", str(DAY), "--last", str(DAY.next()), "-l", str(path)], env={"COLUMNS": "100"}
    )
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("reference") == 2, "a heading and a row"
    assert max(len(line) for line in ran.output.splitlines()) <= 100
    assert "…" not in ran.output
    assert "say nothing of another day" in " ".join(ran.output.split())
    names = "".join(line.split(" ")[0] for line in ran.output.splitlines())
    assert "a_variant_with_a_name_of_40_characters__" in names, "broken over lines, and whole"
    (run,) = runs(uri, kind="comparison")
    assert "say nothing of another day" in run.data.tags["mlflow.note.content"]
    (expected,) = data_of(lake, chosen, DAY, DAY.next())
    for each in (run, *runs(uri, kind="summary")):
        (data,) = each.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == (f"{DATASET} {DAY} to {DAY.next()}", expected.dataset.digest)
        assert json.loads(data.dataset.profile) == {"num_windows": 2, "num_rows": 1000}


def test_metrics_that_are_no_numbers_are_left_out(lake: Lake, uri: str) -> None:
    record(lake, uri, lineup(variant(selection=NegativeDownsampling(rate=1e-9))), 2)
    assert all(math.isfinite(value) for run in runs(uri) for value in run.data.metrics.values())


def test_a_selection_has_a_run_that_says_what_was_kept_and_what_made_it(lake: Lake, uri: str, tmp_path: Path) -> None:
    tenth = variant("tenth", selection=NegativeDownsampling(rate=0.1))
    told = variant("told", selection={"kind": "distilled", "rate": 0.2, "pilot": "plain"})
    chosen = lineup(variant("plain"), tenth, told)
    done = train(lake, chosen, 2, variants=("plain",))
    job = SelectJob(lineup=chosen, first=DAY, last=DAY.next())
    for _ in range(2):  # the second time its run goes on
        selections = SelectionRuns(lake, job, uri)
        said = [selections.add(made) for made in made_ahead(lake, job)]
        assert selections.end() == []
    assert [(each["variant"], each["window"]) for each in said] == [
        (name, day.name) for name in ("tenth", "told") for day in windows(2)
    ]
    (run,) = runs(uri, kind="selection", variant="told", seed="0")
    assert run.info.status == "FINISHED"
    assert run.data.params["selection.kind"] == "distilled"
    assert {step for step, _ in curve(uri, run, "kept/share")} == {0, 1}
    assert run.data.metrics["kept/share"] == pytest.approx(0.2, abs=0.06)
    path = MlflowClient(uri).download_artifacts(run.info.run_id, f"{DAY}.json", str(tmp_path))
    lineage = json.loads(Path(path).read_text())
    assert lineage["read"]["pilot"]["step"] == done["plain", DAY].key
    assert lineage["window_digest"] == require_manifest(lake, DATASET, DAY).digest
    assert all(lake.files.get_file_info(file).is_file for file in lineage["files"])


def test_selections_are_stored_where_mlflow_does_not_answer(lake: Lake) -> None:
    chosen = lineup(variant("plain"), variant("tenth", selection=NegativeDownsampling(rate=0.1)))
    job = SelectJob(lineup=chosen, first=DAY, last=DAY)
    selections = SelectionRuns(lake, job, "http://127.0.0.1:9")
    (made,) = made_ahead(lake, job)
    assert selections.add(made)["num_rows"] == made.selection.num_rows
    (warning,) = selections.end()
    assert "all selections are in the lake, but not in MLflow" in warning
