"""What a job's attempts spent beside their steps, each moment counted once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.spec.job import TrainJob
from pipeline.storage.lake import Lake
from pipeline.training.chain.timings import account, spent
from tests.trained import DAY, lineup


def test_start_up_is_the_wait_for_each_attempt_and_not_the_attempt_that_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, job = Lake(str(tmp_path)), TrainJob(lineup=lineup(), first=DAY, last=DAY, start="scratch")
    assert spent(lake, job.lineup.name) == {"start-up": 0.0, "tracking": 0.0}
    # Submitted at 100, workers at 110, lost at 500, new workers at 504, done at 900; triggered again at 1,000.
    for submitted, began, ended in ((100.0, 110.0, 500.0), (100.0, 504.0, 900.0), (1000.0, 1007.0, 1010.0)):
        monkeypatch.setattr(time, "time", lambda ended=ended: ended)
        account(lake, job, submitted=submitted, began=began, tracking=2.0)
    assert spent(lake, job.lineup.name) == {"start-up": 10.0 + 4.0 + 7.0, "tracking": 6.0}


def test_jobs_of_a_line_up_are_added_up_and_others_are_not(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for chosen, last in ((lineup(), DAY), (lineup(), DAY.shift(1)), (lineup(name="other"), DAY)):
        account(
            lake, TrainJob(lineup=chosen, first=DAY, last=last, start="scratch"), submitted=5.0, began=8.0, tracking=1.0
        )
    assert spent(lake, "test") == {"start-up": 6.0, "tracking": 2.0}
