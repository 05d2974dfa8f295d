"""Axes say numbers as people who train click models say them."""

from __future__ import annotations

import pytest

from pipeline.studies.drawing import by_number


@pytest.mark.parametrize(
    ("numbers", "words"), [([0.08, 0.16], ["0.08", "0.16"]), ([300_000.0, 2_800_000.0], ["300k", "2.8M"])]
)
def test_rates_stay_numbers_and_examples_get_their_unit(numbers: list[float], words: list[str]) -> None:
    band = ([0.0, 1.0], [0.0, 1.0], [0.0, 1.0])
    figure = by_number("title", "across", "up", {"curve": (numbers, band)}, logarithmic=True)
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == words


def test_a_title_promises_an_interval_only_where_a_point_has_one() -> None:
    known, unknown = ([1.0], [0.5], [1.5]), ([1.0], [float("nan")], [float("nan")])
    titles = [
        by_number("loss (95 %)", "across", "up", {"curve": ([1.0], band)}).axes[0].get_title(loc="left")
        for band in (known, unknown)
    ]
    assert titles == ["loss (95 %)", "loss"]
