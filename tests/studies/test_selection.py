"""The selection study: budgets are kept, the answer chooses on some seeds and says what the others lost, and pilots are asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.dispatch import run_ingest
from pipeline.reporting.study_page import render
from pipeline.spec.config import ModelConfig, Variant
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.study import Study, StudyError
from pipeline.storage.lake import Lake
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Table
from pipeline.studies.jobs import study_jobs
from pipeline.studies.kinds import kind_of
from pipeline.studies.measures import choosing, compute
from pipeline.studies.results import of_study, recipe_of
from pipeline.studies.selection.answer import answer
from pipeline.studies.selection.cells import name_of
from pipeline.studies.selection.fields import WAYS, Fields
from pipeline.training.chain.engine import Engine
from tests.studies.made import made, rows
from tests.trained import alone

SPAN = {"study": "rows", "lineup": "drift", "first": "2024-01-01", "online_start": "2024-01-11", "last": "2024-01-20"}


def base() -> LineUp:
    return load_lineup(lineup_path("drift"))


def planned(lineup: LineUp | None = None, **changes: Any) -> Study:
    return kind_of("selection").study(lineup or base(), Fields.read({**SPAN, **changes}, "a test"))


def test_every_cell_keeps_its_budget_and_as_many_updates() -> None:
    study = planned(rates=[0.02, 0.1, 0.25])
    for cell in study.of("policy"):
        variant, rate = study.lineup.variant(cell.variant), cell.value or 0.0
        assert variant.selection.share(0.05) == pytest.approx(rate), cell.label
        assert variant.optimizer.batch_size == pytest.approx(1024 * rate, abs=0.5), cell.label
    below = study.lineup.variant(name_of("negatives", 0.02)).selection
    assert below.clicks == pytest.approx(0.2), "half of the rows are clicks"
    assert study.lineup.variant(name_of("negatives", 0.25)).selection.clicks == 1
    assert {cell.family for cell in study.of("policy") if cell.value == 0.02} == {*WAYS} - {"odds"}


def test_the_baseline_is_always_there_and_a_pilot_only_where_it_is_asked() -> None:
    assert [v.name for v in planned(policies=["uniform"]).lineup.variants] == ["all_rows", "negatives_10", "uniform_10"]
    assert "pilot" in [v.name for v in planned(policies=["el2n"]).lineup.variants]


def test_an_old_pilot_is_asked_once_it_is_there() -> None:
    study = planned(policies=["el2n", "odds"], pilot_age=3)
    for name in ("el2n_10", "odds_10"):
        assert study.lineup.variant(name).selection.since == study.first.shift(3)


def test_without_a_click_rate_no_budget_is_known() -> None:
    models = (
        v.model_copy(update={"model": v.model.model_copy(update={"prior": ModelConfig().prior})})
        for v in base().variants
    )
    with pytest.raises(StudyError, match="is known only with the click rate"):
        planned(base().model_copy(update={"variants": tuple(models)}))


def test_a_pilot_that_is_older_than_the_history_is_refused() -> None:
    with pytest.raises(StudyError, match="a pilot 30 windows old is first asked on 2024-01-31"):
        planned(pilot_age=30)


def test_rows_of_another_policy_are_another_recipe() -> None:
    study = planned(policies=["uniform", "el2n", "local_case_control"])
    window = study.first
    recipes = [recipe_of(study.lineup, variant, window, 1) for variant in study.lineup.variants]
    assert len(set(recipes)) == len(recipes) - 1, "but of the pilot and all rows, which are alike here"


def loss(best: str) -> Any:
    """One policy loses 0.2 % against all rows, uniform negatives 0.5 %, the others 1 %."""

    def of(variant: Variant, flops: float, rows: float) -> float:
        extra = {"all_rows": 0.0, "negatives_10": 0.005, f"{best}_10": 0.002}
        return 0.2 * (1 + extra.get(variant.name, 0.01))

    return of


def test_the_best_policy_is_chosen_on_some_seeds_and_judged_by_the_others() -> None:
    found = answer(made(planned(seeds="1-12"), loss("el2n"), noise=5e-4))
    assert found.headline.startswith("At 10 % of the rows el2n, chosen on other seeds, costs +0.")
    assert found.metrics["chosen_at_10_against_negatives_high"] < 0
    low, high = (found.metrics[f"chosen_at_10_percent_{end}"] for end in ("low", "high"))
    assert low < 0.2 < high
    assert "not shown" not in found.headline
    study = planned(seeds="1-12")
    page = render(study, found, facts={}, times=Table(("part", "seconds"), ()))
    assert page.count("<svg") == 1, "one fraction of the rows, one picture"
    kinds = re.findall(r"&#34;kind&#34;: &#34;(\w+)&#34;", page.split("Every variant as it was run")[1])
    assert {*WAYS} <= {*kinds}, "what the page says was run names each policy"
    noisy = answer(made(planned(seeds="1-12"), loss("none"), noise=2e-2))
    assert "which is not shown to be better" in noisy.headline or "nothing beats" in noisy.headline
    assert "No policy is recommended on so few seeds" in answer(made(planned(seeds="1-3"), loss("el2n"))).headline


def test_the_rules_of_choosing_are_judged_by_hindsight_on_seeds_that_did_not_choose() -> None:
    study = planned(seeds="1-12", policies=["el2n", "uniform"])
    found = answer(made(study, loss("el2n"), noise=1e-5)).metrics
    assert found["regret_at_10_always"] == pytest.approx(0.3, abs=0.01), "0.5 % against the best one's 0.2"
    for rule in ("elsewhere", "short_trial", "long_trial"):
        assert found[f"regret_at_10_{rule}"] == pytest.approx(0, abs=0.01)
    choose = list(rows(study.under((1, 2, 3, 4)), loss("el2n"), noise=1e-5))
    confirm = list(rows(study.under(tuple(range(5, 13))), loss("uniform"), noise=1e-5))
    moved = answer(Evidence.of(study, [*choose, *confirm])).metrics
    assert moved["regret_at_10_elsewhere"] == pytest.approx(0.8, abs=0.01), "what was best elsewhere loses 1 % here"
    assert moved["regret_at_10_long_trial"] == pytest.approx(0, abs=0.01)
    assert not [name for name in answer(made(planned(seeds="1-3"), loss("el2n"))).metrics if "regret" in name]


def test_a_study_trains_with_every_policy_and_answers(tmp_path: Path) -> None:
    own = base()
    settings = {"rows_per_window": 2000, "num_dense": 2, "num_categorical": 3, "num_ids": 50}
    source = own.dataset.source.model_copy(update={"settings": settings})
    small = own.model_copy(update={"dataset": own.dataset.model_copy(update={"source": source}), "seeds": (1,)})
    span = {"online_start": "2024-01-04", "judged": "2024-01-04", "last": "2024-01-06"}
    study = planned(small, rates=[0.2], pilot_age=1, **span)
    lake = Lake(str(tmp_path / "lake"))
    run_ingest(IngestJob(dataset=small.dataset, first=study.first, last=study.last, seeds=(1,)), lake)
    for job in study_jobs(study):
        Engine(lake, job, None, alone()).run()
    evidence = Evidence.of(study, of_study(lake, study))
    found = answer(evidence)
    (check,) = [each for each in found.checks if each.signature.startswith("a policy that keeps more or fewer")]
    # A click rate that is not quite the prior, and a pilot that has not learned much, leave a little more or less.
    assert 0.5 < float(check.found.split(", ")[-1].split(" ")[0]) < 1.6
    assert set(evidence.tracks) == {"all_rows", "pilot", *(name_of(way, 0.2) for way in WAYS)}
    (cost,) = [section.table for section in found.sections if section.title == "What it cost"]
    assert cost is not None
    by_label = {row[0].split(",")[0]: dict(zip(cost.header, row, strict=True)) for row in cost.rows}
    chose = {label: float(row["choosing, TFLOP"]) for label, row in by_label.items()}
    assert {label for label, flops in chose.items() if flops} == {"forgetting", "coreset"}
    own, whole, shared = compute(evidence, name_of("forgetting", 0.2))
    pilot = evidence.tracks["pilot"]
    assert choosing(evidence, name_of("forgetting", 0.2))[1] == pytest.approx(3 * pilot.training_flops)
    assert whole > own + 4 * pilot.training_flops * 0.99
    assert shared > own + 3 * pilot.training_flops, "nobody shares its passes"
    grand, el2n = (compute(evidence, name_of(way, 0.2)) for way in ("grand", "el2n"))
    assert grand[1] - grand[0] == el2n[1] - el2n[0] < 2 * pilot.training_flops, (
        "another policy's passes are none of theirs"
    )
    assert all(np.isfinite(value) for name, value in found.metrics.items() if name.endswith("_percent"))
