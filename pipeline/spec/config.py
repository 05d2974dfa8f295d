"""What can be chosen: models, optimizers, selection policies and schedules of knowledge distillation, checked at birth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from pipeline.spec.documents import Frozen, Real, Seed, Whole
from pipeline.spec.errors import BadInput, explain, shown
from pipeline.spec.extensions import load_extension, require_extension
from pipeline.spec.window import MAX_SPAN, Window

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def _is_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a name is 1 to 63 letters (a to z), digits, '.', '_' or '-' and starts with a letter or digit, got {shown(name)}"
        )
    return name


Name = Annotated[str, AfterValidator(_is_name)]
"""What users call things; safe in paths, tags and URLs."""
Width = Annotated[Whole, Field(ge=1, le=65_536)]
"""Units of a layer."""
Age = Annotated[Whole, Field(ge=0, le=MAX_SPAN)]
"""Windows between two."""
HINDSIGHT = -1
"""The age of what a checkpoint says of the very window that it has closed."""
SoftAge = Annotated[Whole, Field(ge=HINDSIGHT, le=MAX_SPAN)]
Rate = Annotated[Real, Field(gt=0, le=1)]

LATE_CUTOVER_WINDOWS = 4
"""Windows from the first online window to a late cutover."""


class Widths(Frozen):
    """How wide a model is."""

    embedding_dim: Whole = Field(ge=4, le=8192, multiple_of=4)
    """Width of every embedding row (D)."""
    bottom: tuple[Width, ...] = Field(max_length=64)
    """Hidden layers between the dense features and their D-wide embedding."""
    over: tuple[Width, ...] = Field(max_length=64)
    """Hidden layers between the interactions and the logit."""
    cross_layers: Whole = Field(default=2, ge=1, le=64)
    """DCNv2 alone: number of low-rank cross layers."""
    cross_rank: Width = 32
    """DCNv2 alone: rank of each cross layer."""


Size = Literal["tiny", "small", "medium", "large"]
SIZES: dict[Size, Widths] = {
    "tiny": Widths(embedding_dim=8, bottom=(16,), over=(16,), cross_rank=8),
    "small": Widths(embedding_dim=16, bottom=(64,), over=(64, 32), cross_rank=16),
    "medium": Widths(embedding_dim=32, bottom=(128, 64), over=(128, 64), cross_rank=32),
    "large": Widths(embedding_dim=64, bottom=(256, 128), over=(256, 128), cross_rank=64, cross_layers=3),
}
"""Named sizes: each step is about four times the compute of the one before."""


Options = Annotated[
    tuple[tuple[str, Any], ...],
    BeforeValidator(lambda given: tuple(sorted(given.items())) if isinstance(given, Mapping) else given),
    PlainSerializer(dict),
]
"""A mapping that can be hashed."""
MODELS = "windrow.models"
"""Entry points of models, by architecture."""


Precision = Literal["float32", "bfloat16"]
"""In which dense layers compute; weights and embeddings are float32."""


class ModelConfig(Frozen):
    """A click model."""

    arch: Annotated[str, AfterValidator(lambda name: require_extension(MODELS, name, "model"))] = "dlrm"
    """`dlrm` (Naumov et al. 2019), `dcnv2` (Wang et al. 2021), both from TorchRec, or an entry point of `windrow.models`."""
    size: Size | Widths = "small"
    """A named size, or widths of one's own."""
    options: Options = ()
    """What the architecture alone knows; checked by its own file when it is built."""
    exclude: tuple[str, ...] = ()
    """Features of the schema that this model does not see."""
    table_share: Rate = 1.0
    """Rows of each embedding table, as a share of its hash size: with fewer, more ids share a row."""
    prior: Real = Field(default=0.5, gt=0, lt=1)
    """Probability that an untrained model predicts: the first bias of the logit."""
    precision: Precision = "float32"
    """In what the dense layers multiply. Under `bfloat16` weights, optimizer, embeddings, sums and the loss stay in float32; it may
    be faster on GPUs and on CPUs that multiply it (avx512_bf16, amx), and is slower on others."""
    distillation_head: Literal["serving", "auxiliary"] = "serving"
    """What learns from a teacher: the tower that serves, or a second one on the same backbone while the first sees labels
    alone (ExFM, Meta 2025; Rec-Distill, ByteDance 2026)."""

    @property
    def widths(self) -> Widths:
        """The widths, whichever way they were given."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size


class OptimizerConfig(Frozen):
    """Row-wise Adagrad for the embeddings, fused in backward, and Adagrad for the rest."""

    batch_size: Whole = Field(default=4096, ge=1, le=2**24)
    """Most rows per update over all workers together: a window's rows are spread evenly over as few updates as it allows."""
    embedding_lr: Real = Field(default=0.02, gt=0)
    """Learning rate of the embedding rows."""
    dense_lr: Real = Field(default=0.02, gt=0)
    """Learning rate of the dense layers."""
    eps: Real = Field(default=1e-8, gt=0)
    """Added to the root of Adagrad's accumulator."""
    accumulator_decay: Real = Field(default=1.0, ge=0, le=1)
    """Factor for all of Adagrad's accumulators before each window, except the chain's first. Below 1, the learning
    rate does not fall to zero; 0 resets them every day."""


