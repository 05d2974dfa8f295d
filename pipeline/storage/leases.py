"""Who trains which chains now: a job's lease in the lake, renewed while the job lives, so that two never train one chain at once."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipeline.spec.job import TrainJob
from pipeline.storage.lake import Conflict, Lake

log = logging.getLogger(__name__)

RENEW_S = 10.0
GONE_S = 60.0
"""A lease that nobody renewed for so long, by the clock of whoever waits for it, belongs to a job that is gone."""
WAIT_S = 30 * 60.0
"""A job waits so long for another that trains the same chains."""
POLL_S = 2.0


class StillTrained(Conflict):
    """Another job trains the same chains, and goes on for longer than this one waits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How leases are kept; tests are less patient."""

    renew_s: float = RENEW_S
    gone_s: float = GONE_S
    wait_s: float = WAIT_S
    poll_s: float = POLL_S


def chains_of(job: TrainJob) -> tuple[str, ...]:
    """The chains that a job trains: the data set, variant and seed of each."""
    lineup = job.lineup
    return tuple(
        f"{lineup.dataset.under(seed)}/{variant.name}/seed={seed}"
        for variant in lineup.only(job.variants)
        for seed in lineup.seeds
        if variant.start is None or variant.start <= job.last
    )


def holders(lake: Lake, lineup: str) -> frozenset[str]:
    """The jobs that hold a lease on some chain of a line-up."""
    return frozenset(_leases(lake.read(_path(lineup))))


@contextmanager
def held(lake: Lake, lineup: str, chains: tuple[str, ...], job: str, terms: Terms = Terms()) -> Iterator[None]:
    """Hold chains of a line-up while the block runs; wait for another job that holds one of them.

    A lease only keeps two jobs from doing the same work: that no step is published twice is the lake's conditional put.
    So a holder that sleeps through its lease does no harm.

    Args:
        lake: where leases are kept; any lake that replaces documents by a condition.
        lineup: whose chains.
        chains: what `chains_of` names.
        job: an id that no other job has.
        terms: how long to wait.

    Raises:
        StillTrained: the other job still trains when the time to wait is over.
    """
    lease = {
        "chains": list(chains),
        "who": f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": _machine(),
        "process": [os.getpid(), psutil.Process().create_time()],
        "beat": 0,
    }
    _acquire(lake, lineup, job, lease, terms)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lake, lineup, job, ended, terms), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join(timeout=terms.gone_s)
        _give_back(lake, lineup, job)


def _acquire(lake: Lake, lineup: str, job: str, lease: dict[str, Any], terms: Terms) -> None:
    seen: dict[str, tuple[int, float]] = {}
    deadline = time.monotonic() + terms.wait_s
    logged = False
    while True:
        before = lake.read(_path(lineup))
        leases, now = _leases(before), time.monotonic()
        for name, other in leases.items():
            if name not in seen or seen[name][0] != other["beat"]:
                seen[name] = (other["beat"], now)
        alive = {
            name: other
            for name, other in leases.items()
            if not _died_here(other) and now - seen[name][1] <= terms.gone_s
        }
        in_the_way = [other for other in alive.values() if set(other["chains"]) & set(lease["chains"])]
        if not in_the_way:
            try:
                lake.replace(_path(lineup), {"leases": {**alive, job: lease}}, before)
            except Conflict:
                time.sleep(random.uniform(0, 0.2))  # not in step with the other
                continue
            return
        other = in_the_way[0]
        shared = sorted(set(other["chains"]) & set(lease["chains"]))
        what = f"{', '.join(shared[:3])}{' and more' if len(shared) > 3 else ''} of line-up {lineup!r}"
        if now >= deadline:
            raise StillTrained(
                f"another job still trains {what} ({other['who']}) after {terms.wait_s:.0f} s: run this again when it has "
                "ended; what it has done by then is skipped"
            )
        if not logged:
            log.warning("Another job trains %s (%s): waiting for it, %.0f s at most", what, other["who"], terms.wait_s)
            logged = True
        time.sleep(min(terms.poll_s, max(0.0, deadline - now)))


def _renew(lake: Lake, lineup: str, job: str, ended: threading.Event, terms: Terms) -> None:
    while not ended.wait(terms.renew_s):
        try:
            kept = _change(lake, lineup, lambda leases: _beaten(leases, job))
        except Exception as error:  # noqa: BLE001 - a store that does not answer must not end the renewals
            log.debug("lease of %s not renewed: %s", job, error)
            continue
        if job not in kept:
            log.warning("Another job took over what this one trains, since its lease was not renewed in time")
            return


def _give_back(lake: Lake, lineup: str, job: str) -> None:
    try:
        _change(lake, lineup, lambda leases: {name: lease for name, lease in leases.items() if name != job})
    except Exception as error:  # noqa: BLE001 - it runs out by itself, and what was trained is done
        log.warning("The lease of line-up %s could not be given back, and runs out: %s", lineup, error)


def _beaten(leases: dict[str, Any], job: str) -> dict[str, Any]:
    if job not in leases:
        return leases
    return {**leases, job: {**leases[job], "beat": leases[job]["beat"] + 1}}


def _change(lake: Lake, lineup: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    while True:
        before = lake.read(_path(lineup))
        after = change(_leases(before))
        try:
            if after != _leases(before):
                lake.replace(_path(lineup), {"leases": after}, before)
        except Conflict:
            time.sleep(random.uniform(0, 0.2))
        else:
            return after


def _leases(document: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((document or {}).get("leases") or {})


def _path(lineup: str) -> str:
    return f"leases/{lineup}.json"


def _machine() -> str:
    """What a process id is unique in: this boot of this machine, and this container."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"


def _died_here(lease: Mapping[str, Any]) -> bool:
    """Whether a lease's process ran on this machine and has ended: nobody needs to wait for its lease to run out."""
    if lease["machine"] != _machine():
        return False
    pid, started = lease["process"]
    try:
        return bool(psutil.Process(pid).create_time() != started)
    except psutil.NoSuchProcess:
        return True
