"""The engine: trains a job's steps in order, keeps what is done, publishes each step and its evaluation whole."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

import torch
import torch.distributed as dist

from pipeline.data.dataset import WindowManifest, read_schema, require_manifest
from pipeline.data.share import Share
from pipeline.selection.policy import JointPolicy
from pipeline.spec.config import HINDSIGHT, StepConfig, Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.job import TrainJob
from pipeline.spec.window import Window
from pipeline.storage.generation import new_generation
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import write_table
from pipeline.storage.together import is_of_all, on_all, on_first
from pipeline.training.chain.evaluations import Closed, EvaluationManifest, EvaluationStore, evaluation_key
from pipeline.training.chain.lanes import Chain, deal
from pipeline.training.chain.models import Models, train, train_again
from pipeline.training.chain.plan import Plan, Planner
from pipeline.training.chain.retention import keeps_checkpoint
from pipeline.training.chain.selections import stored_selection
from pipeline.training.chain.steps import Flops, StepManifest
from pipeline.training.checkpoint import not_finite, save_checkpoint
from pipeline.training.evaluate import Predicted, evaluate
from pipeline.training.signals import Signal, passes_of, readings_of, write_signals
from pipeline.training.train import Trained, Trainer

log = logging.getLogger(__name__)


class Diverged(BadInput):
    """A model's loss is no longer a number."""


class Recorder(Protocol):
    """Called on a lane's first worker for every step, as it begins and as it is done."""

    def begin(self, variant: Variant, seed: int, window: WindowManifest, config: StepConfig) -> None:
        """A step starts."""

    def done(self, variant: Variant, seed: int, closed: Closed, *, skipped: bool) -> None:
        """A step and its evaluation are in the lake; skipped when the step was there before."""


