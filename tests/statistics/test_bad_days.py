"""A mean over windows counts its bad days in full, though these are the ones that seeds disagree on."""

from __future__ import annotations

import numpy as np

from benchmarks.simulated_studies import Days
from pipeline.statistics.autocorrelation import Noises, regress
from pipeline.statistics.paired import Paired, Series

LEVEL, BAD_DAYS, LOST = 1.0, 0.1, 3.0
"""Percent lost on any day; on one in ten of each seed's days, a further loss with this mean."""
TRUTH = LEVEL + BAD_DAYS * LOST


def drawn(random: np.random.Generator) -> Series:
    """Five seeds over twenty windows, each with bad days of its own."""
    days = Days.drawn(random, 20, 0.2)
    found = days.variant(random, np.full(20, LEVEL), 5)
    lost = (random.random((5, 20)) < BAD_DAYS) * random.exponential(LOST, (5, 20))
    loss = found.loss + found.base * lost[:, :, None] / 100
    return Paired(
        loss=loss, base=found.base, examples=found.examples, flops=found.flops, seconds=found.seconds
    ).series()


def test_the_mean_is_not_that_of_the_good_days() -> None:
    random = np.random.default_rng(0)
    plain, weighted, held = [], [], 0
    for _ in range(200):
        series = drawn(random)
        known = series.mean().interval()
        held += known.low <= TRUTH <= known.high
        plain.append(known.value)
        quiet = regress(series.values, np.ones((20, 1)), Noises.plausible(series.sampling_error()))
        weighted.append(float(quiet.weight @ quiet.coefficients[:, 0]))
    assert abs(np.mean(plain) - TRUTH) < 0.05
    assert held / 200 >= 0.88, "few bad days are skewed: a little less often than 95 of 100"
    assert np.mean(weighted) < LEVEL + 0.6 * (TRUTH - LEVEL), "weights by noise would hide the bad days"
