"""The plan of a step: what it is made of, whether it is done, and what it must leave for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.data.dataset import WindowManifest, read_schema, require_manifest, require_whole
from pipeline.selection.policy import JointPolicy
from pipeline.selection.stored import SelectionStore, selection_key
from pipeline.selection.synthetic import SyntheticManifest, require_synthetic
from pipeline.spec.config import HINDSIGHT, All, Policy, StepConfig, Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.job import TrainJob
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.evaluations import EvaluationManifest, EvaluationStore
from pipeline.training.chain.reads import Sources
from pipeline.training.chain.steps import StepManifest, StepStore, check_parent, check_start, step_key
from pipeline.training.models.features import Features
from pipeline.training.signals import Signal, SignalReader, require_signal


class ContradictoryStep(BadInput):
    """A step is done under the same key with another config."""


class OtherWorkers(BadInput):
    """A step must be trained again, and another number of workers would make other bits of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A step before it runs."""

    window: WindowManifest
    config: StepConfig
    key: str
    soft: Signal | None
    """The teacher's logits, where there is a soft loss."""
    signals: Mapping[str, Signal]
    """What the selection reads, by its name there."""
    selection: str | None
    """Identity of the stored selection; None where all rows are trained on."""
    synthetic: tuple[SyntheticManifest, ...]
    """What is trained on too."""
    parent: StepManifest | None
    previous: StepManifest | None
    """The same step, done before."""
    skip: bool = False
    """Nothing is left to train."""
    evaluation: EvaluationManifest | None = None
    """The same step's evaluation, done before."""
    asked: frozenset[str] = frozenset()
    """The signals of this model's own training pass that somebody reads."""
    hindsight: frozenset[str] = frozenset()
    """Those that somebody reads of the model as it is once it has closed the window."""
    elders: Mapping[int, tuple[StepManifest, frozenset[str]]] = field(default_factory=dict)
    """By age, the steps whose checkpoints score this window too, and the signals that somebody reads of them."""


