"""What is stale is refused or reported, and the cure that the message names is one: run as it stands, it corrects."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from airflow.cli import cli_parser
from click.testing import Result
from mlflow import MlflowClient
from typer.testing import CliRunner

from operators.form import params
from pipeline.cli import BAD_INPUT, TRY_AGAIN, app
from pipeline.reporting import dispatch as stages
from pipeline.spec.config import Continuous, OptimizerConfig
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.leases import StillTrained
from pipeline.storage.paths import head_path
from pipeline.training import workers
from pipeline.training.chain.status import backfill_command, chain_statuses, stale_lines
from pipeline.training.chain.steps import StepStore
from tests.conftest import free_ports
from tests.tracking_server import Wire
from tests.trained import DATASET, DAY, alone, evaluation, lineup, publish, variant, windows

TEACHER = variant("teacher")
STUDENT = variant("student", distillation=Continuous(teacher="teacher"))
FASTER = OptimizerConfig(batch_size=128, embedding_lr=0.1, dense_lr=0.2)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home in which train jobs run in this process instead of on Ray's workers, and MLflow is away."""

    def in_this_process(work: Any, config: dict[str, Any], *_: Any, **__: Any) -> Any:
        alone()
        return work({**config, "threads": 1})

    monkeypatch.setattr(workers, "run_on_workers", in_this_process)
    monkeypatch.setattr(workers, "worker_device", lambda _threads: alone())
    monkeypatch.setattr(workers, "quiet", lambda _level: None)
    environ = {
        "WINDROW_HOME": str(tmp_path),
        "RAY_ADDRESS": "local",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_ports(1)[0]}",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "COLUMNS": "250",
    }
    monkeypatch.setattr("pipeline.reporting.tracking.recorder.LAST_PAUSE_S", 0.0)
    with mock.patch.dict(os.environ, environ):
        for name in ("WINDROW_LAKE", "WINDROW_LINEUP"):
            os.environ.pop(name, None)
        yield tmp_path


@pytest.fixture
def lake(home: Path) -> Lake:
    lake = Lake(str(home / "lake"))
    publish(lake, windows(5), rows_per_window=200)
    return lake


