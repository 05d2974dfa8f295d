"""A recipe varies one factor at a time, trains every variant once, and refuses what its windows cannot answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import All, OptimizerConfig, Selection, Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.study import Study, StudyError
from pipeline.spec.window import Window
from pipeline.studies.declared import declared
from pipeline.studies.distillation.cells import AXES as DISTILLATION_AXES
from pipeline.studies.downsampling.cells import AXES as DOWNSAMPLING_AXES
from pipeline.studies.jobs import first_step, study_jobs
from tests.planned import planned

SPAN = {
    name: Window.of(day)
    for name, day in {"first": "2024-01-01", "online_start": "2024-01-25", "last": "2024-02-09"}.items()
}

ALL = All()


@pytest.fixture
def base(root: Path) -> LineUp:
    return load_lineup(root / "dags" / "lineups" / "demo.yaml")


def distillation(base: LineUp, **choices: Any) -> Study:
    return planned("distillation", base, **SPAN | choices)


def downsampling(base: LineUp, **choices: Any) -> Study:
    return planned("downsampling", base, **SPAN | choices)


def differing(one: Variant, other: Variant) -> set[str]:
    """The choices in which two variants differ."""
    return {part for part in Variant.model_fields if getattr(one, part) != getattr(other, part)} - {"name"}


def test_the_branches_of_the_paper_differ_in_nothing_but_when_they_learn_from_the_teacher(base: LineUp) -> None:
    study = distillation(base, negative_rate=0.1, seeds=(0, 1))
    kinds = {v.name: v.distillation.kind for v in study.lineup.variants}
    assert kinds == {
        "teacher": "none",
        "no_teacher": "none",
        "early_cutover": "cutover",
        "late_cutover": "cutover",
        "continuous": "continuous",
        "both": "continuous",
    }
    assert study.lineup.seeds == (0, 1)
    student = study.lineup.variant("no_teacher")
    for name in ("early_cutover", "late_cutover", "continuous"):
        assert differing(student, study.lineup.variant(name)) == {"distillation"}
    assert differing(study.lineup.variant("continuous"), study.lineup.variant("both")) == {"selection", "optimizer"}


def test_starts_differ_from_the_full_history_in_nothing_but_their_start(base: LineUp) -> None:
    study = distillation(base, axes=["start"], num_starts=7)
    cells = study.of("start")
    lengths = sorted({cell.value for cell in cells if cell.value is not None})
    assert len(lengths) == 7
    assert len(cells) < 7 * 4, "none starts too late to meet its teacher before the cutover"
    for cell in cells:
        variant = study.lineup.variant(cell.variant)
        assert differing(variant, study.lineup.variant(cell.family or "")) == {"start"}
        assert variant.start is not None
        assert study.judged.days_since(variant.start) == cell.value
        if cell.family == "early_cutover":
            assert variant.start.shift(4) <= study.lineup.online_start
    assert {cell.value for cell in cells if cell.family == "continuous"} == set(lengths)
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
        assert batch == pytest.approx(full * (prior + (1 - prior) * rate), rel=0.01)


def test_a_click_rate_that_nobody_gave_is_asked_for(base: LineUp) -> None:
    plain = [v.model_copy(update={"model": v.model.model_copy(update={"prior": 0.5})}) for v in base.variants]
    with pytest.raises(StudyError, match="default prior 0.5: write the log's share of positives as `model: {prior"):
        downsampling(base.model_copy(update={"variants": tuple(plain)}))


def test_a_batch_can_be_dealt_to_the_workers(base: LineUp) -> None:
    several = base.model_copy(update={"workers": base.workers.model_copy(update={"num_workers": 4})})
    downsampling(several, axes=list(DOWNSAMPLING_AXES))


@pytest.mark.parametrize("num_groups", [1, 3, 50])
@pytest.mark.parametrize("seeds", [(4,), (4, 7)])
def test_every_chain_is_trained_in_one_job_and_every_step_in_one_too(
    base: LineUp, num_groups: int, seeds: tuple[int, ...]
) -> None:
    for study in (
        distillation(base, axes=list(DISTILLATION_AXES), seeds=seeds),
        downsampling(base, axes=list(DOWNSAMPLING_AXES), seeds=seeds),
    ):
        first, *rest = study_jobs(study, num_groups)
        chains = [(name, seed) for job in (first, *rest) for seed in job.lineup.seeds for name in job.variants]
        assert sorted(chains) == sorted((v.name, seed) for v in study.lineup.variants for seed in seeds)
        assert set(first.variants) == set(study.lineup.teachers), "teachers and pilots go first"
        begun = [
            {(first_step(study, study.lineup.variant(n)), seed) for n in job.variants for seed in job.lineup.seeds}
            for job in rest
        ]
        assert sum(map(len, begun)) == len(set().union(*begun)), "what begins alike is trained once, in one job"
        assert len(rest) <= num_groups


def test_cells_that_share_no_step_are_dealt_so_that_jobs_cost_alike(base: LineUp) -> None:
    """Twelve cells that begin on one day, of which nothing but the history of two is the same."""
    study = downsampling(base, axes=["scope", "correction", "batch", "theory"])
    _, *rest = study_jobs(study, 4)
    assert len(rest) == 4
    rows = [
        sum(1.0 if (s := study.lineup.variant(n).selection).kind == "all" else s.rate for n in job.variants)
        for job in rest
    ]
    assert max(rows) < 2 * min(rows)
    taught = distillation(base)
    assert [len(job.variants) for job in study_jobs(taught, 4)[1:]] == [3, 1], "schedules share what came before"


def test_the_pilot_of_odds_goes_first_too(base: LineUp) -> None:
    first, *rest = study_jobs(downsampling(base, axes=["policy"]), 3)
    assert first.variants == ("teacher",)
    assert {"odds_age_0", "odds_age_4"} < {name for job in rest for name in job.variants}


def test_the_largest_study_fits_a_job_document(base: LineUp) -> None:
    study = distillation(base, axes=list(DISTILLATION_AXES), seeds=tuple(range(5)))
    for job in study_jobs(study):
        assert len(job.model_dump_json()) < 100_000


def test_downsampling_has_at_most_thirty_cells(base: LineUp) -> None:
    assert len(downsampling(base, axes=list(DOWNSAMPLING_AXES)).lineup.variants) <= 30


def with_arm(base: LineUp, name: str, selection: Selection = ALL, **setting: Any) -> LineUp:
    """The line-up, with a variant of an arm's name."""
    arm = Variant(name=name, selection=selection, optimizer=OptimizerConfig(**setting))
    return LineUp.model_validate({**base.model_dump(), "variants": [*base.variants, arm]})


