"""The evidence of a study: its results as arrays by seed and window, paired on the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.statistics.series import Series
from pipeline.studies.findings import Table
from pipeline.studies.results import MissingResults, Result, complete_seeds

PARTS = {
    "load": "data and checkpoints",
    "save": "data and checkpoints",
    "train": "training",
    "select": "selection",
    "score": "teacher logits",
    "evaluation": "evaluation",
}
"""What a report calls the parts of a step's wall time."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Track:
    """One variant under S seeds over W windows."""

    rows: dict[tuple[int, int], Result]
    """By place of the seed and of the window; none before the variant's start."""
    shape: tuple[int, int]

    def __getitem__(self, name: str) -> Array:
        """(S, W) one of the numbers of its results; not a number where there is none."""
        found = np.full(self.shape, np.nan)
        for place, row in self.rows.items():
            number = getattr(row, name)
            found[place] = np.nan if number is None else number
        return found

    def groups(self) -> Array | None:
        """(G, W) log-losses by group of clusters, summed over seeds; None where seeds are worlds of their own."""
        if any(row.groups is None for row in self.rows.values()):
            return None
        found = np.zeros((len(next(iter(self.rows.values())).groups or ()), self.shape[1]))
        for (_, window), row in self.rows.items():
            found[:, window] += row.groups or ()
        return found

    def metric(self, name: str) -> Array:
        """(S, W) log_loss, normalized_entropy, auc, calibration or excess of the evaluation slice."""
        num_rows, positives = self["num_rows"], self["positives"]
        rate = positives / num_rows
        match name:
            case "log_loss":
                return self["loss"] / num_rows
            case "normalized_entropy":
                return self["loss"] / num_rows / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
            case "calibration":
                return self["prediction"] / positives
            case "excess":
                return self["excess"] / num_rows
            case _:
                return self[name]

    @property
    def total_examples(self) -> float:
        """Rows trained on until the last window, mean over seeds."""
        return float((self["examples"] + self["num_selected"])[:, -1].mean())

    @property
    def training_flops(self) -> float:
        """Operations of training until the last window, mean over seeds."""
        return float(self["total_training_flops"][:, -1].mean())


@dataclass(frozen=True)
class Evidence:
    """All that a study's variants left."""

    study: Study
    windows: tuple[Window, ...]
    tracks: dict[str, Track]
    """By variant."""

    @classmethod
    def of(cls, study: Study, rows: Iterable[Result]) -> Evidence:
        """The evidence in some rows, of the seeds under which the study is finished; what else they hold is left aside.

        Raises:
            MissingResults: it is finished under no seed, or something was trained with other settings or data.
        """
        rows = list(rows)
        study = study.under(complete_seeds(rows, study))
        windows = tuple(Window.span(study.first, study.last))
        places = {window.name: place for place, window in enumerate(windows)}
        seeds = {seed: place for place, seed in enumerate(study.lineup.seeds)}
        shape = (len(seeds), len(windows))
        tracks = {variant.name: Track({}, shape) for variant in study.lineup.only(())}
        for row in rows:
            if row.variant in tracks and row.seed in seeds and row.window in places:
                tracks[row.variant].rows[seeds[row.seed], places[row.window]] = row
        return cls(study, windows, tracks)

    @property
    def independent(self) -> bool:
        """Whether each seed is a world of its own."""
        return self.study.lineup.dataset.has_worlds

    @property
    def knows_truth(self) -> bool:
        """Whether the true probabilities of all evaluated rows are known."""
        return all(row.true_loss is not None for track in self.tracks.values() for row in track.rows.values())

    def since(self, variant: str) -> int:
        """Index of a variant's first window."""
        return min(window for _, window in self.tracks[variant].rows)

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

    def series(
        self,
        variant: str,
        against: str,
        windows: slice | None = None,
        seeds: slice = slice(None),
        *,
        labels: bool = False,
    ) -> Series:
        """A variant's loss relative to another's on the same rows, percent by seed and window.

        Of the expected losses where the true probabilities are known, which leaves out the luck of the labels.

        Args:
            variant: whose.
            against: relative to whose.
            windows: which; by default those that both have.
            seeds: which.
            labels: on the sampled labels in any case.

        Raises:
            MissingResults: they were evaluated on different rows.
        """
        ours, theirs = self.tracks[variant], self.tracks[against]
        chosen = windows or slice(max(self.since(variant), self.since(against)), len(self.windows))
        if (ours["slice"][:, chosen] != theirs["slice"][:, chosen]).any():
            raise MissingResults(
                f"{variant!r} and {against!r} were evaluated on different rows: a window was published again between "
                "them; trigger the study again"
            )
        name = "true_loss" if self.knows_truth and not labels else "loss"
        groups = ours.groups(), theirs.groups()
        return Series.relative(
            ours[name][seeds, chosen],
            theirs[name][seeds, chosen],
            independent=self.independent,
            groups=None if groups[0] is None or groups[1] is None else (groups[0][:, chosen], groups[1][:, chosen]),
        )

    def facts(self) -> dict[str, str]:
        """What made the evidence, by name."""
        study = self.study
        rows = [row for track in self.tracks.values() for row in track.rows.values()]
        return {
            "data": study.lineup.dataset.model_dump_json(exclude_defaults=True),
            "rows a window": f"{np.mean([row.window_rows for row in rows]):,.0f}, of which evaluated "
            f"{np.mean([row.num_rows for row in rows]):,.0f}",
            "seeds": ", ".join(map(str, study.lineup.seeds))
            + (" (each with data of its own)" if self.independent else " (the same data)"),
            "learning rates and batch sizes": study.lineup.tuned or "those of the line-up",
            "workers": f"{study.lineup.workers.num_workers}",
            "made by": "; ".join(sorted({row.versions for row in rows})),
            "command": f"airflow dags trigger {study.kind}_study, or windrow study; the settings are below",
        }

    def took(self) -> str:
        """What all of it cost, in one sentence."""
        steps = self._steps()
        rows, flops = sum(row.num_selected for row in steps), sum(row.training_flops for row in steps)
        return (
            f"It trained on {rows / 1e6:,.1f} million rows: {flops / 1e12:,.2f} TFLOP of training, and "
            f"{sum(self._seconds().values()) / 60:,.0f} minutes of work in {len(steps):,} steps, all seeds together."
        )

    def _steps(self) -> list[Result]:
        """The steps of all seeds; each once however many variants share it."""
        return list({row.step: row for track in self.tracks.values() for row in track.rows.values()}.values())

    def _seconds(self) -> dict[str, float]:
        """What the steps of all seeds took, by part."""
        seconds: dict[str, float] = {}
        for row in self._steps():
            for part, name in PARTS.items():
                seconds[name] = seconds.get(name, 0.0) + getattr(row, f"{part}_seconds")
        return seconds

    def minutes_a_seed(self) -> float:
        """What the steps of a seed took in one lane; mean over seeds."""
        return sum(self._seconds().values()) / 60 / len(self.study.lineup.seeds)

    def wall_times(self, beside: Mapping[str, float]) -> Table:
        """Where the wall time of training went, and what was spent beside the steps."""
        seconds = self._seconds() | dict(beside)
        total = sum(seconds.values())
        lines = [
            (part, f"{taken:,.0f} s", f"{taken / total:.0%}")
            for part, taken in sorted(seconds.items(), key=lambda each: -each[1])
        ]
        return Table(("part", "wall time", "share"), (*lines, ("all", f"{total:,.0f} s", "")))
