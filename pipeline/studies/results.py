"""Results: a small row for each seed, variant and window, with what was lost and what it cost; they outlive the lake.

A study answers from these rows alone. Files of them from several machines make one answer, and the windows, checkpoints and
predictions behind them may be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from scipy.special import logit

from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.selection.sampling import keep_probabilities
from pipeline.spec.config import Selection, Variant
from pipeline.spec.documents import content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.statistics.kappa import kappa_offset_of, kappa_weight_of
from pipeline.storage.lake import Lake
from pipeline.storage.paths import GENERATIONS
from pipeline.training.chain.evaluations import EvaluationStore
from pipeline.training.chain.predictions import Predictions
from pipeline.training.chain.steps import StepStore
from pipeline.training.metrics import ClickSums, entropy

NUM_GROUPS = 64
"""Groups of whole clusters that a row of a single log keeps apart; more cost space and narrow no interval."""
OF_A_DATA_SET = ("chains", *GENERATIONS)
"""The lake's folders that hold one for each data set; a chain's heads go before what they name."""
ADDED = ("selection_flops",)
"""Columns that the first published rows lack."""


class MissingResults(BadInput):
    """A variant has not been trained on a window on which it is to be judged, or not as the study says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One variant under one seed in one window: on the evaluation slice before it was trained on, and what it cost."""

    seed: int
    variant: str
    window: str
    recipe: str
    """Digest of the variant's config in the window and of where the data come from: rows of another recipe are refused."""
    step: str
    """Key of the step, shortened."""
    slice: int
    """Digest of the evaluated rows' ids: paired rows have the same."""
    num_rows: int
    """Rows evaluated."""
    loss: float
    """Sum of log-losses on the labels, nats."""
    true_loss: float | None
    """Sum of their expectations under the true probabilities; None where these are not known."""
    excess: float | None
    """Sum of Kullback-Leibler divergences from the true probabilities."""
    positives: int
    prediction: float
    """Sum of predicted probabilities."""
    true_prob: float | None
    """Sum of true ones."""
    auc: float | None
    groups: tuple[float, ...] | None
    """Log-losses by group of whole clusters; a study keeps them where all seeds share one log."""
    kappa: float | None
    """By how much theory says that the selection multiplies the excess of all rows; None without a sample or the truth."""
    window_rows: int
    """Rows of the window."""
    num_selected: int
    """Rows trained on in the window."""
    num_updates: int
    examples: int
    """Rows trained on before the window, since the chain's first."""
    total_training_flops: float
    """Since the chain's first window, this one included."""
    training_flops: float
    """Of the window, as all below."""
    scoring_flops: float
    evaluation_flops: float
    load_seconds: float
    select_seconds: float
    score_seconds: float
    train_seconds: float
    save_seconds: float
    evaluation_seconds: float
    versions: str
    selection_flops: float | None = None
    """Of choosing rows: a joint policy's search, and passes beyond its own for those who select by them; None of rows written before
    it was counted."""

    @property
    def sums(self) -> ClickSums:
        """The sums from which metrics of any union of rows follow."""
        unknown = float("nan")
        return ClickSums(
            weight=self.num_rows,
            positives=self.positives,
            loss=self.loss,
            prediction=self.prediction,
            true_prob=unknown if self.true_prob is None else self.true_prob,
            excess=unknown if self.excess is None else self.excess,
            rows=self.num_rows,
        )


_TYPES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "str": pa.string(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "tuple[float, ...] | None": pa.list_(pa.float64()),
}
SCHEMA = pa.schema(
    [pa.field(field.name, _TYPES[str(field.type)], nullable="None" in str(field.type)) for field in fields(Result)]
)


KNOWN_BY_THEIR_FIELDS = ("all", "negatives", "odds")
"""Policies of the first published rows, whose recipes do not name them; the fields of all others may be alike."""


def recipe_of(lineup: LineUp, variant: Variant, window: Window, seed: int) -> str:
    """What decides a row besides the code: the config in the window, the data, and the evaluation slice.

    Defaults are left out, as in a step's key: a new field of a config leaves old rows as they are.
    """
    config = lineup.resolved(variant, window, seed)
    parts = {"config": config, "source": lineup.dataset.source, "slice": lineup.evaluation}
    documents: dict[str, Any] = {
        name: part.model_dump(mode="json", exclude_defaults=True) for name, part in parts.items()
    }
    if config.selection.kind not in KNOWN_BY_THEIR_FIELDS:
        documents["policy"] = config.selection.model_dump(mode="json")
    return content_key(documents)[:16]


