"""Rows of results: what is deleted once they are written, and what is not; which ways to run a study go together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.storage.lake import Lake
from pipeline.studies.results import OF_A_DATA_SET, discard, require_alone
from tests.conftest import ROOT
from tests.trained import DAY, lineup

STUDY = ROOT / "dags" / "studies" / "distillation_drift.yaml"
WORLDS = DatasetConfig(name="worlds", source=SimulatedSource(origin=DAY, per_seed=True))


def held(lake: Lake, chosen: LineUp) -> LineUp:
    """A line-up of which the lake has something of every kind, under every seed."""
    for dataset in chosen.dataset.names(chosen.seeds):
        for top in OF_A_DATA_SET:
            place = lake.root / top / dataset / chosen.name
            place.mkdir(parents=True, exist_ok=True)
            (place / "file.json").write_text("{}")
    return chosen


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_all_that_a_seed_has_is_deleted_and_no_other_seed_s(lake: Lake) -> None:
    study = held(lake, lineup(name="mine", dataset=WORLDS, seeds=(1, 2)))
    discard(lake, study.model_copy(update={"seeds": (1,)}))
    left = {str(path.relative_to(lake.root).parent) for path in lake.root.rglob("file.json")}
    assert left == {f"{top}/worlds-seed2/mine" for top in OF_A_DATA_SET}
    discard(lake, study)
    discard(lake, study)
    assert not list(lake.root.rglob("file.json"))


def test_what_another_line_up_trained_on_is_not_deleted(lake: Lake) -> None:
    study, _ = (held(lake, lineup(name=name, dataset=WORLDS, seeds=(1,))) for name in ("mine", "daily"))
    for way in (require_alone, discard):
        with pytest.raises(
            BadInput, match="'worlds-seed1' is not deleted, since line-up 'daily' has trained on it, too"
        ):
            way(lake, study)
    assert (lake.root / "windows" / "worlds-seed1").is_dir()


def test_a_log_that_seeds_share_is_not_deleted(lake: Lake) -> None:
    with pytest.raises(BadInput, match="not deleted, since all seeds share it: leave out --discard"):
        require_alone(lake, lineup(name="mine"))


def test_a_plan_says_what_a_study_takes_and_trains_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WINDROW_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["study", str(STUDY), "--plan"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert re.search(r"13,920 steps; .* TFLOP of training; about \d+ minutes on 2 cores.* GB of disk", said)
    assert {path.name for path in tmp_path.iterdir()} <= {"lake"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--discard"], "give --cells FOLDER"),
        (["--discard", "--from", "rows", "--cells", "all"], "leave out --from"),
        (["--airflow", "--cells", "out"], "got --airflow and --cells"),
        (["--report-only", "--from", "rows"], "got --report-only and --from"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["study", str(STUDY), *options])
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
