"""The first hour as a newcomer spends it: the demo, every page it names, a first look from its form, its page, its curves."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.airflow_client import Airflow
from tests.browser.pages import choose, ended, follow, open_form, read_report, report_run
from tests.conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.services, pytest.mark.long, pytest.mark.timeout(3600)]
STUDY, FIRST_LOOK = "distillation_study", "distillation_first_look"
SHOWN = re.compile(r"^(Airflow|Curves|Picture|Ray) +(\S+)", re.MULTILINE)


def test_the_first_hour(
    stack: Stack, page: Page, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    airflow, began = Airflow(stack.addresses), time.monotonic()
    done = subprocess.run(["windrow", "demo"], env=stack.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record_property("seconds of the demo", round(time.monotonic() - began))
    shown = dict(SHOWN.findall(done.stdout))
    assert list(shown) == ["Airflow", "Curves", "Picture", "Ray"], done.stdout

    page.goto(shown["Curves"])
    charts = page.get_by_test_id("experiment-view-compare-runs-card")
    expect(charts).to_have_count(1)
    expect(charts).to_contain_text("gap_percent")
    expect(charts).to_be_in_viewport()
    expect(charts).to_contain_text("continuous (all seeds)")
    page.screenshot(path=tmp_path / "demo_curves.png")
    page.goto(shown["Picture"])
    picture = page.locator("img[src*=gap_by_window], img[src^=blob]").first
    expect(picture).to_be_visible()
    page.screenshot(path=tmp_path / "demo_picture.png")

    form = open_form(page, stack, STUDY)
    choose(form, "preset", FIRST_LOOK)
    page.screenshot(path=tmp_path / "first_look.png", full_page=True)
    began = time.monotonic()
    form.get_by_test_id("trigger-dag-submit").click()
    expect(form).to_be_hidden()
    run = ended(airflow, STUDY)
    record_property("seconds of the first look", round(time.monotonic() - began))

    buttons = 0
    for task in ("ingest", "teacher", "compare", "report"):
        page.goto(f"{stack.addresses.airflow}/dags/{STUDY}/runs/{run}/tasks/{task}/details")
        expect(page.get_by_role("link", name="Ray job")).to_be_visible()
        for name in (name for name, address in airflow.links(STUDY, run, task).items() if address):
            opened = follow(page, name)
            buttons += 1
            if name == "Ray job":  # its dashboard asks for the token that the console names
                opened.wait_for_load_state()
            elif name == "MLflow curves":
                chart = opened.get_by_test_id("experiment-view-compare-runs-card").first
                expect(chart).to_contain_text("gap_percent" if task in {"compare", "report"} else re.compile("."))
            else:
                listed = opened.get_by_text(re.compile("matching runs?"))
                expect(listed.or_(opened.get_by_role("tab", name="Overview")).first).to_be_visible()
            opened.screenshot(path=tmp_path / f"{task}_{name.replace(' ', '_')}.png")
            opened.close()
    assert buttons >= 8, buttons

    planned = airflow.xcom(STUDY, run, "plan", "report")["study"]["lineup"]["name"]
    headline = read_report(page, Path(stack.lake) / "studies" / planned / "report.html", tmp_path)
    assert headline == report_run(stack, planned)["tags"]["mlflow.note.content"]
    page.context.set_offline(False)

    page.goto(stack.addresses.airflow)
    expect(page.get_by_role("heading").first).to_be_visible()
    page.screenshot(path=tmp_path / "airflow_home.png")
    assert nothing_red(airflow) > 10


def nothing_red(airflow: Airflow) -> int:
    """How many tasks of all DAGs have run; each has succeeded at its first try."""
    tasks = airflow.http.get("/dags/~/dagRuns/~/taskInstances", params={"limit": 1000}).raise_for_status().json()
    ran = [task for task in tasks["task_instances"] if task["state"] is not None]
    red = [
        (task["dag_id"], task["task_id"], task["state"])
        for task in ran
        if task["state"] in {"failed", "upstream_failed"}
    ]
    again = [(task["dag_id"], task["task_id"]) for task in ran if task["try_number"] > 1]
    assert (red, again) == ([], [])
    return len(ran)
