"""The stage engine: trains a list of (variant, window) steps, keeps what is done, publishes each step whole."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from pipeline.checkpoint import MissingCheckpoint, load_checkpoint, save_checkpoint
from pipeline.config import Cutover, StepConfig, Variant, cutover_window, resolve
from pipeline.dataset import WindowManifest, read_schema, require_manifest, require_whole
from pipeline.evaluate import Evaluation, evaluate
from pipeline.examples import Share
from pipeline.job import TrainJob
from pipeline.lake import Lake
from pipeline.lineup import LineUp
from pipeline.model import Features
from pipeline.scores import Scores
from pipeline.selection import selection_salt
from pipeline.steps import StepManifest, StepStore, check_parent, check_start, step_key
from pipeline.teacher import ScoreReader, write_scores
from pipeline.train import Trained, Trainer
from pipeline.window import Window

log = logging.getLogger(__name__)
T = TypeVar("T")


class Diverged(ValueError):
    """A model's loss is no longer a number."""


class ContradictoryStep(ValueError):
    """A step is done under the same key with another config."""


class Recorder(Protocol):
    """Told on worker 0 of every step, as it begins and as it is done."""

    def begin(self, variant: Variant, seed: int, window: WindowManifest, config: StepConfig) -> None:
        """A step starts."""

    def done(self, variant: Variant, seed: int, step: StepManifest, *, skipped: bool) -> None:
        """A step is in the lake; skipped when it was there before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A step before it runs."""

    window: WindowManifest
    config: StepConfig
    key: str
    scores: Scores | None
    parent: StepManifest | None
    previous: StepManifest | None
    """The same step, done before."""
    skip: bool
    """Nothing is left to do."""


