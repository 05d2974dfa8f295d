"""The stage engine: trains a list of (variant, window) steps, keeps what is done, publishes each step whole."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.data.dataset import WindowManifest, read_schema, require_manifest, require_whole
from pipeline.selection.sampling import selection_salt
from pipeline.spec.config import Cutover, NoTeacher, OddsProportional, StepConfig, Variant, cutover_window
from pipeline.spec.errors import BadInput
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.generation import Generation
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part, write_table
from pipeline.storage.tensors import MissingCheckpoint
from pipeline.storage.together import is_of_all, of_all, on_all, on_first
from pipeline.training.chain.lanes import Chain, deal
from pipeline.training.chain.steps import Flops, StepManifest, StepStore, check_parent, check_start, step_key
from pipeline.training.checkpoint import load_checkpoint, not_finite, save_checkpoint
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.loader import Share
from pipeline.training.model import Features
from pipeline.training.scores import Scores
from pipeline.training.teacher import ScoreReader, write_scores
from pipeline.training.train import Trained, Trainer

log = logging.getLogger(__name__)


class Diverged(BadInput):
    """A model's loss is no longer a number."""


class ContradictoryStep(BadInput):
    """A step is done under the same key with another config."""


class OtherWorkers(BadInput):
    """A step must be trained again, and another number of workers would make other bits of it."""


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
    """The teacher's, where one is listened to."""
    pilot: Scores | None
    """The pilot's, where the selection asks one."""
    parent: StepManifest | None
    previous: StepManifest | None
    """The same step, done before."""
    skip: bool
    """Nothing is left to do."""
    teaches: bool = False
    """Somebody reads this model's logits from its training pass."""
    elders: dict[int, StepManifest] = field(default_factory=dict)
    """By age, the steps whose checkpoints score this window too, since somebody reads that."""


