"""Forms, confs and intervals lead to one window and one line-up, or to an error that names the field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators.answers import Answers
from operators.inputs import needed_paths, still_missing, told
from operators.run_window import resolve_window
from pipeline.data.simulator import SimulatorConfig
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUpError, load_lineup
from pipeline.spec.lineups import lineup_paths
from pipeline.spec.paths import head_path, manifest_path
from pipeline.spec.window import DAY, Window
from pipeline.storage.lake import Lake

START = datetime(2024, 1, 9, tzinfo=UTC)
FORM = {"lineup": "demo", "variants": [], "window_date": None, "num_workers": None, "hardware": "as the line-up says"}


@pytest.fixture(autouse=True)
def _lineups(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("WINDROW_LINEUP", str(root / "dags" / "lineups" / "demo.yaml"))


def asked(conf: dict[str, Any], start: datetime | None = START) -> Answers:
    """The answers of a run with that conf."""
    end = start + DAY if start else None
    context = {
        "dag": SimpleNamespace(params=FORM, dag_id="online_training"),
        "dag_run": SimpleNamespace(conf=conf, data_interval_start=start, data_interval_end=end),
        "params": FORM | conf,
    }
    return Answers.of(context)  # type: ignore[arg-type]


def test_the_window_is_the_date_given_else_the_interval_else_an_error() -> None:
    assert asked({"window_date": "2024-02-01"}).window == Window.of("2024-02-01")
    assert asked({}).window == Window.of("2024-01-09")
    with pytest.raises(ValueError, match="window's date"):
        assert asked({}, start=None).window


@pytest.mark.parametrize("length", [timedelta(0), timedelta(hours=23), timedelta(hours=25)])
def test_an_interval_that_is_no_day_is_refused(length: timedelta) -> None:
    with pytest.raises(ValueError, match="one day"):
        resolve_window({}, START, START + length)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="'varients'.*'variants'"):
        asked({"varients": ["teacher"]})


def test_the_conf_overrides_the_line_up() -> None:
    answers = asked({"lineup": "upworthy", "variants": ["baseline"], "num_workers": 2, "hardware": "GPU"})
    assert answers.lineup.name == "upworthy"
    assert answers.lineup.workers.num_workers == 2
    assert answers.lineup.workers.use_gpu
    assert answers.variants == ("baseline",)
    assert asked({}).lineup == load_lineup(lineup_paths()["demo"])


def test_an_unknown_line_up_is_refused_with_those_there_are() -> None:
    with pytest.raises(LineUpError, match="there are demo, "):
        assert asked({"lineup": "dmeo"}).lineup


@pytest.mark.parametrize("span", [{"first": "2024-01-01"}, {"last": "2024-01-01"}])
def test_half_a_span_is_refused(span: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="both"):
        assert Answers(span).span


def test_every_checked_in_line_up_can_be_run(root: Path) -> None:
    for path in (root / "dags" / "lineups").glob("*.yaml"):
        lineup = load_lineup(path)
        assert lineup.name == path.stem
        if lineup.dataset.source.kind == "simulated":
            SimulatorConfig(origin=lineup.dataset.source.origin, **lineup.dataset.source.settings)


def test_a_training_job_waits_for_its_window_and_every_parent_and_names_the_cure(root: Path, tmp_path: Path) -> None:
    lineup = load_lineup(root / "dags" / "lineups" / "demo.yaml")
    window = Window.of("2024-01-09")
    job = TrainJob(lineup=lineup, variants=("teacher", "continuous"), first=window, last=window, start="parent")
    needed = needed_paths(job.model_dump(mode="json"))
    lake = Lake(str(tmp_path))
    assert still_missing(str(tmp_path), needed) == needed

    lake.create(manifest_path(lineup.dataset.name, window), {})
    lake.create(head_path(lineup.dataset.name, "demo", "teacher", 0, window.previous()), {})
    cure = told(still_missing(str(tmp_path), needed))
    assert "'teacher'" not in cure
    assert "'continuous'" in cure
    assert "historical_warmup" in cure
    assert "2024-01-08" in cure

    lake.create(head_path(lineup.dataset.name, "demo", "continuous", 0, window.previous()), {})
    assert still_missing(str(tmp_path), needed) == {}