class _ReadsFrom:
    """Marks a field that names a variant of the line-up."""


Source = Annotated[Name, _ReadsFrom()]
"""The variant whose signals a policy reads."""


SKETCH_COLUMNS = 8
"""Signals `gradient_0` and so on: a sketch of the last layer's gradient has so many columns."""
MOST_PASSES = 16
"""Of a pilot over one window, for the signals `forgetting_2` and so on."""


class Read(NamedTuple):
    """A signal that a variant reads from another of its line-up."""

    source: str
    """The variant that makes it."""
    age: int
    """Windows between the checkpoint that made it and the window; 0: from the source's own training pass."""
    signal: str = "logit"
    """Which: a name of `pipeline.training.signals.SIGNALS`."""

    @property
    def passes(self) -> int:
        """Over each window, that its maker takes for it."""
        name, _, passes = self.signal.rpartition("_")
        return int(passes) if name == "forgetting" and passes.isdecimal() else 1


class Policy(Frozen):
    """Which examples of a window are trained on, and with what correction: a kind is one file that says all of it.

    Kinds are found by name among the entry points of the group `windrow.policies`. What a policy does with rows stands in
    the classes of `pipeline.selection.policy`; what is here can be read without arrays.
    """

    softens: ClassVar[bool] = False
    """Whether it gives the examples that it keeps other labels, by `soft_label`."""

    kind: str
    """The entry point's name."""

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """What the policy is in one window: two schedules that agree there become equal.

        Args:
            window: which.
            online: whether it lies in the online phase.
        """
        return self.anonymous()

    def reads(self) -> dict[str, Read]:
        """The signals that it reads, by the name under which it finds them."""
        return {}

    def share(self, click_rate: float) -> float:
        """About what share of the rows it keeps, for dealing work evenly; all where it does not know."""
        return 1.0

    def anonymous(self) -> Self:
        """The same with the field's own name in the place of each variant's: an identity has the signals' content instead."""
        fields = {
            name: name
            for name, field in type(self).model_fields.items()
            if any(isinstance(mark, _ReadsFrom) for mark in field.metadata) and getattr(self, name) is not None
        }
        return self.model_copy(update=fields)


class All(Policy):
    """Train on every example."""

    kind: Literal["all"] = "all"


def _as_policy(given: Any) -> Any:
    """A policy from its mapping, of the class that its kind names."""
    if isinstance(given, Policy) or not isinstance(given, Mapping):
        return given
    kind = given.get("kind")
    if not isinstance(kind, str):
        raise BadInput("must be a mapping that says its kind")
    try:
        return load_extension(POLICIES, kind, "selection policy", Policy).model_validate(given)
    except ValidationError as error:
        raise BadInput(explain(error)) from None


POLICIES = "windrow.policies"
"""Entry points of selection policies, by kind."""
Selection = Annotated[SerializeAsAny[Policy], BeforeValidator(_as_policy)]


class NoTeacher(Frozen):
    """Learn from the labels alone."""

    kind: Literal["none"] = "none"


class _Taught(Frozen):
    """What every schedule with a teacher says."""

    teacher: Name
    """The variant that the student learns from."""
    weight: Real = Field(default=1.0, gt=0)
    """Weight of the soft-label cross-entropy relative to the loss on labels."""
    age: SoftAge = 0
    """Age of the teacher's logits, in windows: k means the checkpoint that closed the window k windows earlier; 0:
    the teacher's own training pass; -1 (hindsight): the checkpoint that closed this same window. Students are judged on a window before
    they train on it, so that nothing leaks."""
    since: Window | None = None
    """First window in which the student learns from the teacher; None: from the start."""
    ramp: Age = 0
    """Windows over which the weight grows linearly, counted from `since`; then it is full."""
    every: Whole = Field(default=1, ge=1, le=MAX_SPAN)
    """The student sees an updated teacher only every so many windows; in between, the logits come from the same
    checkpoint, which gets older."""

    @model_validator(mode="after")
    def _counted_from_somewhere(self) -> _Taught:
        if (self.ramp or self.every > 1) and self.since is None:
            raise ValueError(
                "a ramp and a teacher's updates are counted from a window: say `since` which, got ramp "
                f"{self.ramp} and every {self.every} without"
            )
        if self.every > 1 and self.age == HINDSIGHT:
            raise ValueError(f"in hindsight a teacher is updated in every window, got every {self.every}: leave it out")
        return self

    @property
    def ages(self) -> range:
        """All ages that the teacher's logits ever have."""
        return range(self.age, self.age + self.every)

    def age_in(self, window: Window) -> int:
        """The age of the teacher's logits in a window in which the student learns from them."""
        return self.age if self.since is None else self.ages[window.days_since(self.since) % self.every]

    def weight_in(self, window: Window) -> float | None:
        """The soft loss's weight in a window that lies before any cutover; None before `since`.

        In the k-th window from `since` on, counted from 0, k + 1 of ramp + 1 parts.
        """
        if self.since is None:
            return self.weight
        taught = window.days_since(self.since)
        return None if taught < 0 else self.weight * min(1.0, (taught + 1) / (self.ramp + 1))


