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
        raise of_all(outcome[1])
    return outcome[0]  # type: ignore[no-any-return]


def on_all(work: Callable[[], T]) -> list[T]:
    """Do each worker's part of something, and go on once every part is done; every worker calls this.

    Returns:
        What each worker's part gave, in their order.

    Raises:
        Exception: the first worker's that failed, on every worker; by then none of them is still at work.
    """
    outcome = _tried(work)
    outcomes: list[Any] = [outcome]
    if dist.get_world_size() > 1:
        outcomes = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, outcome)
    if first := next((error for _, error in outcomes if error is not None), None):
        raise of_all(first)
    return [found for found, _ in outcomes]


def of_all(error: BaseException) -> BaseException:
    """The same error, marked as one that every worker raises."""
    error._of_all_workers = True  # type: ignore[attr-defined]
    return error


def is_of_all(error: BaseException) -> bool:
    """Whether an error was raised on every worker: none of them waits for another, and none is still at work."""
    return getattr(error, "_of_all_workers", False)


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
