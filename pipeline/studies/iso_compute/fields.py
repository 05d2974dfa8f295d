"""The form of an iso-compute study: its question, its page and its fields."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.spec.documents import Few, Real, Whole
from pipeline.spec.errors import BadInput, shown
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed, unless_empty
from pipeline.studies.selection.fields import Way

QUESTION = "For a budget of compute, how large a model on how many rows loses least?"
PAGE = """
### How large a model, on how many rows, for my budget?

A budget of compute buys a large model on few rows or a small one on many. This study spends each budget at several
sizes of the model: the larger the model, the fewer rows it is trained on. Too small a model cannot express what the log says, too
large a one sees too little of it; in between lies a **valley**, and its lowest point is the size to train.

| what a larger model gives up | how |
|---|---|
| `negatives` | all clicks are kept, and a smaller fraction of the negatives, in both phases, corrected by an offset |
| `windows` | it starts later, on all rows |
| a selection policy | rows, in both phases: the policy keeps a smaller fraction (see the page of `selection_study`) |

If the policy needs a pilot, the reference is the pilot; budgets do not count its pass over all rows.

All are compared on the same rows of the last windows. A scaling law is fitted to all budgets together; it says where each
valley is lowest, with an interval, and how the best size grows with the budget.

Sizes are widths of the embedding rows (D). The dense layers grow with D: 2D and D units below the interactions, 4D
and 2D above. Learning rates are those of the
line-up's variants without teacher, between two of them in proportion to the logarithm of the width.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing**; another name starts a study of
its own. `plan` refuses a budget that has no room for four sizes, and says which budgets have. For a first look choose the preset
`iso_compute_first_look`: a page in minutes, which says what it cannot tell.
"""

DataAxis = Literal["negatives", "windows", Way]
Unit = Literal["FLOPs", "core-hours"]
Arch = Literal["as the line-up says", "dlrm", "dcnv2"]
APART = 1.1
Budget = Annotated[Real, Field(gt=0)]


UNITS: dict[str, Unit] = {"": "FLOPs", "flops": "FLOPs", "core-h": "core-hours", "core-hours": "core-hours"}


def _apart(budgets: tuple[float, ...]) -> tuple[float, ...]:
    ordered = tuple(sorted(budgets))
    for low, high in pairwise(ordered):
        if high < APART * low:
            raise ValueError(f"budgets lie at least a tenth apart, got {low:g} and {high:g}: take one out")
    return ordered


def budget_of(text: str) -> tuple[float, Unit]:
    """A budget as people type it: `5e14` (FLOPs) or `2core-h`.

    Raises:
        BadInput: it is neither.

    >>> budget_of("5e14")
    (500000000000000.0, 'FLOPs')
    >>> budget_of("2.5 core-hours")
    (2.5, 'core-hours')
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z-]*)\s*", text.lower())
    unit = None if found is None else UNITS.get(found[2])
    try:
        amount = float(found[1]) if found is not None else 0.0
    except ValueError:
        amount = 0.0
    if unit is None or not 0 < amount < math.inf:
        raise BadInput(
            f"a budget is a number of FLOPs or of hours of a core, got {shown(text)}: give it as 5e14 or 2core-h; of a GPU, the "
            "hours times the FLOPs a second that were measured on it"
        )
    return amount, unit


def _budget(text: str | None) -> str | None:
    if text is not None:
        budget_of(text)
    return text


class Fields(StudyFields):
    """The fields of an iso-compute study."""

    budgets: Annotated[tuple[Budget, ...], Few, Listed(), AfterValidator(_apart)] = Field(
        default=(3e10, 8e10, 2e11), title="Budgets"
    )
    """Compute to train one variant under one seed, first window to last; a backward pass counts as two forward
    passes. Each budget is at least a tenth above the next smaller."""
    unit: Unit = Field(default="FLOPs", title="Unit of the budgets")
    """FLOPs of the dense layers and the interactions, or hours of one core as Windrow was measured on an AMD EPYC."""
    gives_up: DataAxis = Field(default="negatives", title="What a larger model gives up")
    """The page above explains each of them."""
    held_out: Annotated[Real, Field(ge=APART, le=100)] | None = Field(
        default=None, title="Held out: times the largest budget"
    )
    """Also trains a budget so many times the largest, e.g. `4`. The law is not fitted to it; the page compares the
    loss that the law predicts there with the measured one. Leave empty for none."""
    plan_for: Annotated[str | None, BeforeValidator(unless_empty), AfterValidator(_budget)] = Field(
        default=None, title="Plan for a budget"
    )
    """Proposes a size and its rows for this budget by the law, as a line-up: FLOPs such as `5e10`, or `2core-h`. Leave empty for none."""
    num_sizes: Annotated[Whole, Field(ge=4, le=10)] = Field(default=6, title="Sizes a budget")
    """Those in the middle of all that the budget can pay for."""
    arch: Arch = Field(default="as the line-up says", title="Architecture")
    """Of all variants."""
    rows_per_window: Annotated[Whole, Field(ge=1)] | None = Field(default=None, title="Rows of a window, about")
    """Of a log of one's own, to know how many rows a budget pays for; leave empty for a simulated log."""
