"""The cells of an iso-compute study: each budget is spent exactly, sizes that cannot be paid for are left out, bad ones refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.dispatch import run_ingest
from pipeline.reporting.study_page import render
from pipeline.spec.config import Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.study import Study, StudyError
from pipeline.storage.lake import Lake
from pipeline.studies.draft import at_width
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Table
from pipeline.studies.iso_compute.answer import answer
from pipeline.studies.iso_compute.cells import WIDTHS, Grid
from pipeline.studies.iso_compute.fields import Fields
from pipeline.studies.jobs import study_jobs
from pipeline.studies.kinds import kind_of
from pipeline.studies.operations import forward_flops
from pipeline.studies.results import of_study
from pipeline.training.chain.engine import Engine
from tests.studies.made import made
from tests.trained import alone

SPAN = {"study": "sizes", "lineup": "drift", "first": "2024-01-01", "online_start": "2024-01-11", "last": "2024-01-20"}
SEEN = 14.5 / 20
"""Of the rows, those before the middle of the judged windows, the last ten of twenty."""


def base() -> LineUp:
    return load_lineup(lineup_path("drift"))


def asked(**changes: Any) -> Fields:
    return Fields.read({**SPAN, "budgets": [1e10, 3e10], **changes}, "a test")


def changed(lineup: LineUp, **model: Any) -> LineUp:
    """A line-up with something else in all its models."""
    variants = (v.model_copy(update={"model": v.model.model_copy(update=model)}) for v in lineup.variants)
    return lineup.model_copy(update={"variants": tuple(variants)})


def planned(**changes: Any) -> Study:
    return kind_of("iso_compute").study(base(), asked(**changes))


@pytest.mark.parametrize("gives_up", ["negatives", "windows", "uniform", "odds", "local_case_control", "distilled"])
def test_every_cell_spends_its_budget(gives_up: str) -> None:
    study = planned(gives_up=gives_up, judged="2024-01-19", budgets=[2e10, 4e10])
    for budget in (2e10, 4e10):
        cells = [cell for cell in study.of("budget") if cell.family == f"{budget:.3g} FLOPs".replace("e+", "e")]
        assert 4 <= len(cells) <= 6
        for cell in cells:
            variant = study.lineup.variant(cell.variant)
            flops = forward_flops(variant.model, 4, 10) or 0.0
            windows = 20 if variant.start is None else study.last.days_since(variant.start) + 1
            rows = windows * 100_000 * variant.selection.share(variant.model.prior)
            near = 0.5 / windows if gives_up == "windows" else 0.001  # whole windows
            assert 3 * flops * rows == pytest.approx(budget, rel=near + 1e-6), cell.label


def test_all_cells_take_as_many_updates_a_window() -> None:
    for cell in (study := planned()).of("budget"):
        variant = study.lineup.variant(cell.variant)
        rows = 100_000 * variant.selection.share(variant.model.prior)
        assert rows / variant.optimizer.batch_size == pytest.approx(100_000 / 1024, rel=0.02), cell.label


def test_learning_rates_lie_between_those_of_the_nearest_widths() -> None:
    grid, found = Grid(base(), asked()), base().variant("student")
    models = {width: found.model_copy(update={"model": grid.model(width)}) for width in (4, 8, 12, 16, 64)}
    rates = {width: at_width(base(), each).optimizer.embedding_lr for width, each in models.items()}
    assert rates[4] == rates[8] == 0.16
    assert rates[16] == rates[64] == 0.08
    assert rates[12] == pytest.approx(0.16 * 2**-(0.585), rel=0.01)


def test_a_budget_in_hours_leaves_fewer_rows_to_a_larger_model() -> None:
    study = planned(budgets=[0.02], unit="core-hours")
    shares = [study.lineup.variant(cell.variant).selection.share(0.05) for cell in study.of("budget")]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("budget", [1.0, 1e16])
def test_a_budget_without_room_for_a_valley_is_refused_with_those_that_have(budget: float) -> None:
    with pytest.raises(StudyError, match="a valley needs at least 4 sizes, got 0"):
        planned(budgets=[budget])


def test_the_budgets_that_are_named_instead_do_fit() -> None:
    with pytest.raises(StudyError, match=r"budgets from \S+ FLOPs to \S+ FLOPs have") as refused:
        planned(budgets=[1e14])
    words = str(refused.value).split("budgets from ")[1].split()
    for named in (words[0], words[3]):
        assert planned(budgets=[float(named)]).cells


def test_a_log_of_ones_own_must_say_how_many_rows_a_window_has() -> None:
    log = load_lineup(lineup_path("upworthy"))
    with pytest.raises(StudyError, match="give `rows_per_window`"):
        kind_of("iso_compute").study(log, asked(lineup="upworthy"))


def law(variant: Variant, flops: float, rows: float) -> float:
    """Lowest at `best` operations an example for a budget."""
    return 0.15 + 0.06 * (flops / 1e4) ** -0.5 + 0.03 * (rows / 1e6) ** -0.5


def best(budget: float) -> float:
    """In closed form: with alpha = beta the two terms are equal at the minimum of a budget 3 flops rows."""
    return 1e4 * (0.06 / 0.03 * (SEEN * budget / 3 / 1e10) ** 0.5)


def test_the_answer_finds_the_law_that_made_the_losses() -> None:
    study = planned(budgets=[2e10, 5e10, 1.25e11], seeds="1-8")
    found = answer(made(study, law, noise=2e-3))
    grid = Grid(base(), asked())
    for budget in (2e10, 5e10, 1.25e11):
        width, low, high = (
            found.metrics[f"best_width_at_{budget:.3g}{end}".replace("e+", "e")] for end in ("", "_low", "_high")
        )
        assert low < width < high
        at = [forward_flops(grid.model(w), 4, 10) or 0.0 for w in (8, 64)]
        true = np.exp(np.interp(np.log(best(budget)), *np.log([*zip(*_known(grid), strict=True)])))
        assert at[0] < best(budget) < at[1], "the study's sizes hold it"
        assert width == pytest.approx(true, rel=0.03), budget
    grows = tuple(found.metrics[f"size_grows_with_budget{end}"] for end in ("_low", "_high"))
    assert grows[0] <= 0.5 <= grows[1]
    assert "The loss is lowest at 2e10 FLOPs a width of" in found.headline
    verdicts = {check.signature: check.passed for check in found.checks}
    assert verdicts["an iso-compute curve without a minimum"]
    assert verdicts["cells that did not spend their budget"]
    assert {section.title for section in found.sections} >= {"Valleys", "Path of the minima", "The law"}
    assert all(re.fullmatch(r"[\w./ -]+", name) for name in found.metrics), "MLflow takes no other names"
    law_document = json.loads(json.dumps(found.documents))["law"]
    assert law_document["law"]["exponents"] == pytest.approx([0.5, 0.5], abs=0.05)
    assert len(law_document["without_a_seed"]) == 8
    assert render(study, found, facts={}, times=Table(("part", "seconds"), ())).count("<svg") >= 2


def test_where_windows_are_given_up_rows_count_to_the_middle_of_the_judged_ones() -> None:
    span = {"last": "2024-02-09", "online_start": "2024-01-31", "judged": "2024-02-05"}
    study = planned(budgets=[2e11, 4e11, 8e11], seeds="1-8", gives_up="windows", **span)
    found = answer(made(study, law, noise=2e-4))
    for name in ("alpha", "beta"):
        assert found.metrics[f"{name}_low"] <= 0.5 <= found.metrics[f"{name}_high"], found.metrics


def test_three_worlds_claim_no_minimum() -> None:
    found = answer(made(planned(budgets=[2e10, 5e10, 1.25e11], seeds="1-3"), law, noise=2e-4))
    assert "At no budget" in found.headline
    assert {check.signature: check.passed for check in found.checks}["an iso-compute curve without a minimum"] is None


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"budgets": [1e11, 1.05e11]}, "budgets lie at least a tenth apart, got 1e.11 and 1.05e.11"),
        ({"rows_per_window": 5_000}, "a simulated log has 100,000 rows a window, got `rows_per_window` 5,000 too"),
        ({"lineup": "upworthy", "rows_per_window": 50_000}, "the click rate must be known"),
    ],
)
def test_what_contradicts_itself_is_refused(answers: dict[str, Any], why: str) -> None:
    lineup = changed(
        load_lineup(lineup_path(answers.get("lineup", "drift"))), **({"prior": 0.5} if "lineup" in answers else {})
    )
    with pytest.raises(BadInput, match=why):
        kind_of("iso_compute").study(lineup, asked(**answers))


def test_features_that_a_model_does_not_see_cost_nothing() -> None:
    log = load_lineup(lineup_path("upworthy_without_test"))
    hidden = log.variant(log.reference).model.exclude
    assert hidden
    grids = (Grid(each, asked(lineup="upworthy", rows_per_window=50_000)) for each in (log, changed(log, exclude=())))
    less, more = (grid.flops(16) for grid in grids)
    assert less < more


@pytest.mark.parametrize(
    ("gives_up", "budgets"), [("negatives", [1e8, 2e8]), ("windows", [4e9, 8e9]), ("local_case_control", [1e8, 2e8])]
)
def test_what_is_trained_spends_its_budget(tmp_path: Path, gives_up: str, budgets: list[float]) -> None:
    settings = {"rows_per_window": 2_000, "num_dense": 3, "num_categorical": 4, "num_ids": 50, "num_interactions": 3}
    own = base()
    source = own.dataset.source.model_copy(update={"settings": settings})
    small = own.model_copy(update={"dataset": own.dataset.model_copy(update={"source": source}), "seeds": (1,)})
    span = {"online_start": "2024-01-07", "judged": "2024-01-10", "last": "2024-01-12"}
    answers = asked(budgets=budgets, num_sizes=4, gives_up=gives_up, **span)
    study = kind_of("iso_compute").study(small, answers)
    lake = Lake(str(tmp_path / "lake"))
    run_ingest(IngestJob(dataset=small.dataset, first=study.first, last=study.last, seeds=(1,)), lake)
    for job in study_jobs(study):
        Engine(lake, job, None, alone()).run()
    found = answer(Evidence.of(study, of_study(lake, study)))
    verdicts = {check.signature: check.passed for check in found.checks}
    assert verdicts["cells that did not spend their budget"]
    assert verdicts["an iso-compute curve without a minimum"] is None, "one world"


def test_where_the_smallest_model_always_wins_no_minimum_is_claimed() -> None:
    study = planned(budgets=[2e10, 5e10, 1.25e11], seeds="1-8")
    found = answer(made(study, lambda variant, flops, rows: 0.15 + 0.03 * (rows / 1e6) ** -0.5, noise=2e-4))
    assert "At no budget" in found.headline
    assert {check.signature: check.passed for check in found.checks}[
        "an iso-compute curve without a minimum"
    ] is not True


def test_a_budget_held_out_is_predicted_by_the_others_alone() -> None:
    study = planned(budgets=[2e10, 3e10, 5e10], held_out=4, seeds="1-16")
    assert len(study.of("held_out")) == 6
    found = answer(made(study, law, noise=2e-3))
    assert found.metrics["held_out_error_percent"] < 0.1
    assert found.metrics["held_out_share_inside"] >= 0.5
    assert found.metrics["held_out_steps_from_best"] <= 1
    assert abs(found.metrics["held_out_regret_percent"]) < 0.1
    (section,) = [each for each in found.sections if each.title == "The budget held out"]
    assert "At 2e11 FLOPs, 4 times the largest of them" in section.text
    assert "best_width_at_2e11" not in found.metrics, "it is in no fit, and no valley of its own"
    widths = [cell.value for cell in study.of("budget")]
    assert max(width for cell in study.of("held_out") if (width := cell.value)) > max(filter(None, widths))
    assert found.documents["law"]["law"]["span"]["model"][1] == pytest.approx(
        Grid(base(), asked()).flops(int(max(filter(None, widths))))
    )


def test_a_law_that_ends_before_the_budget_held_out_is_found_out() -> None:
    def bent(variant: Variant, flops: float, rows: float) -> float:
        """As the law, until a budget from which nothing is won."""
        return law(variant, flops, min(rows, 5e5))

    found = answer(made(planned(budgets=[2e10, 3e10, 5e10], held_out=4, seeds="1-16"), bent, noise=2e-3))
    assert found.metrics["held_out_error_percent"] > 0.2
    assert found.metrics["held_out_share_inside"] <= 0.5


def _known(grid: Grid) -> list[tuple[float, float]]:
    return [(forward_flops(grid.model(width), 4, 10) or 0.0, float(width)) for width in WIDTHS]
