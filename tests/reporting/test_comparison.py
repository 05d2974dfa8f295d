"""Comparisons: paired on the same rows, exact where nothing differs, and with intervals that hold what they promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipeline.reporting import comparison_page
from pipeline.reporting.comparison import NothingToCompare, VariantComparison, compare
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import EvaluationConfig, resolve
from pipeline.spec.documents import content_key
from pipeline.spec.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import write_table
from pipeline.training.chain.evaluations import EvaluationManifest, EvaluationStore, evaluation_key
from pipeline.training.chain.steps import Flops, StepManifest, StepStore
from pipeline.training.metrics import ClickSums, log_losses
from tests.trained import DATASET, DAY, lineup, logits, metrics, predictions, publish, train, variant, windows

Floats = NDArray[np.float64]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def leave(
    lake: Lake, chosen: LineUp, name: str, day: Window, table: pa.Table, *, seed: int = 0, total: int = 0,
    dataset: str = DATASET,
) -> None:  # fmt: skip
    """Leave a step with these predictions, as if it had been trained."""
    config = resolve(chosen.variant(name), day, online_start=chosen.online_start, seed=seed)
    key = content_key([name, seed, day.name])
    label, logit = (table.column(column).to_numpy() for column in ("label", "logit"))
    step = StepManifest(
        key=key,
        generation="0",
        dataset=dataset,
        window=day,
        config=config,
        schema_key="s",
        window_digest="d",
        soft_read=None,
        parent=None,
        first=day,
        checkpoint=None,
        progressive={},
        num_rows=len(label),
        num_selected=len(label),
        num_updates=1,
        total_examples=total,
        flops=Flops(training=1.0, scoring=0.0),
        total_flops=Flops(training=2.0, scoring=0.0),
        seconds={"train": 1.0},
        num_workers=1,
    )
    store = StepStore(lake, dataset)
    lake.replace(f"steps/{dataset}/{key[:16]}/manifest.json", step.model_dump(mode="json"), None)
    store.set_head(chosen.name, name, seed, step)
    evaluations = EvaluationStore(lake, dataset)
    known = evaluation_key(key, chosen.evaluation)
    attempt = evaluations.attempt(known, "0")
    made = EvaluationManifest(
        key=known,
        generation="0",
        step=key,
        parent_lineage=None,
        dataset=dataset,
        window=day,
        slice=chosen.evaluation,
        predictions=write_table(lake, f"{attempt.folder}/predictions.parquet", table),
        metrics=ClickSums.of(label, logit).metrics(),
        num_rows=len(label),
        flops=0.5,
        seconds=0.1,
    )
    evaluations.publish(made, attempt)


def table(seed: int, losses: float | Floats = 1.0, count: int = 400, first_id: int = 0) -> pa.Table:
    """Labels and logits whose losses are so many times those of the plain one's."""
    random = np.random.default_rng(seed)
    label = (random.random(count) < 0.3).astype(np.uint8)
    z = random.normal(-1, 1, count)
    loss = log_losses(z, label) * losses
    p = np.exp(-loss)  # the probability given to what happened
    logit = np.where(label > 0, 1, -1) * (np.log(p) - np.log1p(-p))
    ids = np.arange(first_id, first_id + count, dtype=np.uint64)
    cluster = random.integers(0, 40, count).astype(np.uint64)
    return pa.table({"example_id": ids, "label": label, "logit": logit.astype(np.float32), "cluster": cluster})


def test_the_reference_is_itself_exactly(lake: Lake) -> None:
    publish(lake, windows(3))
    chosen = lineup(variant("reference"), variant("twin"), variant("sampled", selection=NegativeDownsampling(rate=0.3)))
    train(lake, chosen, 3)
    found = compare(lake, chosen, (), DAY, DAY.shift(2))
    assert [c.variant for c in found] == ["reference", "twin", "sampled"]
    for c in found[:2]:
        gaps = [c.gap, *(point.gap for point in c.points.values())]
        assert all((gap.value, gap.low, gap.high) == (0, 0, 0) for gap in gaps)
    assert found[2].gap.value != 0
    assert found[2].gap.low < found[2].gap.high
    assert found[2].examples < found[0].examples == 1500


