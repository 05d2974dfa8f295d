"""Evaluations: what a step's model predicted for its window before it was trained on it, each with a key of its own.

An evaluation is named by its step and its slice. A line-up with another slice adds evaluations; it retrains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from pipeline.spec.config import EvaluationConfig
from pipeline.spec.documents import Digest, Frozen, content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.window import Window
from pipeline.storage.generation import Generation
from pipeline.storage.lake import Lake
from pipeline.storage.parquet import Part
from pipeline.training.chain.steps import StepManifest

METRICS_VERSION = 1
"""Raised by hand whenever the same predictions give other metrics."""


class MissingEvaluation(BadInput):
    """A step has not been evaluated on the line-up's slice."""


class EvaluationManifest(Frozen):
    """One model on one window's evaluation slice, as it stood before the window."""

    key: Digest
    """sha256 of the step's key, the slice and the metrics' version."""
    generation: str
    """Which run of this evaluation left the files."""
    step: Digest
    """Key of the step that trained on the window afterwards."""
    parent_lineage: Digest | None
    """Lineage of the model that predicted; None for new weights."""
    dataset: str
    window: Window
    slice: EvaluationConfig
    predictions: Part
    """Parquet file: example_id, label, logit and, where the window has them, cluster and true_prob; in window order."""
    metrics: dict[str, float]
    """log_loss, normalized_entropy, auc, calibration, ..."""
    num_rows: int = Field(ge=0)
    """Rows evaluated."""
    flops: float
    """Of the forward passes."""
    seconds: float
    """Wall time."""


class Closed(NamedTuple):
    """A window that a chain has closed: the step, and what its model predicted beforehand."""

    step: StepManifest
    evaluation: EvaluationManifest


def evaluation_key(step: str, chosen: EvaluationConfig) -> str:
    """The identity of an evaluation: the step's key, and the slice."""
    return content_key({"step": step, "slice": chosen.model_dump(mode="json"), "metrics": METRICS_VERSION})


@dataclass(frozen=True)
class EvaluationStore:
    """The evaluations of a data set's steps."""

    lake: Lake
    dataset: str

    def path(self, key: str) -> str:
        """Where the manifest of an evaluation lies, relative to the lake's root."""
        return f"evaluations/{self.dataset}/{key[:16]}/manifest.json"

    def read(self, step: StepManifest, chosen: EvaluationConfig) -> EvaluationManifest | None:
        """A step's evaluation on a slice; None where there is none, or one of a model that other workers had made.

        Raises:
            Damaged: its manifest is not what was published.
        """
        key = evaluation_key(step.key, chosen)
        found = self.lake.load(self.path(key), EvaluationManifest)
        if found is None or found.key != key or found.parent_lineage != step.parent_lineage:
            return None
        return found

    def require(self, step: StepManifest, chosen: EvaluationConfig, who: str) -> EvaluationManifest:
        """A step's evaluation on a slice.

        Raises:
            MissingEvaluation: there is none.
        """
        found = self.read(step, chosen)
        if found is None:
            raise MissingEvaluation(
                f"{who} has not been evaluated on at most {chosen.max_rows:,} rows of {step.window}: train the span again, "
                "which evaluates, and trains nothing again"
            )
        return found

    def attempt(self, key: str, generation: str) -> Generation:
        """A generation's folder; its files count once the evaluation's manifest names it."""
        folder = f"evaluations/{self.dataset}/{key[:16]}/gen-{generation}"
        return Generation(self.lake, generation, folder, self.path(key))

    def publish(self, manifest: EvaluationManifest, attempt: Generation) -> None:
        """Make an evaluation known, in the place of what is there."""
        attempt.publish(manifest.model_dump(mode="json"), self.lake.sound(self.path(manifest.key)))
