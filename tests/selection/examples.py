"""Policies as somebody outside would write them: three that hold the contract, and nine that each break it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.selection.policy import Candidates, FeaturePolicy, JointPolicy, LabelPolicy
from pipeline.spec.config import Policy, Rate, Read, Source
from pipeline.spec.window import Window
from pipeline.storage.hashing import keyed_uniform


class Disputed(FeaturePolicy):
    """Keeps negatives on which two models differ: of two signals, made by two variants."""

    kind: Literal["disputed"] = "disputed"
    rate: Rate
    one: Source
    other: Source

    def reads(self) -> dict[str, Read]:
        return {"one": Read(self.one, 0), "other": Read(self.other, 0)}

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], float]:
        apart = np.abs(rows.signals["one"] - rows.signals["other"]).astype(np.float64)
        return np.clip(self.rate * (0.5 + apart), 0.01, 1.0), 1.0


class Surprising(LabelPolicy):
    """Keeps an example with |y - p|, p of a pilot, and never with less than a floor."""

    kind: Literal["surprising"] = "surprising"
    pilot: Source
    floor: Rate = 0.02

    def reads(self) -> dict[str, Read]:
        return {"error": Read(self.pilot, 0, "error")}

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.clip(rows.signals["error"].astype(np.float64), self.floor, 1.0)


class EveryStratum(JointPolicy):
    """Keeps the same number of examples of each label, weighted so that each label counts as often as it occurs."""

    kind: Literal["every_stratum"] = "every_stratum"
    count: int

    columns: ClassVar[tuple[str, ...]] = ()

    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        draw = keyed_uniform(rows.example_id, salt)
        weight = np.zeros(len(label), np.float32)
        for value in (0, 1):
            of = np.flatnonzero(label == value)
            kept = of[np.argsort(draw[of])][: self.count]
            weight[kept] = len(of) / max(1, len(kept))
        index = np.flatnonzero(weight)
        return index, weight[index]


class Leaking(FeaturePolicy):
    """Takes an error, which has looked at the label, for a feature: its offset tells the model the label."""

    kind: Literal["leaking"] = "leaking"
    rate: Rate = 0.3

    def reads(self) -> dict[str, Read]:
        return {"error": Read("pilot", 0, "error")}

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], float]:
        return np.clip(rows.signals["error"].astype(np.float64), 0.05, 1.0), 1.0


class Biased(JointPolicy):
    """Keeps the examples with the largest error, each standing for itself alone."""

    kind: Literal["biased"] = "biased"
    count: int = 500

    def reads(self) -> dict[str, Read]:
        return {"error": Read("pilot", 0, "error")}

    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        index = np.sort(np.argsort(-rows.signals["error"], kind="stable")[: self.count])
        return index, np.ones(len(index), np.float32)


class Understating(Biased):
    """Lets the same examples stand for as many each, which is no small bias however it is called."""

    kind: Literal["understating"] = "understating"  # type: ignore[assignment]
    bias: ClassVar[float] = 0.02

    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        index, weight = super().choose(rows, label, salt)
        return index, weight * np.float32(len(label) / len(index))


class Admitting(Biased):
    """Says that it is as biased as can be."""

    kind: Literal["admitting"] = "admitting"  # type: ignore[assignment]
    bias: ClassVar[float] = 1.0


class OrderDependent(FeaturePolicy):
    """Keeps every third row of whatever it is given."""

    kind: Literal["order_dependent"] = "order_dependent"
    rate: Rate = 1 / 3

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pi = np.where(np.arange(len(rows.example_id)) % 3 == 0, 1.0, 0.01)
        return pi, pi


class FromTheFuture(FeaturePolicy):
    """Asks a model that has trained on the window already."""

    kind: Literal["from_the_future"] = "from_the_future"
    rate: Rate = 0.3

    def reads(self) -> dict[str, Read]:
        return {"pilot": Read("pilot", -1)}

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        return self.rate, self.rate


class SoftAsItsLabel(LabelPolicy):
    """Softens labels with what knows them."""

    kind: Literal["soft_as_its_label"] = "soft_as_its_label"
    softens: ClassVar[bool] = True

    def reads(self) -> dict[str, Read]:
        return {"pilot": Read("pilot", 0, "error")}

    def keep_probability(self, rows: Candidates, label: NDArray[np.uint8]) -> float:
        return 0.3

    def soft_label(self, rows: Candidates) -> NDArray[np.float32]:
        return rows.signals["pilot"]


class NoChance(FeaturePolicy):
    """Never keeps half of the rows, so that nothing stands for them."""

    kind: Literal["no_chance"] = "no_chance"
    correction: Literal["weight", "offset"] = "weight"

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pi = np.where(rows.example_id % np.uint64(2) == 0, 0.5, 0.0)
        return pi, pi


class Unseeded(JointPolicy):
    """Draws with a seed of its own, the same for all."""

    kind: Literal["unseeded"] = "unseeded"

    def choose(
        self, rows: Candidates, label: NDArray[np.uint8], salt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        index = np.flatnonzero(keyed_uniform(rows.example_id, 7) < 0.5)
        return index, np.full(len(index), 2.0, np.float32)


class NeverTheSame(FeaturePolicy):
    """Keeps fewer each time that it is asked what it is in a window."""

    kind: Literal["never_the_same"] = "never_the_same"
    rate: Rate = 0.5

    def in_window(self, window: Window, *, online: bool) -> Policy:
        return self.model_copy(update={"rate": self.rate / 2})

    def keep_probabilities(self, rows: Candidates) -> tuple[float, float]:
        return self.rate, self.rate
