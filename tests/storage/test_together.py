"""Workers together: what one of them fails at, every one of them hears of."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.storage.together import is_of_all, on_all, on_first


def _work(rank: int, meeting: str, answers: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)

    def part() -> int:
        if rank == 1:
            raise OSError(errno.ENOSPC, "full")
        return rank

    found: list[Any] = [on_all(lambda: rank * 10), on_first(lambda: f"by {rank}")]
    for work in (lambda: on_all(part), lambda: on_first(lambda: [][rank])):
        try:
            work()
        except (OSError, IndexError) as error:
            found.append((type(error).__name__, is_of_all(error)))
    answers.put((rank, found))
    dist.destroy_process_group()


@pytest.mark.distributed
def test_an_error_of_one_worker_is_raised_on_every_one(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_work, args=(rank, str(tmp_path / "meeting"), answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(60)
    assert found[0] == found[1] == [[0, 10], "by 0", ("OSError", True), ("IndexError", True)]
