"""Selections in MLflow: a run per variant and seed, with what was kept of each window and what that was made of."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from pipeline.reporting.tracking.server import TrackingLost, job_tags, milliseconds, open_experiment, query, reaching
from pipeline.selection.inspection import kept_by
from pipeline.spec.job import SelectJob
from pipeline.storage.lake import Lake
from pipeline.training.chain.selections import Made

KIND = "selection"
"""The tag `windrow.kind` of these runs."""


class SelectionRuns:
    """The runs of a job that selects. A run that is there already goes on, as a curve over windows."""

    def __init__(self, lake: Lake, job: SelectJob, tracking_uri: str) -> None:
        self._lake, self._job, self._uri = lake, job, tracking_uri
        self._client = MlflowClient(tracking_uri)
        self._runs: dict[tuple[str, int], str] = {}
        self._lost: str | None = None

    def add(self, made: Made) -> dict[str, Any]:
        """Record a selection.

        Returns:
            What it kept and what it was made of, as plain data. A server that does not take it is left alone from then on.
        """
        kept = asdict(kept_by(self._lake, made.window, made.selection))
        lineage = {
            "variant": made.variant.name,
            "window": made.window.window.name,
            **kept,
            "window_rows": made.window.num_rows,
            "window_digest": made.window.digest,
            "selection_digest": made.selection.digest,
            "generation": made.selection.generation,
            "files": [part.path for part in made.selection.files],
            "read": {name: {"step": signal.producer, "digest": signal.digest} for name, signal in made.signals.items()},
        }
        if self._lost is None:
            try:
                with reaching(self._uri):
                    self._record(made, lineage)
            except TrackingLost as error:
                self._lost = str(error)
        return lineage

    def end(self) -> list[str]:
        """What a person must know: that MLflow lacks some of them."""
        if self._lost is None:
            return []
        return [f"all selections are in the lake, but not in MLflow: {self._lost}. Run this again once it answers"]

    def _record(self, made: Made, lineage: dict[str, Any]) -> None:
        experiment, origin = open_experiment(self._client, self._job.lineup, self._job.first)
        if (made.variant.name, made.seed) not in self._runs:
            self._runs[made.variant.name, made.seed] = self._opened(experiment, made)
        run, index = self._runs[made.variant.name, made.seed], made.window.window.days_since(origin)
        numbers = {name: value for name, value in lineage.items() if isinstance(value, int | float) and name != "seed"}
        points = [
            Metric(f"kept/{name}", float(value), milliseconds(), index)
            for name, value in numbers.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(run, metrics=points)
        self._client.log_dict(run, lineage, f"{made.window.window}.json")
        self._client.set_terminated(run)

    def _opened(self, experiment: str, made: Made) -> str:
        tags = {"windrow.kind": KIND, "windrow.variant": made.variant.name, "windrow.seed": str(made.seed)}
        for before in self._client.search_runs([experiment], query(tags)):
            return str(before.info.run_id)
        name = f"selection of {made.variant.name} seed {made.seed}"
        run = self._client.create_run(experiment, tags=job_tags() | tags, run_name=name)
        policy = made.variant.selection.model_dump(mode="json", exclude_none=True)
        params = [Param(f"selection.{field}", str(value)) for field, value in policy.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)
