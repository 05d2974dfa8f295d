"""The one door to MLflow: one experiment per line-up or study, its curves, stages and comparisons."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipeline.config import StepConfig, Variant
from pipeline.dataset import WindowManifest
from pipeline.job import SUBMISSION_TAG, SUBMISSION_VARIABLE, TAGS_VARIABLE
from pipeline.lake import Lake
from pipeline.lineup import LineUp
from pipeline.steps import StepManifest
from pipeline.window import Window

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines per run that ends

ORIGIN_TAG = "windrow.first_window"
MAX_DIGEST = 36
MAX_METRICS = 1000
"""What MLflow takes in one call."""
SEND_EVERY_S = 5.0
"""What a curve may lag behind."""


def window_index(client: MlflowClient, experiment_id: str, window: Window) -> int:
    """The `step` of a window in every curve of an experiment: days since the experiment's first window."""
    origin = client.get_experiment(experiment_id).tags[ORIGIN_TAG]
    return window.days_since(Window.of(origin))


def open_experiment(client: MlflowClient, lineup: LineUp, first: Window) -> str:
    """The experiment of a line-up, made when it is not there; `first` becomes step 0 of its curves then."""
    found = client.get_experiment_by_name(lineup.name)
    if found is None:
        tags = {
            ORIGIN_TAG: first.name,
            "windrow.dataset": lineup.dataset.name,
            "windrow.reference": lineup.reference,
            "mlflow.experimentKind": "custom_model_development",  # else its page opens on traces of language models
        }
        try:
            return client.create_experiment(lineup.name, tags=tags)
        except MlflowException:
            found = client.get_experiment_by_name(lineup.name)
            if found is None:
                raise
    if ORIGIN_TAG not in found.tags:
        client.set_experiment_tag(found.experiment_id, ORIGIN_TAG, first.name)
    return str(found.experiment_id)


def job_tags() -> dict[str, str]:
    """Who runs this job: the submission, and the DAG's run and task where there is one."""
    tags = {str(name): str(value) for name, value in json.loads(os.environ.get(TAGS_VARIABLE) or "{}").items()}
    if submission := os.environ.get(SUBMISSION_VARIABLE):
        tags[SUBMISSION_TAG] = submission
    return {**tags, "windrow.version": version("windrow")}