class Cutover(_Taught):
    """Learn from a teacher too, until a window from which the teacher's loss is off."""

    kind: Literal["cutover"] = "cutover"
    at: Window | Literal["early", "late"] = "early"
    """First window without the teacher. Early: the first online window; late: four windows later."""


class Continuous(_Taught):
    """Learn from a teacher that keeps training all the while (Jain et al. 2024)."""

    kind: Literal["continuous"] = "continuous"


Distillation = Annotated[NoTeacher | Cutover | Continuous, Field(discriminator="kind")]


class Variant(Frozen):
    """One training recipe: what a study compares."""

    name: Name
    """What people call it; not part of its identity."""
    model: ModelConfig = ModelConfig()
    """Architecture and size."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Learning rates and batch size."""
    selection: Selection = All()
    """Which examples are trained on, and with what correction."""
    distillation: Distillation = NoTeacher()
    """Whether it learns from a teacher, from which, and until when."""
    sources: tuple[Name, ...] = Field(default=(), max_length=20)
    """Synthetic windows that are trained on too, by name: each window's rows and theirs are spread evenly over its batches."""
    start: Window | None = None
    """First window of its chain, with new weights; None: the first window that it is trained on. No part of a step's
    identity: where a chain started shows in its parents."""

    @property
    def teacher(self) -> str | None:
        """The name of the teacher, if it ever has one."""
        return None if isinstance(self.distillation, NoTeacher) else self.distillation.teacher

    @property
    def reads(self) -> frozenset[Read]:
        """All signals that it ever reads: its teacher's logits and what its selection reads."""
        found = set(self.selection.reads().values())
        if not isinstance(self.distillation, NoTeacher):
            found |= {Read(self.distillation.teacher, age) for age in self.distillation.ages}
        return frozenset(found)


class EvaluationConfig(Frozen):
    """The evaluation slice: the same rows for every variant, scored before they are trained on."""

    max_rows: Whole = Field(default=100_000, ge=1, le=2**31 - 1)
    """All rows of a window up to this number; of a larger window a sample of about this many, by hash."""


class StepConfig(Frozen):
    """A variant as it applies to one window: the part of a step's identity that people chose."""

    model: ModelConfig
    """The size stands as widths, so that renaming a size changes nothing."""
    optimizer: OptimizerConfig
    selection: Selection
    soft_weight: Real | None = Field(default=None, gt=0)
    """Weight of the teacher's loss in this window; None in a window without a teacher."""
    soft_age: SoftAge = 0
    """Windows between the checkpoint that made the soft labels and this window; 0: from the teacher's training pass, -1: by
    the checkpoint that closed it."""
    num_sources: Age = 0
    """How many synthetic windows are trained on too; their content is part of the step's identity."""
    seed: Seed
    """Sets the initial weights and the selection's salt."""


def late_cutover(online_start: Window) -> Window:
    """The first window without the teacher under a late cutover."""
    return online_start.shift(LATE_CUTOVER_WINDOWS)


def cutover_window(distillation: Cutover, online_start: Window) -> Window:
    """The first window in which a cutover's teacher loss is off."""
    match distillation.at:
        case "early":
            return online_start
        case "late":
            return late_cutover(online_start)
        case Window() as window:
            return window


def resolve(variant: Variant, window: Window, *, online_start: Window, seed: int) -> StepConfig:
    """What `variant` does in `window`; two schedules that agree there resolve to equal configs."""
    taught = variant.distillation
    soft_weight = None if isinstance(taught, NoTeacher) else taught.weight_in(window)
    if isinstance(taught, Cutover) and window >= cutover_window(taught, online_start):
        soft_weight = None
    model = variant.model.model_copy(update={"size": variant.model.widths})
    return StepConfig(
        model=model,
        optimizer=variant.optimizer,
        selection=variant.selection.in_window(window, online=window >= online_start),
        soft_weight=soft_weight,
        soft_age=0 if soft_weight is None or isinstance(taught, NoTeacher) else taught.age_in(window),
        num_sources=len(variant.sources),
        seed=seed,
    )
