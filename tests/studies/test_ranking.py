"""The ranking study: its cells, and an answer that finds an order where it was made and none where none was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.dispatch import run_ingest
from pipeline.spec.config import Variant
from pipeline.spec.job import IngestJob
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.study import Study, StudyError
from pipeline.storage.lake import Lake
from pipeline.studies.evidence import Evidence
from pipeline.studies.jobs import study_jobs
from pipeline.studies.kinds import kind_of
from pipeline.studies.ranking.answer import answer
from pipeline.studies.ranking.fields import Fields
from pipeline.studies.results import of_study
from pipeline.training.chain.engine import Engine
from tests.studies.made import made
from tests.trained import alone

SPAN = {
    "study": "orders",
    "lineup": "drift",
    "first": "2024-01-01",
    "online_start": "2024-01-05",
    "last": "2024-01-10",
    "sizes": ["tiny"],
    "learning_rates": [0.02, 0.04, 0.08, 0.16],
    "policies": ["negatives", "uniform"],
    "rate": 0.1,
}


def planned(lineup: LineUp | None = None, **changes: Any) -> Study:
    base = lineup or load_lineup(lineup_path("drift"))
    return kind_of("ranking").study(base, Fields.read({**SPAN, **changes}, "a test"))


def test_each_configuration_is_on_all_rows_and_on_few_and_differs_in_nothing_else() -> None:
    study = planned(sizes=["tiny", "small"], policies=["negatives", "local_case_control"])
    whole = {cell.label: study.lineup.variant(cell.variant) for cell in study.of("all_rows")}
    assert len(whole) == 8
    for cell in study.of("few_rows"):
        few, same = study.lineup.variant(cell.variant), whole[cell.label]
        assert few.model == same.model
        assert (few.optimizer.embedding_lr, few.optimizer.dense_lr) == (
            same.optimizer.embedding_lr,
            same.optimizer.dense_lr,
        )
        assert few.selection.share(0.05) == pytest.approx(0.1)
        assert few.optimizer.batch_size == pytest.approx(same.optimizer.batch_size / 10, abs=1)
    assert "pilot" in [variant.name for variant in study.lineup.variants]
    assert "pilot" not in [variant.name for variant in planned().lineup.variants]


def test_two_configurations_have_no_order() -> None:
    with pytest.raises(StudyError, match="at least 3 configurations"):
        planned(learning_rates=[0.02, 0.04])


def by_rate(turned: str = "") -> Any:
    """The higher the learning rate the lower the loss, on few rows as well; but for one policy, under which it turns round."""

    def of(variant: Variant, flops: float, rows: float) -> float:
        step = [0.02, 0.04, 0.08, 0.16].index(variant.optimizer.embedding_lr) if "rate" in variant.name else 0
        return 0.2 * (1 + 0.01 * (step if turned and variant.name.endswith(turned) else -step))

    return of


def test_the_order_of_few_rows_is_found_and_the_policy_is_chosen_on_other_seeds() -> None:
    study = planned(seeds="1-12")
    found = answer(made(study, by_rate("negatives"), noise=1e-4))
    assert found.headline.startswith(
        "On 10 % of the rows uniform, chosen on other seeds, puts configurations into an order"
    )
    assert "Kendall tau of 1.00 (alike in all of these seeds)" in found.headline
    assert found.metrics["decided_pairs"] == 6
    assert (found.metrics["uniform_tau"], found.metrics["negatives_tau"]) == (1, -1)
    assert found.metrics["chosen_regret_percent"] == 0
    assert found.metrics["negatives_regret_percent"] == pytest.approx(3, abs=0.1), "it puts the worst first"
    assert found.metrics["all_rows_tau"] == 1


def test_where_nothing_differs_nothing_is_claimed() -> None:
    """An order that is held against its own seed's losses would look like one: each is held against the others' alone."""
    found = [
        answer(made(planned(seeds="1-12", study=f"orders{n}"), lambda *_: 0.2, noise=1e-3, seed=n)) for n in range(12)
    ]
    claimed = [each for each in found if not each.headline.startswith("Not shown: all rows decide")]
    assert len(claimed) <= 2, "by chance"
    assert np.mean([each.metrics["decided_pairs"] for each in found]) < 1, "one pair in twenty"
    assert all(each.metrics["all_rows_tau"] < 0.9 for each in claimed)


def test_on_few_seeds_nothing_is_told_apart() -> None:
    found = answer(made(planned(seeds="1-3"), by_rate()))
    assert found.headline.startswith("Too few seeds to say which configurations differ")
    (alike,) = (check for check in found.checks if "too alike" in check.signature)
    assert alike.passed is None
    assert "nan" not in found.markdown("title", "pictures")


def test_with_one_policy_nothing_is_chosen() -> None:
    found = answer(made(planned(seeds="1-12", policies=["uniform"]), by_rate(), noise=1e-4))
    assert "chosen" not in found.headline
    assert "tau on the choosing seeds" not in found.markdown("title", "pictures")


def test_learning_rates_that_read_alike_are_refused() -> None:
    with pytest.raises(StudyError, match="nearly alike"):
        planned(learning_rates=[0.02, 0.02000001, 0.04])


def test_a_ranking_trains_and_answers(tmp_path: Path) -> None:
    own = load_lineup(lineup_path("drift"))
    settings = {"rows_per_window": 1500, "num_dense": 2, "num_categorical": 3, "num_ids": 50}
    source = own.dataset.source.model_copy(update={"settings": settings})
    small = own.model_copy(update={"dataset": own.dataset.model_copy(update={"source": source}), "seeds": (1, 2)})
    study = planned(small, online_start="2024-01-03", last="2024-01-04", policies=["local_case_control"])
    lake = Lake(str(tmp_path / "lake"))
    run_ingest(IngestJob(dataset=small.dataset, first=study.first, last=study.last, seeds=(1, 2)), lake)
    for job in study_jobs(study):
        Engine(lake, job, None, alone()).run()
    found = answer(Evidence.of(study, of_study(lake, study)))
    assert found.headline.startswith("Too few seeds")
    assert [section.title for section in found.sections] == ["Orders", "Configurations", "What it cost"]
