"""MLflow's server as all of this writes to it: a line-up's experiment, the tags of runs, and what its errors come to."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Run
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from pipeline.data.dataset import read_manifest
from pipeline.spec.config import Variant
from pipeline.spec.documents import content_key
from pipeline.spec.job import SUBMISSION_TAG, SUBMISSION_VARIABLE, TAGS_VARIABLE
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake

# Read by MLflow at each request. Its own defaults hold a job up for many minutes when the server is away.
for _name, _value in {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run that ends
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}.items():
    os.environ.setdefault(_name, _value)

log = logging.getLogger(__name__)

ORIGIN_TAG = "windrow.first_window"
JOB_TAG = "windrow.job"
"""The train job that opened a run, or last went on with it: whoever finds it dead closes the run."""
ATTEMPT_TAG = "windrow.attempt"
"""Which group of workers of that job."""
LANE_TAG = "windrow.lane"
"""Which of the job's lanes records a run."""
LAKE_TAG = "windrow.lake"
"""Which lake's jobs: several may share a server."""
RECIPE_TAG = "windrow.recipe"
"""What a curve's variant is made of: another recipe under the same name has a curve of its own."""
SUPERSEDED_TAG = "windrow.superseded"
MAX_DIGEST = 36
MAX_METRICS = 1000
"""What MLflow takes in one call."""
MAX_TAG = 4000
"""Characters of a tag; a little less than what MLflow takes."""
Ending = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingLost(RuntimeError):
    """MLflow does not answer, or refuses what it is sent."""


@contextmanager
def reaching(tracking_uri: str) -> Iterator[None]:
    """Name the server in whatever goes wrong with it.

    Raises:
        TrackingLost: it cannot be reached, or refuses.
    """
    try:
        yield
    except (MlflowException, RequestException) as error:
        raise TrackingLost(f"MLflow at {tracking_uri} does not take it: {short(error)}") from error


def open_experiment(client: MlflowClient, lineup: LineUp, first: Window) -> tuple[str, Window]:
    """The experiment of a line-up and the window that is point 0 of its curves: `first`, when it is new.

    One that a person deleted is restored: its name is taken, so that no other can be made.
    """
    found = client.get_experiment_by_name(lineup.name)
    if found is None:
        tags = {
            ORIGIN_TAG: first.name,
            "windrow.dataset": lineup.dataset.name,
            "windrow.reference": lineup.reference,
            "mlflow.experimentKind": "custom_model_development",  # else its page opens on traces of language models
        }
        try:
            return client.create_experiment(lineup.name, tags=tags), first
        except MlflowException:
            found = client.get_experiment_by_name(lineup.name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
        log.warning("MLflow's experiment %r had been deleted there, and is restored with its runs", lineup.name)
    return str(found.experiment_id), _origin(client, found, first)


def _origin(client: MlflowClient, found: Experiment, first: Window) -> Window:
    if ORIGIN_TAG not in found.tags:
        client.set_experiment_tag(found.experiment_id, ORIGIN_TAG, first.name)
        return first
    return Window.of(found.tags[ORIGIN_TAG])


def close_runs(lineup: str, job: str, tracking_uri: str, status: Ending) -> None:
    """Give the runs that a train job leaves open their end; what went wrong is logged, since the job ends anyway."""
    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(lineup)
        if found is not None:
            for run in client.search_runs([found.experiment_id], running({JOB_TAG: job})):
                client.set_terminated(run.info.run_id, status)
    except (MlflowException, RequestException) as error:
        log.warning("MLflow at %s still shows this job as running, until the next one: %s", tracking_uri, short(error))


def job_tags() -> dict[str, str]:
    """Who runs this job: the submission, and the DAG's run and task where there is one."""
    tags = {str(name): str(value) for name, value in json.loads(os.environ.get(TAGS_VARIABLE) or "{}").items()}
    if submission := os.environ.get(SUBMISSION_VARIABLE):
        tags[SUBMISSION_TAG] = submission
    return {**tags, "windrow.version": version("windrow")}


def log_points(client: MlflowClient, run_id: str, points: list[Metric]) -> None:
    """Log any number of points."""
    for start in range(0, len(points), MAX_METRICS):
        client.log_batch(run_id, metrics=points[start : start + MAX_METRICS])


def query(tags: Mapping[str, str]) -> str:
    """A search for the runs that have these tags."""
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())


def running(tags: Mapping[str, str]) -> str:
    return f"attributes.status = 'RUNNING' and {query(tags)}"


def all_runs(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """Every run that fits, the latest first."""
    found: list[Run] = []
    token: str | None = None
    while token != "":
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return found


def milliseconds() -> int:
    """The time as MLflow takes it."""
    return int(time.time() * 1000)


def data_of(lake: Lake, lineup: LineUp, first: Window, last: Window) -> list[DatasetInput]:
    """What variants were compared on, for a run's inputs: the span's windows of each data set, by their content."""
    found = []
    for name in lineup.dataset.names(lineup.seeds):
        manifests = [read_manifest(lake, name, window) for window in Window.span(first, last)]
        there = [manifest for manifest in manifests if manifest is not None]
        if not there:  # a seed's windows may be thrown away once its rows are written
            continue
        digest = content_key([manifest.digest for manifest in there])
        profile = {"num_windows": len(there), "num_rows": sum(manifest.num_rows for manifest in there)}
        dataset = Dataset(
            name=f"{name} {there[0].window} to {there[-1].window}",
            digest=digest[:MAX_DIGEST],
            source_type="windrow lake",
            source=json.dumps({"windows": lake.address(f"windows/{name}"), "digest": digest}),
            profile=json.dumps(profile),
        )
        found.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "evaluation")]))
    return found


def recipe_of(variant: Variant) -> dict[str, str]:
    """What distinguishes a variant, as parameters that the Compare page shows side by side."""
    selection, distillation = variant.selection, variant.distillation
    chosen = selection.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    size = variant.model.size if isinstance(variant.model.size, str) else "custom"
    return {
        "model": f"{variant.model.arch} {size}",
        "selection": ", ".join([selection.kind, *(f"{name} {value}" for name, value in chosen.items())]),
        "knowledge_distillation": distillation.kind,
        "teacher": variant.teacher or "none",
        "soft_weight": "0" if distillation.kind == "none" else f"{distillation.weight:g}",
        "batch_size": str(variant.optimizer.batch_size),
        "learning_rates": f"{variant.optimizer.embedding_lr:g} and {variant.optimizer.dense_lr:g}",
    }


_OF_A_CONNECTION = {
    "Connection refused": "nothing listens there",
    "Name or service not known": "there is no such host",
    "timed out": "it did not answer in time",
    "Connection reset": "it closed the connection",
    "Connection aborted": "it closed the connection",
}
"""What a library says in several lines, in words."""


def short(error: Exception) -> str:
    """An error in a few words: what MLflow's client says of a server that is away goes on for several lines."""
    said = " ".join(str(error).split())
    return next((words for known, words in _OF_A_CONNECTION.items() if known in said), said[:300])