def windrow(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def use(home: Path, chosen: LineUp) -> LineUp:
    """Make it the home's line-up."""
    path = home / "lineup.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    os.environ["WINDROW_LINEUP"] = str(path)
    return chosen


def trained(*arguments: str) -> Result:
    ran = windrow("train", *arguments)
    assert ran.exit_code == 0, ran.output
    return ran


def go_on(day: Window, *more: str) -> Result:
    return windrow("train", "--go-on", "--first", day.name, *more)


def carry_out(message: str) -> None:
    """Run the commands that a message names as the cure, in order."""
    commands = [shlex.split(found) for found in re.findall(r"Cure: `windrow (.*?)`", message)]
    assert commands, message
    for command in commands:
        ran = windrow(*command)
        assert ran.exit_code == 0, ran.output


def stale(lake: Lake, chosen: LineUp) -> list[str]:
    return stale_lines(chain_statuses(lake, chosen))


def other_rows(lake: Lake, day: Window) -> None:
    publish(lake, [day], rows_per_window=200, seed=7)


@pytest.mark.parametrize(
    "changed",
    [
        "a window in the middle",
        "the teacher",
        pytest.param("the first window", marks=pytest.mark.long),
        pytest.param("the start", marks=pytest.mark.long),
    ],
)
def test_going_on_from_a_stale_chain_is_refused_and_the_cure_it_names_corrects(
    home: Path, lake: Lake, changed: str
) -> None:
    chosen = use(home, lineup(TEACHER, STUDENT))
    trained("--first", DAY.name, "--last", DAY.shift(3).name)
    match changed:
        case "the first window":
            other_rows(lake, DAY)
            why = "from 2024-01-01 to 2024-01-04: its window was published again with other rows"
        case "a window in the middle":
            other_rows(lake, DAY.shift(2))
            why = "from 2024-01-03 to 2024-01-04: its window was published again with other rows"
        case "the teacher":
            chosen = use(home, lineup(TEACHER.model_copy(update={"optimizer": FASTER}), STUDENT))
            why = "teacher (seed 0) is stale from 2024-01-01 to 2024-01-04: the line-up's config changed"
        case _:
            chosen = use(home, lineup(TEACHER, STUDENT.model_copy(update={"start": DAY.shift(1)})))
            why = "student (seed 0) is stale from 2024-01-02 to 2024-01-04: its chain started on 2024-01-01"
    refused = go_on(DAY.shift(4))
    assert refused.exit_code == BAD_INPUT
    assert why in refused.output
    assert "--despite-stale" in refused.output
    assert len(refused.output.splitlines()) <= 12
    assert StepStore(lake, DATASET).head("test", "teacher", 0, DAY.shift(4)) is None, "nothing was trained"
    carry_out(refused.output)
    assert stale(lake, chosen) == []
    assert go_on(DAY.shift(4)).exit_code == 0
    assert stale(lake, chosen) == []


def test_a_student_alone_does_not_learn_from_a_stale_teacher(home: Path, lake: Lake) -> None:
    chosen = use(home, lineup(TEACHER, STUDENT))
    trained("--first", DAY.name, "--last", DAY.shift(1).name)
    trained("--first", DAY.name, "--last", DAY.shift(2).name, "-v", "teacher")
    other_rows(lake, DAY)
    ran = windrow("train", "--go-on", "--first", DAY.shift(2).name, "-v", "student")
    assert ran.exit_code == BAD_INPUT
    assert "teacher (seed 0) is stale" in ran.output
    carry_out(ran.output)
    assert stale(lake, chosen) == []


def test_what_was_gone_on_from_on_purpose_is_remembered_until_something_else_changes(home: Path, lake: Lake) -> None:
    """A recipe changed in the line-up: from now on, not backwards. The days after must not ask again."""
    use(home, lineup())
    trained("--first", DAY.name, "--last", DAY.shift(1).name)
    use(home, lineup(variant(optimizer=FASTER)))
    assert go_on(DAY.shift(2)).exit_code == BAD_INPUT
    assert go_on(DAY.shift(2), "--despite-stale").exit_code == 0
    assert go_on(DAY.shift(3)).exit_code == 0
    other_rows(lake, DAY.shift(2))
    refused = go_on(DAY.shift(4))
    assert refused.exit_code == BAD_INPUT
    assert "from 2024-01-03 to 2024-01-04: its window was published again" in refused.output
    carry_out(refused.output)
    assert go_on(DAY.shift(4)).exit_code == 0


def test_a_day_trained_again_alone_tells_what_it_leaves_behind(home: Path, lake: Lake) -> None:
    chosen = use(home, lineup())
    trained("--first", DAY.name, "--last", DAY.shift(3).name)
    other_rows(lake, DAY.shift(1))
    ran = go_on(DAY.shift(1), "--json")
    warnings = "\n".join(json.loads(ran.stdout)["warnings"])
    assert "plain (seed 0) is stale from 2024-01-03 to 2024-01-04" in warnings
    carry_out(warnings)
    assert stale(lake, chosen) == []


def test_the_backfill_of_the_daily_run_trains_again_what_changed(home: Path, lake: Lake) -> None:
    """Its runs are one a day, each from the parent of the day before, whether that is done or not."""
    chosen = use(home, lineup(TEACHER, STUDENT))
    trained("--first", DAY.name, "--last", DAY.shift(3).name)
    before = {day: StepStore(lake, DATASET).head("test", "student", 0, day) for day in windows(4)}
    other_rows(lake, DAY.shift(2))
    for day in windows(4)[2:]:
        job = TrainJob(lineup=chosen, first=day, last=day, start="parent")
        path = home / "job.json"
        path.write_text(job.model_dump_json())
        assert windrow("run", str(path)).exit_code == 0
    assert stale(lake, chosen) == []
    after = {day: StepStore(lake, DATASET).head("test", "student", 0, day) for day in windows(4)}
    assert [before[day] == after[day] for day in windows(4)] == [True, True, False, False]


def test_the_backfill_that_is_named_is_one_that_airflow_takes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/of/this/airflow")
    named = [backfill_command("demo", DAY, DAY.shift(3))]
    page = params.filled_in((root / "dags" / "online_training.py").read_text())
    named += [" ".join(found.split()) for found in re.findall(r"`(airflow backfill create.*?)`", page, re.DOTALL)]
    assert len(named) == 2
    assert "`export AIRFLOW_HOME=/of/this/airflow`" in page
    for command in named:
        asked = cli_parser.get_parser().parse_args(shlex.split(command)[1:])
        assert (asked.dag_id, asked.max_active_runs) == ("online_training", 1)
        assert str(asked.reprocess_behavior).endswith("completed"), "else Airflow leaves the days as they are"


def test_a_comparison_tells_what_is_stale_in_table_page_json_and_mlflow(
    home: Path, lake: Lake, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", wire.url)
    use(home, lineup(TEACHER, variant("other", optimizer=FASTER), name="compared-stale"))
    trained("--first", DAY.name, "--last", DAY.shift(2).name)
    span = ("--first", DAY.shift(1).name, "--last", DAY.shift(2).name)
    use(home, lineup(TEACHER, variant("other"), name="compared-stale"))
    why = "other (seed 0) is stale from 2024-01-01 to 2024-01-03: the line-up's config changed"
    shown = windrow("compare", *span, "--folder", str(home / "copy"))
    assert why in shown.output
    assert "Cure: `windrow train --scratch --first 2024-01-01 --last 2024-01-03 -v other`" in shown.output
    assert why in (home / "copy" / "compared-stale_comparison.md").read_text()
    answer = json.loads(windrow("compare", *span, "--json").stdout)
    assert set(answer["stale"]) == {"other seed 0"}
    assert set(answer["stale"]["other seed 0"]) == {day.name for day in windows(3)}
    client = MlflowClient(wire.url)
    experiment = client.get_experiment_by_name("compared-stale")
    assert experiment is not None
    tags = {
        (run.data.tags["windrow.kind"], run.data.tags.get("windrow.variant")): run.data.tags
        for run in client.search_runs([experiment.experiment_id])
    }
    assert why in tags["comparison", None]["mlflow.note.content"]
    assert tags["comparison", None]["windrow.stale"] == tags["summary", "other"]["windrow.stale"] == why
    assert "windrow.stale" not in tags["summary", "teacher"]


@pytest.mark.parametrize("late", ["other", "reference"])
def test_a_variant_that_starts_later_fails_no_comparison_until_then(home: Path, lake: Lake, late: str) -> None:
    both = {"reference": variant("reference"), "other": variant("other", optimizer=FASTER)}
    both[late] = both[late].model_copy(update={"start": DAY.shift(4)})
    use(home, lineup(*both.values()))
    trained("--first", DAY.name, "--last", DAY.shift(1).name)
    ran = windrow("compare", "--first", DAY.name, "--last", DAY.shift(1).name, "--json")
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert answer["columns"]["variant"] == (["reference"] if late == "other" else [])
    assert f"{late} starts on 2024-01-05, after 2024-01-02: left out" in answer["warnings"]
    trained("--first", DAY.name, "--last", DAY.shift(4).name)
    last = ("--first", DAY.name, "--last", DAY.shift(4).name, "--json")
    assert json.loads(windrow("compare", *last).stdout)["columns"]["variant"] == ["reference", "other"]


def test_training_ends_well_without_mlflow_and_says_once_what_records_the_rest(
    home: Path, lake: Lake, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", wire.url)
    use(home, lineup(name="without-mlflow"))
    span = ("--first", DAY.name, "--last", DAY.shift(2).name, "--json")
    wire.set("cut")
    (warning,) = json.loads(trained(*span).stdout)["warnings"]
    assert wire.url in warning
    assert "run this again once it answers" in warning
    compared = windrow("compare", *span)
    assert compared.exit_code == 0, compared.output
    answer = json.loads(compared.stdout)
    assert answer["mlflow_run"] is None
    assert answer["stale"] == {}
    assert [row[0] for row in answer["rows"]] == ["plain"]
    assert any("run it again once MLflow answers" in each for each in answer["warnings"])
    wire.set("open")
    assert json.loads(trained(*span).stdout)["warnings"] == []
    client = MlflowClient(wire.url)
    experiment = client.get_experiment_by_name("without-mlflow")
    assert experiment is not None
    (curve,) = client.search_runs([experiment.experiment_id], "tags.`windrow.kind` = 'variant'")
    assert [p.step for p in client.get_metric_history(curve.info.run_id, "log_loss")] == [0, 1, 2]


def test_a_conflict_over_timings_fails_no_training(home: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Lake.replace

    def contended(self: Lake, path: str, *rest: Any) -> None:
        if "timings" in path:
            raise Conflict("somebody else was first")
        replace(self, path, *rest)

    monkeypatch.setattr(Lake, "replace", contended)
    use(home, lineup())
    trained("--first", DAY.name)


def test_a_job_that_loses_every_race_for_a_step_goes_on_behind_the_other(
    home: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another line-up trains the same steps and is a little faster each time."""
    publish_step, lost = StepStore.publish, []

    def beaten(self: StepStore, manifest: Any, *others: Any) -> None:
        publish_step(self, manifest, *others)
        lost.append(manifest.window)
        raise Conflict("the other one published it first")

    monkeypatch.setattr(StepStore, "publish", beaten)
    use(home, lineup())
    trained("--first", DAY.name, "--last", DAY.shift(3).name)
    assert lost == windows(4), "each of them trained once"


def test_a_job_that_waited_in_vain_ends_with_one_line(home: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> Any:
        raise StillTrained("another job still trains sim/plain/seed=0: run this again when it has ended")

    monkeypatch.setattr("pipeline.storage.leases.held", busy)
    use(home, lineup())
    ran = windrow("train", "--first", DAY.name)
    assert ran.exit_code == TRY_AGAIN
    assert ran.output.strip().splitlines()[-1].startswith("windrow: another job still trains")


@pytest.mark.parametrize("torn", ["a head", "a step", "predictions"])
def test_what_stays_torn_after_a_second_read_is_refused_by_name(home: Path, lake: Lake, torn: str) -> None:
    use(home, lineup())
    trained("--first", DAY.name)
    step = StepStore(lake, DATASET).head("test", "plain", 0, DAY)
    assert step is not None
    path = {
        "a head": head_path(DATASET, "test", "plain", 0, DAY),
        "a step": f"steps/{DATASET}/{step.short}/manifest.json",
        "predictions": evaluation(lake, step).predictions.path,
    }[torn]
    whole = (lake.root / path).read_bytes()
    (lake.root / path).write_bytes(whole[: len(whole) // 2])
    ran = windrow("compare", "--first", DAY.name, "--last", DAY.name)
    assert ran.exit_code == BAD_INPUT, ran.output
    assert path in ran.output
    (lake.root / path).write_bytes(whole)
    assert windrow("compare", "--first", DAY.name, "--last", DAY.name).exit_code == 0


def test_a_job_runs_under_its_lease(home: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.storage.leases import holders

    seen: list[int] = []
    on_workers = stages._on_workers

    def looked(*arguments: Any) -> Any:
        seen.append(len(holders(lake, "test")))
        return on_workers(*arguments)

    monkeypatch.setattr(stages, "_on_workers", looked)
    use(home, lineup())
    trained("--first", DAY.name)
    assert seen == [1]
    assert holders(lake, "test") == frozenset()
