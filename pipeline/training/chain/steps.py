"""Steps: one variant trained on one window, named by its content, published whole, linked into chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pipeline.data.dataset import WindowManifest
from pipeline.selection.synthetic import SyntheticManifest
from pipeline.spec.config import Read, StepConfig, Variant
from pipeline.spec.documents import Digest, Frozen, content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.window import Window
from pipeline.storage.damage import Damaged
from pipeline.storage.generation import Generation
from pipeline.storage.lake import Conflict, Lake, LakePath
from pipeline.storage.paths import head_path
from pipeline.training.signals import MissingSignal, Signal

SEMANTICS_VERSION = 3
"""Raised by hand whenever the same config and data train to something else; golden losses guard it."""

NORMALISER = "rows"
"""A step's loss is divided by its number of selected rows, whatever their weights."""


FileName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,80}\.[a-z]{1,20}$")]
"""A file of a folder."""


class MissingParent(BadInput):
    """The step before is not done, and nothing falls back to new weights."""


class ContradictoryParent(BadInput):
    """The step before trained a model that this config cannot go on with."""


class Flops(Frozen):
    """Floating-point operations by what they were for: a comparison of cost says which."""

    training: float
    """Three forward passes for each row trained on."""
    scoring: float
    """For those who read this model's signals: rows of its training pass that it passes over, and forward passes by its
    older checkpoints."""
    selection: float = 0.0
    """For selections alone: a joint policy's own choice, and the further passes over the window of those who say how often it forgets."""

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            training=self.training + other.training,
            scoring=self.scoring + other.scoring,
            selection=self.selection + other.selection,
        )


class StepManifest(Frozen):
    """A step that is done: what it was made of, what it left in the lake, what it measured."""

    key: Digest
    """sha256 of everything that decides the outcome."""
    generation: str
    """Which run of this step left the files."""
    dataset: str
    window: Window
    config: StepConfig
    schema_key: str
    window_digest: str
    soft_read: tuple[Digest, Digest] | None
    """The teacher's step key and the digest of its logits; None without a teacher."""
    selection_read: dict[str, tuple[Digest, Digest]] = {}
    """Of each signal that the selection read, by its name there: its producer's step key and its digest."""
    selection: Digest | None = None
    """Identity of the stored selection; None where all rows were trained on."""
    synthetic: dict[str, Digest] = {}
    """Digests of the synthetic windows that were trained on too, by name."""
    parent: Digest | None
    """Key of the step before; None when this one started from new weights."""
    parent_lineage: Digest | None = None
    """Lineage of the step before, from which this one was trained; None when it started from new weights."""
    first: Window
    """The window in which the chain started from new weights."""
    checkpoint: LakePath | None
    """Folder of the lake; None where the span keeps none."""
    checkpoint_files: dict[FileName, Digest] = {}
    """sha256 of each of the checkpoint's files by name: what has another one is not read."""
    signals: tuple[Signal, ...] = ()
    """This model's own of the window, those that somebody reads: age 0 from its training pass, older ones by the
    checkpoints that closed the window that many windows earlier."""
    progressive: dict[str, float]
    """From the training pass, each batch before its update; rows weighted by 1 / pi_y(x)."""
    num_rows: int
    num_selected: int
    num_updates: int
    total_examples: int
    """Rows trained on since the chain's first window."""
    flops: Flops
    """Of this step."""
    total_flops: Flops
    """Of all steps since the chain's first window, this one included."""
    seconds: dict[str, float]
    """Wall time by part: load, select, score (forward-only, by older checkpoints), train, save."""
    num_workers: int
    normaliser: str = NORMALISER
    versions: dict[str, str] = {}

    @property
    def short(self) -> str:
        """The key as paths and people see it."""
        return self.key[:16]

    @property
    def lineage(self) -> str:
        """sha256 of what decides the bits of the weights beside the key: how many workers trained each step of the chain."""
        return content_key([self.key, self.num_workers, self.parent_lineage])

    def signal(self, name: str, age: int = 0) -> Signal | None:
        """A signal that this step left, if it did."""
        return next((left for left in self.signals if (left.name, left.age) == (name, age)), None)

    @property
    def left(self) -> frozenset[tuple[str, int]]:
        """Name and age of each signal that this step left."""
        return frozenset((signal.name, signal.age) for signal in self.signals)


