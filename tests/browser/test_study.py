"""A person's way through the pages: log in, fill in the study's form, trigger it, follow the link, see the curves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from operators.form.questions import TRIED
from pipeline.reporting.dispatch import run_ingest
from pipeline.spec.forms.fields import LIMITS
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.studies.kinds import kind_of
from pipeline.training.chain.steps import StepStore
from tests.airflow_client import Airflow, eventually
from tests.conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1800)]
DAG = "distillation_study"
VARIANTS = ["teacher", "no_teacher", "early_cutover", "late_cutover", "continuous"]
STUDY_TIMEOUT_S = 1500
expect.set_options(timeout=60_000)  # a page of MLflow's may take its time beside a study that trains


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1500, "height": 1100})
        opened.set_default_timeout(30_000)
        yield opened
        opened.screenshot(path=tmp_path / "last.png")
        browser.close()


def _chromium() -> str | None:
    """The system's browser where there is one; else playwright's own."""
    found = Path("/usr/bin/chromium")
    return str(found) if found.exists() else None


def choose(dialog: Locator, field: str, option: str) -> None:
    """Pick from a drop-down list of the form."""
    hidden = dialog.locator(f"input[name=element_{field}]")
    hidden.locator("xpath=..").get_by_role("combobox").click()
    dialog.page.get_by_role("option", name=option, exact=True).click()
    expect(hidden).to_have_value(option)


def test_a_study_from_the_form_to_the_curves_on_one_chart(stack: Stack, page: Page, tmp_path: Path) -> None:
    airflow = Airflow(stack.addresses)
    airflow.await_dag(DAG)

    form = open_form(page, stack, DAG)
    every_field_explains_itself(form)
    form.locator("#element_study").fill("from_the_browser")
    form.locator("#element_seeds").fill("zero, 1, 2")
    form.get_by_test_id("trigger-dag-submit").click()
    expect(form).to_contain_text("'zero, 1, 2' does not match")
    form.locator("#element_seeds").fill("0, 1, 2")
    expect(form.locator("#element_epsilons")).to_have_value("0.1, 0.2, 0.5")
    expect(form.locator("#element_first")).to_have_attribute("type", "date")  # the browser's own calendar
    choose(form, "lineup", "tiny")
    choose(form, "teacher_size", "small")
    choose(form, "student_size", "tiny")
    for field, date in {"first": "2024-01-01", "online_start": "2024-01-03", "last": "2024-01-05"}.items():
        form.locator(f"#element_{field}").fill(date)
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    form.get_by_test_id("trigger-dag-submit").click()
    expect(form).to_be_hidden()

    run_id = ended(airflow, DAG)
    planned = airflow.xcom(DAG, run_id, "plan", "report")["study"]
    assert planned["asked"]["seeds"] == planned["lineup"]["seeds"] == [0, 1, 2]
    assert planned["asked"]["epsilons"] == [0.1, 0.2, 0.5]

    page.goto(f"{stack.addresses.airflow}/dags/{DAG}/runs/{run_id}/tasks/compare/details")
    expect(page.get_by_role("link", name="Ray job")).to_be_visible()
    comparison = follow(page, "MLflow run")
    expect(comparison.get_by_text("comparison with no_teacher").first).to_be_visible()
    comparison.screenshot(path=tmp_path / "comparison.png")

    curves = follow(page, "MLflow curves")
    for name in ("Runs", "Models"):  # of models in training, and no evaluations or agents
        expect(curves.get_by_role("link", name=name, exact=True).first).to_be_visible()
    charts = curves.get_by_test_id("experiment-view-compare-runs-card")
    expect(charts).to_have_count(1)  # of all that MLflow knows, the one that answers
    expect(charts).to_contain_text("gap_percent")
    for variant in VARIANTS:
        expect(charts).to_contain_text(f"{variant} (all seeds)")
    # MLflow draws each curve twice: as it is, and faintly as it was before smoothing.
    expect(charts.locator(".scatterlayer .trace path.js-line")).to_have_count(2 * len(VARIANTS))
    curves.screenshot(path=tmp_path / "curves.png")

    headline = read_report(page, Path(stack.lake) / "studies" / "from_the_browser" / "report.html", tmp_path)
    report = report_run(stack, "from_the_browser")
    assert headline == report["tags"]["mlflow.note.content"]
    value, low, high = (report["metrics"][f"gain_over_late_cutover_percent{end}"] for end in ("", "_low", "_high"))
    assert f"{value:+.2f} ({low:+.2f} to {high:+.2f}) %" in headline


def test_a_policy_is_tried_from_the_form(stack: Stack, page: Page, tmp_path: Path) -> None:
    """By its name, with a teacher: the added variant's chain is in the lake, trained on the rows that were asked for."""
    airflow, lake, lineup = Airflow(stack.addresses), Lake(stack.lake), load_lineup(lineup_path("tiny"))
    airflow.await_dag("historical_warmup")
    first, last = Window.of("2024-01-01"), Window.of("2024-01-02")
    run_ingest(IngestJob(dataset=lineup.dataset, first=first, last=last), lake)

    form = open_form(page, stack, "historical_warmup")
    choose(form, "lineup", "tiny")
    for field, window in {"first": first, "last": last}.items():
        form.locator(f"#element_{field}").fill(window.name)
    form.get_by_role("button", name=str(TRIED["section"])).click()
    choose(form, "policy", "local_case_control")
    form.locator("[name=element_keep]").fill("0.5")
    form.locator("[name=element_teacher]").fill("teacher")
    page.screenshot(path=tmp_path / "policy.png", full_page=True)
    form.get_by_test_id("trigger-dag-submit").click()
    expect(form).to_be_hidden()

    ended(airflow, "historical_warmup")
    name = "local_case_control_50_of_teacher"
    step = StepStore(lake, lineup.dataset.name).head(lineup.name, name, lineup.seeds[0], last)
    assert step is not None
    assert step.num_selected == pytest.approx(step.num_rows / 2, rel=0.1)
    assert step.soft_read is not None


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


def every_field_explains_itself(form: Locator) -> None:
    """Title and help of each field stand in the form, those of the folded section once it is opened."""
    fields = kind_of("distillation").fields.described()
    for section in (str(LIMITS["section"]), None):  # one is open at a time; the form is left as it was
        form.get_by_role("button", name=section or "Run Parameters").click()
        for name, schema in fields.items():
            if schema.get("section") == section:
                for text in (schema["title"], schema["description"].replace("`", "")[:60]):
                    expect(form.get_by_text(text).filter(visible=True).first, name).to_be_visible()


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