def test_a_comparison_of_real_steps_says_what_their_predictions_say(lake: Lake) -> None:
    publish(lake, windows(3))
    chosen = lineup(variant("reference"), variant("sampled", selection=NegativeDownsampling(rate=0.3)))
    made = train(lake, chosen, 3)
    found = compare(lake, chosen, ("sampled",), DAY.shift(1), DAY.shift(2))[1]
    losses = {
        name: np.array(
            [
                log_losses(logits(lake, made[name, day]), predictions(lake, made[name, day])["label"]).sum()
                for day in windows(3)[1:]
            ]
        )
        for name in ("reference", "sampled")
    }
    assert found.windows == (DAY.shift(1), DAY.shift(2))
    assert found.metrics["log_loss"] == pytest.approx(losses["sampled"].sum() / 1000)
    assert found.gap.value == pytest.approx(100 * (losses["sampled"] / losses["reference"] - 1).mean())
    assert found.points[DAY.shift(1)].metrics == metrics(lake, made["sampled", DAY.shift(1)])


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.02])
def test_a_constant_shift_of_every_loss_is_found_without_doubt(lake: Lake, factor: float) -> None:
    chosen = lineup(variant("reference"), variant("other"))
    for n, day in enumerate(windows(2)):
        leave(lake, chosen, "reference", day, table(n))
        leave(lake, chosen, "other", day, table(n, losses=factor))
    gap = compare(lake, chosen, (), DAY, DAY.shift(1))[1].gap
    expected = 100 * (factor - 1)
    assert (gap.value, gap.low, gap.high) == pytest.approx((expected,) * 3, abs=1e-4)


def test_pairing_makes_a_small_difference_visible(lake: Lake) -> None:
    """A twentieth of a percent drowns between different rows; on the same rows it stands out."""
    chosen = lineup(variant("reference"), variant("other"))
    leave(lake, chosen, "reference", DAY, table(0))
    leave(lake, chosen, "other", DAY, table(0, losses=1.0005))
    gap = compare(lake, chosen, (), DAY, DAY)[1].gap
    assert 0 < gap.low <= gap.value <= gap.high


def test_different_rows_are_not_compared(lake: Lake) -> None:
    chosen = lineup(variant("reference"), variant("other"))
    leave(lake, chosen, "reference", DAY, table(0))
    leave(lake, chosen, "other", DAY, table(0, first_id=1))
    with pytest.raises(NothingToCompare, match="2024-01-01: .*different rows.*train both on it again"):
        compare(lake, chosen, (), DAY, DAY)


def test_nothing_in_common_is_told_with_the_cure(lake: Lake) -> None:
    chosen = lineup(variant("reference"), variant("other"))
    leave(lake, chosen, "reference", DAY, table(0))
    leave(lake, chosen, "other", DAY.shift(1), table(0))
    with pytest.raises(NothingToCompare, match="'other' and the reference 'reference' share no window.*train both"):
        compare(lake, chosen, (), DAY, DAY.shift(1))
    with pytest.raises(NothingToCompare, match="'reference' and the reference 'reference' share no window"):
        compare(lake, chosen, (), DAY.shift(5), DAY.shift(6))


def test_only_windows_that_both_have_are_compared(lake: Lake) -> None:
    chosen = lineup(variant("reference"), variant("other"))
    for n, day in enumerate(windows(3)):
        leave(lake, chosen, "reference", day, table(n))
    leave(lake, chosen, "other", DAY.shift(1), table(1, losses=1.5))
    found = compare(lake, chosen, (), DAY, DAY.shift(2))
    assert found[0].windows == tuple(windows(3))
    assert found[1].windows == (DAY.shift(1),)
    assert found[1].gap.value == pytest.approx(50, abs=1e-3)


def test_a_window_counts_once_all_seeds_have_closed_it(lake: Lake) -> None:
    chosen = lineup(variant("reference"), variant("other"), seeds=(0, 1))
    for day in windows(2):
        for name, factor in (("reference", 1.0), ("other", 1.1)):
            for seed in (0, 1) if day == DAY else (0,):
                leave(lake, chosen, name, day, table(seed, losses=factor), seed=seed, total=10 * seed)
    found = compare(lake, chosen, (), DAY, DAY.shift(1))[1]
    assert (found.windows, found.num_seeds, found.examples) == ((DAY,), 2, 5)
    assert found.gap.value == pytest.approx(10, abs=1e-3)


def test_seeds_with_samples_of_their_own_are_compared(lake: Lake) -> None:
    """Above the cap each seed evaluates its own sample: of other rows, and of another number of them."""
    publish(lake, windows(2))
    sampled = variant("sampled", selection=NegativeDownsampling(rate=0.3))
    chosen = lineup(variant("reference"), sampled, seeds=(0, 1, 2), evaluation=EvaluationConfig(max_rows=200))
    train(lake, chosen, 2)
    found = compare(lake, chosen, (), DAY, DAY.shift(1))
    store, ratios = StepStore(lake, DATASET), []
    for seed in chosen.seeds:
        for day in windows(2):
            losses = {}
            for name in ("reference", "sampled"):
                step = store.head(chosen.name, name, seed, day)
                assert step is not None
                rows = predictions(lake, step, chosen.evaluation)
                losses[name] = log_losses(rows["logit"].to_numpy(), rows["label"].to_numpy()).sum()
            ratios.append(losses["sampled"] / losses["reference"] - 1)
    assert found[1].gap.value == pytest.approx(100 * np.mean(ratios))