def step_key(
    config: StepConfig,
    window: WindowManifest,
    parent: StepManifest | None,
    *,
    soft: Signal | None = None,
    selection: str | None = None,
    synthetic: Sequence[SyntheticManifest] = (),
) -> str:
    """The identity of a step. Names, workers, evaluation and other operational settings are no part of it.

    Args:
        config: the variant's in the window.
        window: what it trains on.
        parent: the step before; None for new weights.
        soft: the teacher's logits.
        selection: identity of the stored selection; None for all rows.
        synthetic: what it trains on too.
    """
    return content_key(
        {
            "semantics": SEMANTICS_VERSION,
            "config": config.model_dump(mode="json", exclude_defaults=True),
            "sources": [
                {"schema": window.schema_key, "window": window.digest, "selection": selection},
                *({"synthetic": made.digest} for made in synthetic),
            ],
            "soft": None if soft is None else soft.digest,
            "parent": None if parent is None else parent.key,
        }
    )


class Pointer(Frozen):
    """The document by which a chain's window points to a step."""

    step: Digest
    generation: str


@dataclass(frozen=True)
class StepStore:
    """The steps of a data set in the lake, and the heads of the chains that run through them."""

    lake: Lake
    dataset: str

    def path(self, key: str) -> str:
        """Where the manifest of a step lies, relative to the lake's root."""
        return f"steps/{self.dataset}/{key[:16]}/manifest.json"

    def read(self, key: str) -> StepManifest | None:
        """The step of that key, if it is done.

        Raises:
            Damaged: its manifest is not what was published.
        """
        step = self.lake.load(self.path(key), StepManifest)
        if step is not None and (step.dataset, step.key) != (self.dataset, key):
            what = f"it is the manifest of step {step.key[:16]} of data set {step.dataset!r}"
            raise Damaged(self.lake.address(self.path(key)), what, self.path(key))
        return step

    def sound(self, key: str) -> StepManifest | None:
        """The step of that key, if it is done and its manifest is not damaged: for the job that makes it again."""
        try:
            return self.read(key)
        except Damaged:
            return None

    def before(self, step: StepManifest) -> StepManifest | None:
        """The step that another one went on from; None where it started from new weights.

        Raises:
            MissingParent: it is gone, or was trained again to other bits.
        """
        if step.parent is None:
            return None
        found, cure = self.read(step.parent), "train the whole span again, from its first window on"
        if found is None:
            raise MissingParent(f"step {step.parent[:16]}, from which {step.window} went on, is gone: {cure}")
        if found.lineage != step.parent_lineage:
            raise MissingParent(
                f"{found.window} was trained again by {found.num_workers} workers, and {step.window} went on from what "
                f"other workers had made: {cure}"
            )
        return found

    def attempt(self, key: str, generation: str) -> Generation:
        """A generation's folder; its files count once the step's manifest names it."""
        return Generation(self.lake, generation, f"steps/{self.dataset}/{key[:16]}/gen-{generation}", self.path(key))

    def publish(self, manifest: StepManifest, previous: StepManifest | None, attempt: Generation) -> None:
        """Make a step known, or replace the generation that was read before it ran, or a manifest that is damaged."""
        before, current = self.lake.sound(self.path(manifest.key)), self.sound(manifest.key)
        if (current and current.generation) != (previous and previous.generation):
            raise Conflict(
                f"step {manifest.short} of {manifest.window} changed while this job ran: trigger the job again"
            )
        attempt.publish(manifest.model_dump(mode="json"), before)

    def head(self, lineup: str, variant: str, seed: int, window: Window) -> StepManifest | None:
        """The step with which a chain closed a window."""
        pointer = self.lake.load(head_path(self.dataset, lineup, variant, seed, window), Pointer)
        return None if pointer is None else self.read(pointer.step)

    def set_head(self, lineup: str, variant: str, seed: int, step: StepManifest) -> None:
        """Let a chain's window point to a step."""
        path = head_path(self.dataset, lineup, variant, seed, step.window)
        previous = self.lake.sound(path)
        pointer = Pointer(step=step.key, generation=step.generation).model_dump()
        if previous != pointer:
            self.lake.replace(path, pointer, previous)

    def require_parent(self, lineup: str, variant: str, seed: int, window: Window) -> StepManifest:
        """The step that closed the window before `window`.

        Raises:
            MissingParent: it is not done.
        """
        parent = self.head(lineup, variant, seed, window.previous())
        if parent is None:
            raise MissingParent(
                f"{variant!r} (line-up {lineup!r}, seed {seed}) has no checkpoint of {window.previous()}, the window "
                f"before {window}: run `online_training` for {window.previous()}, or `historical_warmup` of this variant "
                "over a span that ends there"
            )
        return parent

    def require_signal(
        self, lineup: str, read: Read, source: Variant, window: WindowManifest, config: StepConfig, *, reader: str
    ) -> Signal:
        """The signal that a variant of the same line-up left for a window.

        Args:
            lineup: whose chain.
            read: which signal.
            source: the variant that makes it.
            window: the window as it is now.
            config: the source's config for it, as the line-up says now; its seed is the chain's.
            reader: who needs it, for the message.

        Raises:
            MissingSignal: there is none, or it was made by another config or for other rows.
        """
        cure = f"train {source.name!r} on {window.window} first; `historical_warmup` over that span makes it"
        who = f"{source.name!r} (line-up {lineup!r}, seed {config.seed})"
        step = self.head(lineup, source.name, config.seed, window.window)
        first = source.start if step is None else step.first
        if first is not None and window.window < first.shift(read.age):
            raise MissingSignal(
                f"{who} cannot score {window.window} with a model {read.age} windows old, since its chain starts on {first}: "
                f"let {reader!r} read it `since` {first.shift(read.age)} or a later window"
            )
        found = None if step is None else step.signal(read.signal, read.age)
        if step is None or found is None:
            old = f" of age {read.age}" if read.age else ""
            raise MissingSignal(
                f"{who} has stored no {read.signal}{old} for {window.window}, which {reader!r} reads: {cure}"
            )
        if step.config != config:
            raise MissingSignal(f"{who} had another config when it scored {window.window}: {cure}")
        return found


