"""The line-up: one YAML file that names a data set, the variants trained on it and their workers."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.spec.config import EvaluationConfig, Name, Read, StepConfig, Variant, resolve
from pipeline.spec.documents import Flag, Frozen, Real, Seed, Whole, read_yaml
from pipeline.spec.errors import BadInput, asked, nearest, shown
from pipeline.spec.schema import SHIPPED
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import MAX_SPAN, Window, checked_zone


class LineUpError(BadInput):
    """A line-up says something that cannot be run."""


class LogSource(Frozen):
    """Raw logs read by a schema."""

    kind: Literal["log"] = "log"
    schema_file: str
    """A shipped schema's name (criteo, ebnerd, obd, upworthy) or the path of a YAML file; in a line-up a relative path starts from
    the line-up's own folder."""
    files: tuple[str, ...] = Field(min_length=1, max_length=100_000)
    """Paths, globs or URLs; `{date}` stands for a day, `$NAME` for an environment variable. A window reads the files of each
    day that it overlaps, and files of other days where rows of it came late or early."""
    files_zone: str | None = None
    """IANA zone at whose midnight files with `{date}` are cut; by default the zone of the schema's event time."""
    cut: Literal["event_time", "file_per_window", "equal"] = "event_time"
    """How rows get their window."""
    first: Window | None = None
    """First window of a log without times; not needed where its files have `{date}`, each day's being its window."""
    count: Whole | None = Field(default=None, ge=1, le=MAX_SPAN)
    """Into how many windows `equal` cuts the log."""
    max_quarantine_share: Real = Field(default=0.01, ge=0, le=1)
    """Share of rows that may be quarantined before ingest fails."""

    @field_validator("files_zone")
    @classmethod
    def _known(cls, zone: str | None) -> str | None:
        return None if zone is None else checked_zone(zone, "files_zone")

    @property
    def is_dated(self) -> bool:
        """Whether files have a day in their name."""
        return any("{date}" in file for file in self.files)

    @model_validator(mode="after")
    def _anchored(self) -> LogSource:
        if self.is_dated and self.count is not None:
            raise ValueError(
                f"files with {{date}} are one window a day, got a `count` of {self.count} too: leave out one of them"
            )
        if self.files_zone is not None and not self.is_dated:
            raise ValueError(f"`files_zone` is for files with {{date}}, got {self.files_zone!r} without: leave it out")
        if self.cut == "event_time" or self.is_dated:
            return self
        if self.first is None or (self.cut == "equal" and self.count is None):
            raise ValueError(
                f"a log without times that is cut as {self.cut!r} says which window is its `first`, and with 'equal' the "
                f"`count` of its windows, else each run would place it differently; got first {self.first} and count {self.count}"
            )
        return self


class SimulatedSource(Frozen):
    """Clicks of a simulator that knows their true probability."""

    kind: Literal["simulated"] = "simulated"
    settings: dict[str, Any] = {}
    """Fields of the simulator's config that differ from its defaults."""
    origin: Window
    """Day zero of its drift and churn."""
    per_seed: Flag = False
    """Each seed of a line-up has a data set of its own, simulated with that seed: one seed sets data, initial weights and
    selection."""

    @model_validator(mode="after")
    def _one_seed(self) -> SimulatedSource:
        if self.per_seed and "seed" in self.settings:
            raise ValueError(
                f"with `per_seed` the line-up's seeds are the simulator's; got {self.settings['seed']!r} in `settings` too: "
                "leave one of them out"
            )
        return self

    def simulator(self, seed: int) -> SimulatorConfig:
        """What is drawn for one of the line-up's seeds.

        Raises:
            BadInput: a setting is none of the simulator's or cannot be used.
        """
        with asked("the simulator's settings"):
            drawn = SimulatorConfig(**{"origin": self.origin, **self.settings})
        return drawn.model_copy(update={"seed": seed}) if self.per_seed else drawn


class DatasetConfig(Frozen):
    """A data set of the lake and where its windows come from."""

    name: Name
    """Its name in the lake."""
    source: Annotated[LogSource | SimulatedSource, Field(discriminator="kind")]
    """A log's files, or the simulator."""

    @property
    def has_worlds(self) -> bool:
        """Whether each seed has a data set of its own: a world that is independent of the others."""
        return isinstance(self.source, SimulatedSource) and self.source.per_seed

    def under(self, seed: int) -> str:
        """Name in the lake of the data set that a seed of the line-up is trained on."""
        return f"{self.name}-seed{seed}" if self.has_worlds else self.name

    def names(self, seeds: tuple[int, ...]) -> dict[str, int]:
        """The data sets of some seeds in the lake, each with the seed that it is simulated with, if it is `per_seed`."""
        return {self.under(seed): seed for seed in seeds}


class Workers(Frozen):
    """The Ray Train workers of a job."""

    num_workers: Whole = Field(default=1, ge=1, le=4096)
    """Processes that share the tables and the batch."""
    use_gpu: Flag = False
    """One GPU per worker with NCCL, or CPU with gloo."""
    threads: Whole = Field(default=0, ge=0, le=4096)
    """CPU threads per worker; 0 divides the node's cores among its workers."""
    lanes: Whole = Field(default=1, ge=1, le=4096)
    """Groups of that many workers, which train different chains at the same time: one small model cannot use a whole machine."""

    @property
    def num_processes(self) -> int:
        """The workers of all lanes."""
        return self.lanes * self.num_workers


