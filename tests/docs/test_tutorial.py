"""A log of one's own, word for word: the commands of the page, typed on a small log of the same columns."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "own_log.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
FIRST, NUM_DAYS, NUM_ROWS, ROWS_OF_A_PAGE = datetime(2023, 5, 18, tzinfo=UTC), 14, 1_200, 12


def write_day(folder: Path, day: int) -> None:
    """A day of front pages, each with some articles, of which a reader clicks on one or on none."""
    random = np.random.default_rng(day)
    start = FIRST + timedelta(days=day)
    place = np.arange(NUM_ROWS)
    article = 9_700_000 + random.integers(0, 50, NUM_ROWS)
    pq.write_table(
        pa.table(
            {
                "event_time": [start + timedelta(minutes=int(page)) for page in place // ROWS_OF_A_PAGE],
                "impression_id": 10_000_000 + 1_000 * day + place // ROWS_OF_A_PAGE,
                "article": article,
                "age_hours": random.lognormal(2, 1, NUM_ROWS),
                "history": [random.integers(9_700_000, 9_700_050, random.integers(0, 5)).tolist() for _ in place],
                "click": (random.random(NUM_ROWS) < 0.04 + 0.08 * (article % 2)).astype(np.int8),
            }
        ),
        folder / f"{start:%Y-%m-%d}.parquet",
    )


def typed(commands: str, folder: Path, server: str) -> subprocess.CompletedProcess[str]:
    """Some lines of the page in a shell that ends at the first that fails; Ray is one of each command's own."""
    environ = {
        **os.environ,
        "WINDROW_HOME": str(folder / "home"),
        "WINDROW_LAKE": str(folder / "lake"),
        "MLFLOW_TRACKING_URI": server,
        "RAY_ADDRESS": "local",
    }
    return subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.distributed
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_page_works_as_it_is_written(mlflow_server: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for day in range(NUM_DAYS):
        write_day(tmp_path / "logs", day)
    (study,) = (block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "kind: iso_compute" in block)
    (tmp_path / "news_sizes.yaml").write_text(study)
    *before, last = BLOCKS
    commands = [line.split()[1] for line in "".join(BLOCKS).splitlines() if line.startswith("windrow ")]
    assert commands == ["init", "ingest", "train", "compare", "study", "study", "plan"]

    done = typed("".join(before), tmp_path, mlflow_server)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("news.yaml", "news.schema.yaml", "answer/news_sizes.html"):
        assert (tmp_path / name).is_file(), name
    assert "kept_10" in (tmp_path / "news.yaml").read_text(), "the page names it"

    exported = [line for line in "".join(before).splitlines() if line.startswith("export ")]
    planned = typed("\n".join([*exported, last]), tmp_path, mlflow_server)
    if planned.returncode == 0:
        assert "windrow train --lineup planned.yaml" in planned.stdout
    else:  # a small log of few days: the page has what it says then
        assert re.match(r"windrow: .*\blaw\b", planned.stderr.splitlines()[-1]), planned.stderr
