"""A person's way through the pages: log in, fill in the study's form, trigger it, follow the link, see the curves."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

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
from tests.airflow_client import Airflow
from tests.browser.pages import choose, ended, follow, open_form, read_report, report_run
from tests.conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1800)]
DAG = "distillation_study"
VARIANTS = ["teacher", "no_teacher", "early_cutover", "late_cutover", "continuous"]


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


def every_field_explains_itself(form: Locator) -> None:
    """Title and help of each field stand in the form, those of the folded section once it is opened."""
    fields = kind_of("distillation").fields.described()
    for section in (str(LIMITS["section"]), None):  # one is open at a time; the form is left as it was
        form.get_by_role("button", name=section or "Run Parameters").click()
        for name, schema in fields.items():
            if schema.get("section") == section:
                for text in (schema["title"], schema["description"].replace("`", "")[:60]):
                    expect(form.get_by_text(text).filter(visible=True).first, name).to_be_visible()
