"""The rows of a study as if it had been trained, its losses made by a formula: to see whether an answer finds the formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.spec.config import Variant
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.studies.evidence import Evidence
from pipeline.studies.operations import forward_flops, shape_of
from pipeline.studies.results import Result, recipe_of

NUM_ROWS = 10_000
"""Evaluated, of each window."""


def made(study: Study, loss: Callable[[Variant, float, float], float], noise: float = 0.0, seed: int = 0) -> Evidence:
    """The evidence of a study whose variants lose what a formula says of (variant, forward operations, rows seen).

    Rows are counted to the middle of the judged windows.

    Args:
        study: whose.
        loss: mean log-loss of the formula.
        noise: relative, of each seed's and each variant's own.
        seed: of the noise.
    """
    return Evidence.of(study, rows(study, loss, noise, seed))


def rows(
    study: Study, loss: Callable[[Variant, float, float], float], noise: float = 0.0, seed: int = 0
) -> Iterator[Result]:
    """One row for each seed, variant and window; a variant loses nearly alike in all windows."""
    window_rows, num_dense, num_sparse = shape_of(study.lineup)
    assert window_rows is not None
    random = np.random.default_rng(seed)
    for world in study.lineup.seeds:
        for variant in study.lineup.variants:
            flops = forward_flops(variant.model, num_dense, num_sparse) or 0.0
            selected = round(window_rows * variant.selection.share(variant.model.prior))
            span = list(Window.span(max(study.first, variant.start or study.first), study.last))
            judged = [place for place, window in enumerate(span) if window >= study.judged]
            mean = loss(variant, flops, selected * float(np.mean(judged))) * (1 + noise * random.normal())
            for place, window in enumerate(span):
                here = NUM_ROWS * mean * (1 + noise * random.normal() / 4)
                yield Result(
                    seed=world, variant=variant.name, window=window.name, recipe=recipe_of(study.lineup, variant, window, world),
                    step="made", slice=world, num_rows=NUM_ROWS, loss=here, true_loss=here, excess=0.0,
                    positives=500, prediction=500.0, true_prob=500.0, auc=0.7, groups=None, kappa=None,
                    window_rows=round(window_rows), num_selected=selected, num_updates=98, examples=selected * place,
                    total_training_flops=3 * flops * selected * (place + 1), training_flops=3 * flops * selected,
                    scoring_flops=0.0, evaluation_flops=0.0, load_seconds=0.0, select_seconds=0.0, score_seconds=0.0,
                    train_seconds=1.0, save_seconds=0.0, evaluation_seconds=0.0, versions="made 1",
                )  # fmt: skip
