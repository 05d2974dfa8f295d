"""Each home's demo ends where the present begins and stays one world; every line-up is found by its name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.data.dataset import read_manifest
from pipeline.data.simulator import simulate
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp, LineUpError, SimulatedSource, load_lineup
from pipeline.spec.lineups import DEMO, ONLINE_DAYS, at_home, lineup_path, lineup_paths, moved, yesterday
from pipeline.spec.settings import Settings
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.studies.declared import declared

LAST = Window.of("2026-03-01")


def home(folder: Path, **more: str) -> Settings:
    return Settings.of({"WINDROW_HOME": str(folder), **more})


def source(lineup: LineUp) -> SimulatedSource:
    assert isinstance(lineup.dataset.source, SimulatedSource)
    return lineup.dataset.source


def test_a_homes_demo_ends_yesterday_and_its_next_day_can_be_simulated(tmp_path: Path) -> None:
    before = yesterday()
    lineup = load_lineup(at_home(home(tmp_path)))
    last = lineup.online_start.shift(ONLINE_DAYS - 1)
    assert last in {before, yesterday()}, "midnight may pass"
    shipped = load_lineup(DEMO)
    assert lineup.variants == shipped.variants
    assert lineup.online_start.days_since(source(lineup).origin) == shipped.online_start.days_since(
        source(shipped).origin
    )

    small = source(lineup).settings | {"rows_per_window": 50}
    config = SimulatorConfig(**{"origin": source(lineup).origin, **small})
    (manifest,) = simulate(Lake(str(tmp_path / "lake")), lineup.dataset.name, config, [last.next()])
    assert manifest.num_rows == 50


def test_a_homes_demo_stays_the_world_that_it_is(tmp_path: Path) -> None:
    settings = home(tmp_path)
    with ThreadPoolExecutor(8) as threads:  # `up`, Airflow and a shell may all be the first
        paths = set(threads.map(lambda day: at_home(settings, LAST.shift(day)), range(8)))
    (path,) = paths
    text = path.read_text()
    assert load_lineup(path).online_start.shift(ONLINE_DAYS - 1) in {LAST.shift(day) for day in range(8)}
    assert at_home(settings, LAST.shift(100)).read_text() == text
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".yaml"] == ["demo.yaml"]


def test_two_homes_that_share_a_lake_share_no_window(tmp_path: Path) -> None:
    lineups = [load_lineup(at_home(home(tmp_path / str(day)), LAST.shift(day))) for day in (0, 3)]
    lake = Lake(str(tmp_path / "lake"))
    for lineup in lineups:
        config = SimulatorConfig(origin=source(lineup).origin, rows_per_window=20, num_dense=1, num_categorical=2)
        simulate(lake, lineup.dataset.name, config, [LAST.previous(), LAST])
    worlds = [
        {read_manifest(lake, lineup.dataset.name, day).sources for day in (LAST.previous(), LAST)}  # type: ignore[union-attr]
        for lineup in lineups
    ]
    assert [len(sources) for sources in worlds] == [1, 1]
    assert worlds[0] != worlds[1], "the first home's windows are still its own"


def test_a_line_up_that_is_named_goes_before_the_homes(tmp_path: Path) -> None:
    mine = home(tmp_path, WINDROW_LINEUP=str(DEMO))
    assert load_lineup(at_home(mine)) == load_lineup(DEMO)
    assert not (tmp_path / "lineups").exists()
    missing = home(tmp_path, WINDROW_LINEUP=str(tmp_path / "mine.yaml"))
    with pytest.raises(BadInput, match=r"line-up.* at .*mine\.yaml: No such file"):
        load_lineup(at_home(missing))


def test_forms_and_studies_find_the_checkouts_line_ups_and_the_homes_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setenv("WINDROW_HOME", str(tmp_path))
    monkeypatch.delenv("WINDROW_LINEUP", raising=False)
    names = list(lineup_paths())
    assert names[0] == "demo"
    assert set(names) == {path.stem for path in (root / "dags" / "lineups").glob("*.yaml")}
    assert lineup_path("demo") == tmp_path / "lineups" / "demo.yaml"
    assert load_lineup(lineup_path("demo")).dataset.name != load_lineup(DEMO).dataset.name
    assert declared(root / "dags" / "studies" / "distillation_drift.yaml").lineup.dataset.name == "drift"
    with pytest.raises(LineUpError, match="no line-up 'dmeo' in .*; there are demo, "):
        lineup_path("dmeo")


def test_every_date_moves_and_nothing_else(root: Path) -> None:
    for path in (root / "dags" / "lineups").glob("*.yaml"):
        text = path.read_text()
        assert moved(moved(text, 400), -400) == text
    assert moved("{since: 2024-02-28, seed: 20240228}", 2) == "{since: 2024-03-01, seed: 20240228}"


def test_an_unwritable_home_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(LineUpError, match="cannot write the demo's line-up to .*Set WINDROW_HOME"):
        at_home(home(tmp_path / "home"))
