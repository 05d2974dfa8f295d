"""Fields: what a form lets through a model reads, typed in one line or given as a list, and each explains itself."""

from __future__ import annotations

from typing import Annotated

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from operators.form.questions import Ingest, Online, Select, Warmup
from pipeline.spec.documents import Few, Real, Whole
from pipeline.spec.errors import BadInput
from pipeline.spec.forms.fields import Fields, Listed, OptionalDay, OptionalSeeds, worded
from pipeline.studies.kinds import kinds


class Asked(Fields):
    """Some fields of each kind."""

    numbers: Annotated[tuple[Real, ...], Few, Listed()] = Field(default=(0.5, 1e-6), title="Numbers")
    """Any."""
    wholes: Annotated[tuple[Whole, ...], Few, Listed()] = Field(default=(1024,), title="Whole numbers")
    """Any."""
    seeds: OptionalSeeds = Field(default=None, title="Seeds")
    """Perhaps."""
    day: OptionalDay = Field(default=None, title="Day")
    """Perhaps."""


NUMBERS = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 10**6).map(float)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=20, unique=True), st.sampled_from([",", ", ", " , "]))
def test_numbers_typed_in_one_line_are_the_list(numbers: list[float], between: str) -> None:
    typed = between.join(map(str, numbers))
    jsonschema.validate(typed, Asked.described()["numbers"])
    assert Asked.model_validate({"numbers": typed}) == Asked.model_validate({"numbers": numbers})


@pytest.mark.parametrize("typed", ["0", "7,8", " 1 , 2 ", "007", ".5", "1.", "1e-3, 2E+4"])
def test_whatever_the_form_lets_through_is_read(typed: str) -> None:
    expected = tuple(float(word) for word in typed.split(","))
    for name in ("numbers", "wholes", "seeds"):
        try:
            jsonschema.validate(typed, Asked.described()[name])
        except jsonschema.ValidationError:
            assert name != "numbers"
            continue
        assert getattr(Asked.model_validate({name: typed}), name) == expected


@pytest.mark.parametrize(("typed", "expected"), [("0-3", (0, 1, 2, 3)), ("7, 1-2", (7, 1, 2)), ("5-5", (5,))])
def test_a_range_of_whole_numbers_stands_for_all_of_them(typed: str, expected: tuple[int, ...]) -> None:
    jsonschema.validate(typed, Asked.described()["seeds"])
    assert Asked.model_validate({"seeds": typed}).seeds == expected


@pytest.mark.parametrize("typed", ["3-0", "0-999999999", "1-3, 2", "1-2-3"])
def test_a_range_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(BadInput, match="mine: seeds"):
        Asked.read({"seeds": typed}, "mine")


@pytest.mark.parametrize("typed", ["zero", "1 2", "1,", ",1", "1;2", "[1, 2]", "1, two", "0x1", "nan", "-1"])
def test_what_is_no_list_of_numbers_the_form_refuses(typed: str) -> None:
    for name in ("numbers", "wholes", "seeds"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(typed, Asked.described()[name])


def test_what_is_left_empty_is_not_given() -> None:
    for empty in ("", None):
        assert Asked.model_validate({"seeds": empty, "day": empty}) == Asked()
        with pytest.raises(BadInput, match="mine: numbers: must have 1 or more entries"):
            Asked.read({"numbers": empty}, "mine")


def test_a_default_is_shown_as_a_person_would_type_it() -> None:
    assert Asked.described()["numbers"]["default"] == "0.5, 1e-06"
    for schema in Asked.described().values():
        jsonschema.validate(schema["default"], schema)


@pytest.mark.parametrize(
    "fields",
    [Ingest, Select, Warmup, Online, *(kind.fields for kind in kinds().values())],
    ids=lambda each: each.__module__,
)
def test_every_field_has_a_title_help_and_words_for_what_it_takes(fields: type[Fields]) -> None:
    for name, field in fields.model_fields.items():
        assert field.title, name
        assert field.description, name
    for schema in fields.described().values():
        assert worded(schema)