def in_lake(
    lake: Lake,
    lineup: LineUp,
    windows: Sequence[Window],
    seeds: Iterable[int],
    names: tuple[str, ...] = (),
    *,
    strict: bool = True,
    groups: bool,
) -> Iterator[Result]:
    """The rows of what a line-up's variants have closed, seed by seed.

    Args:
        lake: where.
        lineup: whose chains.
        windows: which.
        seeds: which.
        names: of the variants; all when empty.
        strict: refuse what was trained with other settings than the line-up has now.
        groups: keep losses by group of clusters.

    Raises:
        MissingResults: it was.
        MissingEvaluation: a step has not been evaluated on the line-up's slice.
    """
    for seed in seeds:
        for variant in lineup.only(names):
            yield from _of_chain(lake, lineup, windows, seed, variant, strict, groups)


def of_study(lake: Lake, study: Study) -> list[Result]:
    """The rows of a study in the lake, as far as it is done; raises as `in_lake`."""
    lineup, windows = study.lineup, list(Window.span(study.first, study.last))
    return list(in_lake(lake, lineup, windows, lineup.seeds, groups=not lineup.dataset.has_worlds))


def _of_chain(
    lake: Lake, lineup: LineUp, windows: Sequence[Window], seed: int, variant: Variant, strict: bool, groups: bool
) -> Iterator[Result]:
    dataset = lineup.dataset.under(seed)
    steps, evaluations = StepStore(lake, dataset), EvaluationStore(lake, dataset)
    for window in windows:
        step = steps.head(lineup.name, variant.name, seed, window)
        if step is None:
            continue
        wanted = lineup.resolved(variant, window, seed)
        if strict and step.config != wanted:
            raise MissingResults(
                f"{variant.name!r} was trained on {window} under seed {seed} with other settings, {step.config}, than the "
                f"study has, {wanted}: trigger the study again, which trains it"
            )
        evaluation = evaluations.require(step, lineup.evaluation, repr(variant.name))
        seen = Predictions.read(lake, evaluation)
        sums = ClickSums.of(seen.label, seen.logit, true_prob=seen.true_prob)
        truth = seen.true_prob
        yield Result(
            seed=seed,
            variant=variant.name,
            window=window.name,
            recipe=recipe_of(lineup, variant, window, seed),
            step=step.short,
            slice=xxhash.xxh3_64_intdigest(seen.example_id.tobytes()) >> 1,
            num_rows=sums.rows,
            loss=sums.loss,
            true_loss=None if truth is None else sums.excess + float(entropy(truth).sum()),
            excess=None if truth is None else sums.excess,
            positives=int(sums.positives),
            prediction=sums.prediction,
            true_prob=None if truth is None else sums.true_prob,
            auc=evaluation.metrics.get("auc"),
            groups=None if not groups else tuple(seen.grouped_losses(NUM_GROUPS).tolist()),
            kappa=None if truth is None else kappa_of(step.config.selection, logit(truth)),
            window_rows=step.num_rows,
            num_selected=step.num_selected,
            num_updates=step.num_updates,
            examples=step.total_examples - step.num_selected,
            total_training_flops=step.total_flops.training,
            training_flops=step.flops.training,
            scoring_flops=step.flops.scoring,
            evaluation_flops=evaluation.flops,
            selection_flops=step.flops.selection,
            **{f"{part}_seconds": step.seconds.get(part, 0.0) for part in ("load", "select", "score", "train", "save")},
            evaluation_seconds=evaluation.seconds,
            versions=", ".join(f"{name} {number}" for name, number in sorted(step.versions.items())),
        )


def kappa_of(policy: Selection, true_logits: NDArray[np.float64]) -> float | None:
    """What theory predicts for a policy of independent draws whose pilot, if it has one, is as good as the truth (N,)."""
    if not isinstance(policy, FeaturePolicy) or policy.columns:
        return None
    signals = dict.fromkeys(policy.reads(), true_logits.astype(np.float32))
    rows = Candidates(np.arange(len(true_logits), dtype=np.uint64), signals)
    if (tally := policy.tally(rows)) is not None:
        rows = replace(rows, summary=policy.summarize(tally))
    keep, clicks = keep_probabilities(policy, rows)
    if (clicks < 1).any():  # the formulas are of policies that keep every click
        return None
    return (kappa_weight_of if policy.correction == "weight" else kappa_offset_of)(true_logits, keep)


