"""A study from its rows to its page: what it answers, what it shows, what it refuses; one is trained by the real engine."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.reporting.dispatch import answered
from pipeline.reporting.study_page import render
from pipeline.spec.study import Study
from pipeline.statistics.interval import Interval
from pipeline.storage.lake import Lake
from pipeline.studies.answering import answer
from pipeline.studies.distillation.history import percent_saved
from pipeline.studies.evidence import PARTS, Evidence
from pipeline.studies.findings import Findings
from pipeline.studies.measures import compute
from pipeline.studies.results import MissingResults, of_study, read, write
from tests.planned import planned
from tests.studies.recorded import (
    BASE,
    DISTILLATION,
    DOWNSAMPLING,
    FIGURES,
    NUM_WINDOWS,
    SHORT,
    STUDIES,
    recorded,
    trained,
)
from tests.trained import DAY, publish, windows

GOLDEN = json.loads(FIGURES.read_text())


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """One study, trained here."""
    lake = Lake(str(tmp_path_factory.mktemp("studies") / "lake"))
    publish(lake, windows(SHORT.last.days_since(DAY) + 1))
    trained(lake, SHORT)
    return lake


@pytest.fixture(scope="module")
def evidence() -> dict[str, Evidence]:
    return {study.name: Evidence.of(study, recorded(study)) for study in STUDIES}


@pytest.fixture(scope="module")
def findings(evidence: dict[str, Evidence]) -> dict[str, Findings]:
    return {name: answer(found) for name, found in evidence.items()}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_page_shows_headline_figures_tables_and_checks_and_asks_nothing_of_the_network(
    evidence: dict[str, Evidence], findings: dict[str, Findings], study: Study
) -> None:
    found = findings[study.name]
    seen = evidence[study.name]
    page = render(study, found, facts=seen.facts(), times=seen.wall_times({}), took=seen.took())
    assert re.search(r'id="headline">[^<]+%', page)
    for section in found.sections:
        assert section.title in page
        assert (section.figure is not None) == (f'aria-label="{section.title}"' in page)
    assert {check.signature for check in found.checks} >= {"too much run-to-run variance to see the effect"}
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page), "something is loaded from elsewhere"
    assert "<script" not in page
    assert re.search(r"It trained on [\d.,]+ million rows: [\d.,]+ TFLOP of training", page)
    assert "**" not in page, "markdown is for another page"


@pytest.mark.parametrize("name", GOLDEN)
def test_the_figures_are_what_they_always_were(findings: dict[str, Findings], name: str) -> None:
    """Recorded before the house was rebuilt: whoever changes an estimator records them again and says so."""
    assert findings[name].metrics == pytest.approx(GOLDEN[name], rel=1e-3, abs=1e-3, nan_ok=True)


def test_a_study_leaves_the_rows_that_were_recorded(lake: Lake) -> None:
    """Another processor makes other last digits, of the simulated rows too: recipes and counts are the same, losses nearly."""
    now, before = of_study(lake, SHORT), {(row.seed, row.variant, row.window): row for row in recorded(SHORT)}
    assert {(row.seed, row.variant, row.window) for row in now} == set(before)
    for row in now:
        then = before[row.seed, row.variant, row.window]
        assert (row.recipe, row.num_selected, row.examples) == (then.recipe, then.num_selected, then.examples)
        assert row.loss == pytest.approx(then.loss, rel=2e-3)


def test_the_headline_is_made_of_the_figures_that_are_logged(findings: dict[str, Findings]) -> None:
    metrics = findings["sampled"].metrics
    value, low, high = (metrics[f"kept_10_percent{end}"] for end in ("", "_low", "_high"))
    assert f"{value:+.2f} ({low:+.2f} to {high:+.2f}) % of log-loss" in findings["sampled"].headline
    assert low <= value <= high


def test_theory_knows_the_policies_that_were_trained(
    evidence: dict[str, Evidence], findings: dict[str, Findings]
) -> None:
    metrics = findings["sampled"].metrics
    for name in ("kept_10", "uniform_weight_10", "odds_offset_10", "odds_weight_10"):
        assert metrics[f"{name}_kappa"] > metrics[f"{name.replace('10', '50')}_kappa"] > 1
    assert metrics["kept_10_kappa"] <= metrics["uniform_weight_10_kappa"], "offset is never worse than weight"
    assert metrics["odds_offset_10_kappa"] < metrics["kept_10_kappa"], "hard negatives are worth more"
    assert metrics["kept_10_excess_ratio"] > 0
    assert evidence["sampled"].knows_truth


def test_what_was_trained_under_other_settings_is_no_evidence(lake: Lake) -> None:
    """The page would show the new settings beside the old ones' losses."""
    optimizer = BASE.variants[0].optimizer.model_copy(update={"dense_lr": 0.123})
    base = BASE.model_copy(update={"variants": (BASE.variants[0].model_copy(update={"optimizer": optimizer}),)})
    changed = planned(
        "distillation", base, study="short", teacher_size="small", student_size="tiny",
        first=DAY, online_start=DAY.shift(2), last=DAY.shift(4),
    )  # fmt: skip
    with pytest.raises(MissingResults, match=r"trained on 2024-01-01 under seed 0 with other settings, .* trigger the"):
        of_study(lake, changed)