@dataclass(frozen=True, slots=True)
class _Left:
    """The files of a step, as its manifest names them."""

    checkpoint: str | None
    checkpoint_files: dict[str, str]
    predictions: Part
    scores: Scores | None
    aged_scores: dict[int, Scores]


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
        """Every step of the lane in order: seeds, then variants (teachers first), then windows.

        A chain begins at its variant's `start` where that lies later than the job's first window; one that starts after
        the job's last window has nothing to do.

        Returns:
            The last step of each chain that has one.
        """
        chains = [self._chain(variant, seed) for seed, variant in self.chains]
        return [last for last in chains if last is not None]

    @property
    def chains(self) -> list[Chain]:
        """The job's chains that are this lane's."""
        return deal(self.job)[self.lane]

    def _chain(self, variant: Variant, seed: int) -> StepManifest | None:
        parent: StepManifest | None = None
        self._live = None
        first = self.job.first if variant.start is None else max(self.job.first, variant.start)
        if first > self.job.last:
            log.info("%s seed %d: starts on %s, after this job's last window", variant.name, seed, first)
            return None
        for window in Window.span(first, self.job.last):
            known = parent
            plan = on_first(lambda w=window, p=known: self._plan(variant, seed, w, p))  # type: ignore[misc]
            if plan.skip and plan.previous is not None:
                log.info("%s %s seed %d: already done, step %s", window, variant.name, seed, plan.key[:16])
                parent = plan.previous
            else:
                parent = self._step(variant, seed, plan)
            self._told(variant, seed, parent, skipped=plan.skip)
        return parent

    def _plan(self, variant: Variant, seed: int, window: Window, before: StepManifest | None) -> Plan:
        lineup, store = self.lineup, self.store(seed)
        config = lineup.resolved(variant, window, seed)
        manifest = require_whole(self.lake, require_manifest(self.lake, store.dataset, window))
        Features(read_schema(self.lake, manifest.dataset, manifest.schema_key), config.model.exclude)  # do they fit?
        parent = self._parent(variant, manifest, config, before)
        scores, pilot = self._required(variant, seed, manifest, config)
        key = step_key(config, manifest, scores, parent, pilot)
        previous = store.sound(key) if self.job.force else store.read(key)
        if previous is not None and previous.config != config:
            raise ContradictoryStep(
                f"step {key[:16]} is done under another config, {previous.config}, than {config}: a default has changed; "
                "raise SEMANTICS_VERSION"
            )
        first = window if parent is None else parent.first
        ages = frozenset(age for age in lineup.ages_read(variant.name) if window.days_since(first) >= age)
        of_parent = None if parent is None else parent.lineage
        whole = previous is not None and ages <= previous.ages and previous.parent_lineage == of_parent
        if whole and not self.job.force:
            return Plan(manifest, config, key, scores, pilot, parent, previous, skip=True)
        for read in (scores, pilot):
            if read is not None:
                ScoreReader(self.lake, read, manifest.digest)  # refuses what does not fit, before anybody trains
        if previous is not None:
            ages |= previous.ages  # another line-up reads them
        elders = self._elders(store, parent, ages)
        return Plan(manifest, config, key, scores, pilot, parent, previous, False, 0 in ages, elders)

    def _parent(
        self, variant: Variant, manifest: WindowManifest, config: StepConfig, before: StepManifest | None
    ) -> StepManifest | None:
        """The step to go on from, `before` if this job made it; None where the chain starts."""
        name, seed, window, parent = self.lineup.name, config.seed, manifest.window, before
        store = self.store(seed)
        if parent is None and self.job.start == "parent" and window != variant.start:
            parent = store.require_parent(name, variant.name, seed, window)
        if parent is not None:
            check_parent(config, manifest, parent, variant)
        elif not self.job.force:
            before, head = (store.head(name, variant.name, seed, day) for day in (window.previous(), window))
            check_start(before, head, window, variant.name)
        return parent

    def _required(
        self, variant: Variant, seed: int, manifest: WindowManifest, config: StepConfig
    ) -> tuple[Scores | None, Scores | None]:
        """The scores that a step reads: its teacher's and its pilot's."""

        def left(role: str, source: str | None, age: int) -> Scores | None:
            if source is None:
                return None
            named = self.lineup.variant(source)
            return self.store(seed).require_scores(
                self.lineup.name,
                named,
                manifest,
                self.lineup.resolved(named, manifest.window, seed),
                role=role,
                age=age,
                reader=variant.name,
            )

        policy = config.selection
        return (
            None if config.soft_weight is None else left("teacher", variant.teacher, config.soft_age),
            left("pilot", variant.pilot, policy.pilot_age) if isinstance(policy, OddsProportional) else None,
        )

    def _elders(self, store: StepStore, parent: StepManifest | None, ages: frozenset[int]) -> dict[int, StepManifest]:
        """By age, the steps that closed so many windows earlier, `parent` being one window old."""
        found: dict[int, StepManifest] = {}
        step, age = parent, 1
        while step is not None and age <= max(ages, default=0):
            if age in ages:
                found[age] = step
            step = store.before(step)
            age += 1
        return found

    def _check_finite(self, plan: Plan, name: str, evaluation: Evaluation, trained: Trained, trainer: Trainer) -> None:
        """Refuse to publish a model that has diverged: every later window would build on it."""
        what = None
        if evaluation.num_rows and "log_loss" not in evaluation.metrics or not math.isfinite(trained.sums.loss):
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
                extras=extras,
            )
        with _timed(seconds, "score"):
            aged = self._score(trainer, share, plan)
        with _timed(seconds, "train"):
            trained = self._train(trainer, share, plan, label=f"{plan.window.window} {variant.name}")
        self._check_finite(plan, variant.name, evaluation, trained, trainer)
        store = self.store(seed)
        attempt = store.attempt(plan.key, on_first(store.new_generation))
        try:
            with _timed(seconds, "save"):
                left = self._leave(variant, share, plan, trainer, evaluation, trained, aged, attempt.folder)
            step = self._manifest(plan, left, trainer, evaluation, trained, len(aged), seconds, attempt)
            on_first(lambda: store.publish(step, plan.previous, attempt))
        except Exception as error:
            if self.rank == 0 and is_of_all(error):  # else somebody may still be writing
                attempt.leave()
            raise
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

    def _leave(
        self,
        variant: Variant,
        share: Share,
        plan: Plan,
        trainer: Trainer,
        evaluation: Evaluation,
        trained: Trained,
        aged: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]],
        folder: str,
    ) -> _Left:
        """Write a step's files, each worker its own; an error of any of them is an error of all."""
        scores = None
        if plan.teaches:
            scores = write_scores(share, f"{folder}/scores", plan.key, trained.positions, trained.logits)
        aged_scores = {
            age: write_scores(share, f"{folder}/scores-age-{age}", plan.key, *scored) for age, scored in aged.items()
        }
        checkpoint = f"{folder}/checkpoint" if self._keeps_checkpoint(variant, plan.window.window) else None
        checkpoint_files: dict[str, str] = {}
        if checkpoint is not None:
            checkpoint_files = save_checkpoint(self.lake, checkpoint, trainer.model, trainer.optimizer)
        predictions = on_first(lambda: write_table(self.lake, f"{folder}/predictions.parquet", evaluation.predictions))
        return _Left(checkpoint, checkpoint_files, predictions, scores, aged_scores)

    def _manifest(
        self,
        plan: Plan,
        left: _Left,
        trainer: Trainer,
        evaluation: Evaluation,
        trained: Trained,
        num_aged: int,
        seconds: dict[str, float],
        attempt: Generation,
    ) -> StepManifest:
        """What makes a step known."""
        aged_flops = trainer.forward_flops * num_aged * plan.window.num_rows
        flops = Flops(
            training=trainer.training_flops * trained.num_rows,
            scoring=trainer.training_flops * trained.num_scored + aged_flops,
            evaluation=trainer.forward_flops * evaluation.num_rows,
        )
        parent = plan.parent
        return StepManifest(
            key=plan.key,
            generation=attempt.id,
            dataset=plan.window.dataset,
            window=plan.window.window,
            config=plan.config,
            schema_key=plan.window.schema_key,
            window_digest=plan.window.digest,
            scores_read=None if plan.scores is None else (plan.scores.teacher, plan.scores.digest),
            pilot_read=None if plan.pilot is None else (plan.pilot.teacher, plan.pilot.digest),
            parent=None if parent is None else parent.key,
            first=plan.window.window if parent is None else parent.first,
            parent_lineage=None if parent is None else parent.lineage,
            checkpoint=left.checkpoint,
            checkpoint_files=left.checkpoint_files,
            predictions=left.predictions,
            scores=left.scores,
            aged_scores=left.aged_scores,
            metrics=evaluation.metrics,
            progressive=trained.sums.metrics(),
            num_rows=plan.window.num_rows,
            num_evaluated=evaluation.num_rows,
            num_selected=trained.num_rows,
            num_updates=trained.num_updates,
            total_examples=trained.num_rows + (0 if parent is None else parent.total_examples),
            flops=flops,
            total_flops=flops if parent is None else flops + parent.total_flops,
            seconds=seconds,
            num_workers=self.world_size,
            versions={name: version(name) for name in ("windrow", "torch", "torchrec")},
        )

    def _score(
        self, trainer: Trainer, share: Share, plan: Plan
    ) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """This worker's rows and their logits under each of the plan's older checkpoints; the model itself is one old."""
        found = {}
        for age, elder in plan.elders.items():
            if age == 1:
                found[age] = trainer.score(share)
            else:
                live, self._live = self._live, None
                found[age] = self._restore(elder, elder.config, plan.window).score(share)
                self._live = live
        return found

    def _train(self, trainer: Trainer, share: Share, plan: Plan, *, label: str) -> Trained:
        def reader(scores: Scores | None) -> ScoreReader | None:
            return None if scores is None else ScoreReader(self.lake, scores, plan.window.digest)

        decay = plan.config.optimizer.accumulator_decay
        if plan.parent is not None and decay != 1:
            trainer.decay_accumulators(decay)
        return trainer.train(
            share,
            plan.config,
            salt=selection_salt(plan.config.seed),
            scores=reader(plan.scores),
            pilot=reader(plan.pilot),
            score_all=plan.teaches,
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
                digests = parent.checkpoint_files
                try:
                    load_checkpoint(self.lake, parent.checkpoint, digests, trainer.model, trainer.optimizer)
                except MissingCheckpoint as error:
                    raise of_all(type(error)(f"{parent.window}: {error}")) from None
            return trainer
        return self._replay(parent)

    def _replay(self, step: StepManifest) -> Trainer:
        """Train a step again whose checkpoint was not kept; nothing is published."""
        plan = on_first(lambda: self._again(step))
        log.info("%s: step %s kept no checkpoint, training it again", step.window, step.short)
        trainer = self._restore(plan.parent, step.config, plan.window)
        share = self._share(plan.window, trainer.features)
        self._train(trainer, share, plan, label=f"{step.window} again")
        self._live = (step.key, trainer)
        return trainer

    def _again(self, step: StepManifest) -> Plan:
        """How to train a step again bit for bit.

        Raises:
            OtherWorkers: this job's make other bits.
            ContradictoryStep: what it was made of has changed.
        """
        if step.num_workers != self.world_size:
            raise OtherWorkers(
                f"step {step.short} of {step.window} kept no checkpoint, and only {step.num_workers} workers, as then, "
                f"train it again bit for bit, got {self.world_size}: run this with `--workers {step.num_workers}`, or "
                "train the span anew with `--force`"
            )
        store = StepStore(self.lake, step.dataset)
        before = store.before(step)
        window = require_manifest(self.lake, step.dataset, step.window)

        def read(source: tuple[str, str] | None, age: int) -> Scores | None:
            left = None if source is None else store.read(source[0])
            return None if left is None else left.scores_of(age)

        policy = step.config.selection
        scores = read(step.scores_read, step.config.soft_age)
        pilot = read(step.pilot_read, policy.pilot_age if isinstance(policy, OddsProportional) else 0)
        if step_key(step.config, window, scores, before, pilot) != step.key:
            raise ContradictoryStep(
                f"{step.window} changed since step {step.short} was trained: run the whole span again from its first day"
            )
        return Plan(window, step.config, step.key, scores, pilot, before, step, skip=False)

    def _new_trainer(self, config: StepConfig, window: WindowManifest) -> Trainer:
        features = Features(read_schema(self.lake, window.dataset, window.schema_key), config.model.exclude)
        return Trainer(features, config.model, config.optimizer, seed=config.seed, device=self.device)

    def _share(self, window: WindowManifest, features: Features) -> Share:
        return Share(self.lake, window, features, self.rank, self.world_size)

    def _keeps_checkpoint(self, variant: Variant, window: Window) -> bool:
        """Every k-th, the last, those from which schedules part, and all of whoever scores windows that come later."""
        kth = (window.days_since(self.job.first) + 1) % self.lineup.checkpoint_every == 0
        scores_later = max(self.lineup.ages_read(variant.name), default=0) > 1
        return kth or scores_later or window == self.job.last or window.next() in self._branches()

    def _branches(self) -> set[Window]:
        """The windows in which a schedule may part from another."""
        found = {self.lineup.online_start}
        for chosen in self.lineup.variants:
            taught, policy = chosen.distillation, chosen.selection
            if isinstance(taught, Cutover):
                found.add(cutover_window(taught, self.lineup.online_start))
            if not isinstance(taught, NoTeacher) and taught.since is not None:
                found.add(taught.since)
            if isinstance(policy, OddsProportional) and policy.since is not None:
                found.add(policy.since)
        return found

    def _told(self, variant: Variant, seed: int, step: StepManifest, *, skipped: bool) -> None:
        """Point the chain's window to its step, and record it."""

        def tell() -> None:
            self.store(seed).set_head(self.lineup.name, variant.name, seed, step)
            if self.recorder is not None:
                self.recorder.done(variant, seed, step, skipped=skipped)

        on_first(tell)


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
