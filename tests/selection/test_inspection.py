"""What `windrow inspect` says of a selection is what was trained on, counted again from the window itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.dataset import read_row_group, require_manifest
from pipeline.selection.inspection import inspect
from pipeline.selection.policies.el2n import El2n
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.lineup import document
from pipeline.storage.lake import Lake
from tests.trained import DATASET, DAY, lineup, publish, train, variant, windows


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


LINEUP = lineup(
    variant(),
    variant("few", selection=NegativeDownsampling(rate=0.1)),
    variant("hard", selection=El2n(rate=0.3, pilot="plain")),
)


def test_what_was_kept_is_counted(lake: Lake) -> None:
    publish(lake, windows(2), rows_per_window=4000)
    train(lake, LINEUP, 2)
    found = inspect(lake, DATASET, DAY.shift(1))
    manifest = require_manifest(lake, DATASET, DAY.shift(1))
    label = np.concatenate([read_row_group(lake, manifest, g, ["label"]).column(0).to_numpy() for g in range(manifest.num_row_groups)])  # fmt: skip
    assert found.num_rows == len(label)
    assert found.click_rate == pytest.approx(label.mean())
    by_policy = {kept.policy.split("(")[0]: kept for kept in found.kept}
    few, hard = by_policy["negatives"], by_policy["el2n"]
    assert "rate 0.1" in few.policy
    assert few.clicks_kept == 1
    assert few.num_rows == pytest.approx(label.sum() + 0.1 * (label == 0).sum(), rel=0.15)
    assert few.greatest_importance == pytest.approx(10)
    assert few.click_rate > found.click_rate
    for kept in (few, hard):
        assert kept.weighted_click_rate == pytest.approx(found.click_rate, rel=0.35), "it stands for all rows"
        assert kept.effective_rows <= kept.num_rows
        assert all(0 <= share <= 1 for share in kept.rare_ids_kept.values())


def test_the_command_shows_a_line_for_each_selection(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(lake, windows(1))
    train(lake, LINEUP, 1)
    monkeypatch.setenv("WINDROW_LAKE", lake.url)
    path = tmp_path / "lineup.yaml"
    path.write_text(yaml.safe_dump(document(LINEUP)))
    ran = CliRunner().invoke(app, ["inspect", DAY.name, "--lineup", str(path)])
    assert ran.exit_code == 0, ran.output
    assert "negatives" in ran.stdout
    assert "100.0%" in ran.stdout
    missing = CliRunner().invoke(app, ["inspect", DAY.shift(9).name, "--lineup", str(path)])
    assert missing.exit_code == 2
    assert "publish it with `windrow ingest`" in " ".join(missing.output.split())