def test_the_worst_day_is_named(evidence: dict[str, Evidence], findings: dict[str, Findings]) -> None:
    check = next(c for c in findings["sampled"].checks if c.signature == "a day on which the loss jumps")
    worst = max(
        evidence["sampled"].series(cell.variant, cell.against, evidence["sampled"].judged).values.max()
        for cell in DOWNSAMPLING.cells
        if cell.variant != cell.against
    )
    assert f"any run: {worst:+.1f} %" in check.found
    assert check.passed == (worst < 5)


def test_a_pilot_is_counted_like_a_teacher(evidence: dict[str, Evidence]) -> None:
    seen = evidence["sampled"]
    own, whole, shared = compute(seen, "odds_age_0")
    taught_own, taught_whole, _ = compute(seen, "continuous")
    assert whole - own == pytest.approx(taught_whole - taught_own)
    assert own < shared < whole
    older = compute(seen, "odds_age_4")
    assert older[1] - older[0] < whole - own, "it is not read before it is that old"
    assert len(set(compute(seen, "kept_10"))) == 1


def test_a_tuning_tells_a_model_that_learns_from_one_that_does_not(findings: dict[str, Findings]) -> None:
    metrics = findings["tuned"].metrics
    for arm in ("teacher", "no_teacher", "early_cutover", "late_cutover", "continuous", "kept_10", "both"):
        assert metrics[f"{arm}_embedding_lr"] > 1e-6
    assert metrics["kept_10_batch_size"] < metrics["no_teacher_batch_size"]
    edge = next(check for check in findings["tuned"].checks if "edge of the grid" in check.signature)
    assert edge.passed is False, "the best of 0.000001 and 0.02 lies at the end"


def test_shared_prefixes_are_trained_once(evidence: dict[str, Evidence]) -> None:
    tracks = evidence["taught"].tracks
    online = evidence["taught"].index(DISTILLATION.lineup.online_start)
    early, late, continuous = ([t.rows[0, w].step for w in range(NUM_WINDOWS)] for t in (
        tracks["early_cutover"], tracks["late_cutover"], tracks["continuous"]
    ))  # fmt: skip
    assert early[:online] == late[:online] == continuous[:online]
    assert late[: online + 4] == continuous[: online + 4]
    assert early[online] != late[online]
    assert late[online + 4] != continuous[online + 4]


def test_a_student_that_starts_late_is_judged_on_the_same_rows(evidence: dict[str, Evidence]) -> None:
    seen = evidence["taught"]
    for cell in DISTILLATION.of("start"):
        assert seen.series(cell.variant, cell.against, seen.judged).num_windows == NUM_WINDOWS - 10
        assert (seen.tracks[cell.variant]["examples"][:, seen.judged] > 0).all()
        assert seen.series(cell.variant, cell.against).num_windows == NUM_WINDOWS - 10 + (cell.value or 0)