def test_clusters_that_come_again_are_drawn_with_all_of_their_windows(lake: Lake) -> None:
    """Users of twenty days with a taste of their own are as many users, not twenty times as many."""
    chosen = lineup(variant("reference"), variant("other"))
    random, num_users, num_windows = np.random.default_rng(0), 300, 20
    taste = random.normal(1, 0.1, num_users)
    widths = []
    for start, new_users in ((DAY, 0), (DAY.shift(num_windows), num_users)):
        for n in range(num_windows):
            users = pa.array(np.arange(num_users, dtype=np.uint64) + np.uint64(new_users * n))
            for name, losses in (("reference", np.ones(num_users)), ("other", taste)):
                rows = table(0, losses, num_users).set_column(3, "cluster", users)
                leave(lake, chosen, name, start.shift(n), rows)
        gap = compare(lake, chosen, (), start, start.shift(num_windows - 1))[1].gap
        widths.append(gap.high - gap.low)
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(num_windows), rel=0.3)


def test_windows_that_share_their_luck_widen_no_interval_of_what_happened(lake: Lake) -> None:
    """A penalty that grows from day to day is known on each of these days, and so is its mean."""
    chosen = lineup(variant("reference"), variant("other"))
    days = windows(12)
    for n, day in enumerate(days):
        leave(lake, chosen, "reference", day, table(n))
        leave(lake, chosen, "other", day, table(n, losses=1 + 0.01 * n))
    gap = compare(lake, chosen, (), DAY, days[-1])[1].gap
    assert (gap.value, gap.low, gap.high) == pytest.approx((5.5,) * 3, abs=0.3)


def test_few_worlds_have_the_interval_of_their_rows(lake: Lake) -> None:
    source = SimulatedSource(origin=DAY, per_seed=True)
    chosen = lineup(variant("reference"), variant("other"), dataset=DatasetConfig(name=DATASET, source=source))
    random = np.random.default_rng(0)
    leave(lake, chosen, "reference", DAY, table(0), dataset=chosen.dataset.under(0))
    worse = table(0, losses=random.normal(1.1, 0.2, 400))
    leave(lake, chosen, "other", DAY, worse, dataset=chosen.dataset.under(0))
    (_, found) = compare(lake, chosen, (), DAY, DAY)
    assert not found.of_worlds
    assert 0 < found.gap.low < found.gap.value < found.gap.high < 20


@pytest.fixture
def compared(lake: Lake) -> list[VariantComparison]:
    chosen = lineup(variant("reference"), variant("a_b"))
    for n, day in enumerate(windows(3)):
        leave(lake, chosen, "reference", day, table(n), total=100 * n)
        leave(lake, chosen, "a_b", day, table(n, losses=1.01), total=50 * n)
    return compare(lake, chosen, (), DAY, DAY.shift(2))


def test_table_markdown_and_columns_tell_the_same(compared: list[VariantComparison]) -> None:
    rows, columns, text = (
        comparison_page.table_rows(compared),
        comparison_page.columns(compared),
        comparison_page.markdown(compared),
    )
    assert {len(row) for row in rows} == {len(comparison_page.HEADER)}
    assert {len(column) for column in columns.values()} == {2}
    assert rows[0][-1] == "reference"
    assert rows[1][-1].startswith("+1.000 (+1.000 to +1.000")
    assert columns["gap_percent"] == pytest.approx([0, 1], abs=1e-4)
    assert all(cell in text for row in rows for cell in row)
    table, caption = text.split("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {len(comparison_page.HEADER) + 1}
    assert caption == comparison_page.caption(compared) + "\n"


def test_an_interval_says_what_it_knows_nothing_of(compared: list[VariantComparison]) -> None:
    assert "of the rows of these windows and one seed only: they say nothing of another day" in comparison_page.caption(
        compared
    )
    worlds = [replace(each, of_worlds=True, num_seeds=8) for each in compared]
    assert comparison_page.caption(worlds) == "Intervals (95 %) are over 8 seeds, each a world of its own."


def test_figures_show_every_variant(compared: list[VariantComparison]) -> None:
    figures = comparison_page.figures(compared, DAY.shift(2))
    assert set(figures) == {"gap_by_window.png", "loss_against_examples.png"}
    for figure in figures.values():
        axes = figure.axes[0]
        legend = axes.get_legend()
        assert legend is not None
        assert [entry.get_text().split(" ")[0] for entry in legend.get_texts()] == ["reference", "a_b"]
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        figure.canvas.draw()
