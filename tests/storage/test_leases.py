"""Two jobs never train one chain at once, each chain of its own runs at once, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.spec.job import TrainJob
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.leases import StillTrained, Terms, chains_of, held, holders
from tests.trained import DAY, lineup, variant

QUICK = Terms(renew_s=0.05, gone_s=0.5, wait_s=30.0, poll_s=0.02)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def test_jobs_that_share_a_chain_take_turns_and_the_others_do_not(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    """Eight jobs at once, four chains: whoever is inside is alone with its chains."""
    inside: list[str] = []
    most: dict[str, int] = {}
    lock = threading.Lock()

    def work(number: int) -> None:
        chains = (f"d/a/seed={number % 4}", f"d/b/seed={number % 4}")
        with held(lake, "l", chains, f"job{number}", QUICK):
            with lock:
                inside.extend(chains)
                for chain in {*inside}:
                    most[chain] = max(most.get(chain, 0), inside.count(chain))
                at_once.append(len(inside))
            time.sleep(0.3)
            with lock:
                for chain in chains:
                    inside.remove(chain)

    at_once: list[int] = []
    jobs = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert set(most.values()) == {1}
    assert len(most) == 8
    assert max(at_once) > 2, "seeds of one study train at the same time"
    assert holders(lake, "l") == frozenset()
    waits = [r.getMessage() for r in caplog.records if "waiting for it" in r.getMessage()]
    assert len(waits) <= 8, "one line each"
    assert all(f"process {os.getpid()}" in line for line in waits)


def test_waiting_has_a_limit_and_ends_in_one_line(lake: Lake) -> None:
    with (
        held(lake, "l", ("d/a/seed=0",), "one", QUICK),
        pytest.raises(StillTrained, match=f"d/a/seed=0 of line-up 'l' .process {os.getpid()}.*run this again") as late,
        held(lake, "l", ("d/a/seed=0",), "two", Terms(0.05, 0.5, 0.2, 0.02)),
    ):
        pass
    assert "\n" not in str(late.value)
    assert isinstance(late.value, Conflict), "the command ends with 1 and this line"


def test_a_holder_that_lives_is_never_taken_for_gone(lake: Lake) -> None:
    """It renews its lease far more often than others lose patience."""
    with (
        held(lake, "l", ("c",), "one", Terms(renew_s=0.05, gone_s=0.4)),
        pytest.raises(StillTrained),
        held(lake, "l", ("c",), "two", Terms(gone_s=0.4, wait_s=1.5, poll_s=0.05)),
    ):
        pass


def test_a_killed_holder_on_this_machine_is_not_waited_for(lake: Lake) -> None:
    script = (
        "import sys, time; from pipeline.storage.lake import Lake; from pipeline.storage.leases import held\n"
        "with held(Lake(sys.argv[1]), 'l', ('c',), 'dead'): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(lake.root)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holders(lake, "l") == {"dead"}
    with held(lake, "l", ("c",), "next", Terms(wait_s=0.0)):
        assert holders(lake, "l") == {"next"}


def test_a_holder_elsewhere_that_says_nothing_more_is_gone_after_a_while(lake: Lake) -> None:
    lease: dict[str, Any] = {"chains": ["c"], "who": "x", "machine": "another", "process": [1, 0.0], "beat": 3}
    lake.replace("leases/l.json", {"leases": {"elsewhere": lease}}, None)
    started = time.monotonic()
    with held(lake, "l", ("c",), "next", QUICK):
        assert time.monotonic() - started >= QUICK.gone_s
        assert holders(lake, "l") == {"next"}


def test_a_lease_that_cannot_be_given_back_fails_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OSError("the store is away")

    with held(lake, "l", ("c",), "one", QUICK):
        monkeypatch.setattr(Lake, "replace", away)
        time.sleep(0.2)


def test_a_job_holds_the_chains_that_it_trains(lake: Lake) -> None:
    chosen = lineup(variant("a"), variant("b", start=DAY.shift(9)), seeds=(0, 3))
    job = TrainJob(lineup=chosen, first=DAY, last=DAY.shift(2), start="scratch")
    assert chains_of(job) == ("sim/a/seed=0", "sim/a/seed=3")
