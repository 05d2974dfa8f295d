"""What a person does on the pages: log in, fill in a form, wait for the run, follow a button, read a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

from tests.airflow_client import Airflow, eventually
from tests.conftest import Stack

STUDY_TIMEOUT_S = 1500


def choose(dialog: Locator, field: str, option: str) -> None:
    """Pick from a drop-down list of the form."""
    hidden = dialog.locator(f"input[name=element_{field}]")
    hidden.locator("xpath=..").get_by_role("combobox").click()
    dialog.page.get_by_role("option", name=option, exact=True).click()
    expect(hidden).to_have_value(option)


def open_form(page: Page, stack: Stack, dag: str) -> Locator:
    """Log in, go to a DAG's page, and open its form."""
    page.goto(f"{stack.addresses.airflow}/dags/{dag}")
    page.fill("input[name=username]", stack.addresses.user)
    page.fill("input[name=password]", stack.addresses.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**/dags/{dag}**")
    page.get_by_role("button", name="Trigger").first.click()
    return page.get_by_role("dialog")


def ended(airflow: Airflow, dag: str) -> str:
    """The DAG's latest run, once it has ended well."""
    run_id = eventually(lambda: _latest_run(airflow, dag), 30, "the run is there")
    state = eventually(
        lambda: (found := airflow.run_state(dag, run_id)) in {"success", "failed"} and found, STUDY_TIMEOUT_S, "an end"
    )
    assert state == "success"
    return run_id


def read_report(page: Page, path: Path, tmp_path: Path) -> str:
    """The headline of a study's page as a browser without network shows it, with every picture drawn."""
    page.context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    pictures = page.locator("svg[role=img]")
    assert pictures.count() >= 2
    for place in range(pictures.count()):
        assert pictures.nth(place).evaluate("image => image.getBoundingClientRect().width") > 100
        assert pictures.nth(place).locator("use title").count() > 0, "points say their values under a mouse"
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    return page.locator("#headline").inner_text()


def report_run(stack: Stack, experiment: str) -> dict[str, dict[str, Any]]:
    """Tags and metrics of a study's report, from MLflow's REST API."""
    with httpx.Client(base_url=f"{stack.addresses.mlflow}/api/2.0/mlflow", trust_env=False) as client:
        found = client.get("/experiments/get-by-name", params={"experiment_name": experiment}).raise_for_status().json()
        asked = {"experiment_ids": [found["experiment"]["experiment_id"]], "filter": "tags.`windrow.kind` = 'report'"}
        (run,) = client.post("/runs/search", json=asked).raise_for_status().json()["runs"]
    return {kind: {entry["key"]: entry["value"] for entry in run["data"].get(kind, [])} for kind in ("tags", "metrics")}


def follow(page: Page, name: str) -> Page:
    """Click a button of the task's page and go where it leads."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name=name).click()
    return opened.value


def _latest_run(airflow: Airflow, dag: str) -> str | None:
    runs = airflow.http.get(f"/dags/{dag}/dagRuns").raise_for_status().json()["dag_runs"]
    return str(runs[-1]["dag_run_id"]) if runs else None
