"""The form of a selection study: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from pipeline.spec.config import Age, Rate, Size
from pipeline.spec.documents import Few
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed

QUESTION = "Which rows of the log are worth training on?"
PAGE = """
### Which rows are worth training on?

A log has more rows than you want to train on. This study trains the same model on a few of them, chosen in different ways, and
compares what each loses against training on all rows, and against the simplest choice: all clicks and a uniform sample of the rest.

| policy | keeps an example |
|---|---|
| `negatives` | always if it is a click, else with a fixed probability; where the budget is below twice the clicks, clicks are sampled as well |
| `uniform` | with a fixed probability, clicks and others alike |
| `odds` | always if it is a click, else in proportion to the pilot's odds of a click |
| `local_case_control` | in proportion to how much its label surprises the pilot, known at either label: corrected by an offset |
| `el2n` | in proportion to the pilot's error, corrected by a weight |
| `grand` | in proportion to the length of the pilot's gradient in its last layer, corrected by a weight |
| `forgetting` | in proportion to how often the pilot forgets it in four passes over the window, corrected by a weight |
| `low_loss` | always if the pilot's loss is high, else seldom, corrected by a weight |
| `distilled` | in proportion to sqrt(p (1 - p)), and learns the pilot's p in the place of its label, once the pilot has closed the window |
| `coreset` | such that the pilot's gradients of all that are kept, weighted, sum up to those of all rows |

The **pilot** is a model of the size that you choose. It trains on all rows. Policies use what it predicted for a row before it learned from that row, or what an older
checkpoint predicts (`forgetting` and `distilled`: see the table). Its compute stands beside the
student's, and so does what the choice itself takes: further passes of the pilot, or the coreset's search.

Batches shrink with the rows, so that all policies take as many updates. Fill in the form and trigger. **Triggering the same study again
finishes only what is missing.** For a first look choose the preset `selection_first_look`: a page in minutes, which says what it cannot
tell.
"""

Way = Literal[
    "negatives",
    "uniform",
    "odds",
    "local_case_control",
    "el2n",
    "grand",
    "forgetting",
    "low_loss",
    "distilled",
    "coreset",
]
WAYS: tuple[Way, ...] = get_args(Way)


class Fields(StudyFields):
    """The fields of a selection study."""

    size: Size = Field(default="tiny", title="Size of the model")
    """Each size is about four times the compute of the one before."""
    policies: Annotated[tuple[Way, ...], Few, Listed()] = Field(default=WAYS, title="Policies")
    """The page above explains them. `negatives` is always among them: the others are compared with it."""
    rates: Annotated[tuple[Rate, ...], Few, Listed()] = Field(default=(0.1,), title="Fractions of the rows")
    """Of all rows, clicks and others, e.g. `0.01, 0.1`."""
    pilot_size: Size = Field(default="tiny", title="Size of the pilot")
    """Of the model that policies ask. Each size is about four times the compute of the one before."""
    pilot_age: Age = Field(default=0, title="Age of the pilot, windows")
    """0: what it predicted in its own training pass; more: what its checkpoint of so many windows earlier predicts."""
