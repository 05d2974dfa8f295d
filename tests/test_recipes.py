"""A recipe varies one factor at a time, trains every variant once, and refuses what its windows cannot answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Variant
from pipeline.job import TrainJob, study_jobs
from pipeline.lineup import LineUp, load_lineup
from pipeline.recipes import distillation_study, downsampling_study
from pipeline.recipes.distillation import AXES as DISTILLATION_AXES
from pipeline.recipes.downsampling import AXES as DOWNSAMPLING_AXES
from pipeline.study import Study, StudyError
from pipeline.window import Window

SPAN = {
    name: Window.of(day)
    for name, day in {"first": "2024-01-01", "online_start": "2024-01-25", "last": "2024-02-09"}.items()
}


@pytest.fixture
def base(root: Path) -> LineUp:
    return load_lineup(root / "dags" / "lineups" / "demo.yaml")


def distillation(base: LineUp, **choices: Any) -> Study:
    return distillation_study(base, **{"name": "s", **SPAN} | choices)


def downsampling(base: LineUp, **choices: Any) -> Study:
    return downsampling_study(base, **{"name": "s", **SPAN} | choices)


def differing(one: Variant, other: Variant) -> set[str]:
    """The choices in which two variants differ."""
    return {part for part in Variant.model_fields if getattr(one, part) != getattr(other, part)} - {"name"}


def test_the_branches_of_the_paper_differ_in_nothing_but_when_they_listen(base: LineUp) -> None:
    study = distillation(base, negative_rate=0.1, seeds=(0, 1))
    kinds = {v.name: v.distillation.kind for v in study.lineup.variants}
    assert kinds == {
        "teacher": "none",
        "no_teacher": "none",
        "early_cutover": "cutover",
        "late_cutover": "cutover",
        "continuous": "continuous",
        "continuous_downsampled_10": "continuous",
    }
    assert study.lineup.seeds == (0, 1)
    student = study.lineup.variant("no_teacher")
    for name in ("early_cutover", "late_cutover", "continuous"):
        assert differing(student, study.lineup.variant(name)) == {"distillation"}
    assert differing(study.lineup.variant("continuous"), study.lineup.variant("continuous_downsampled_10")) == {
        "selection"
    }


def test_starts_differ_from_the_full_history_in_nothing_but_their_start(base: LineUp) -> None:
    study = distillation(base, axes=["start"], num_starts=7)
    cells = study.of("start")
    lengths = sorted({cell.value for cell in cells if cell.value is not None})
    assert len(lengths) == 7
    assert len(cells) == 7 * 4
    for cell in cells:
        variant = study.lineup.variant(cell.variant)
        assert differing(variant, study.lineup.variant(cell.variant.partition("_from_")[0])) == {"start"}
        assert variant.start is not None
        assert study.judged.days_since(variant.start) == cell.value
    assert study.judged >= study.lineup.online_start.shift(8)


@pytest.mark.parametrize("axis", ["scope", "correction", "policy", "batch"])
def test_downsampling_varies_one_factor_at_a_time(base: LineUp, axis: Any) -> None:
    study = downsampling(base, axes=[axis])
    centre = study.lineup.variant("kept_10")
    held = "optimizer" if axis == "scope" else ""  # a batch for both phases cannot be scaled with one
    for cell in study.of(axis):
        other = study.lineup.variant(cell.variant)
        assert differing(centre, other) - {held} <= {"optimizer" if axis == "batch" else "selection"}
    assert len(study.of(axis)) >= 2


def test_the_batch_shrinks_with_the_rows_so_that_updates_stay_as_many(base: LineUp) -> None:
    study = downsampling(base, rates=[0.5, 0.1])
    full = study.lineup.variant("all_rows").optimizer.batch_size
    prior = base.variant(base.reference).model.prior
    for rate in (0.5, 0.1):
        batch = study.lineup.variant(f"kept_{100 * rate:g}").optimizer.batch_size
        assert batch == pytest.approx(full * (prior + (1 - prior) * rate), abs=1)


def test_a_batch_can_be_dealt_to_the_workers(base: LineUp) -> None:
    several = base.model_copy(update={"workers": base.workers.model_copy(update={"num_workers": 4})})
    downsampling(several, axes=list(DOWNSAMPLING_AXES))


@pytest.mark.parametrize("num_groups", [1, 3, 50])
def test_every_variant_is_trained_in_exactly_one_job_and_teachers_first(base: LineUp, num_groups: int) -> None:
    for study in (distillation(base, axes=list(DISTILLATION_AXES)), downsampling(base, axes=list(DOWNSAMPLING_AXES))):
        jobs = study_jobs(study, num_groups)
        trained = [name for job in jobs for name in job.variants]
        assert sorted(trained) == sorted(v.name for v in study.lineup.variants)
        assert set(jobs[0].variants) == set(study.lineup.teachers)
        for job in jobs[1:]:
            together = {study.lineup.variant(name).start for name in job.variants}
            for other in jobs[1:]:
                if other is not job:
                    assert not together & {study.lineup.variant(name).start for name in other.variants}
        assert all(isinstance(job, TrainJob) for job in jobs)


def test_the_largest_study_fits_a_job_document(base: LineUp) -> None:
    study = distillation(base, axes=list(DISTILLATION_AXES), seeds=tuple(range(5)))
    for job in study_jobs(study):
        assert len(job.model_dump_json()) < 100_000


def test_downsampling_has_at_most_thirty_cells(base: LineUp) -> None:
    assert len(downsampling(base, axes=list(DOWNSAMPLING_AXES)).lineup.variants) <= 30


def test_no_teacher_is_its_students_twin(base: LineUp) -> None:
    study = distillation(base, axes=["size"], student_size="tiny", teacher_size="small")
    taught = [study.lineup.variant(cell.variant) for cell in study.of("size")]
    models = {study.lineup.variant(variant.teacher or "").model.size for variant in taught}
    assert models == {"small", "medium", "large"}
    assert {variant.model.size for variant in taught} == {"tiny"}


def test_too_short_a_history_for_so_many_starts_says_what_it_takes(base: LineUp) -> None:
    with pytest.raises(StudyError, match=r"7 starts .* need \d+ windows .* got 10"):
        distillation(
            base, axes=["start"], online_start=Window.of("2024-01-05"), judged=Window.of("2024-01-11"), num_starts=7
        )


def test_a_study_does_not_take_over_the_daily_chains(base: LineUp) -> None:
    for recipe in (distillation, downsampling):
        with pytest.raises(StudyError, match="a name of its own"):
            recipe(base, name=base.name)


def test_windows_in_the_wrong_order_are_refused(base: LineUp) -> None:
    with pytest.raises(ValueError, match="first window lies before"):
        distillation(base, online_start=Window.of("2024-03-01"))
