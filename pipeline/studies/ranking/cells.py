"""The cells of a ranking study: each configuration on all rows, and on the rows that each policy keeps."""

from __future__ import annotations

from itertools import product

from pipeline.spec.config import Size, Variant
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import StudyError
from pipeline.studies.draft import Draft, at_width, plain
from pipeline.studies.ranking.fields import Fields
from pipeline.studies.selection.cells import PILOT, click_rate, on_few, policy

REFERENCE = "reference"
MIN_CONFIGURATIONS = 3
"""Fewer have no order to speak of."""


def draft(base: LineUp, asked: Fields) -> Draft:
    """Each configuration on all rows and on few.

    Paper: Sachdeva et al. 2022, "On Sampling Collaborative Filtering Datasets": a sample is good if algorithms rank on it as on
    the whole.

    Cost: for each configuration a pass over all rows, and for each policy its fraction of one; a pass of the pilot over all rows.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but size and learning rates.
        asked: the form's answers.

    Raises:
        StudyError: there are too few configurations, the click rate is not known, or a policy has no meaning at so few rows.
    """
    if len(asked.sizes) * len(asked.learning_rates) < MIN_CONFIGURATIONS:
        raise StudyError(
            f"a ranking needs at least {MIN_CONFIGURATIONS} configurations, got {len(asked.sizes)} sizes at "
            f"{len(asked.learning_rates)} learning rates: give more of either"
        )
    if len({f"{rate:g}" for rate in asked.learning_rates}) < len(asked.learning_rates):
        raise StudyError(
            f"learning rates differ in their first six digits, got {list(asked.learning_rates)}: take those out that are nearly alike"
        )
    reference = at_width(base, plain(base, REFERENCE, asked.sizes[0]))
    prior = click_rate(base, reference)
    kept = {way: policy(way, asked.rate, prior, PILOT) for way in asked.policies}
    found = Draft(REFERENCE)
    found.train(reference)
    if any(each.reads() for each in kept.values()):
        found.train(at_width(base, plain(base, PILOT, asked.pilot_size)))
    for size, learning_rate in product(asked.sizes, asked.learning_rates):
        whole = _configuration(base, size, learning_rate)
        label = f"{size} at {learning_rate:g}"
        found.add("all_rows", label, whole, learning_rate, family=size)
        for way, selection in kept.items():
            few = on_few(base, whole, f"{whole.name}_{way}", selection, asked.rate)
            found.add("few_rows", label, few, learning_rate, family=way)
    return found


def _configuration(base: LineUp, size: Size, learning_rate: float) -> Variant:
    """The line-up's reference at a size and a learning rate of the embeddings, on all rows."""
    model = at_width(base, plain(base, f"{size}_rate_{learning_rate:g}", size))
    ratio = model.optimizer.dense_lr / model.optimizer.embedding_lr
    rates = {"embedding_lr": learning_rate, "dense_lr": learning_rate * ratio}
    return model.model_copy(update={"optimizer": model.optimizer.model_copy(update=rates)})