def test_a_variant_that_was_not_trained_is_named_with_the_cure(lake: Lake) -> None:
    other = DISTILLATION.model_copy(update={"lineup": DISTILLATION.lineup.model_copy(update={"name": "untrained"})})
    with pytest.raises(
        MissingResults, match=r"finished under none of its seeds; .* 'teacher' on .*: trigger the study again"
    ):
        Evidence.of(other, of_study(lake, other))


def test_the_teacher_is_counted_whole_and_shared(findings: dict[str, Findings]) -> None:
    table = next(s.table for s in findings["taught"].sections if s.title == "Schedules")
    assert table is not None
    own, whole, shared = (
        table.header.index(name)
        for name in ("own training, TFLOP", "with its teacher's training and scoring", "teacher shared")
    )
    rows = {row[0]: row for row in table.rows}
    assert rows["no teacher"][own] == rows["no teacher"][whole] == rows["no teacher"][shared]
    assert float(rows["continuous"][whole]) >= float(rows["continuous"][shared]) >= float(rows["continuous"][own])
    assert float(rows["continuous"][whole]) >= float(rows["early cutover"][whole])


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Interval(0.5, -0.2, 0.9), "50 % (-20 % to 90 %)"),
        (Interval(0.5, -math.inf, 1.0), "50 % (no bound to 100 %)"),
        (Interval(math.nan, 0.4, 1.0), "at least 40 %"),
        (Interval(math.nan, -7.3, 1.0), "not known"),
        (Interval(math.nan, -math.inf, 0.8), "at most 80 %"),
        (Interval(math.nan, -math.inf, 1.0), "not known"),
        (Interval(math.nan, math.nan, math.nan), "not known"),
    ],
)
def test_a_bound_that_bounds_nothing_is_not_shown_as_one(share: Interval, words: str) -> None:
    assert percent_saved(share) == words


def test_rows_outlive_the_lake_and_seeds_come_together_from_several_files(
    findings: dict[str, Findings], tmp_path: Path
) -> None:
    rows = recorded(DISTILLATION)
    for seed in DISTILLATION.lineup.seeds:
        write([row for row in rows if row.seed == seed], tmp_path / f"{seed}.parquet")
    assert answer(Evidence.of(DISTILLATION, read([tmp_path]))).metrics == pytest.approx(
        findings["taught"].metrics, nan_ok=True
    )
    alone_ = Evidence.of(DISTILLATION, read([tmp_path / "1.parquet"]))
    assert alone_.study.lineup.seeds == (1,), "a study that was stopped answers from the seeds that are finished"
    assert answer(alone_).headline


def test_a_study_that_was_stopped_says_how_many_seeds_are_missing_and_what_they_take(tmp_path: Path) -> None:
    rows = [row for row in recorded(DISTILLATION) if row.seed == 1 or row.variant != "continuous"]
    taken = {row.step: row for row in rows if row.seed == 1}.values()
    minutes = sum(getattr(r, f"{part}_seconds") for r in taken for part in PARTS) / 60
    found, page = answered(DISTILLATION, [replace(row, train_seconds=row.train_seconds + 1) for row in rows], tmp_path)
    note = f"1 of 2 seeds are not finished and left out; they take about {minutes + len(taken) / 60:.0f} minutes more"
    assert note in found.notes[-1]
    assert note in page
    assert (tmp_path / "taught.html").read_text() == page


def test_rows_that_contradict_each_other_or_are_none_are_refused(lake: Lake, tmp_path: Path) -> None:
    rows = of_study(lake, SHORT)
    write(rows, tmp_path / "one.parquet")
    write([replace(row, loss=row.loss + 1) for row in rows], tmp_path / "two.parquet")
    with pytest.raises(MissingResults, match=r"two.parquet has another result for 'teacher', seed 0, .* of one study"):
        read([tmp_path])
    (tmp_path / "two.parquet").write_text("no parquet")
    with pytest.raises(
        MissingResults, match=r"two.parquet is no file of results, .*: give files that `windrow study --cells`"
    ):
        read([tmp_path])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MissingResults, match=r"no results in .*nothing"):
        read([tmp_path / "nothing"])
    with pytest.raises(MissingResults, match="with other settings or data than the study has"):
        Evidence.of(SHORT, [replace(row, recipe="0" * 16) for row in rows])
