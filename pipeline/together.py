"""What workers do together: one of them for all, or each its part; an error of any of them reaches every one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def on_first(work: Callable[[], T]) -> T:
    """Do something on worker 0 and give every worker its result, or its error; every worker calls this."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        outcome = _tried(work)
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]  # type: ignore[no-any-return]


def on_all(work: Callable[[], T]) -> T:
    """Do each worker's part of something, and go on once every part is done; every worker calls this.

    Raises:
        Exception: the first worker's that failed, on every worker; by then none of them is still at work.
    """
    outcome = _tried(work)
    errors = [outcome[1]]
    if dist.get_world_size() > 1:
        errors = [None] * dist.get_world_size()
        dist.all_gather_object(errors, outcome[1])
    if first := next((error for error in errors if error is not None), None):
        raise first
    return outcome[0]  # type: ignore[no-any-return]


def _tried(work: Callable[[], Any]) -> list[Any]:
    """What work gave and None, or None and its error in a form that other processes can read."""
    try:
        return [work(), None]
    except Exception as error:  # noqa: BLE001 - raised by the caller, on every worker
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever an error's own constructor asks for
            return [None, RuntimeError(f"{type(error).__name__}: {error}")]
        return [None, error]
