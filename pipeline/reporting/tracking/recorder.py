"""The curves and stages of a training job in MLflow, sent while it trains and made whole at its end."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from pipeline.data.dataset import WindowManifest, read_manifest
from pipeline.reporting.tracking.server import (
    ATTEMPT_TAG,
    JOB_TAG,
    LAKE_TAG,
    LANE_TAG,
    MAX_DIGEST,
    MAX_METRICS,
    RECIPE_TAG,
    SUPERSEDED_TAG,
    Ending,
    all_runs,
    job_tags,
    log_points,
    milliseconds,
    open_experiment,
    query,
    recipe_of,
    running,
    short,
)
from pipeline.spec.config import StepConfig, Variant
from pipeline.spec.documents import content_key
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.leases import holders
from pipeline.training.chain.evaluations import Closed
from pipeline.training.chain.steps import StepManifest

log = logging.getLogger(__name__)

SEND_EVERY_S = 5.0
"""What a curve may lag behind."""
PAUSE_S = 30.0
"""A server that does not answer is left alone for so long, and for longer if it was slow to say nothing."""
LAST_TRIES = 3
LAST_PAUSE_S = 5.0
"""At a job's end: a server that is being restarted comes back within seconds."""


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


MODEL_TAGS = (
    "windrow.variant",
    "windrow.seed",
    "windrow.phase",
    "windrow.step",
    "windrow.generation",
    "windrow.checkpoint",
)
"""Of a stage's run, that its model has too."""


@dataclass(frozen=True, slots=True)
class _Point:
    """What is sent to a run for a step."""

    window: Window
    time: int
    """Milliseconds; the same when it is sent again, so that MLflow keeps one of them."""
    values: Mapping[str, float]


@dataclass
class _Curve:
    """The run of a chain, and the points that it may lack."""

    variant: Variant
    seed: int
    run_id: str | None = None
    known: dict[int, float] = field(default_factory=dict)
    """The losses that MLflow has, by point."""
    points: list[_Point] = field(default_factory=list)
    """Not sent yet."""


@dataclass
class _Stage:
    """A stage's run, what it has added up so far, and what was not sent yet."""

    curve: _Curve
    phase: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    began: int
    run_id: str | None = None
    model_id: str | None = None
    examples: int = 0
    training_flops: float = 0.0
    seconds: float = 0.0
    windows: list[str] = field(default_factory=list)
    inputs: list[DatasetInput] = field(default_factory=list)
    points: list[_Point] = field(default_factory=list)
    unsent: list[StepManifest] = field(default_factory=list)
    ended: tuple[Ending, int] | None = None

    def add(self, lake: Lake, closed: Closed, now: int) -> None:
        """Count a step that was trained in this stage."""
        step = closed.step
        self.examples += step.num_selected
        self.training_flops += step.flops.training
        self.seconds += step.seconds["train"]
        self.windows.append(step.window.name)
        self.unsent.append(step)
        values = _curve_point(closed) | {f"seconds/{k}": v for k, v in step.seconds.items()}
        values["seconds/evaluate"] = closed.evaluation.seconds
        totals = {
            "stage/examples": float(self.examples),
            "stage/training_flops": self.training_flops,
            "stage/train_seconds": self.seconds,
            "stage/examples_per_second": self.examples / max(self.seconds, 1e-9),
        }
        self.points.append(_Point(step.window, now, values | totals))
        self.tags |= {
            "windrow.step": step.key,
            "windrow.generation": step.generation,
            "windrow.checkpoint": "" if step.checkpoint is None else lake.address(step.checkpoint),
            "windrow.parent_step": step.parent or "",
            "windrow.windows": f"{self.windows[0]} to {self.windows[-1]}",
            "windrow.num_workers": str(step.num_workers),
            "windrow.normaliser": step.normaliser,
        }