def test_an_arm_takes_the_optimizer_of_the_variant_of_its_name(base: LineUp) -> None:
    setting: dict[str, Any] = {"batch_size": 512, "embedding_lr": 0.5, "dense_lr": 0.25}
    base = base.model_copy(update={"variants": (base.variant(base.reference),)})
    study = distillation(with_arm(base, "late", **setting), axes=["start"])
    assert {v.optimizer for v in study.lineup.variants} == {base.variants[0].optimizer}
    study = distillation(with_arm(base, "late_cutover", **setting), axes=["start"])
    for variant in study.lineup.variants:
        assert (variant.optimizer == OptimizerConfig(**setting)) == variant.name.startswith("late_cutover")


def test_every_rate_takes_the_learning_rates_of_the_centre(base: LineUp) -> None:
    base = base.model_copy(update={"variants": (base.variant(base.reference),)})
    study = downsampling(
        with_arm(base, "kept_10", NegativeDownsampling(rate=0.1), batch_size=128, embedding_lr=0.5, dense_lr=0.25),
        axes=["correction", "batch", "combined", "theory"],
    )
    for variant in study.lineup.variants:
        sampled = variant.selection.kind != "all"
        assert variant.optimizer.embedding_lr == (
            0.5 if sampled else base.variant(base.reference).optimizer.embedding_lr
        )
    batch = {v.name: v.optimizer.batch_size for v in study.lineup.variants}
    assert batch["kept_10"] == 128
    prior = base.variant(base.reference).model.prior
    assert batch["kept_50"] / 128 == pytest.approx((prior + (1 - prior) * 0.5) / (prior + (1 - prior) * 0.1), rel=0.01)
    assert batch["batch_held"] == batch["all_rows"]


def test_what_was_tuned_for_one_rate_is_not_taken_for_another(base: LineUp) -> None:
    base = base.model_copy(update={"variants": (base.variant(base.reference),)})
    tuned_for = NegativeDownsampling(rate=0.1)
    other = with_arm(base, "both", tuned_for, batch_size=7, embedding_lr=0.5, dense_lr=0.25)
    batches = {
        rate: distillation(other, negative_rate=rate).lineup.variant("both").optimizer.batch_size
        for rate in (0.1, 0.25)
    }
    assert batches[0.1] == 7
    assert batches[0.25] == distillation(base, negative_rate=0.25).lineup.variant("both").optimizer.batch_size


def test_both_together_is_the_same_arm_in_every_study(base: LineUp) -> None:
    sizes: dict[str, Any] = {"teacher_size": "small", "soft_weight": 2.0}
    studies = (
        distillation(base, negative_rate=0.1, student_size="tiny", **sizes),
        downsampling(base, axes=["combined"], size="tiny", **sizes),
        planned("tuning", base, **SPAN, student_size="tiny", **sizes),
    )
    assert len({study.lineup.variant("both") for study in studies}) == 1
    assert len({study.lineup.variant("teacher") for study in studies}) == 1


def test_a_study_without_a_teacher_still_has_students(base: LineUp) -> None:
    """Airflow skips a task that is mapped over nothing, and with it all that follows."""
    study = downsampling(base)
    first, *rest = study_jobs(study)
    assert first.variants == ("all_rows",)
    assert {name for job in rest for name in job.variants} == {v.name for v in study.lineup.variants} - {"all_rows"}


