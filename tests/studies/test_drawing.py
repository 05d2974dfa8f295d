"""Axes say numbers as people who train click models say them."""

from __future__ import annotations

import re

import pytest

from pipeline.reporting.study_page import inline
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


def test_each_point_of_a_page_says_its_value_and_one_without_a_value_nothing() -> None:
    band = ([1.0, float("nan"), 3.0], [0.5, float("nan"), float("nan")], [1.5, float("nan"), float("nan")])
    figure = by_number("title", "across", "up", {"a < b": ([1.0, 2.0, 3e6], band)})
    page = str(inline(figure, "title"))
    said = re.findall(r"<title>(.*?)</title>", page, re.DOTALL)
    assert said == ["a &lt; b\n1: 1 (0.5 to 1.5)", "a &lt; b\n3,000,000: 3"]
    assert 'aria-label="title"' in page
    both = page + str(inline(figure, "another title"))
    ids = re.findall(r' id="([^"]+)"', both)
    assert len(ids) == len(set(ids)), "an id stands once on a page"
    assert {found for found in re.findall(r'(?:href="|url\()#([^")]+)', both)} <= set(ids), "and what is named is there"