@dataclass(frozen=True)
class Planner:
    """Plans the steps of a job. Worker 0 plans for all."""

    lake: Lake
    job: TrainJob

    @property
    def sources(self) -> Sources:
        """What its steps read of other chains."""
        return Sources(self.lake, self.job.lineup)

    def store(self, seed: int) -> StepStore:
        """The steps of the data set that a seed is trained on."""
        return self.sources.store(seed)

    def plan(self, variant: Variant, seed: int, window: Window, before: StepManifest | None) -> Plan:
        """What a variant's step on a window is.

        Args:
            variant: whose step.
            seed: under which.
            window: on which.
            before: the step before, if this job made it.

        Raises:
            BadInput: something that it is made of is missing, or does not fit; the message names the cure.
        """
        lineup, store = self.job.lineup, self.store(seed)
        config = lineup.resolved(variant, window, seed)
        manifest = require_whole(self.lake, require_manifest(self.lake, store.dataset, window))
        Features.of(read_schema(self.lake, manifest.dataset, manifest.schema_key), config.model)  # do they fit?
        parent = self._parent(variant, manifest, config, before)
        soft = self.sources.soft(variant, manifest, config)
        signals = self.sources.signals(variant, manifest, config)
        selection = selection_identity(self.lake, manifest, config.selection, seed, signals)
        synthetic = tuple(
            require_synthetic(self.lake, store.dataset, name, window, manifest.schema_key) for name in variant.sources
        )
        key = step_key(config, manifest, parent, soft=soft, selection=selection, synthetic=synthetic)
        previous = store.sound(key) if self.job.force else store.read(key)
        if previous is not None and previous.config != config:
            raise ContradictoryStep(
                f"step {key[:16]} is done under another config, {previous.config}, than {config}: a default has changed; "
                "raise SEMANTICS_VERSION"
            )
        first = window if parent is None else parent.first
        asked = frozenset(
            (name, age) for name, age in lineup.signals_read(variant.name) if window.days_since(first) >= age
        )
        for name, age in asked:
            require_signal(name, age)
        made = Plan(manifest, config, key, soft, signals, selection, synthetic, parent, previous)
        of_parent = None if parent is None else parent.lineage
        evaluations = EvaluationStore(self.lake, store.dataset)
        if previous is not None and previous.parent_lineage == of_parent and not self.job.force:
            done = evaluations.read(previous, lineup.evaluation)
            if asked <= previous.left:
                return replace(made, skip=True, evaluation=done)
            made = replace(made, evaluation=done)
        for read in (*signals.values(), *([] if soft is None else [soft])):
            SignalReader(self.lake, read, manifest.digest)  # refuses what does not fit, before anybody trains
        if previous is not None:
            asked |= previous.left  # another line-up reads them
        return replace(
            made,
            asked=frozenset(name for name, age in asked if age == 0),
            hindsight=frozenset(name for name, age in asked if age == HINDSIGHT),
            elders=self._elders(store, parent, asked),
        )

    def again(self, step: StepManifest, world_size: int) -> Plan:
        """How to train a step again bit for bit.

        Raises:
            OtherWorkers: this job's make other bits.
            ContradictoryStep: what it was made of has changed.
        """
        if step.num_workers != world_size:
            raise OtherWorkers(
                f"step {step.short} of {step.window} kept no checkpoint, and only {step.num_workers} workers, as then, "
                f"train it again bit for bit, got {world_size}: run this with `--workers {step.num_workers}`, or "
                "train the span again with `--force`"
            )
        changed = ContradictoryStep(
            f"{step.window} changed since step {step.short} was trained: run the whole span again from its first day"
        )
        store = StepStore(self.lake, step.dataset)
        before = store.before(step)
        window = require_manifest(self.lake, step.dataset, step.window)

        def left(source: tuple[str, str], name: str, age: int) -> Signal:
            producer = store.read(source[0])
            found = None if producer is None else producer.signal(name, age)
            if found is None:
                raise changed
            return found

        reads = step.config.selection.reads()
        signals = {
            name: left(source, reads[name].signal, reads[name].age) for name, source in step.selection_read.items()
        }
        soft = None if step.soft_read is None else left(step.soft_read, "logit", step.config.soft_age)
        selection = selection_identity(self.lake, window, step.config.selection, step.config.seed, signals)
        synthetic = tuple(
            require_synthetic(self.lake, step.dataset, name, step.window, window.schema_key) for name in step.synthetic
        )
        if step_key(step.config, window, before, soft=soft, selection=selection, synthetic=synthetic) != step.key:
            raise changed
        return Plan(window, step.config, step.key, soft, signals, selection, synthetic, before, step)

    def _parent(
        self, variant: Variant, manifest: WindowManifest, config: StepConfig, before: StepManifest | None
    ) -> StepManifest | None:
        """The step to go on from, `before` if this job made it; None where the chain starts."""
        lineup, window, parent = self.job.lineup.name, manifest.window, before
        store = self.store(config.seed)
        if parent is None and self.job.start == "parent" and window != variant.start:
            parent = store.require_parent(lineup, variant.name, config.seed, window)
        if parent is not None:
            check_parent(config, manifest, parent, variant)
        elif not self.job.force:
            before, head = (store.head(lineup, variant.name, config.seed, day) for day in (window.previous(), window))
            check_start(before, head, window, variant.name)
        return parent

    def _elders(
        self, store: StepStore, parent: StepManifest | None, asked: frozenset[tuple[str, int]]
    ) -> dict[int, tuple[StepManifest, frozenset[str]]]:
        """By age, the steps that closed so many windows earlier, `parent` being one window old."""
        found: dict[int, tuple[StepManifest, frozenset[str]]] = {}
        step, age = parent, 1
        while step is not None and age <= max((old for _, old in asked), default=0):
            if names := frozenset(name for name, old in asked if old == age):
                found[age] = (step, names)
            step = store.before(step)
            age += 1
        return found


def selection_identity(
    lake: Lake, window: WindowManifest, policy: Policy, seed: int, signals: Mapping[str, Signal]
) -> str | None:
    """What a step's key takes of its selection; None for all rows.

    Raises:
        BadInput: a joint selection, whose content is its identity, has not been made.
    """
    if isinstance(policy, All):
        return None
    key = selection_key(policy, window, seed, {name: signal.digest for name, signal in signals.items()})
    if not isinstance(policy, JointPolicy):
        return key
    stored = SelectionStore(lake, window.dataset).read(key)
    if stored is None:
        raise BadInput(
            f"the {policy.kind!r} selection of {window.window} is gone: train the span again, which makes it"
        )
    return stored.identity