def write(rows: Sequence[Result], path: Path) -> None:
    """Write rows as one parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
    pq.write_table(table, unfinished, compression="zstd", compression_level=19)
    unfinished.rename(path)


def read(paths: Iterable[Path]) -> list[Result]:
    """The rows of files, and of all files of folders, each seed, variant and window once.

    Raises:
        MissingResults: a file is missing or has no such rows, there are none, or two files contradict each other.
    """
    found: dict[tuple[int, str, str], Result] = {}
    for path in paths:
        for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            for row in _of_file(file):
                known = found.setdefault((row.seed, row.variant, row.window), row)
                if (known.step, known.slice, known.loss) != (row.step, row.slice, row.loss):
                    raise MissingResults(
                        f"{file} has another result for {row.variant!r}, seed {row.seed}, {row.window} than the files before: "
                        "give the files of one study, made with the same code and settings"
                    )
    if not found:
        raise MissingResults(
            f"no results in {', '.join(map(str, paths))}: give files that `windrow study --cells` wrote"
        )
    return list(found.values())


def _of_file(path: Path) -> list[Result]:
    try:
        table = pq.read_table(path)
        for field in (SCHEMA.field(name) for name in ADDED if name not in table.column_names):
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        rows = table.cast(SCHEMA).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise MissingResults(
            f"{path} is no file of results, got {str(error).splitlines()[0]}: give files that `windrow study --cells` wrote"
        ) from error
    return [Result(**{**row, "groups": None if row["groups"] is None else tuple(row["groups"])}) for row in rows]


def complete_seeds(rows: Iterable[Result], study: Study) -> tuple[int, ...]:
    """The seeds of a study under which all its variants have closed all their windows.

    Raises:
        MissingResults: there is none, or a row is of other settings or data than the study's.
    """
    found = {(row.seed, row.variant, row.window): row for row in rows}
    missing: dict[int, str] = {}
    for seed in study.lineup.seeds:
        for variant in study.lineup.only(()):
            for window in Window.span(max(study.first, variant.start or study.first), study.last):
                row = found.get((seed, variant.name, window.name))
                if row is None:
                    missing.setdefault(seed, f"{variant.name!r} on {window}")
                elif row.recipe != recipe_of(study.lineup, variant, window, seed):
                    raise MissingResults(
                        f"{variant.name!r} was trained on {window} under seed {seed} with other settings or data than the study "
                        "has: trigger the study again, which trains it, or name the files that belong to this study"
                    )
    if len(missing) == len(study.lineup.seeds):
        seed, what = next(iter(missing.items()))
        raise MissingResults(
            f"study {study.name!r} is finished under none of its seeds; under seed {seed} there is no result of {what}: trigger "
            "the study again, which trains what is missing"
        )
    return tuple(seed for seed in study.lineup.seeds if seed not in missing)


def require_alone(lake: Lake, lineup: LineUp) -> None:
    """Refuse to delete what others need: a data set that seeds share, or on which another line-up has trained.

    Raises:
        BadInput: says which.
    """
    for dataset in lineup.dataset.names(lineup.seeds):
        others = {file.path.split("/")[2] for file in lake.files_below(f"chains/{dataset}")} - {lineup.name}
        if others or not lineup.dataset.has_worlds:
            who = f"line-up {min(others)!r} has trained on it, too" if others else "all seeds share it"
            raise BadInput(
                f"data set {dataset!r} is not deleted, since {who}: leave out --discard, or use a lake of its own"
            )


def discard(lake: Lake, lineup: LineUp) -> None:
    """Delete all that the lake has of the data sets of a line-up's seeds; their rows must be written by then.

    Raises:
        BadInput: see `require_alone`.
    """
    require_alone(lake, lineup)
    for dataset in lineup.dataset.names(lineup.seeds):
        for top in OF_A_DATA_SET:
            lake.remove(f"{top}/{dataset}")