class MlflowRecorder:
    """Records a train job's steps: curves on one run per (variant, seed), details on a run per stage.

    A stage is a phase of a span, or one window of the daily run. On a span that is done already nothing is written twice.
    Nothing here fails a job or holds it up for long: what MLflow does not take is kept and sent later. What it has not
    taken by the job's end is noted in the lake, and the next job that passes these steps sends it.
    """

    def __init__(
        self,
        lake: Lake,
        lineup: LineUp,
        *,
        first: Window,
        daily: bool,
        tracking_uri: str,
        job: str | None = None,
        lane: int = 0,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._lake, self._lineup, self._daily, self._first = lake, lineup, daily, first
        self._uri = tracking_uri
        self._client = MlflowClient(tracking_uri)
        self._job = job or uuid.uuid4().hex
        self._pause_s = pause_s
        self._tags = job_tags() | {
            JOB_TAG: self._job,
            ATTEMPT_TAG: uuid.uuid4().hex[:8],
            LANE_TAG: str(lane),
            LAKE_TAG: content_key(lake.url)[:16],
        }
        self._experiment: tuple[str, Window] | None = None
        self._found: dict[tuple[str, str], Run] = {}
        """The curves that were there before this job."""
        self._curves: dict[tuple[str, int], _Curve] = {}
        self._stage: _Stage | None = None
        self._stages: list[_Stage] = []
        """Those that MLflow does not have whole."""
        self._notes = _Notes(lake, lineup.name)
        self._not_before = -math.inf
        self._sent = time.monotonic()
        self.lost: str | None = None
        """Why MLflow lacks something of this job, if it does."""
        self.seconds = 0.0
        """Wall time spent talking to the server."""

    def begin(self, variant: Variant, seed: int, window: WindowManifest, config: StepConfig) -> None:
        """Open the stage's run, unless it is open, and note what goes into it."""
        curve = self._curve(variant, seed)
        phase = "online" if window.window >= self._lineup.online_start else "historical"
        stage, is_new = self._stage, False
        if stage is None or stage.curve is not curve or stage.phase != phase or self._daily:
            self.close()
            stage, is_new = self._opened(curve, phase, window.window, config), True
        dataset = Dataset(
            name=f"{window.dataset} {window.window}",
            digest=window.digest[:MAX_DIGEST],
            source_type="windrow lake",
            source=json.dumps({"manifest": self._lake.address(window.prefix), "digest": window.digest}),
            profile=json.dumps({"num_rows": window.num_rows, "num_positives": window.num_positives}),
        )
        stage.inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")]))
        if is_new:  # people look for it while it runs
            self._send()

    def done(self, variant: Variant, seed: int, closed: Closed, *, skipped: bool) -> None:
        """Add the step to its chain's curves, and to its stage when it was trained just now or never recorded."""
        curve, step = self._curve(variant, seed), closed.step
        curve.points.append(_Point(step.window, milliseconds(), _curve_point(closed)))
        if skipped and self._notes.has(curve.variant.name, seed, step):
            manifest = read_manifest(self._lake, step.dataset, step.window)
            if manifest is not None:
                self.begin(variant, seed, manifest, step.config)
                skipped = False
        if not skipped and self._stage is not None:
            self._stage.add(self._lake, closed, milliseconds())
            if self.lost is not None:
                self._notes.add(self._stage)
            if self._daily:
                self.close()
        if time.monotonic() - self._sent >= SEND_EVERY_S:
            self._send()

    def close(self, status: Ending = "FINISHED") -> None:
        """End the open stage."""
        if self._stage is not None:
            self._stage.ended = (status, milliseconds())
            self._stage = None
            self._send()

    def end(self, status: Ending = "FINISHED") -> None:
        """End every run that this job opened or went on with."""
        if self._stage is not None:
            self._stage.ended = (status, milliseconds())
            self._stage = None
        for left in reversed(range(LAST_TRIES)):
            if self._send(self._end_all(status)) or not left:
                return
            time.sleep(min(LAST_PAUSE_S, self._pause_s))

    def _curve(self, variant: Variant, seed: int) -> _Curve:
        return self._curves.setdefault((variant.name, seed), _Curve(variant, seed))

    def _opened(self, curve: _Curve, phase: str, window: Window, config: StepConfig) -> _Stage:
        tags = self._chain_tags(curve) | {
            "windrow.kind": "stage",
            "windrow.phase": phase,
            "windrow.window": window.name,
        }
        name = f"{curve.variant.name} {phase}" + (f" {window}" if self._daily else "")
        self._stage = _Stage(curve, phase, name, tags, describe(config), milliseconds())
        self._stages.append(self._stage)
        return self._stage

    def _send(self, then: Callable[[], None] | None = None) -> bool:
        """Send all that was noted; whether MLflow has it. Without `then` a server that failed is left alone for a while."""
        started = time.monotonic()
        if then is None and started < self._not_before:
            return False
        try:
            self._send_all()
            if then is not None:
                then()
        except (MlflowException, RequestException) as error:
            self._missed(error)
            return False
        else:
            if self.lost is not None:
                log.info("MLflow at %s answers again", self._uri)
            self.lost = None
            return True
        finally:
            self._sent = time.monotonic()
            self.seconds += self._sent - started
            if self.lost is not None:
                self._not_before = self._sent + max(self._pause_s, 10 * (self._sent - started))

    def _missed(self, error: Exception) -> None:
        if self.lost is None:
            log.warning("MLflow at %s does not take this job's runs (%s); training goes on", self._uri, short(error))
        self.lost = short(error)
        for stage in self._stages:
            self._notes.add(stage)

    def _send_all(self) -> None:
        if self._experiment is None:
            self._experiment = self._open()
        for curve in self._curves.values():
            self._send_curve(curve)
        for stage in list(self._stages):
            self._send_stage(stage)
            if stage.ended is not None and stage.run_id is not None:
                self._send_model(stage)
                self._client.set_terminated(stage.run_id, *stage.ended)
                self._stages.remove(stage)

    def _open(self) -> tuple[str, Window]:
        """Find the experiment and its curves, and close what dead jobs, or lost workers of this one, left open."""
        experiment, origin = open_experiment(self._client, self._lineup, self._first)
        alive = holders(self._lake, self._lineup.name) - {self._job}
        for run in all_runs(self._client, experiment, running({LAKE_TAG: self._tags[LAKE_TAG]})):
            owner = run.data.tags.get(JOB_TAG)
            beside = owner == self._job and run.data.tags.get(LANE_TAG) != self._tags[LANE_TAG]
            if owner not in alive and not beside:
                self._client.set_terminated(run.info.run_id, "FAILED" if owner == self._job else "KILLED")
        for run in all_runs(self._client, experiment, query({"windrow.kind": "variant"})):
            self._found.setdefault((run.data.tags["windrow.variant"], run.data.tags["windrow.seed"]), run)
        return experiment, origin

    def _send_curve(self, curve: _Curve) -> None:
        if curve.run_id is None:
            curve.run_id = self._curve_run(curve)
        while curve.points:
            metrics: list[Metric] = []
            known, sent = dict(curve.known), 0
            for point in curve.points:
                index, loss = self._index(point.window), point.values.get("log_loss", math.nan)
                more = [] if known.get(index) == loss else _metrics(point, index)
                if metrics and len(metrics) + len(more) > MAX_METRICS:
                    break
                metrics += more
                known[index] = loss
                sent += 1
            if metrics:
                self._client.log_batch(curve.run_id, metrics=metrics)
            curve.known = known
            del curve.points[:sent]

    def _curve_run(self, curve: _Curve) -> str:
        """A chain's run: the one that is there, unless it is of another recipe; its points become known."""
        experiment, _ = self._open_experiment
        recipe = content_key(curve.variant.model_dump(mode="json", exclude={"name"}, exclude_defaults=True))
        tags = self._chain_tags(curve) | {"windrow.kind": "variant", RECIPE_TAG: recipe}
        before = self._found.get((curve.variant.name, str(curve.seed)))
        if before is not None and before.data.tags.get(RECIPE_TAG) == recipe:
            run_id = str(before.info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
            history = self._client.get_metric_history(run_id, "log_loss")
            curve.known = {point.step: point.value for point in history}
            return run_id
        name = f"{curve.variant.name} seed {curve.seed}"
        run = self._client.create_run(experiment, tags=tags, run_name=name)
        params = {"variant": curve.variant.name, "seed": str(curve.seed), **recipe_of(curve.variant)}
        self._client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in params.items()])
        if before is not None:
            # Another kind, so that no chart of the variants shows both.
            old = {SUPERSEDED_TAG: "true", "windrow.kind": "earlier recipe"}
            self._client.log_batch(before.info.run_id, tags=[RunTag(k, v) for k, v in old.items()])
        return str(run.info.run_id)

    def _send_stage(self, stage: _Stage) -> None:
        experiment, _ = self._open_experiment
        if stage.run_id is None:
            tags = stage.tags | {"mlflow.parentRunId": str(stage.curve.run_id)}
            if self._daily:
                self._supersede(tags)
            run = self._client.create_run(experiment, start_time=stage.began, tags=tags, run_name=stage.name)
            self._client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in stage.params.items()])
            stage.run_id = str(run.info.run_id)
        if stage.points:
            log_points(
                self._client, stage.run_id, [m for p in stage.points for m in _metrics(p, self._index(p.window))]
            )
            self._client.log_batch(stage.run_id, tags=[RunTag(k, v) for k, v in stage.tags.items()])
            stage.points = []
        if stage.inputs:
            self._client.log_inputs(stage.run_id, stage.inputs)
            stage.inputs = []
        self._notes.remove(stage)
        stage.unsent = []

    def _send_model(self, stage: _Stage) -> None:
        """The last checkpoint of a stage as a model of the experiment, which points into the lake; nothing if none was kept."""
        if not stage.tags.get("windrow.checkpoint"):
            return
        if stage.model_id is None:
            name = f"{stage.curve.variant.name} seed {stage.curve.seed} {stage.windows[-1]}".replace(".", "_")
            tags = {tag: stage.tags[tag] for tag in MODEL_TAGS} | {"windrow.closed": stage.windows[-1]}
            made = self._client.create_logged_model(
                self._open_experiment[0], name=name, source_run_id=stage.run_id, tags=tags, model_type="click model"
            )
            stage.model_id = str(made.model_id)
        self._client.finalize_logged_model(stage.model_id, "READY")

    def _end_all(self, status: Ending) -> Callable[[], None]:
        """Ends the curves, and with them a run whose making was answered to nobody."""

        def ended() -> None:
            experiment, _ = self._open_experiment
            mine = {name: self._tags[name] for name in (JOB_TAG, ATTEMPT_TAG)}
            for run in all_runs(self._client, experiment, running(mine)):
                self._client.set_terminated(run.info.run_id, status)

        return ended

    @property
    def _open_experiment(self) -> tuple[str, Window]:
        if self._experiment is None:
            raise RuntimeError("the experiment is opened before anything is sent to it")
        return self._experiment

    def _index(self, window: Window) -> int:
        """The point of a window in every curve, MLflow's `step`: days since the experiment's first window."""
        return window.days_since(self._open_experiment[1])

    def _chain_tags(self, curve: _Curve) -> dict[str, str]:
        return {
            **self._tags,
            "windrow.variant": curve.variant.name,
            "windrow.seed": str(curve.seed),
            "windrow.branch": curve.variant.distillation.kind,
        }

    def _supersede(self, tags: Mapping[str, str]) -> None:
        """Mark earlier runs of the same window: its step is trained again as a new generation."""
        same = {k: tags[k] for k in ("windrow.kind", "windrow.variant", "windrow.seed", "windrow.window")}
        for run in self._client.search_runs([self._open_experiment[0]], query(same)):
            self._client.set_tag(run.info.run_id, SUPERSEDED_TAG, "true")
            made_by = f"source_run_id = '{run.info.run_id}'"
            for model in self._client.search_logged_models([self._open_experiment[0]], filter_string=made_by):
                self._client.set_logged_model_tags(model.model_id, {SUPERSEDED_TAG: "true"})


