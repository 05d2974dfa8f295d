"""Who starts services and is ended, in whatever way, leaves nothing behind; who lets go of them leaves them running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.local.services.leash import leash
from pipeline.local.services.processes import MARK
from tests.airflow_client import eventually
from tests.conftest import ROOT, free_ports
from tests.processes import processes_of

ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]
HOLDER = """
import sys, time
from pathlib import Path
from pipeline.local.services.leash import leash
with leash(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", ENDS)
def test_up_that_is_interrupted_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    environ = {**os.environ, "LIGHT_PORT": str(free_ports(1)[0]), "PYTHONPATH": str(ROOT)}
    starting = subprocess.Popen(
        [sys.executable, "-m", "tests.local.services.light", home], env=environ, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: len(processes_of(home)) >= 3, 60, "the supervisor, the server and its child run")
        starting.send_signal(number)
        assert starting.wait(timeout=60) != 0
        if number != signal.SIGKILL:
            assert not processes_of(home), "it ends only when all else has ended"
        eventually(lambda: not processes_of(home), 60, "all is ended")
    finally:
        starting.kill()
        starting.wait()


def test_what_is_on_a_leash_ends_with_its_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE)
    service = subprocess.Popen(["sleep", "600"], env={MARK: str(tmp_path)}, start_new_session=True)
    try:
        assert holder.stdout
        holder.stdout.readline()
        assert service.poll() is None
        holder.kill()
        assert service.wait(timeout=60) == -signal.SIGTERM
    finally:
        for process in (holder, service):
            process.kill()
            process.wait()


def test_what_is_let_off_the_leash_stays(tmp_path: Path) -> None:
    service = subprocess.Popen(["sleep", "600"], env={MARK: str(tmp_path)}, start_new_session=True)
    try:
        with leash(tmp_path):
            pass
        assert service.poll() is None
    finally:
        service.kill()
        service.wait()
