"""Only what a person must change is bad input; a torn read is tried again."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from airflow.sdk import RetryAction
from pydantic import BaseModel, Field

from operators.failures import RETRY_POLICY
from pipeline.spec.errors import BadInput, asked
from pipeline.spec.lineup import LineUpError
from pipeline.storage.lake import LakeError
from pipeline.training.chain.steps import MissingParent


class Asked(BaseModel):
    """Something a person fills in."""

    share: float = Field(le=1)


@pytest.mark.parametrize("error", [BadInput("x"), LineUpError("x"), LakeError("x"), MissingParent("x")])
def test_bad_input_is_not_tried_again(error: Exception) -> None:
    assert RETRY_POLICY.evaluate(error, 1, 3).action is RetryAction.FAIL


@pytest.mark.parametrize("error", [pa.ArrowInvalid("torn"), json.JSONDecodeError("torn", "", 0), ValueError("a bug")])
def test_a_torn_read_and_a_bug_are_tried_again(error: Exception) -> None:
    assert not isinstance(error, BadInput)
    assert RETRY_POLICY.evaluate(error, 1, 3).action is RetryAction.RETRY


def test_what_pydantic_refuses_names_its_place_and_no_documentation() -> None:
    with pytest.raises(BadInput, match="mine.yaml: share: .*got 2") as refused, asked("mine.yaml"):
        Asked(share=2)
    assert "http" not in str(refused.value)