class _Notes:
    """Steps of a line-up that were trained while MLflow was away, in the lake: its stages lack them."""

    def __init__(self, lake: Lake, lineup: str) -> None:
        self._lake, self._lineup = lake, lineup
        self._known: dict[tuple[str, int], dict[str, str]] = {}
        """By chain, the generation that was not recorded, by window."""
        self._ours: set[str] = set()
        """The generations that this job will still record itself."""

    def has(self, variant: str, seed: int, step: StepManifest) -> bool:
        """Whether a step was trained by an earlier job and never recorded."""
        missing = self._of(variant, seed).get(step.window.name) == step.generation
        return missing and step.generation not in self._ours

    def add(self, stage: _Stage) -> None:
        """Note the steps of a stage that MLflow has not taken."""
        self._ours |= {step.generation for step in stage.unsent}
        self._change(stage, {step.window.name: step.generation for step in stage.unsent})

    def remove(self, stage: _Stage) -> None:
        """MLflow has them."""
        self._change(stage, {step.window.name: None for step in stage.unsent})

    def _change(self, stage: _Stage, change: Mapping[str, str | None]) -> None:
        variant, seed = stage.curve.variant.name, stage.curve.seed
        before = self._of(variant, seed)
        after = {day: generation for day, generation in {**before, **change}.items() if generation is not None}
        if after == before:
            return
        try:  # nobody else trains this chain now
            self._lake.replace(self._path(variant, seed), after, self._lake.read(self._path(variant, seed)))
        except (Conflict, OSError) as error:
            log.warning("What MLflow lacks of %s could not be noted in the lake: %s", variant, error)
        self._known[variant, seed] = after

    def _of(self, variant: str, seed: int) -> dict[str, str]:
        if (variant, seed) not in self._known:
            self._known[variant, seed] = self._lake.read(self._path(variant, seed)) or {}
        return self._known[variant, seed]

    def _path(self, variant: str, seed: int) -> str:
        return f"unrecorded/{self._lineup}/{variant}/seed={seed}.json"


def _curve_point(closed: Closed) -> dict[str, float]:
    """The loss comes last: where MLflow has it, it has the rest of the point too."""
    step, evaluation = closed
    point = {
        **evaluation.metrics,
        **{f"progressive/{k}": v for k, v in step.progressive.items()},
        "examples": float(step.total_examples),
        **{f"flops/{part}": spent for part, spent in step.total_flops.model_dump().items()},
        "flops/evaluation_in_window": evaluation.flops,
        "examples_in_window": float(step.num_selected),
        "throughput": step.num_selected / max(step.seconds["train"], 1e-9),
    }
    return point | ({"log_loss": point.pop("log_loss")} if "log_loss" in point else {})


def _metrics(point: _Point, index: int) -> list[Metric]:
    return [Metric(name, float(value), point.time, index) for name, value in point.values.items()]
