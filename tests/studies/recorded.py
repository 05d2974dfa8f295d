"""Small studies and what they left when they were trained once: answers are made of these rows, on every machine the same.

`python -m tests.studies.recorded` trains them and records rows and figures again, after a change of what training means.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pipeline.spec.study import Study
from pipeline.storage.lake import Lake
from pipeline.studies.answering import answer
from pipeline.studies.evidence import Evidence
from pipeline.studies.jobs import study_jobs
from pipeline.studies.results import Result, of_study, read, write
from pipeline.training.chain.engine import Engine
from tests.planned import planned
from tests.trained import DAY, TINY, alone, lineup, publish, variant, windows

NUM_WINDOWS = 18
BASE = lineup(variant(model=TINY), name="base", checkpoint_every=NUM_WINDOWS)
SPAN = {"first": DAY, "online_start": DAY.shift(5), "judged": DAY.shift(10), "last": DAY.shift(NUM_WINDOWS - 1)}
DISTILLATION = planned(
    "distillation", BASE, study="taught", teacher_size="small", student_size="tiny",
    axes=["start", "architecture", "age", "updates", "head"],
    num_starts=3,
    epsilons=(2.0, 5.0), seeds=(0, 1), **SPAN,
)  # fmt: skip
DOWNSAMPLING = planned(
    "downsampling", BASE, study="sampled", size="tiny", teacher_size="small", rates=(0.5, 0.1), affordable=20.0, seeds=(0, 1),
    axes=["scope", "correction", "policy", "batch", "combined", "theory"], **SPAN,
)  # fmt: skip

SHORT = planned(
    "distillation", BASE, study="short", teacher_size="small", student_size="tiny",
    first=DAY, online_start=DAY.shift(2), last=DAY.shift(4),
)  # fmt: skip
"""Too short for anything but a look: no late cutover, no slope, no half-life."""
TUNING = planned(
    "tuning", BASE, study="tuned", teacher_size="small", student_size="tiny", batch_sizes=(256,), learning_rates=(1e-6, 0.02),
    seeds=(0, 1), **(SPAN | {"last": DAY.shift(11)}),
)  # fmt: skip
STUDIES = (DISTILLATION, DOWNSAMPLING, SHORT, TUNING)
FOLDER = Path(__file__).parent / "golden"
FIGURES = FOLDER / "figures.json"
"""Of the first two, as their rows have always answered."""


def trained(lake: Lake, study: Study) -> list[Result]:
    """Train a study in this process, in a lake that has its windows, and read what it left."""
    for job in study_jobs(study):
        Engine(lake, job, None, alone()).run()
    return of_study(lake, study)


def recorded(study: Study) -> list[Result]:
    """What a study left when it was recorded."""
    return read([FOLDER / f"{study.name}.parquet"])


if __name__ == "__main__":
    made = Lake(f"{tempfile.mkdtemp()}/lake")
    publish(made, windows(NUM_WINDOWS))
    for study in STUDIES:
        write(trained(made, study), FOLDER / f"{study.name}.parquet")
    figures = {study.name: answer(Evidence.of(study, recorded(study))).metrics for study in STUDIES[:2]}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