def test_a_file_may_hold_every_field_of_the_form(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDROW_LINEUP", str(root / "dags" / "lineups" / "demo.yaml"))
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{kind: tuning, study: mine, first: 2024-01-01, online_start: 2024-01-09, last: 2024-01-15, "
        "num_workers: 2, hardware: GPU, jobs_at_once: 3, timeout_minutes: 9}"
    )
    study = declared(file)
    assert (study.lineup.workers.num_workers, study.lineup.workers.use_gpu) == (2, True)
    assert study.lineup.seeds == (1000,), "the line-up's are for what is reported"


def test_every_arm_is_tuned_on_the_same_grid(base: LineUp) -> None:
    study = planned("tuning", base, **SPAN, batch_sizes=[512, 1024], learning_rates=[0.01, 0.02, 0.04], seeds=(9,))
    grids: dict[str, list[float | None]] = {}
    for cell in study.of("setting"):
        grids.setdefault(cell.against, []).append(cell.value)
        arm, point = study.lineup.variant(cell.against), study.lineup.variant(cell.variant)
        assert differing(arm, point) <= {"optimizer"}
        ratios = [v.optimizer.dense_lr / v.optimizer.embedding_lr for v in (arm, point)]
        assert ratios[0] == pytest.approx(ratios[1])
    arms = {"teacher", "no_teacher", "early_cutover", "late_cutover", "continuous", "kept_10", "both"}
    assert set(grids) == arms
    assert set(map(tuple, grids.values())) == {(0.01, 0.02, 0.04) * 2}
    assert {v.distillation.teacher for v in study.lineup.variants if v.teacher} == {"teacher"}


def test_a_point_of_the_grid_that_is_the_arms_own_setting_is_not_trained_twice(base: LineUp) -> None:
    base = base.model_copy(update={"variants": (base.variant(base.reference),)})
    own = base.variants[0].optimizer
    study = planned("tuning", base, **SPAN, batch_sizes=[own.batch_size], learning_rates=[own.embedding_lr], seeds=(9,))
    assert len(study.lineup.variants) == len(study.cells) == 7


def test_variants_of_the_line_up_are_tuned_with_what_they_read(base: LineUp) -> None:
    student = base.variant(base.reference)
    student = student.model_copy(update={"model": student.model.model_copy(update={"prior": 0.05})})
    fewer = {"name": "fewer", "selection": El2n(rate=0.02, pilot=student.name)}
    base = base.model_copy(update={"variants": (student, student.model_copy(update=fewer))})
    study = planned("tuning", base, **SPAN, arms=["fewer"], batch_sizes=[1000], learning_rates=[0.01, 0.02], seeds=(9,))
    assert {cell.against for cell in study.cells} == {"fewer"} == {study.lineup.reference}
    assert student in study.lineup.variants
    assert {study.lineup.variant(cell.variant).optimizer.batch_size for cell in study.cells} == {20}
    with pytest.raises(BadInput, match=r"no variant 'fever': .*fewer"):
        planned("tuning", base, **SPAN, arms=["fever"], seeds=(9,))


def test_no_teacher_is_its_students_twin(base: LineUp) -> None:
    study = distillation(base, axes=["size"], student_size="tiny", teacher_size="small")
    taught = [study.lineup.variant(cell.variant) for cell in study.of("size")]
    models = {study.lineup.variant(variant.teacher or "").model.size for variant in taught}
    assert models == {"small", "medium", "large"}
    assert {variant.model.size for variant in taught} == {"tiny"}


def test_too_short_a_history_for_so_many_starts_says_what_it_takes(base: LineUp) -> None:
    with pytest.raises(StudyError, match=r"10 starts need more than 10 windows .* got 10"):
        distillation(
            base, axes=["start"], online_start=Window.of("2024-01-05"), judged=Window.of("2024-01-11"), num_starts=10
        )


def test_a_teacher_older_than_the_history_before_the_judged_windows_is_refused(base: LineUp) -> None:
    with pytest.raises(StudyError, match=r"'updates' has a teacher 8 windows old, .* got 8: begin earlier"):
        distillation(base, axes=["updates"], online_start=Window.of("2024-01-05"), judged=Window.of("2024-01-09"))


def test_each_architecture_is_judged_against_its_own_student_without_a_teacher(base: LineUp) -> None:
    study = distillation(base, axes=["architecture"])
    arch = {variant.name: variant.model.arch for variant in study.lineup.variants}
    cells = study.of("architecture")
    taught = [study.lineup.variant(cell.variant) for cell in cells]
    assert [(arch[v.teacher or ""], arch[v.name]) for v in taught] == [
        ("dlrm", "dlrm"), ("dcnv2", "dlrm"), ("dlrm", "dcnv2"), ("dcnv2", "dcnv2"),
    ]  # fmt: skip
    assert [arch[cell.against] for cell in cells] == [arch[cell.variant] for cell in cells]
    assert all(study.lineup.variant(cell.against).teacher is None for cell in cells)


def test_a_study_does_not_take_over_the_daily_chains(base: LineUp) -> None:
    for recipe in (distillation, downsampling):
        with pytest.raises(StudyError, match="a name of its own"):
            recipe(base, study=base.name)


def test_windows_in_the_wrong_order_are_refused(base: LineUp) -> None:
    with pytest.raises(ValueError, match="first window lies before"):
        distillation(base, online_start=Window.of("2024-03-01"))
