"""The evidence of a study: what every cell lost on every window, and what it had cost until then, from the lake."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from pipeline.spec.config import Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.statistics.paired import Paired
from pipeline.storage.lake import Lake
from pipeline.studies.findings import Table
from pipeline.training.chain.evaluations import EvaluationManifest, EvaluationStore
from pipeline.training.chain.predictions import Predictions
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.chain.timings import spent

NUM_GROUPS = 64
"""Groups of clusters that are resampled; more cost memory and narrow no interval."""

PARTS = {
    "load": "data and checkpoints",
    "save": "data and checkpoints",
    "train": "training",
    "select": "selection",
    "score": "teacher logits",
}
"""What a report calls the parts of a step."""

Array = NDArray[np.float64]


class MissingEvidence(BadInput):
    """A cell has not been trained on a window on which it is to be judged."""


@dataclass(frozen=True, slots=True)
class Track:
    """One variant under S seeds over W windows; not a number before its first."""

    loss: Array
    """(S, W, G) summed log-loss by group of clusters, on the evaluation slice."""
    digest: NDArray[np.str_]
    """(S, W) digest of the rows' ids; empty where there is no step."""
    examples: Array
    """(S, W) rows trained on before the window."""
    flops: Array
    """(S, W) operations of its training before the window."""
    seconds: Array
    """(S, W) wall time of training before the window."""
    steps: dict[tuple[int, int], StepManifest]
    """By seed and window, for what they cost and what made them."""
    evaluations: dict[tuple[int, int], EvaluationManifest]
    """By seed and window, for what they measured."""

    def metric(self, name: str) -> Array:
        """(S, W) a metric of the evaluation slice; not a number where a window lacks it."""
        found = np.full(self.digest.shape, np.nan)
        for place, evaluation in self.evaluations.items():
            found[place] = evaluation.metrics.get(name, np.nan)
        return found

    @property
    def last(self) -> list[StepManifest]:
        """The last step under each seed: its totals are what the chain has cost."""
        return list({seed: step for (seed, _), step in sorted(self.steps.items(), key=lambda item: item[0])}.values())

    @property
    def total_examples(self) -> float:
        """Rows trained on until the last window, mean over seeds."""
        return float(np.mean([step.total_examples for step in self.last]))

    @property
    def training_flops(self) -> float:
        """Operations of training until the last window, mean over seeds."""
        return float(np.mean([step.total_flops.training for step in self.last]))


@dataclass(frozen=True)
class Evidence:
    """All that a study's cells left in the lake."""

    study: Study
    windows: tuple[Window, ...]
    tracks: dict[str, Track]
    """By variant."""
    true_logit: Array | None
    """(N,) of the last window's evaluation slice under the first seed, where the data's true probabilities are known."""

    def since(self, variant: str) -> int:
        """Index of the first window that a variant has closed under every seed."""
        return int(np.flatnonzero((self.tracks[variant].digest != "").all(axis=0))[0])

    def index(self, window: Window) -> int:
        """The place of a window."""
        return self.windows.index(window)

    def between(self, first: Window, last: Window | None = None) -> slice:
        """The places of the windows from one to another, included; to the study's last when not given."""
        return slice(self.index(first), self.index(last or self.study.last) + 1)

    @property
    def judged(self) -> slice:
        """The judged windows."""
        return self.between(self.study.judged)

    def paired(
        self,
        variant: str,
        against: str,
        windows: slice | None = None,
        seeds: slice = slice(None),
    ) -> Paired:
        """A variant's losses beside another's on the same rows, over windows that both have.

        Raises:
            MissingEvidence: one of them lacks a window, or they were evaluated on different rows.
        """
        ours, theirs = self.tracks[variant], self.tracks[against]
        chosen = windows or slice(max(self.since(variant), self.since(against)), len(self.windows))
        for name, track in ((variant, ours), (against, theirs)):
            if (track.digest[:, chosen] == "").any():
                raise MissingEvidence(
                    f"{name!r} lacks windows from {self.windows[chosen][0]} to {self.windows[-1]}: trigger the study "
                    "again, which trains what is missing"
                )
        if (ours.digest[:, chosen] != theirs.digest[:, chosen]).any():
            raise MissingEvidence(
                f"{variant!r} and {against!r} were evaluated on different rows: a window was published again between "
                "them; trigger the study again"
            )
        return Paired(
            loss=ours.loss[seeds, chosen],
            base=theirs.loss[seeds, chosen],
            examples=ours.examples[seeds, chosen],
            flops=ours.flops[seeds, chosen],
            seconds=ours.seconds[seeds, chosen],
        )

    def facts(self) -> dict[str, str]:
        """What made the evidence, by name."""
        study = self.study
        steps = [step for track in self.tracks.values() for step in track.steps.values()]
        evaluations = [each for track in self.tracks.values() for each in track.evaluations.values()]
        versions = {f"{name} {number}" for step in steps for name, number in step.versions.items()}
        source = study.lineup.dataset.source
        return {
            "data": study.lineup.dataset.model_dump_json(exclude_defaults=True),
            "rows a window": f"{np.mean([step.num_rows for step in steps]):,.0f}, of which evaluated "
            f"{np.mean([each.num_rows for each in evaluations]):,.0f}",
            "seeds": ", ".join(map(str, study.lineup.seeds))
            + (" (each with data of its own)" if getattr(source, "per_seed", False) else " (the same data)"),
            "learning rates and batch sizes": study.lineup.tuned or "those of the line-up",
            "workers": f"{study.lineup.workers.num_workers}",
            "made by": ", ".join(sorted(versions)),
            "command": f"airflow dags trigger {study.kind}_study, or windrow study; the settings are below",
        }


