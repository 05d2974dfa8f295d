"""What a line-up's train jobs spend beside their steps: waiting for workers, and telling MLflow."""

from __future__ import annotations

import logging
import time

from obstore.exceptions import BaseError

from pipeline.spec.documents import content_key
from pipeline.spec.job import TrainJob
from pipeline.storage.lake import Conflict, Lake

log = logging.getLogger(__name__)
TRIES = 5


def account(lake: Lake, job: TrainJob, *, submitted: float, began: float, tracking: float) -> None:
    """Add an attempt of a job, as it ends; its workers may be lost and started again, or it may be triggered again.

    What was trained is worth more than how long it took: seconds that cannot be noted are logged, and nothing is raised.

    Args:
        lake: where it is kept.
        job: the document that was submitted.
        submitted: when, in seconds since 1970. What lies between that, or the end of the attempt before, and `began` is start-up.
        began: when its workers began.
        tracking: seconds spent on MLflow.
    """
    path = f"{_folder(job.lineup.name)}/{content_key(job.model_dump(mode='json'))[:16]}.json"
    reason: Exception | None = None
    for _ in range(TRIES):
        try:
            before = lake.read(path)
            known = {"start-up": 0.0, "tracking": 0.0, "until": submitted} | (before or {})
            after = {
                "start-up": known["start-up"] + began - max(submitted, known["until"]),
                "tracking": known["tracking"] + tracking,
                "until": time.time(),
            }
            lake.replace(path, after, before)
        except (Conflict, OSError, BaseError, ValueError) as error:
            reason = error
        else:
            return
    log.warning("How long this job took is not noted: %s", reason)


def spent(lake: Lake, lineup: str) -> dict[str, float]:
    """Seconds by part, over all train jobs of a line-up."""
    documents = [lake.read(name) or {} for name in lake.names(_folder(lineup))]
    return {part: sum(document.get(part, 0.0) for document in documents) for part in ("start-up", "tracking")}


def _folder(lineup: str) -> str:
    return f"studies/{lineup}/timings"
