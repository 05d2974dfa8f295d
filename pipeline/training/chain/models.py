"""The model that a worker holds: taken from memory, from a checkpoint, or trained again where none was kept."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.data.dataset import WindowManifest, read_schema
from pipeline.data.share import Share
from pipeline.selection.stored import SelectionManifest
from pipeline.spec.config import StepConfig
from pipeline.storage.lake import Lake
from pipeline.storage.tensors import MissingCheckpoint
from pipeline.storage.together import of_all, on_first
from pipeline.training.chain.plan import Plan, Planner
from pipeline.training.chain.selections import stored_selection
from pipeline.training.chain.steps import StepManifest
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.models.features import Features
from pipeline.training.signals import PASSES, Scored, SignalReader, passes_of, readings_of
from pipeline.training.train import Progress, Trained, Trainer

log = logging.getLogger(__name__)


def train(
    lake: Lake,
    trainer: Trainer,
    share: Share,
    plan: Plan,
    selection: SelectionManifest | None,
    *,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on a step's sources; every worker calls this."""
    decay = plan.config.optimizer.accumulator_decay
    if plan.parent is not None and decay != 1:
        trainer.decay_accumulators(decay)
    return _pass(lake, trainer, share, plan, selection, readings=readings_of(plan.asked), progress=progress)


def train_again(
    lake: Lake, trainer: Trainer, share: Share, plan: Plan, selection: SelectionManifest | None, trained: Trained
) -> Scored:
    """What a step's pass gave, with the logits of the further passes that its signals take; every worker calls this.

    A copy of the model, as it closed the window, makes them and is thrown away: it has seen nothing later.
    """
    num = passes_of(plan.asked)
    if num == 1:
        return trained.scored
    first = trained.scored.at(np.argsort(trained.scored.positions, kind="stable"))
    found = []
    with trainer.aside():
        for _ in range(num - 1):
            again = _pass(lake, trainer, share, plan, selection).scored
            found.append(again.logits[np.argsort(again.positions, kind="stable")])
    return replace(first, readings={**first.readings, PASSES: np.column_stack(found)})


def _pass(
    lake: Lake,
    trainer: Trainer,
    share: Share,
    plan: Plan,
    selection: SelectionManifest | None,
    *,
    readings: Collection[str] = (),
    progress: Progress | None = None,
) -> Trained:
    """One pass over a step's sources, in their order."""
    return trainer.train(
        share,
        plan.config,
        selection=selection,
        synthetic=plan.synthetic,
        soft=None if plan.soft is None else SignalReader(lake, plan.soft, plan.window.digest),
        score_all=bool(plan.asked),
        readings=readings,
        progress=progress,
    )


@dataclass
class Models:
    """The models of one worker's part in a job: one is in memory at a time."""

    planner: Planner
    device: torch.device
    rank: int
    world_size: int
    _live: tuple[str, Trainer] | None = None
    """The key of the step that the model in memory has just closed, and the model."""

    def share(self, window: WindowManifest) -> Share:
        """This worker's part of a window."""
        return Share(self.planner.lake, window, self.rank, self.world_size)

    def closed(self, key: str, trainer: Trainer) -> None:
        """The model in memory stands where that step closed its window."""
        self._live = (key, trainer)

    def forget(self) -> None:
        """Another chain begins."""
        self._live = None

    def at(self, parent: StepManifest | None, config: StepConfig, window: WindowManifest) -> Trainer:
        """A model for `window` that stands where `parent` closed the one before; new weights without a parent."""
        if parent is not None and self._live is not None and self._live[0] == parent.key:
            return self._live[1]
        self._live = None
        if parent is not None and parent.checkpoint is None:
            return self._again(parent)
        trainer = self._new(config, window)
        if parent is not None and parent.checkpoint is not None:
            try:
                load_checkpoint(
                    self.planner.lake, parent.checkpoint, parent.checkpoint_files, trainer.model, trainer.optimizer
                )
            except MissingCheckpoint as error:
                raise of_all(type(error)(f"{parent.window}: {error}")) from None
        return trainer

    def older(self, step: StepManifest, window: WindowManifest) -> Trainer:
        """A model that stands where an earlier step closed its window; the one in memory stays what it is."""
        live, self._live = self._live, None
        trainer = self.at(step, step.config, window)
        self._live = live
        return trainer

    def _again(self, step: StepManifest) -> Trainer:
        """Train a step again whose checkpoint was not kept; nothing is published."""
        plan = on_first(lambda: self.planner.again(step, self.world_size))
        log.info("%s: step %s kept no checkpoint, training it again", step.window, step.short)
        trainer = self.at(plan.parent, step.config, plan.window)
        share = self.share(plan.window)
        selection = stored_selection(self.planner.lake, share, plan.config, plan.signals)
        train(self.planner.lake, trainer, share, plan, selection)
        self._live = (step.key, trainer)
        return trainer

    def _new(self, config: StepConfig, window: WindowManifest) -> Trainer:
        schema = read_schema(self.planner.lake, window.dataset, window.schema_key)
        features = Features.of(schema, config.model)
        return Trainer(features, config.model, config.optimizer, seed=config.seed, device=self.device)