def wall_times(lake: Lake, evidence: Evidence) -> Table:
    """Where the wall time of a study's training went, each step counted once."""
    study = evidence.study
    seconds: dict[str, float] = {}
    for step in {step.key: step for track in evidence.tracks.values() for step in track.steps.values()}.values():
        for part, taken in step.seconds.items():
            seconds[PARTS.get(part, part)] = seconds.get(PARTS.get(part, part), 0.0) + taken
    evaluated = {each.key: each.seconds for track in evidence.tracks.values() for each in track.evaluations.values()}
    seconds["evaluation"] = sum(evaluated.values())
    seconds |= spent(lake, study.name)
    total = sum(seconds.values())
    rows = [
        (part, f"{taken:,.0f} s", f"{taken / total:.0%}")
        for part, taken in sorted(seconds.items(), key=lambda kv: -kv[1])
    ]
    return Table(("part", "wall time", "share"), (*rows, ("all", f"{total:,.0f} s", "")))


def gather(lake: Lake, study: Study, progress: Callable[[str], None] | None = None) -> Evidence:
    """Read what all variants of a study left in the lake.

    Args:
        lake: where it lies.
        study: its variants and its windows.
        progress: called with a line for each variant.

    Raises:
        MissingEvidence: a variant has no step at all.
    """
    windows = tuple(Window.span(study.first, study.last))
    tracks = {}
    for variant in study.lineup.only(()):
        tracks[variant.name] = _track(lake, study, variant, windows)
        if progress is not None:
            progress(f"read what {variant.name} predicted")
    return Evidence(study, windows, tracks, _true_logit(lake, tracks[study.lineup.reference]))


def _true_logit(lake: Lake, reference: Track) -> Array | None:
    last = max(window for seed, window in reference.steps if seed == 0)
    truth = Predictions.read(lake, reference.evaluations[0, last]).true_prob
    if truth is None:
        return None
    found: Array = logit(truth)
    return found


def _track(lake: Lake, study: Study, variant: Variant, windows: tuple[Window, ...]) -> Track:
    shape = (len(study.lineup.seeds), len(windows))
    loss = np.full((*shape, NUM_GROUPS), np.nan)
    digest = np.full(shape, "", dtype="U16")
    examples, flops, seconds = (np.full(shape, np.nan) for _ in range(3))
    steps, evaluations = {}, {}
    for s, seed in enumerate(study.lineup.seeds):
        store = StepStore(lake, study.lineup.dataset.under(seed))
        trained = 0.0
        for w, window in enumerate(windows):
            step = store.head(study.lineup.name, variant.name, seed, window)
            if step is None:
                continue
            wanted = study.lineup.resolved(variant, window, seed)
            if step.config != wanted:
                raise MissingEvidence(
                    f"{variant.name!r} was trained on {window} under seed {seed} with other settings, {step.config}, than the "
                    f"study has, {wanted}: trigger the study again, which trains it"
                )
            evaluation = EvaluationStore(lake, store.dataset).require(step, study.lineup.evaluation, repr(variant.name))
            predictions = Predictions.read(lake, evaluation)
            loss[s, w] = predictions.grouped_losses(NUM_GROUPS)
            digest[s, w] = hashlib.sha256(predictions.example_id.tobytes()).hexdigest()[:16]
            examples[s, w] = step.total_examples - step.num_selected
            flops[s, w] = step.total_flops.training - step.flops.training
            seconds[s, w] = trained
            trained += step.seconds.get("train", 0.0)
            steps[s, w], evaluations[s, w] = step, evaluation
    if not (digest != "").all(axis=0).any():
        raise MissingEvidence(
            f"{variant.name!r} has closed no window from {study.first} to {study.last} under every seed: trigger the "
            "study again, which trains what is missing"
        )
    return Track(loss, digest, examples, flops, seconds, steps, evaluations)
