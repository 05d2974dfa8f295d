"""The planner: it proposes what the law that made the losses says, as a line-up that can be trained, and refuses to guess."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.spec.config import Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import load_lineup
from pipeline.studies.iso_compute.answer import answer
from pipeline.studies.iso_compute.fields import budget_of
from pipeline.studies.iso_compute.horizon import horizon
from pipeline.studies.iso_compute.proposal import Ground, propose
from pipeline.studies.operations import forward_flops
from pipeline.studies.results import write
from tests.studies.made import made, rows
from tests.studies.test_iso_compute import SEEN, base, law, planned

SPAN = {"seeds": "1-8"}
BUDGETS = [2e10, 5e10, 1.25e11]


def test_a_budget_that_was_not_studied_gets_what_the_law_says() -> None:
    study = planned(budgets=BUDGETS, **SPAN)
    found = propose(Ground.of(made(study, law, noise=2e-4), base(), "8e10"))
    sizes = {width: found.chosen.width == width for width in (20, 24, 28)}
    assert any(sizes.values())
    assert found.width.low < found.width.value < found.width.high
    reference, chosen = found.lineup.variants
    size = forward_flops(chosen.model, 4, 10) or 0.0
    seen = SEEN * 8e10 / 3 / size
    true = 100 * (law(chosen, size, seen) / law(reference, 4368, SEEN * 2e6) - 1)
    assert found.loss.value == pytest.approx(true, abs=0.05), "of what is proposed, not of what would be best"
    assert found.loss.low < found.loss.value < found.loss.high
    assert found.doubling.low > 0
    assert "The law was fitted to budgets from 2e10 FLOPs to 1.25e11 FLOPs" in found.words()


def test_a_budget_far_outside_is_refused_unless_it_is_allowed() -> None:
    evidence = made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4)
    with pytest.raises(BadInput, match=r"20.0 times less than the smallest, and at most 1\.5 times is allowed"):
        propose(Ground.of(evidence, base(), "1e9"), beyond=1.5)


def test_a_law_that_does_not_say_where_it_is_lowest_is_refused() -> None:
    evidence = made(planned(budgets=BUDGETS, **SPAN), law, noise=0.4)
    with pytest.raises(BadInput, match="the law is too weak for a plan: its points do not determine"):
        propose(Ground.of(evidence, base(), "5e10"))


def test_a_budget_that_leaves_too_few_rows_to_the_best_width_is_refused() -> None:
    def hungry(variant: Variant, flops: float, rows: float) -> float:
        return 0.15 + 0.5 * (flops / 1e4) ** -0.5 + 0.03 * (rows / 1e6) ** -0.5

    evidence = made(planned(budgets=BUDGETS, **SPAN), hungry, noise=1e-5)
    with pytest.raises(
        BadInput, match="leaves too few rows of 20 windows of 100,000 rows; the nearest that it pays for is"
    ):
        propose(Ground.of(evidence, base(), "1.5e10"))


def test_without_an_interval_a_plan_must_be_asked_for() -> None:
    evidence = made(planned(budgets=BUDGETS, seeds="1-3"), law, noise=2e-4)
    with pytest.raises(BadInput, match="nothing says how sure a plan is: allow it with --unsure"):
        propose(Ground.of(evidence, base(), "5e10"))
    assert "Nothing here says how sure that is" in propose(Ground.of(evidence, base(), "5e10"), unsure=True).words()


def test_hours_of_a_core_are_a_budget_too() -> None:
    evidence = made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4)
    found = propose(Ground.of(evidence, base(), "0.01core-h"))
    assert found.minutes == pytest.approx(0.6, rel=0.02)


def test_a_study_plans_for_the_budget_that_its_form_names(tmp_path: Path) -> None:
    found = answer(made(planned(budgets=BUDGETS, plan_for="5e10", **SPAN), law, noise=2e-4))
    (section,) = [each for each in found.sections if each.title == "The plan"]
    assert section.text.startswith("For 5e10 FLOPs from")
    (path := tmp_path / "sizes_plan_lineup.json").write_text(json.dumps(found.documents["plan_lineup"]))
    assert load_lineup(path).variants[1].model.widths.embedding_dim == found.documents["plan"]["chosen_width"]
    refused = answer(made(planned(budgets=BUDGETS, plan_for="1e14", **SPAN), law, noise=2e-4))
    (section,) = [each for each in refused.sections if each.title == "The plan"]
    assert section.text.startswith("Nothing is proposed for a budget of 1e14: a law holds near what it was fitted to")
    assert refused.documents.keys() == {"law"}
    with pytest.raises(BadInput, match="a budget is a number of FLOPs or of hours of a core, got 'much'"):
        planned(plan_for="much")


@pytest.mark.parametrize(("policy", "pilot"), [("uniform", False), ("local_case_control", True)])
def test_a_policy_by_its_name_is_in_the_plan(policy: str, pilot: bool) -> None:
    """Its price is in the law that its own cells gave; a pilot is in the line-up, and its minutes are said."""
    found = propose(Ground.of(made(planned(budgets=BUDGETS, gives_up=policy, **SPAN), law, noise=2e-4), base(), "5e10"))
    assert f" % of rows by {policy}. The best width" in found.words()
    chosen, reference = found.lineup.variant(found.chosen.name), found.lineup.variant("all_rows")
    assert chosen.selection.kind == policy
    assert chosen.selection.share(reference.model.prior) == pytest.approx(found.chosen.share)
    assert {read.source for read in chosen.reads} == ({"all_rows"} if pilot else set())
    assert (found.pilot_minutes > found.minutes / 10) == pilot
    assert ("which its policy asks" in found.words()) == pilot


def test_a_log_that_grows_wants_the_size_that_is_best_for_its_rows() -> None:
    ground = Ground.of(made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4), base(), "5e10")
    today = propose(ground)
    quarters = horizon(ground, today, 1.0, 4)
    assert [each.rows_per_window for each in quarters] == pytest.approx([1e5 * 2 ** (q / 4) for q in range(5)])
    assert quarters[0].width.value == pytest.approx(today.chosen.width, rel=0.1), "today's plan is that of today"
    assert quarters[0].flops == pytest.approx(5e10, rel=0.15)
    # Both exponents are alike, so that the best size grows as the rows, and what it takes as their square.
    assert quarters[4].flops / quarters[0].flops == pytest.approx(4, rel=0.1)
    assert 1 < quarters[4].cores < 4, "updates stay as many, and do not grow with the rows"
    losses = [each.loss.value for each in quarters]
    assert losses == sorted(losses, reverse=True)
    assert all(each.width.low < each.width.value < each.width.high for each in quarters)


def test_a_study_that_gave_up_windows_plans_no_quarters() -> None:
    ground = Ground.of(made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4), base(), "5e10")
    asked = ground.grid.asked.model_copy(update={"gives_up": "windows"})
    with pytest.raises(BadInput, match="larger models give up rows of every window, got one that gives up windows"):
        horizon(replace(ground, grid=replace(ground.grid, asked=asked)), propose(ground), 0.5, 1)


def test_a_quarter_far_outside_what_was_trained_is_refused() -> None:
    ground = Ground.of(made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4), base(), "5e10")
    with pytest.raises(BadInput, match="in [0-9]+ quarters, at .* rows a window, the law is asked .* times outside"):
        horizon(ground, propose(ground), 3.0, 12)


@pytest.mark.parametrize("text", ["", "much", "-3", "40gpu-h", "1e999", "5 TFLOP", "1.2.3"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="a budget is a number of FLOPs or of hours of a core"):
        budget_of(text)


def test_the_command_writes_a_line_up_that_can_be_trained(tmp_path: Path) -> None:
    answers = tmp_path / "sizes.yaml"
    answers.write_text(
        "{kind: iso_compute, lineup: drift, seeds: 1-8, first: 2024-01-01, online_start: 2024-01-11, last: 2024-01-20, "
        "budgets: [2e10, 5e10, 1.25e11]}"
    )
    study = planned(budgets=BUDGETS, **SPAN)
    write(list(rows(study, law, noise=2e-4)), tmp_path / "rows.parquet")
    told = ["plan", str(answers), "--budget", "5e10", "--from", str(tmp_path / "rows.parquet")]
    ran = CliRunner().invoke(app, [*told, "--write", str(tmp_path / "planned.yaml"), "--json"])
    assert ran.exit_code == 0, ran.output
    figures = json.loads(ran.stdout)
    lineup = load_lineup(tmp_path / "planned.yaml")
    assert [variant.name for variant in lineup.variants][0] == "all_rows"
    assert lineup.variants[1].model.widths.embedding_dim == figures["chosen_width"]
    assert 0 < figures["rate"] < 1
    said = CliRunner().invoke(app, [*told, "--growth", "0.5", "--quarters", "2"])
    assert re.search(r"\+2.*12[0-9]k", said.stdout), said.stdout
    assert "Twice the budget would take away" in " ".join(said.stdout.split())
