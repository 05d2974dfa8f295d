"""The command `windrow`: explains itself, answers programs in JSON, and ends with 2 where trying again does not help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline.cli import BAD_INPUT, app
from pipeline.data.dataset import require_manifest
from pipeline.local import services
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import LineUp, Workers
from pipeline.spec.lineups import ONLINE_DAYS, yesterday
from pipeline.spec.settings import Settings
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.studies.kinds import kinds
from tests.conftest import free_ports
from tests.trained import DAY, lineup, publish, train, windows

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of one's own, where no service answers."""
    ports = dict(zip(("AIRFLOW", "MLFLOW", "RAY", "RAY_DASHBOARD"), map(str, free_ports(4)), strict=True))
    environ = {f"WINDROW_{name}_PORT": port for name, port in ports.items()}
    with mock.patch.dict(os.environ, {**environ, "WINDROW_HOME": str(tmp_path), "COLUMNS": "200"}):
        for name in ("WINDROW_LAKE", "WINDROW_LINEUP", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        yield tmp_path


def windrow(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def written(home: Path, chosen: LineUp) -> str:
    path = home / "lineup.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    return str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(command: str) -> None:
    ran = windrow(command, "--help")
    assert ran.exit_code == 0
    assert f"windrow {command}" in ran.output
    options = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    unexplained = [option.name for option in options if not getattr(option, "help", None)]
    assert [name for name in unexplained if name != "help"] == []


def test_a_study_s_help_names_the_kinds_and_the_fields_of_each() -> None:
    told = windrow("study", "--help").output
    for kind in kinds().values():
        assert kind.name in told
        fields = " ".join(windrow("study", "--fields", kind.name).output.split())
        for name, schema in kind.fields.described().items():
            assert re.search(rf"\b{name}\b", fields)
            assert schema["title"] in fields
    refused = windrow("study", "--fields", "tunning")
    assert refused.exit_code == BAD_INPUT
    assert "did you mean 'tuning'?" in refused.output


def test_the_program_itself_lists_its_commands() -> None:
    for arguments in ((), ("--help",)):
        ran = windrow(*arguments)
        assert all(command in ran.output for command in COMMANDS)


def test_it_says_its_version() -> None:
    ran = windrow("--version")
    assert (ran.exit_code, ran.output) == (0, f"windrow {version('windrow')}\n")


def test_ingest_answers_in_json_what_it_published(home: Path) -> None:
    path = written(home, lineup())
    ran = windrow("-q", "ingest", "-l", path, "--first", "2024-01-01", "--last", "2024-01-02", "--json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert (told["dataset"], told["windows"], told["rows"]) == ("sim", ["2024-01-01", "2024-01-02"], 200_000)
    lake = Lake(str(home / "lake"))
    assert told["positives"] == sum(require_manifest(lake, "sim", day).num_positives for day in windows(2))


def test_status_tells_the_dates_of_the_homes_demo_and_a_second_look_finds_the_same(home: Path) -> None:
    told = json.loads(windrow("status", "--json").stdout)
    days = yesterday().days_since(Window.of(told["online_start"])) + 1
    assert days in {ONLINE_DAYS, ONLINE_DAYS + 1}, "midnight may pass"
    assert told["dataset"] == f"demo-{told['simulated_from']}"
    assert (home / "lineups" / "demo.yaml").exists()
    again = windrow("status").output
    assert f"simulated from {told['simulated_from']}, online from {told['online_start']}" in again


def test_settings_name_every_variable_with_its_meaning(home: Path) -> None:
    ran = windrow("settings", "--json")
    told = json.loads(ran.stdout)
    assert set(told) == {field.title for field in Settings.model_fields.values()}
    assert all(each["meaning"] and each["default"] for each in told.values())
    assert "WINDROW_LAKE" in windrow("settings").output


def test_settings_show_what_is_in_use_and_from_where_and_no_password(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example:8443")
    told = json.loads(windrow("settings", "--json").stdout)
    assert (told["WINDROW_HOME"]["in_use"], told["WINDROW_HOME"]["from"]) == (str(home), "environment")
    assert (told["WINDROW_LAKE"]["in_use"], told["WINDROW_LAKE"]["from"]) == (str(home / "lake"), "default")
    assert told["MLFLOW_TRACKING_URI"]["in_use"] == "https://...@mlflow.example:8443"
    for secret in (
        "https://ada:pa/ss@h",
        "postgresql://h/db?user=a&password=ss",
        "s3://AK:s/s@bucket",
        "https://a:p@ss@h",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        assert "ss" not in json.loads(windrow("settings", "--json").stdout)["MLFLOW_TRACKING_URI"]["in_use"], secret
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hidden@127.0.0.1:9")
    assert "hidden" not in windrow("status", "--json").output
    monkeypatch.setenv("WINDROW_DAGS", "/tmp/a[/x]b[old]c")
    assert "a[/x]b[old]c" in windrow("settings").output
    monkeypatch.setenv("WINDROW_AIRFLOW_PORT", "many")
    assert "WINDROW_AIRFLOW_PORT" in windrow("settings").output


def test_status_shows_what_is_missing_and_what_is_stale_and_why(home: Path) -> None:
    lake, chosen = Lake(str(home / "lake")), lineup(seeds=(4,))
    publish(lake, windows(4))
    train(lake, chosen, 2)
    train(lake, chosen, 1, first=DAY.shift(3))
    publish(lake, [DAY.shift(1)], seed=9)
    ran = windrow("status", "-l", written(home, chosen), "--json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["lake"] == str(home / "lake")
    assert told["chains"] == [
        {
            "variant": "plain",
            "seed": 4,
            "first": "2024-01-01",
            "last": "2024-01-04",
            "windows": 3,
            "missing": ["2024-01-03"],
            "stale": {"2024-01-02": "its window was published again with other rows"},
        }
    ]
    assert {service["healthy"] for service in told["services"]} == {False}
    assert {service["address"] for service in told["services"] if service["name"] != "supervisor"} == {
        Settings().airflow_url,
        Settings().tracking_uri,
        Settings().ray_dashboard,
    }, "pages, which a person can open"
    (home / "airflow").mkdir()
    shown = " ".join(windrow("status", "-l", written(home, chosen)).output.split())
    assert f"export AIRFLOW_HOME={home / 'airflow'}" in shown
    assert "2024-01-03" in shown
    assert "published again" in shown


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "must be a mapping of names to values, got []"),
        ('{"kind": "bake"}', "'ingest', 'select', 'train', 'compare'"),
        ('{"kind": "ingest"}', "ingest.dataset: is missing"),
        ('{"kind": "compare", "first": "soon"}', "a window is named YYYY-MM-DD, got 'soon'"),
    ],
)
def test_a_document_that_is_no_job_ends_with_2(home: Path, document: str, words: str) -> None:
    ran = windrow("run", "-", stdin=document)
    assert ran.exit_code == BAD_INPUT
    assert ran.output.startswith("windrow: the job's document cannot be run: ")
    assert words in ran.output
    assert "Traceback" not in ran.output
    assert list(home.iterdir()) == []


def test_the_installed_program_ends_with_2_and_without_a_traceback(home: Path) -> None:
    """As a cluster calls it: a process of its own, whose exit status says whether to try again."""
    program = Path(sys.executable).parent / "windrow"
    ran = subprocess.run([program, "run", "-"], input="{", capture_output=True, text=True, cwd=home, check=False)
    assert ran.returncode == BAD_INPUT
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1


def test_a_document_runs_from_a_file_and_from_standard_input(home: Path) -> None:
    chosen = lineup().dataset.model_dump()
    chosen["source"]["settings"] = {"rows_per_window": 50, "num_dense": 1, "num_categorical": 2, "num_ids": 5}
    job = IngestJob(dataset=chosen, first=DAY, last=DAY)
    spec = home / "spec.json"
    spec.write_text(job.model_dump_json())
    for ran in (windrow("-q", "run", str(spec)), windrow("-q", "run", "-", stdin=job.model_dump_json())):
        assert ran.exit_code == 0, ran.output
        assert json.loads(ran.stdout)["rows"] == 50


def test_a_submitted_job_leaves_its_outcome_in_the_lake(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = lineup().dataset.model_dump()
    chosen["source"]["settings"] = {"rows_per_window": 50, "num_dense": 1, "num_categorical": 2, "num_ids": 5}
    monkeypatch.setenv("WINDROW_SUBMISSION_ID", "raysubmit_1")
    ran = windrow("-q", "run", "-", stdin=IngestJob(dataset=chosen, first=DAY, last=DAY).model_dump_json())
    assert Lake(str(home / "lake")).read("jobs/raysubmit_1.json") == json.loads(ran.stdout)


def bad_calls() -> list[tuple[list[str], str]]:
    days = ["--first", "2024-01-01", "--last", "2024-01-02"]
    return [
        (["train", *days, "-l", "{lineup}", "-v", "ghost"], "has no variant 'ghost': it has plain"),
        (["train", "--first", "2024-01-02", "--last", "2024-01-01", "-l", "{lineup}"], "a span runs forward"),
        (["train", "--first", "tomorrow", "-l", "{lineup}"], "a window is named YYYY-MM-DD, got 'tomorrow'"),
        (["train", *days, "-l", "{lineup}", "--workers", "3"], "cannot be dealt to 3 workers: choose a multiple"),
        (
            ["train", *days, "-l", "nowhere.yaml"],
            "cannot read a line-up (--lineup or WINDROW_LINEUP) at nowhere.yaml: No such file",
        ),
        (["compare", *days, "-l", "{lineup}", "-v", "ghost"], "has no variant 'ghost': it has plain"),
        (["compare", *days, "-l", "{lineup}"], "share no window from 2024-01-01 to 2024-01-02"),
        (["compare", "--first", "2024-01-02", "--last", "2024-01-01", "-l", "{lineup}"], "a span runs forward"),
        (["status", "-l", "{bad}"], "reference: is missing"),
        (["ingest", *days, "--dataset", "x"], "--dataset needs --schema and --file too"),
        (["run", "nowhere.json"], "cannot read a job's document at nowhere.json: No such file or directory"),
    ]


@pytest.mark.parametrize(
    ("call", "words"), bad_calls(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_be_done_ends_with_2_and_says_why(home: Path, call: list[str], words: str) -> None:
    bad = home / "bad.yaml"
    bad.write_text("name: x\n")
    chosen = written(home, lineup())
    ran = windrow("-q", *(part.format(lineup=chosen, bad=bad) for part in call))
    assert ran.exit_code == BAD_INPUT, ran.output
    assert words in ran.output
    assert ran.output.startswith("windrow: ")
    assert "Traceback" not in ran.output


def test_workers_given_on_the_command_line_are_checked_against_the_batch(home: Path) -> None:
    chosen = written(home, lineup(workers=Workers(num_workers=2)))
    ran = windrow("train", "--first", "2024-01-01", "-l", chosen, "--workers", "0")
    assert ran.exit_code == BAD_INPUT


def test_services_that_do_not_come_up_end_with_1(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise services.ServiceError("port 8080 is taken: set WINDROW_AIRFLOW_PORT")

    monkeypatch.setattr(services, "up", fail)
    ran = windrow("up")
    assert ran.exit_code == 1
    assert ran.output.strip() == "windrow: port 8080 is taken: set WINDROW_AIRFLOW_PORT"