def describe(config: StepConfig) -> dict[str, str]:
    """A resolved config as flat parameters, one per choice."""
    flat: dict[str, str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                add(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            flat[prefix] = json.dumps(value) if isinstance(value, list) else str(value)

    add("", config.model_dump(mode="json"))
    return flat


@dataclass
class _Stage:
    """An open stage run and what it has added up so far."""

    run_id: str
    phase: str
    chain: tuple[str, int]
    examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    windows: list[str] = field(default_factory=list)
    inputs: list[DatasetInput] = field(default_factory=list)
    """Not sent yet."""


class MlflowRecorder:
    """Records a train job's steps: curves on one run per (variant, seed), details on a run per stage.

    A stage is a phase of a span, or one window of the daily run. On a span that is done already nothing is written twice.
    """

    def __init__(self, lake: Lake, lineup: LineUp, *, first: Window, daily: bool, tracking_uri: str) -> None:
        self._lake, self._lineup, self._daily = lake, lineup, daily
        self._client = MlflowClient(tracking_uri)
        self._experiment = open_experiment(self._client, lineup, first)
        self._tags = job_tags()
        self._curves: dict[tuple[str, int], tuple[str, dict[int, float]]] = {}
        self._stage: _Stage | None = None
        self._pending: dict[str, tuple[list[Metric], dict[str, str]]] = {}
        self._sent = time.monotonic()
        self.seconds = 0.0
        """Wall time spent talking to the server."""

    def begin(self, variant: Variant, seed: int, window: WindowManifest, config: StepConfig) -> None:
        """Open the stage's run, unless it is open, and note what goes into it."""
        started = time.perf_counter()
        phase = "online" if window.window >= self._lineup.online_start else "historical"
        chain = (variant.name, seed)
        name = f"{variant.name} {phase}" + (f" {window.window}" if self._daily else "")
        stage = self._stage
        if stage is None or stage.chain != chain or stage.phase != phase or self._daily:
            self.close()
            curve, _ = self._curve(variant, seed)
            tags = self._chain_tags(variant, seed) | {
                "windrow.kind": "stage",
                "windrow.phase": phase,
                "windrow.window": window.window.name,
                "mlflow.parentRunId": curve,
            }
            if self._daily:
                self._supersede(tags)
            run = self._client.create_run(self._experiment, tags=tags, run_name=name)
            params = [Param(k, v) for k, v in describe(config).items()]
            self._client.log_batch(run.info.run_id, params=params)
            self._stage = stage = _Stage(run.info.run_id, phase, chain)
        dataset = Dataset(
            name=f"{window.dataset} {window.window}",
            digest=window.digest[:MAX_DIGEST],
            source_type="windrow lake",
            source=json.dumps({"manifest": self._lake.address(window.prefix), "digest": window.digest}),
            profile=json.dumps({"num_rows": window.num_rows, "num_positives": window.num_positives}),
        )
        stage.inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")]))
        self.seconds += time.perf_counter() - started

    def done(self, variant: Variant, seed: int, step: StepManifest, *, skipped: bool) -> None:
        """Add the step to its chain's curves, and to its stage when it was trained just now."""
        started = time.perf_counter()
        run_id, known = self._curve(variant, seed)
        index = window_index(self._client, self._experiment, step.window)
        loss = step.metrics.get("log_loss", float("nan"))
        if known.get(index) != loss:
            known[index] = loss
            self._log(run_id, index, _curve_point(step))
        if not skipped and self._stage is not None:
            stage = self._stage
            stage.examples += step.num_selected
            stage.flops += step.flops
            stage.seconds += step.seconds["train"]
            stage.windows.append(step.window.name)
            self._log(stage.run_id, index, _curve_point(step) | {f"seconds/{k}": v for k, v in step.seconds.items()})
            totals = {
                "stage/examples": float(stage.examples),
                "stage/flops": stage.flops,
                "stage/train_seconds": stage.seconds,
                "stage/examples_per_second": stage.examples / max(stage.seconds, 1e-9),
            }
            self._log(stage.run_id, index, totals)
            tags = {
                "windrow.step": step.key,
                "windrow.generation": step.generation,
                "windrow.checkpoint": "" if step.checkpoint is None else self._lake.address(step.checkpoint),
                "windrow.parent_step": step.parent or "",
                "windrow.windows": f"{stage.windows[0]} to {stage.windows[-1]}",
                "windrow.num_workers": str(step.num_workers),
                "windrow.normaliser": step.normaliser,
            }
            self._log(stage.run_id, index, {}, tags)
            if self._daily:
                self.close()
        if time.monotonic() - self._sent >= SEND_EVERY_S:
            self._send()
        self.seconds += time.perf_counter() - started

    def close(self, status: str = "FINISHED") -> None:
        """End the open stage."""
        if self._stage is not None:
            self._send()
            self._client.set_terminated(self._stage.run_id, status)
            self._stage = None

    def end(self, status: str = "FINISHED") -> None:
        """End every run that this job opened or went on with."""
        self.close(status)
        self._send()
        for run_id, _ in self._curves.values():
            self._client.set_terminated(run_id, status)

    def _curve(self, variant: Variant, seed: int) -> tuple[str, dict[int, float]]:
        """The run with a chain's curves and the points it has."""
        chain = (variant.name, seed)
        if chain not in self._curves:
            tags = self._chain_tags(variant, seed) | {"windrow.kind": "variant"}
            run = _find(
                self._client,
                self._experiment,
                {k: tags[k] for k in ("windrow.kind", "windrow.variant", "windrow.seed")},
            )
            if run is None:
                run = self._client.create_run(self._experiment, tags=tags, run_name=f"{variant.name} seed {seed}")
                params = {"variant": variant.name, "seed": str(seed), **_recipe(variant)}
                self._client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in params.items()])
            else:
                self._client.update_run(run.info.run_id, status="RUNNING")
                self._client.log_batch(run.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
            history = self._client.get_metric_history(run.info.run_id, "log_loss")
            self._curves[chain] = (run.info.run_id, {point.step: point.value for point in history})
        return self._curves[chain]

    def _chain_tags(self, variant: Variant, seed: int) -> dict[str, str]:
        return {
            **self._tags,
            "windrow.variant": variant.name,
            "windrow.seed": str(seed),
            "windrow.branch": variant.distillation.kind,
        }

    def _supersede(self, tags: Mapping[str, str]) -> None:
        """Mark earlier runs of the same window: its step is trained again as a new generation."""
        same = {k: tags[k] for k in ("windrow.kind", "windrow.variant", "windrow.seed", "windrow.window")}
        for run in self._client.search_runs([self._experiment], _filter(same)):
            self._client.set_tag(run.info.run_id, "windrow.superseded", "true")

    def _log(self, run_id: str, step: int, values: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        """Note points and tags, to be sent soon: a study's windows close faster than a server answers."""
        now = int(time.time() * 1000)
        metrics, known = self._pending.setdefault(run_id, ([], {}))
        metrics += [Metric(k, float(v), now, step) for k, v in values.items()]
        known |= tags or {}

    def _send(self) -> None:
        """Send all that was noted."""
        for run_id, (metrics, tags) in self._pending.items():
            _log_points(self._client, run_id, metrics)
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._pending = {}
        if self._stage is not None and self._stage.inputs:
            self._client.log_inputs(self._stage.run_id, self._stage.inputs)
            self._stage.inputs = []
        self._sent = time.monotonic()


def record_comparison(
    lineup: LineUp,
    *,
    first: Window,
    tracking_uri: str,
    summaries: Mapping[str, Mapping[Window, Mapping[str, float]]],
    headline: Mapping[str, Mapping[str, float]],
    table: Mapping[str, list[Any]],
    figures: Mapping[str, Figure],
    text: str,
) -> str:
    """Log a comparison: a summary run per variant, to be selected and compared, and one run with table and figures.

    Args:
        lineup: names the experiment.
        first: step 0 of the curves, should the experiment be new.
        tracking_uri: the server.
        summaries: per variant and window, means over seeds and their bands.
        headline: per variant, figures over all windows.
        table: columns of the comparison's table.
        figures: by file name.
        text: the table as markdown.

    Returns:
        The id of the run with table and figures.
    """
    client = MlflowClient(tracking_uri)
    experiment = open_experiment(client, lineup, first)
    now = int(time.time() * 1000)
    for variant, windows in summaries.items():
        tags = job_tags() | {"windrow.kind": "summary", "windrow.variant": variant}
        run = _renew(client, experiment, tags, f"{variant} (all seeds)")
        client.log_batch(run, params=[Param(k, v) for k, v in _recipe(lineup.variant(variant)).items()])
        points = [
            Metric(name, float(value), now, window_index(client, experiment, window))
            for window, values in windows.items()
            for name, value in values.items()
            if math.isfinite(value)
        ]
        points += [Metric(f"overall/{name}", float(value), now, 0) for name, value in headline[variant].items()]
        _log_points(client, run, points)
        client.set_terminated(run)
    compared = sorted(window for windows in summaries.values() for window in windows)
    span = f"{compared[0]} to {compared[-1]}"
    tags = job_tags() | {"windrow.kind": "comparison", "windrow.windows": span, "mlflow.note.content": text}
    run = _renew(client, experiment, tags, f"comparison with {lineup.reference}")
    client.log_table(run, dict(table), "comparison.json")
    client.log_text(run, text, "comparison.md")
    for name, figure in figures.items():
        client.log_figure(run, figure, name)
    client.set_terminated(run)
    return run


def record_report(
    lineup: LineUp,
    *,
    first: Window,
    tracking_uri: str,
    metrics: Mapping[str, float],
    headline: str,
    figures: Mapping[str, Figure],
    page: str,
) -> str:
    """Log what a study answers: its page, figures and the figures' numbers.

    Returns:
        The id of the run.
    """
    client = MlflowClient(tracking_uri)
    experiment = open_experiment(client, lineup, first)
    tags = job_tags() | {"windrow.kind": "report", "mlflow.note.content": headline}
    run = _renew(client, experiment, tags, f"report of {lineup.name}")
    now = int(time.time() * 1000)
    points = [Metric(name, float(value), now, 0) for name, value in metrics.items() if math.isfinite(value)]
    _log_points(client, run, points)
    client.log_text(run, page, "report.html")
    for name, figure in figures.items():
        client.log_figure(run, figure, name)
    client.set_terminated(run)
    return run


def _renew(client: MlflowClient, experiment: str, tags: Mapping[str, str], name: str) -> str:
    """A fresh run in the place of the one that said the same before, which is removed from the list."""
    same = {k: tags[k] for k in ("windrow.kind", "windrow.variant", "windrow.windows") if k in tags}
    before = client.search_runs([experiment], _filter(same))
    run = client.create_run(experiment, tags=dict(tags), run_name=name)
    for old in before:
        client.delete_run(old.info.run_id)
    return str(run.info.run_id)


def _recipe(variant: Variant) -> dict[str, str]:
    """What distinguishes a variant, as parameters that the Compare page shows side by side."""
    selection, distillation = variant.selection, variant.distillation
    size = variant.model.size if isinstance(variant.model.size, str) else "custom"
    drawn = {"all": "all", "negatives": "", "odds": " in proportion to the pilot's odds"}[selection.kind]
    return {
        "model": f"{variant.model.arch} {size}",
        "selection": drawn if selection.kind == "all" else f"{selection.rate:g} of negatives, {selection.scope}{drawn}",
        "correction": "none" if selection.kind == "all" else selection.correction,
        "knowledge_distillation": distillation.kind,
        "teacher": variant.teacher or "none",
        "soft_weight": "0" if distillation.kind == "none" else f"{distillation.weight:g}",
        "batch_size": str(variant.optimizer.batch_size),
        "learning_rates": f"{variant.optimizer.embedding_lr:g} and {variant.optimizer.dense_lr:g}",
    }


def _curve_point(step: StepManifest) -> dict[str, float]:
    return {
        **step.metrics,
        **{f"progressive/{k}": v for k, v in step.progressive.items()},
        "examples": float(step.total_examples),
        "flops": step.total_flops,
        "examples_in_window": float(step.num_selected),
        "throughput": step.num_selected / max(step.seconds["train"], 1e-9),
    }


def _log_points(client: MlflowClient, run_id: str, points: list[Metric]) -> None:
    """Log any number of points."""
    for start in range(0, len(points), MAX_METRICS):
        client.log_batch(run_id, metrics=points[start : start + MAX_METRICS])


def _filter(tags: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())


def _find(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> Run | None:
    runs = client.search_runs([experiment], _filter(tags), max_results=1)
    return runs[0] if runs else None