class LineUp(Frozen):
    """A data set, its variants and their workers. The chain of checkpoints belongs to (data set, line-up, variant)."""

    name: Name
    """Names the MLflow experiment and the chains in the lake."""
    dataset: DatasetConfig
    """What all variants are trained on."""
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=1000)
    """The recipes, each under a name of its own; in any order: a teacher may come after its students."""
    reference: Name
    """The variant that the others are compared with."""
    online_start: Window
    """First window of the online phase."""
    seeds: tuple[Seed, ...] = Field(default=(0,), max_length=1000)
    """Each variant is trained once per seed."""
    workers: Workers = Workers()
    """How many processes train, on what."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The rows on which all variants are evaluated."""
    checkpoint_every: Whole = Field(default=1, ge=1, le=MAX_SPAN)
    """Keep every k-th checkpoint of a span, and always its last and its branch points."""
    tuned: str = Field(default="", max_length=2000)
    """Where the learning rates and batch sizes come from, in words; studies show it."""

    @model_validator(mode="after")
    def _consistent(self) -> LineUp:
        names = [variant.name for variant in self.variants]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"every variant has a name of its own, got {shown(twice)} twice: rename one")
        if self.reference not in names:
            raise ValueError(
                f"the reference must be one of the variants, got {self.reference!r}: {nearest(self.reference, names)}"
            )
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds are distinct, at least one, got {shown(list(self.seeds))}")
        for variant in self.variants:
            for read in variant.reads:
                if read.source not in names:
                    raise ValueError(
                        f"{variant.name!r} reads the {read.signal} of {read.source!r}, got no such variant: "
                        f"{nearest(read.source, names)}"
                    )
            if variant.optimizer.batch_size % self.workers.num_workers:
                raise ValueError(
                    f"{variant.name!r} has a global batch of {variant.optimizer.batch_size}, which cannot be dealt to "
                    f"{self.workers.num_workers} workers: choose a multiple"
                )
        teachers_first(self.variants)
        return self

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            LineUpError: there is none.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise LineUpError(
            f"line-up {self.name!r} has no variant {shown(name)}: {nearest(name, [v.name for v in self.variants])}"
        )

    def resolved(self, variant: Variant, window: Window, seed: int) -> StepConfig:
        """What one of the variants is in one window, under one seed."""
        return resolve(variant, window, online_start=self.online_start, seed=seed)

    def pilot_reads(self, variant: Variant, window: Window, seed: int) -> dict[str, Read]:
        """What the policy of one of the variants reads in one window, by its name there."""
        reads = variant.selection.reads()
        return {name: reads[name] for name in self.resolved(variant, window, seed).selection.reads()}

    @property
    def teachers(self) -> frozenset[str]:
        """Teachers and pilots: the variants whose logits others learn from or select by; they are stored."""
        return frozenset(read.source for variant in self.variants for read in variant.reads)

    def signals_read(self, source: str) -> frozenset[tuple[str, int]]:
        """Name and age of each signal that others read from a variant."""
        reads = (read for variant in self.variants for read in variant.reads)
        return frozenset((read.signal, read.age) for read in reads if read.source == source)

    def only(self, names: list[str] | tuple[str, ...]) -> tuple[Variant, ...]:
        """The named variants, teachers before students; all of them when `names` is empty."""
        chosen = {self.variant(name).name for name in names} or {v.name for v in self.variants}
        return tuple(v for v in teachers_first(self.variants) if v.name in chosen)


def document(lineup: LineUp | Variant) -> dict[str, Any]:
    """A line-up, or a variant of one, as its file has it: what has its default is left out, but for the kinds that say what a mapping is."""

    def short(whole: Any, given: Any) -> Any:
        if isinstance(given, dict):
            named = {"kind": whole["kind"]} if "kind" in whole else {}
            return named | {name: short(whole[name], part) for name, part in given.items()}
        if isinstance(given, list):
            return [short(*each) for each in zip(whole, given, strict=True)]
        return given

    found: dict[str, Any] = short(lineup.model_dump(mode="json"), lineup.model_dump(mode="json", exclude_defaults=True))
    return found


def teachers_first(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """The variants in their order, each moved behind those that it reads signals from.

    Raises:
        ValueError: some read from each other in a circle.
    """
    places = {variant.name: place for place, variant in enumerate(variants)}
    sorter = TopologicalSorter({places[v.name]: {places[read.source] for read in v.reads} for v in variants})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = [variants[place].name for place in sorted(set(error.args[1]))]
        raise ValueError(
            f"these variants learn from each other in a circle: {shown(circle)}: let one of them learn from labels alone"
        ) from None
    ordered: list[Variant] = []
    ready: list[int] = []
    while sorter.is_active():
        for place in sorter.get_ready():
            heappush(ready, place)
        first = heappop(ready)  # of those that may come next, the first
        ordered.append(variants[first])
        sorter.done(first)
    return tuple(ordered)


def load_lineup(path: str | Path) -> LineUp:
    """Read a line-up from its YAML file.

    Raises:
        BadInput: the file is missing, is not YAML, or says something that cannot be run; the message says where.
    """
    with asked(str(path)):
        lineup = LineUp.model_validate(read_yaml(path, "a line-up (--lineup or WINDROW_LINEUP)"))
    source = lineup.dataset.source
    if not isinstance(source, LogSource) or source.schema_file in SHIPPED:
        return lineup
    found = source.model_copy(update={"schema_file": str(Path(path).absolute().parent / source.schema_file)})
    return lineup.model_copy(update={"dataset": lineup.dataset.model_copy(update={"source": found})})