@dataclass
class Engine:
    """One worker's part in a job's steps. All workers run the same calls in the same order."""

    lake: Lake
    job: TrainJob
    recorder: Recorder | None
    """On the lane's first worker only."""
    device: torch.device
    lane: int = 0
    """Which of the job's lanes this worker is in."""
    rank: int = field(default_factory=lambda: dist.get_rank())
    world_size: int = field(default_factory=lambda: dist.get_world_size())

    def __post_init__(self) -> None:
        self._planner = Planner(self.lake, self.job)
        self._models = Models(self._planner, self.device, self.rank, self.world_size)

    def run(self) -> list[Closed]:
        """Every step of the lane in order: seeds, then variants (teachers first), then windows.

        A chain begins at its variant's `start` where that lies later than the job's first window; one that starts after
        the job's last window has nothing to do.

        Returns:
            The last window of each chain that has one.
        """
        chains, found, began = self.chains, list[Closed](), time.monotonic()
        for done, (seed, variant) in enumerate(chains, 1):
            last = self._chain(variant, seed)
            found += [] if last is None else [last]
            left = (len(chains) - done) * (time.monotonic() - began) / done / 60
            if len(chains) > 1:
                log.info("%d of %d chains of this lane are done; about %.0f minutes left", done, len(chains), left)
        return found

    @property
    def chains(self) -> list[Chain]:
        """The job's chains that are this lane's."""
        return deal(self.job)[self.lane]

    def _chain(self, variant: Variant, seed: int) -> Closed | None:
        last: Closed | None = None
        self._models.forget()
        first = self.job.first if variant.start is None else max(self.job.first, variant.start)
        if first > self.job.last:
            log.info("%s seed %d: starts on %s, after this job's last window", variant.name, seed, first)
            return None
        for window in Window.span(first, self.job.last):
            self._make_joint(variant, seed, window)
            known = None if last is None else last.step
            plan = on_first(lambda w=window, p=known: self._planner.plan(variant, seed, w, p))  # type: ignore[misc]
            if plan.skip and plan.previous is not None:
                log.info("%s %s seed %d: already done, step %s", window, variant.name, seed, plan.key[:16])
                last = Closed(plan.previous, plan.evaluation or self._evaluate_later(variant, plan))
            else:
                last = self._step(variant, seed, plan)
            self._point(variant, seed, last, skipped=plan.skip)
        return last

    def _make_joint(self, variant: Variant, seed: int, window: Window) -> None:
        """Store what a joint policy chooses: its content is part of the step's identity, which is asked for next."""
        config = self.job.lineup.resolved(variant, window, seed)
        if not isinstance(config.selection, JointPolicy):
            return
        manifest = on_first(lambda: require_manifest(self.lake, self._planner.store(seed).dataset, window))
        signals = on_first(lambda: self._planner.sources.signals(variant, manifest, config))
        stored_selection(self.lake, self._models.share(manifest), config, signals, force=self.job.force)

    def _step(self, variant: Variant, seed: int, plan: Plan) -> Closed:
        """Evaluate a model on a window, then train it on it."""
        if self.recorder is not None:
            self.recorder.begin(variant, seed, plan.window, plan.config)
        seconds: dict[str, float] = {}
        with _timed(seconds, "load"):
            trainer = self._models.at(plan.parent, plan.config, plan.window)
        share = self._models.share(plan.window)
        predicted = plan.evaluation or self._predict(trainer, share, plan)
        with _timed(seconds, "select"):
            selection = stored_selection(self.lake, share, plan.config, plan.signals, force=self.job.force)
        store = self._planner.store(seed)
        attempt = store.attempt(plan.key, on_first(new_generation))
        try:
            with _timed(seconds, "score"):
                signals = self._score(trainer, share, plan, attempt.folder)
            with _timed(seconds, "train"):
                ticker = _Ticker(f"{plan.window.window} {variant.name}") if self.rank == 0 else None
                trained = train(self.lake, trainer, share, plan, selection, progress=ticker)
            self._check_finite(plan, variant.name, predicted, trained, trainer)
            if plan.hindsight:
                with _timed(seconds, "score"):
                    closed = trainer.score(share, readings_of(plan.hindsight))
                    folder = f"{attempt.folder}/signals"
                    signals += write_signals(share, folder, plan.key, HINDSIGHT, plan.hindsight, closed)
            with _timed(seconds, "score"):
                scored = train_again(self.lake, trainer, share, plan, selection, trained)
            with _timed(seconds, "save"):
                signals += write_signals(share, f"{attempt.folder}/signals", plan.key, 0, plan.asked, scored)
                checkpoint, files = None, {}
                if keeps_checkpoint(self.job, variant, plan.window.window):
                    checkpoint = f"{attempt.folder}/checkpoint"
                    files = save_checkpoint(self.lake, checkpoint, trainer.model, trainer.optimizer)
            step = self._manifest(plan, trainer, trained, signals, (checkpoint, files), seconds, attempt.id)
            evaluation = predicted
            if not isinstance(evaluation, EvaluationManifest):
                evaluation = self._publish_evaluation(plan, trainer, evaluation)
            on_first(lambda: store.publish(step, plan.previous, attempt))
        except Exception as error:
            if self.rank == 0 and is_of_all(error):  # else somebody may still be writing
                attempt.leave()
            raise
        self._models.closed(plan.key, trainer)
        log.info(
            "%s %s seed %d: %d of %d rows, log-loss %.5f before training, %.0f rows/s",
            step.window,
            variant.name,
            seed,
            step.num_selected,
            step.num_rows,
            evaluation.metrics.get("log_loss", float("nan")),
            step.num_selected / max(trained.seconds, 1e-9),
        )
        return Closed(step, evaluation)

    def _predict(self, trainer: Trainer, share: Share, plan: Plan) -> Predicted:
        schema = read_schema(self.lake, plan.window.dataset, plan.window.schema_key)
        extras = [name for name, there in (("cluster", schema.cluster), ("true_prob", schema.has_true_prob)) if there]
        return evaluate(trainer, share, self.job.lineup.evaluation, seed=plan.config.seed, extras=extras)

    def _evaluate_later(self, variant: Variant, plan: Plan) -> EvaluationManifest:
        """Evaluate a step that is done, by the model as it stood before it."""
        log.info("%s %s: evaluating a step that is done", plan.window.window, variant.name)
        trainer = self._models.at(plan.parent, plan.config, plan.window)
        if plan.parent is not None:
            self._models.closed(plan.parent.key, trainer)  # nothing was trained
        predicted = self._predict(trainer, self._models.share(plan.window), plan)
        return self._publish_evaluation(plan, trainer, predicted)

    def _publish_evaluation(self, plan: Plan, trainer: Trainer, predicted: Predicted) -> EvaluationManifest:
        """Store what a model predicted; every worker calls this."""
        store = EvaluationStore(self.lake, plan.window.dataset)

        def publish() -> EvaluationManifest:
            chosen = self.job.lineup.evaluation
            key = evaluation_key(plan.key, chosen)
            attempt = store.attempt(key, new_generation())
            try:
                made = EvaluationManifest(
                    key=key,
                    generation=attempt.id,
                    step=plan.key,
                    parent_lineage=None if plan.parent is None else plan.parent.lineage,
                    dataset=plan.window.dataset,
                    window=plan.window.window,
                    slice=chosen,
                    predictions=write_table(self.lake, f"{attempt.folder}/predictions.parquet", predicted.predictions),
                    metrics=predicted.metrics,
                    num_rows=predicted.num_rows,
                    flops=trainer.forward_flops * predicted.num_rows,
                    seconds=predicted.seconds,
                )
                store.publish(made, attempt)
            finally:
                attempt.leave()
            return made

        return on_first(publish)

    def _check_finite(
        self, plan: Plan, name: str, predicted: Predicted | EvaluationManifest, trained: Trained, trainer: Trainer
    ) -> None:
        """Refuse to publish a model that has diverged: every later window would build on it."""
        what = None
        if (predicted.num_rows and "log_loss" not in predicted.metrics) or not math.isfinite(trained.sums.loss):
            what = "its loss"
        elif spoiled := not_finite(trainer.model, trainer.optimizer):  # by the last update, whose loss nobody sees
            what = f"its {spoiled}"

        def refuse() -> None:
            if what is not None:
                optimizer = plan.config.optimizer
                raise Diverged(
                    f"{name!r} diverged in {plan.window.window}: {what} is not finite with learning rates "
                    f"{optimizer.embedding_lr} and {optimizer.dense_lr}; lower them, under a new name. "
                    "Nothing was published"
                )

        on_all(refuse)

    def _score(self, trainer: Trainer, share: Share, plan: Plan, folder: str) -> tuple[Signal, ...]:
        """The signals of the plan's older checkpoints; the model itself is one window old."""
        found: tuple[Signal, ...] = ()
        for age, (elder, names) in plan.elders.items():
            model = trainer if age == 1 else self._models.older(elder, plan.window)
            scored = model.score(share, readings_of(names))
            found += write_signals(share, f"{folder}/signals", plan.key, age, names, scored)
        return found

    def _manifest(
        self,
        plan: Plan,
        trainer: Trainer,
        trained: Trained,
        signals: tuple[Signal, ...],
        kept: tuple[str | None, dict[str, str]],
        seconds: dict[str, float],
        generation: str,
    ) -> StepManifest:
        """What makes a step known; `kept` is its checkpoint's folder, if it keeps one, with the digests of its files."""
        forward = trainer.forward_flops * (len(plan.elders) + bool(plan.hindsight)) * plan.window.num_rows
        asked = (plan.asked, plan.hindsight, *(names for _, names in plan.elders.values()))
        read = plan.window.num_rows * sum(trainer.watch(readings_of(names)).flops() for names in asked)
        policy, further = plan.config.selection, passes_of(plan.asked) - 1
        chosen = policy.flops(plan.window.num_rows) if isinstance(policy, JointPolicy) else 0.0
        flops = Flops(
            training=trainer.training_flops * trained.num_rows,
            scoring=trainer.training_flops * trained.num_scored + forward + read,
            selection=chosen + further * trainer.training_flops * (trained.num_rows + trained.num_scored),
        )
        parent = plan.parent
        return StepManifest(
            key=plan.key,
            generation=generation,
            dataset=plan.window.dataset,
            window=plan.window.window,
            config=plan.config,
            schema_key=plan.window.schema_key,
            window_digest=plan.window.digest,
            soft_read=None if plan.soft is None else (plan.soft.producer, plan.soft.digest),
            selection_read={name: (signal.producer, signal.digest) for name, signal in plan.signals.items()},
            selection=plan.selection,
            synthetic={made.name: made.digest for made in plan.synthetic},
            parent=None if parent is None else parent.key,
            first=plan.window.window if parent is None else parent.first,
            parent_lineage=None if parent is None else parent.lineage,
            checkpoint=kept[0],
            checkpoint_files=kept[1],
            signals=signals,
            progressive=trained.sums.metrics(),
            num_rows=plan.window.num_rows,
            num_selected=trained.num_rows,
            num_updates=trained.num_updates,
            total_examples=trained.num_rows + (0 if parent is None else parent.total_examples),
            flops=flops,
            total_flops=flops if parent is None else flops + parent.total_flops,
            seconds=seconds,
            num_workers=self.world_size,
            versions={name: version(name) for name in ("windrow", "torch", "torchrec")},
        )

    def _point(self, variant: Variant, seed: int, closed: Closed, *, skipped: bool) -> None:
        """Point the chain's window to its step, and record it."""

        def point() -> None:
            self._planner.store(seed).set_head(self.job.lineup.name, variant.name, seed, closed.step)
            if self.recorder is not None:
                self.recorder.done(variant, seed, closed, skipped=skipped)

        on_first(point)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - started


class _Ticker:
    """Logs how far a long pass is, every few seconds."""

    def __init__(self, label: str, every: float = 10.0) -> None:
        self._label, self._every, self._last = label, every, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            log.info("%s: update %d of %d", self._label, done, of)
