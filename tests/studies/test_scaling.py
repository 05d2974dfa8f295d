"""Scaling studies: one thing grows at a time, the answer finds the law that made the losses, and claims only what it can."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.study_page import render
from pipeline.spec.config import Variant
from pipeline.spec.lineup import load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.study import Study, StudyError
from pipeline.studies.findings import Table
from pipeline.studies.scaling.answer import answer
from pipeline.studies.scaling.cells import PRESENT
from pipeline.studies.scaling.fields import SCHEMES
from tests.planned import planned
from tests.studies.made import made

SPAN = {"first": "2024-01-01", "online_start": "2024-01-21", "judged": "2024-01-29", "last": "2024-02-09"}


def study(**changes: Any) -> Study:
    return planned("scaling", load_lineup(lineup_path("drift")), **{**SPAN, "seeds": "1-8", **changes})


def test_each_scheme_changes_one_thing() -> None:
    whole = study()
    present = whole.lineup.variant(PRESENT)
    fields = {"embedding_dim": "embedding_dim", "over_width": "over", "over_depth": "over", "dense_arch": "bottom"}
    for cell in whole.cells:
        variant = whole.lineup.variant(cell.variant)
        if cell.variant == PRESENT:
            assert cell.value == 1
            continue
        widths, own = variant.model.widths, present.model.widths
        changed = {name for name in type(own).model_fields if getattr(widths, name) != getattr(own, name)}
        expected = {
            "data": set(),
            "embedding_rows": set(),
            "compute": {"embedding_dim", "over", "bottom", "cross_rank"},
        }.get(cell.axis, {fields.get(cell.axis)})
        assert changed == expected, cell
        assert (variant.start is not None) == (cell.axis == "data")
        assert (variant.model.table_share < 1) == (cell.axis == "embedding_rows")
    for scheme in SCHEMES:
        assert len(whole.of(scheme)) >= 5, "a law of one axis needs five points"


def test_the_answer_finds_what_pays_and_what_is_saturated() -> None:
    def loss(variant: Variant, flops: float, rows: float) -> float:
        wide = sum(variant.model.widths.over) / 96
        return 0.15 + 0.01 * (rows / 2.5e6) ** -0.5 + 0.004 * wide**-0.7

    whole = study(schemes=["data", "over_width", "dense_arch"])
    found = answer(made(whole, loss, noise=1e-4))
    assert "data, width above the interactions still pays; width below the interactions is saturated" in found.headline
    exponent = [found.metrics[f"over_width_exponent{end}"] for end in ("", "_low", "_high")]
    assert exponent[1] <= 0.7 <= exponent[2]
    assert exponent[0] == pytest.approx(0.7, abs=0.1)
    true = 100 * 0.004 * (1 - 2**-0.7) / (0.15 + 0.01 * (40 / 25) ** -0.5 + 0.004)
    assert found.metrics["over_width_doubling_percent"] == pytest.approx(true, rel=0.05)
    claims = next(section.table for section in found.sections if section.title == "The paper's claims")
    assert claims is not None
    assert ("data still pay", "held") in claims.rows
    assert ("parameters are out of steam, whichever scheme", "not held") in claims.rows
    assert ("the schemes of parameters differ", "held") in claims.rows
    assert ("parameters are out of steam, whichever scheme", "held") not in claims.rows, "not all schemes were asked"
    page = render(whole, found, facts={}, times=Table(("part", "seconds"), ()))
    assert page.count("<svg") == 3


def test_a_doubling_that_was_trained_counts_and_no_curve_beside_it() -> None:
    """A curve that falls for ever is fitted to losses that turn up: by it the next doubling would pay."""

    def loss(variant: Variant, flops: float, rows: float) -> float:
        wide = sum(variant.model.widths.over) / 96
        return 0.2 * (1 + np.interp(np.log2(wide), [-2, -1, 0, 1, 2], [0.06, 0.025, 0.0, 0.001, 0.006]))

    found = answer(made(study(schemes=["over_width"]), loss, noise=1e-5))
    assert "width above the interactions is saturated" in found.headline
    assert found.metrics["over_width_doubling_percent"] == pytest.approx(-0.1, abs=0.01)


def test_what_a_curve_does_not_determine_is_not_claimed() -> None:
    def loss(variant: Variant, flops: float, rows: float) -> float:
        return 0.15 + (0.001 * np.log(rows) if variant.start else 0.0)

    found = answer(made(study(schemes=["data"]), loss, noise=1e-4))
    assert "data stays open" in found.headline
    assert math.isnan(found.metrics["data_exponent_low"])


def test_factors_that_come_to_the_same_layers_are_refused() -> None:
    with pytest.raises(StudyError, match="a curve of 'embedding_dim' needs at least 5 different points, got"):
        study(size="tiny", schemes=["embedding_dim"])


def test_few_worlds_claim_nothing() -> None:
    found = answer(made(study(schemes=["over_width"], seeds="1-3"), lambda variant, flops, rows: 0.2 + 1e3 / flops))
    assert "width above the interactions stays open" in found.headline


def test_too_little_history_for_so_many_starts_is_refused() -> None:
    with pytest.raises(StudyError, match="5 starts need more than 5 windows before the first judged one"):
        study(first="2024-01-25", online_start="2024-01-29", judged="2024-01-30")
