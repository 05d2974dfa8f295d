"""The ids of a task's Ray jobs: the same for the same try, so that no death makes a job run twice."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTry:
    """One try of one task instance, and to which generation it belongs.

    A generation is what lies between two clearings of the task: within one, a retry may take over the job of an
    earlier try; a job of an earlier generation is one that a person no longer wants.

    >>> one = TaskTry(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=2, max_tries=2, retries=2)
    >>> one.submission_id(2)[:4], list(one.earlier_tries), list(one.earlier_generations)
    ('d-t-', [1], [])
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    max_tries: int
    """Constant over retries; clearing the task sets it to the tries so far plus the retries."""
    retries: int

    @property
    def generation_start(self) -> int:
        """The first try of this generation."""
        return min(max(self.max_tries - self.retries, 0) + 1, self.try_number)

    @property
    def earlier_tries(self) -> range:
        """The tries of this generation before this one, the latest first."""
        return range(self.try_number - 1, self.generation_start - 1, -1)

    @property
    def earlier_generations(self) -> range:
        """The tries before the task was last cleared."""
        return range(1, self.generation_start)

    def submission_id(self, try_number: int, repeat: int = 0) -> str:
        """The id of the job of a try.

        Args:
            try_number: which try.
            repeat: how many jobs of that name ended before; more than 0 where a run was deleted and made again.
        """
        place = [self.dag_id, self.run_id, self.task_id, str(self.map_index)]
        digest = hashlib.sha256("\0".join(place).encode()).hexdigest()[:12]
        mapped = f"-{self.map_index}" if self.map_index >= 0 else ""
        slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.dag_id}-{self.task_id}{mapped}")[:60].strip("-")
        again = f"-{repeat}" if repeat else ""
        return f"{slug}-{digest}-try{try_number}{again}"