def check_start(before: StepManifest | None, head: StepManifest | None, window: Window, variant: str) -> None:
    """Refuse new weights in the middle of a chain, or where it would go on.

    Args:
        before: what closed the window before, if anything did.
        head: what closed this window, if anything did.
        window: where it would start with new weights.
        variant: whose chain.

    Raises:
        ContradictoryParent: the chain comes from an earlier window.
    """
    known = before or head
    if known is not None and known.first < window:
        raise ContradictoryParent(
            f"{variant!r} closed {known.window} in a chain that started on {known.first}, and cannot start on {window} "
            f"with new weights: start on {known.first}, go on from the window before, or start here with `force`"
        )


def check_parent(config: StepConfig, window: WindowManifest, parent: StepManifest, chosen: Variant) -> None:
    """Refuse to go on with a model of another shape, seed or history, or with features of another meaning.

    Raises:
        ContradictoryParent: says what differs.
    """
    variant = chosen.name
    if chosen.start is not None and parent.first < chosen.start:
        raise ContradictoryParent(
            f"{variant!r} starts on {chosen.start}, but its chain that closed {parent.window} started on {parent.first}: "
            f"train it again from {chosen.start} on with `force`, or give the changed variant a new name"
        )
    ours, theirs = config.model_dump(mode="json"), parent.config.model_dump(mode="json")
    for part in ("model", "seed"):
        if ours[part] != theirs[part]:
            raise ContradictoryParent(
                f"{variant!r} has {part} {ours[part]}, but its checkpoint of {parent.window} was trained with "
                f"{theirs[part]}: give the changed variant a new name and warm it up, or take the change back"
            )
    if window.schema_key != parent.schema_key:
        raise ContradictoryParent(
            f"{window.window} was published with schema {window.schema_key}, but {variant!r} was trained on "
            f"{parent.window} with schema {parent.schema_key}: publish both with one schema, or give the data set with "
            "the new one a new name"
        )
