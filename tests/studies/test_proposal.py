"""The planner: it proposes what the law that made the losses says, as a line-up that can be trained, and refuses to guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import load_lineup
from pipeline.studies.iso_compute.proposal import budget_of, propose
from pipeline.studies.results import write
from tests.studies.made import made, rows
from tests.studies.test_iso_compute import base, best, law, planned

SPAN = {"seeds": "1-8"}
BUDGETS = [2e10, 5e10, 1.25e11]


def test_a_budget_that_was_not_studied_gets_what_the_law_says() -> None:
    study = planned(budgets=BUDGETS, **SPAN)
    found = propose(made(study, law, noise=2e-4), base(), "8e10")
    sizes = {width: found.chosen.width == width for width in (20, 24, 28)}
    assert any(sizes.values())
    assert found.width.low < found.width.value < found.width.high
    size = best(8e10)
    true = 100 * (law(found.lineup.variants[1], size, 8e10 / 3 / size) / law(found.lineup.variants[0], 4368, 2e6) - 1)
    assert found.loss.low <= true <= found.loss.high
    assert found.loss.value == pytest.approx(true, abs=0.1)
    assert found.doubling.low > 0
    assert "The law was fitted to budgets from 2e+10 FLOPs to 1.25e+11 FLOPs" in found.words()


def test_a_budget_far_outside_is_refused_unless_it_is_allowed() -> None:
    evidence = made(planned(budgets=BUDGETS, **SPAN), law, noise=2e-4)
    with pytest.raises(
        BadInput, match=r"times outside, and at most 1\.5 times is allowed: run the study at larger budgets"
    ):
        propose(evidence, base(), "1e9", beyond=1.5)


def test_a_law_that_does_not_say_where_it_is_lowest_is_refused() -> None:
    evidence = made(planned(budgets=BUDGETS, **SPAN), law, noise=0.4)
    with pytest.raises(BadInput, match="the law is too weak for a plan: the best width lies between"):
        propose(evidence, base(), "5e10")


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
    assert [variant.name for variant in lineup.variants] == ["all_rows", "planned"]
    assert lineup.variant("planned").model.widths.embedding_dim == figures["chosen_width"]
    assert 0 < figures["rate"] < 1
    said = CliRunner().invoke(app, told)
    assert "Twice the budget would take away another" in " ".join(said.stdout.split())