@dataclass
class Engine:
    """One worker's part in a job's steps. All workers run the same calls in the same order."""

    lake: Lake
    job: TrainJob
    recorder: Recorder | None
    """On worker 0 only."""
    device: torch.device
    rank: int = field(default_factory=lambda: dist.get_rank())
    world_size: int = field(default_factory=lambda: dist.get_world_size())
    agreed_error: bool = False
    """Whether the error that `run` raised reached every worker: none of them waits for another."""
    _live: tuple[str, Trainer] | None = None
    """The key of the step that the model in memory has just closed, and the model."""

    @property
    def lineup(self) -> LineUp:
        """The job's line-up."""
        return self.job.lineup

    def store(self, seed: int) -> StepStore:
        """The steps of the data set that a seed is trained on."""
        return StepStore(self.lake, self.lineup.dataset.under(seed))

    def run(self) -> list[StepManifest]:
        """Every step of the job in order: seeds, then variants (teachers first), then windows.

        A chain begins at its variant's `start` where that lies later than the job's first window; one that starts after
        the job's last window has nothing to do.

        Returns:
            The last step of each chain that has one.
        """
        chains = [
            self._chain(variant, seed) for seed in self.lineup.seeds for variant in self.lineup.only(self.job.variants)
        ]
        return [last for last in chains if last is not None]

    def _chain(self, variant: Variant, seed: int) -> StepManifest | None:
        parent: StepManifest | None = None
        self._live = None
        first = self.job.first if variant.start is None else max(self.job.first, variant.start)
        if first > self.job.last:
            log.info("%s seed %d: starts on %s, after this job's last window", variant.name, seed, first)
            return None
        for window in Window.span(first, self.job.last):
            known = parent
            plan = self._on_first(lambda w=window, p=known: self._plan(variant, seed, w, p))  # type: ignore[misc]
            if plan.skip and plan.previous is not None:
                log.info("%s %s seed %d: already done, step %s", window, variant.name, seed, plan.key[:16])
                parent = plan.previous
            else:
                parent = self._step(variant, seed, plan)
            self._told(variant, seed, parent, skipped=plan.skip)
        return parent

    def _plan(self, variant: Variant, seed: int, window: Window, before: StepManifest | None) -> Plan:
        lineup, store = self.lineup, self.store(seed)
        config = self._resolved(variant, seed, window)
        manifest = require_whole(self.lake, require_manifest(self.lake, store.dataset, window))
        Features(read_schema(self.lake, manifest.dataset, manifest.schema_key), config.model.exclude)  # do they fit?
        parent = before
        if parent is None and self.job.start == "parent" and window != variant.start:
            parent = store.require_parent(lineup.name, variant.name, seed, window)
        if parent is not None:
            check_parent(config, manifest, parent, variant)
        elif not self.job.force:
            check_start(store.head(lineup.name, variant.name, seed, window), window, variant.name)
        scores = None
        if config.soft_weight is not None and variant.teacher is not None:
            teacher = lineup.variant(variant.teacher)
            scores = store.require_scores(lineup.name, teacher.name, manifest, self._resolved(teacher, seed, window))
        key = step_key(config, manifest, scores, parent)
        previous = store.read(key)
        if previous is not None and previous.config != config:
            raise ContradictoryStep(
                f"step {key[:16]} is done under another config, {previous.config}, than {config}: a default has changed; "
                "raise SEMANTICS_VERSION"
            )
        complete = previous is not None and (previous.scores is not None or variant.name not in lineup.teachers)
        skip = complete and not self.job.force
        if scores is not None and not skip:
            ScoreReader(self.lake, scores, manifest.digest)  # refuses scores that do not fit, before anybody trains
        return Plan(manifest, config, key, scores, parent, previous, skip)

    def _resolved(self, variant: Variant, seed: int, window: Window) -> StepConfig:
        lineup = self.lineup
        return resolve(variant, window, online_start=lineup.online_start, evaluation=lineup.evaluation, seed=seed)

    def _check_finite(self, plan: Plan, name: str, evaluation: Evaluation, trained: Trained) -> None:
        """Refuse to publish a model that has diverged: every later window would build on it."""
        if evaluation.num_rows and "log_loss" not in evaluation.metrics or not math.isfinite(trained.sums.loss):
            self.agreed_error = True  # all workers have the same sums
            optimizer = plan.config.optimizer
            raise Diverged(
                f"{name!r} diverged in {plan.window.window}: its loss is not finite with learning rates "
                f"{optimizer.embedding_lr} and {optimizer.dense_lr}; lower them, under a new name. Nothing was published"
            )

    def _step(self, variant: Variant, seed: int, plan: Plan) -> StepManifest:
        if self.recorder is not None:
            self.recorder.begin(variant, seed, plan.window, plan.config)
        seconds: dict[str, float] = {}
        with _timed(seconds, "load"):
            trainer = self._restore(plan.parent, plan.config, plan.window)
        share = self._share(plan.window, trainer.features)
        schema = read_schema(self.lake, plan.window.dataset, plan.window.schema_key)
        extras = [name for name, there in (("cluster", schema.cluster), ("true_prob", schema.has_true_prob)) if there]
        with _timed(seconds, "evaluate"):
            evaluation = evaluate(
                trainer,
                share,
                plan.config.evaluation,
                seed=seed,
                batch_size=plan.config.optimizer.batch_size,
                extras=extras,
            )
        with _timed(seconds, "train"):
            teaches = variant.name in self.lineup.teachers
            trained = self._train(trainer, share, plan, score_all=teaches, label=f"{plan.window.window} {variant.name}")
        self._check_finite(plan, variant.name, evaluation, trained)
        store = self.store(seed)
        generation, folder = self._on_first(lambda: store.new_generation(plan.key))
        with _timed(seconds, "save"):
            scores = None
            if teaches:
                scores = write_scores(share, f"{folder}/scores", plan.key, trained.positions, trained.logits)
            checkpoint = f"{folder}/checkpoint" if self._keeps_checkpoint(plan.window.window) else None
            if checkpoint is not None:
                save_checkpoint(self.lake, checkpoint, trainer.model, trainer.optimizer)
            if evaluation.predictions is not None:
                self.lake.files.create_dir(folder, recursive=True)
                pq.write_table(
                    evaluation.predictions,
                    f"{folder}/predictions.parquet",
                    filesystem=self.lake.files,
                    compression="lz4",
                )
        flops = trainer.forward_flops * (3 * (trained.num_rows + trained.num_scored) + evaluation.num_rows)
        parent = plan.parent
        step = StepManifest(
            key=plan.key,
            generation=generation,
            dataset=plan.window.dataset,
            window=plan.window.window,
            config=plan.config,
            schema_key=plan.window.schema_key,
            window_digest=plan.window.digest,
            scores_read=None if plan.scores is None else (plan.scores.teacher, plan.scores.digest),
            parent=None if parent is None else parent.key,
            first=plan.window.window if parent is None else parent.first,
            checkpoint=checkpoint,
            predictions=f"{folder}/predictions.parquet",
            scores=scores,
            metrics=evaluation.metrics,
            progressive=trained.sums.metrics(),
            num_rows=plan.window.num_rows,
            num_evaluated=evaluation.num_rows,
            num_selected=trained.num_rows,
            num_updates=trained.num_updates,
            total_examples=trained.num_rows + (0 if parent is None else parent.total_examples),
            flops=flops,
            total_flops=flops + (0.0 if parent is None else parent.total_flops),
            seconds=seconds,
            num_workers=self.world_size,
            versions={name: version(name) for name in ("windrow", "torch", "torchrec")},
        )
        self._on_first(lambda: store.publish(step, plan.previous))
        self._live = (plan.key, trainer)
        log.info(
            "%s %s seed %d: %d of %d rows, log-loss %.5f before training, %.0f rows/s",
            step.window,
            variant.name,
            seed,
            step.num_selected,
            step.num_rows,
            step.metrics.get("log_loss", float("nan")),
            step.num_selected / max(trained.seconds, 1e-9),
        )
        return step

    def _train(self, trainer: Trainer, share: Share, plan: Plan, *, score_all: bool, label: str) -> Trained:
        reader = None
        if plan.scores is not None:
            reader = ScoreReader(self.lake, plan.scores, plan.window.digest)
        return trainer.train(
            share,
            plan.config,
            salt=selection_salt(plan.config.seed),
            scores=reader,
            score_all=score_all,
            progress=_Ticker(label) if self.rank == 0 else None,
        )

    def _restore(self, parent: StepManifest | None, config: StepConfig, window: WindowManifest) -> Trainer:
        """A model for `window` that stands where `parent` closed the one before; new weights without a parent."""
        if parent is not None and self._live is not None and self._live[0] == parent.key:
            return self._live[1]
        self._live = None
        if parent is None or parent.checkpoint is not None:
            trainer = self._new_trainer(config, window)
            if parent is not None and parent.checkpoint is not None:
                try:
                    load_checkpoint(self.lake, parent.checkpoint, trainer.model, trainer.optimizer)
                except MissingCheckpoint:
                    self.agreed_error = True  # a checkpoint is read together, and fails together
                    raise
            return trainer
        return self._replay(parent)

    def _replay(self, step: StepManifest) -> Trainer:
        """Train a step again whose checkpoint was not kept; nothing is published."""
        log.info("%s: step %s kept no checkpoint, training it again", step.window, step.short)
        store = StepStore(self.lake, step.dataset)
        before = None if step.parent is None else store.read(step.parent)
        window = require_manifest(self.lake, step.dataset, step.window)
        trainer = self._restore(before, step.config, window)
        scores = None
        if step.scores_read is not None:
            teacher = store.read(step.scores_read[0])
            scores = None if teacher is None else teacher.scores
        plan = Plan(window, step.config, step.key, scores, before, step, skip=False)
        if step_key(step.config, window, scores, before) != step.key:
            raise ValueError(
                f"{step.window} changed since step {step.short} was trained: run the whole span again from its first day"
            )
        share = self._share(window, trainer.features)
        self._train(trainer, share, plan, score_all=False, label=f"{step.window} again")
        self._live = (step.key, trainer)
        return trainer

    def _new_trainer(self, config: StepConfig, window: WindowManifest) -> Trainer:
        features = Features(read_schema(self.lake, window.dataset, window.schema_key), config.model.exclude)
        return Trainer(features, config.model, config.optimizer, seed=config.seed, device=self.device)

    def _share(self, window: WindowManifest, features: Features) -> Share:
        return Share(self.lake, window, features, self.rank, self.world_size)

    def _keeps_checkpoint(self, window: Window) -> bool:
        """Every k-th, the last, and those from which schedules part."""
        branches = {self.lineup.online_start.previous()} | {
            cutover_window(v.distillation, self.lineup.online_start).previous()
            for v in self.lineup.variants
            if isinstance(v.distillation, Cutover)
        }
        kth = (window.days_since(self.job.first) + 1) % self.lineup.checkpoint_every == 0
        return kth or window == self.job.last or window in branches

    def _told(self, variant: Variant, seed: int, step: StepManifest, *, skipped: bool) -> None:
        """Point the chain's window to its step, and record it."""

        def tell() -> None:
            self.store(seed).set_head(self.lineup.name, variant.name, seed, step)
            if self.recorder is not None:
                self.recorder.done(variant, seed, step, skipped=skipped)

        self._on_first(tell)

    def _on_first(self, work: Callable[[], T]) -> T:
        """Do something on worker 0 and give every worker its result, or its error."""
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except Exception as error:  # noqa: BLE001 - raised below, on every worker
                outcome[1] = error
        if self.world_size > 1:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            self.agreed_error = True
            raise outcome[1]
        return outcome[0]  # type: ignore[no-any-return]


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


class _Ticker:
    """Logs how far a long pass is, every few seconds."""

    def __init__(self, label: str, every: float = 10.0) -> None:
        self._label, self._every, self._last = label, every, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            log.info("%s: step %d of %d", self._label, done, of)
