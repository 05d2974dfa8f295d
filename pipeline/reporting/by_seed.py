"""A study seed by seed: simulated, trained, written down as small rows, and its windows deleted if so asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from pipeline.reporting.dispatch import run
from pipeline.spec.job import IngestJob, TrainJob
from pipeline.spec.settings import Settings
from pipeline.spec.study import Study
from pipeline.storage.lake import Lake
from pipeline.studies import results
from pipeline.studies.estimate import estimate

SEEDS_A_LANE = 4
"""Seeds that a lane trains before their rows are written: more share the start-up of the workers, fewer need less disk."""


def train(study: Study, settings: Settings, folder: Path, *, discard: bool, progress: Callable[[str], None]) -> None:
    """Leave a file of results for each seed of a study; a seed whose file is there is done.

    Args:
        study: what is trained, under which seeds.
        settings: where the lake and Ray are.
        folder: of the files.
        discard: delete a seed's own windows, steps and predictions once its file is written.
        progress: called with a line for each seed that is done, and how long the rest may take.

    Raises:
        BadInput: a job cannot be done, a file holds other results, or windows that are shared would be deleted.
    """
    lake = Lake(settings.lake)
    if discard:
        results.require_alone(lake, study.lineup)
    missing = [seed for seed in study.lineup.seeds if not _is_done(study, seed, folder)]
    num_lanes, done = study.lineup.workers.lanes, len(study.lineup.seeds) - len(missing)
    if done:
        if discard:  # it may have been stopped between writing and deleting
            results.discard(lake, study.under(tuple(set(study.lineup.seeds) - set(missing))).lineup)
        progress(f"{done} of {len(study.lineup.seeds)} seeds are done already")
    if missing:
        progress(estimate(study.under(tuple(missing)), lake).words())
    began, at_once = time.monotonic(), SEEDS_A_LANE * num_lanes
    with ProcessPoolExecutor(num_lanes, mp_context=get_context("spawn")) as processes:
        for first in range(0, len(missing), at_once):
            seeds = tuple(missing[first : first + at_once])
            whole, parts = study.under(seeds), [study.under((seed,)) for seed in seeds]
            own = parts if study.lineup.dataset.has_worlds else [whole]  # a log that seeds share is read once
            list(processes.map(partial(ingest, settings=settings), own))
            run(TrainJob(lineup=whole.lineup, first=study.first, last=study.last, start="scratch"), settings)
            list(processes.map(partial(write, settings=settings, folder=folder), parts))
            if discard:
                results.discard(lake, whole.lineup)
            done += len(seeds)
            trained = first + len(seeds)
            left = (len(missing) - trained) * (time.monotonic() - began) / trained
            progress(f"{done} of {len(study.lineup.seeds)} seeds are done; about {left / 60:.0f} minutes left")


def path(study: Study, seed: int, folder: Path) -> Path:
    """Where the results of a seed lie."""
    return folder / f"{study.name}-seed{seed}.parquet"


def _is_done(study: Study, seed: int, folder: Path) -> bool:
    place = path(study, seed, folder)
    if not place.exists():
        return False
    results.complete_seeds(results.read([place]), study.under((seed,)))
    return True


def ingest(part: Study, settings: Settings) -> None:
    """Publish the windows of a part of a study."""
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    run(IngestJob(dataset=part.lineup.dataset, first=part.first, last=part.last, seeds=part.lineup.seeds), settings)


def write(part: Study, settings: Settings, folder: Path) -> None:
    """Write the results of a study under one seed."""
    (seed,) = part.lineup.seeds
    results.write(results.of_study(Lake(settings.lake), part), path(part, seed, folder))
