"""The day after the demo: Airflow goes on by itself, green, and the demo's own pages and table can be read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.simulator import simulate
from pipeline.local.demo import Airflow, Span
from pipeline.spec.lineup import LineUp, SimulatedSource, load_lineup
from pipeline.spec.lineups import DEMO, ONLINE_DAYS, moved, yesterday
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.steps import StepStore
from tests.airflow_client import eventually
from tests.conftest import ROOT, Stack
from tests.trained import train

DAILY = ("ingest_windows", "online_training")
TINY = ROOT / "dags" / "lineups" / "tiny.yaml"


def test_the_last_days_are_runs_of_their_own_and_all_before_them_one_job() -> None:
    lineup = load_lineup(DEMO)
    last = lineup.online_start.shift(ONLINE_DAYS - 1)
    span = Span.of(lineup, first=None, last=last, daily=2)
    assert (span.first.name, span.first_daily) == ("2024-01-01", last.previous())
    assert Span.of(lineup, first=None, last=last, daily=99).first_daily == lineup.online_start


@pytest.fixture
def after_a_small_demo(stack: Stack) -> Iterator[LineUp]:
    """The home's demo is a small one that was made yesterday: it ended on the day before."""
    path = stack.settings.lineup
    kept = path.read_text()
    days = yesterday().previous().days_since(load_lineup(TINY).online_start)
    small = moved(TINY.read_text(), days).replace("name: tiny", "name: demo").replace("2000,", "500,")
    path.write_text(small)
    yield load_lineup(path)
    path.write_text(kept)
    airflow = Airflow.login(stack.addresses)
    for dag in DAILY:
        airflow.call("PATCH", f"/dags/{dag}", json={"is_paused": True})


def runs_of(airflow: Airflow, dag: str, window: Window) -> list[dict[str, Any]]:
    """A day's run, if there is one."""
    query = {"logical_date_gte": window.start.isoformat(), "logical_date_lte": window.start.isoformat()}
    found: list[dict[str, Any]] = airflow.call("GET", f"/dags/{dag}/dagRuns", params=query)["dag_runs"]
    return found


def scheduled_run(airflow: Airflow, dag: str, window: Window) -> dict[str, Any]:
    """The run that the scheduler makes of a day, once it has ended."""

    def ended() -> dict[str, Any] | None:
        return next((run for run in runs_of(airflow, dag, window) if run["state"] in {"success", "failed"}), None)

    found = eventually(ended, 480, f"{dag} has ended for {window}")
    assert found is not None
    return found


def assert_next_day_is_green(stack: Stack, lineup: LineUp) -> None:
    """Both daily DAGs close the first window that the demo left open, in runs that the scheduler made."""
    window = yesterday()
    airflow = Airflow.login(stack.addresses)
    for dag in DAILY:
        run = scheduled_run(airflow, dag, window)
        assert (run["run_type"], run["state"]) == ("scheduled", "success"), run
    store = StepStore(Lake(stack.lake), lineup.dataset.name)
    for variant in lineup.variants:
        step = store.head(lineup.name, variant.name, 0, window)
        assert step is not None
        assert step.parent is not None


@pytest.mark.services
@pytest.mark.long
def test_the_day_after_comes_green_from_the_scheduler(stack: Stack, after_a_small_demo: LineUp) -> None:
    lineup, lake = after_a_small_demo, Lake(stack.lake)
    source = lineup.dataset.source
    assert isinstance(source, SimulatedSource)
    num = yesterday().days_since(source.origin)
    config = SimulatorConfig(**{"origin": source.origin, **source.settings})
    simulate(lake, lineup.dataset.name, config, Window.span(source.origin, source.origin.shift(num - 1)))
    train(lake, lineup, num, first=source.origin)

    airflow = Airflow.login(stack.addresses)
    for dag in DAILY:
        airflow.await_dag(dag)
        for run in runs_of(airflow, dag, yesterday()):  # another test may have let the scheduler make it already
            path = f"/dags/{dag}/dagRuns/{run['dag_run_id']}/clear"
            airflow.call("POST", path, json={"dry_run": False, "only_failed": False})
        airflow.unpause(dag)
    assert_next_day_is_green(stack, lineup)


@pytest.mark.services
@pytest.mark.long
def test_a_demo_through_airflow_and_the_day_after_it(stack: Stack, after_a_small_demo: LineUp) -> None:
    online = yesterday().days_since(after_a_small_demo.online_start)
    command = ["windrow", "demo", "--online", str(online), "--daily", "1"]
    done = subprocess.run(command, env=stack.environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "viewStateShareKey=" in done.stdout
    assert_next_day_is_green(stack, after_a_small_demo)
    again = subprocess.run(["windrow", "demo"], env=stack.environ, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert f"{yesterday()} success" in again.stderr


@pytest.mark.services
@pytest.mark.long
def test_the_example_from_a_shell_works_as_written(stack: Stack, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "using.md").read_text()
    block = text.split("## From a shell")[1].split("```bash\n")[1].split("```")[0]
    lines = [line.split("#")[0].strip() for line in block.splitlines()]
    commands = [
        line for line in lines if line.startswith("windrow ") and line.split()[1] not in {"up", "study", "plan"}
    ]
    assert [line.split()[1] for line in commands] == ["ingest", "train", "compare", "status", "verify", "gc"]
    shutil.copytree(ROOT / "dags", tmp_path / "dags")
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=stack.environ, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
