"""A study seed by seed: small rows are left, the windows behind them are deleted, and the rows alone answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

STUDY = """
kind: distillation
lineup: worlds
seeds: 3-4
first: 2024-01-01
online_start: 2024-01-03
last: 2024-01-06
teacher_size: small
student_size: tiny
lanes: 1
"""

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_rows_are_left_windows_deleted_and_the_rows_answer(tmp_path: Path, mlflow_server: str) -> None:
    worlds = yaml.safe_load((ROOT / "dags" / "lineups" / "drift.yaml").read_text())
    worlds["name"] = "worlds"
    worlds["dataset"]["source"]["settings"]["rows_per_window"] = 600
    (tmp_path / "worlds.yaml").write_text(yaml.safe_dump(worlds))
    (tmp_path / "study.yaml").write_text(STUDY)
    lake, cells = tmp_path / "lake", tmp_path / "cells"
    environ = os.environ | {
        "RAY_ADDRESS": "local",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "WINDROW_HOME": str(tmp_path / "home"),
        "WINDROW_LAKE": str(lake),
        "WINDROW_LINEUP": str(tmp_path / "worlds.yaml"),
    }

    def study(*options: str) -> str:
        command = ["windrow", "study", str(tmp_path / "study.yaml"), *options]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    assert "2 of 2 seeds are done" in study("--cells", str(cells), "--discard")
    assert sorted(file.name for file in cells.iterdir()) == ["study-seed3.parquet", "study-seed4.parquet"]
    assert not list((lake / "windows").iterdir()), "a seed's windows are gone once its rows are written"
    assert not list((lake / "steps").iterdir())
    assert "2 of 2 seeds are done already" in study("--cells", str(cells))
    study("--from", str(cells), "--folder", str(tmp_path / "page"))
    page = (tmp_path / "page" / "study.md").read_text()
    assert "these 2 worlds only" in page
    assert "Not shown" in page
